"""Receipts: built, signed, verified offline, and every way to forge one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.trust.audit_policy import Level
from flopmarket.trust.envelope import Envelope, sign_payload
from flopmarket.trust.errors import EnvelopeError, ReceiptError
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.merkle import sequence_root, state_root
from flopmarket.trust.modes import Mode
from flopmarket.trust.receipt import (
    HOUSE,
    PAYLOAD_TYPE,
    AuditOutcome,
    Outcome,
    Receipt,
    ReceiptDevice,
    ReceiptSegment,
    build_receipt,
    check_consistency,
    file_digest,
    sign_receipt,
    statement_bytes,
    verify_receipt,
)

COORDINATOR = KeyPair.from_seed(b"c" * 32)
MALLORY = KeyPair.from_seed(b"m" * 32)
SPEC = b"the job specification"


def job_id_of(spec: bytes) -> bytes:
    return hashlib.sha256(spec).digest()


def root(n: int) -> bytes:
    return hashlib.sha256(b"state %d" % n).digest()


def chain(
    steps: list[int], prices: list[int], surcharges: list[int] | None = None
) -> list[ReceiptSegment]:
    extra = surcharges or [0] * len(steps)
    return [
        ReceiptSegment(
            index=index,
            first_step=sum(steps[:index]),
            steps=count,
            device_key_id="k" * 64,
            device_id="dev-1",
            state_root_before=root(index),
            state_root_after=root(index + 1),
            outputs_root=root(100 + index),
            commitment_digest=root(200 + index),
            audit=AuditOutcome.NOT_SAMPLED,
            auditor="",
            verdict_digest=b"",
            challenge_digest=root(400 + index),
            price_nano=price,
            surcharge_nano=extra[index],
        )
        for index, (count, price) in enumerate(zip(steps, prices, strict=True))
    ]


def facts(**changes: Any) -> dict[str, Any]:
    known = {
        "job_id": job_id_of(SPEC),
        "job_spec": SPEC,
        "buyer_account_id": "acc-buyer",
        "program_digest": root(300),
        "profile": "FX1",
        "mode": Mode.EXACT,
        "device_class": "",
        "verification": Level.DETER,
        "data_root": root(301),
        "seed": 2**64 - 1,
        "steps": 25,
        "outcome": Outcome.COMPLETED,
        "initial_state_root": root(0),
        "segments": chain([10, 10, 5], [400, 400, 200]),
        "currency": "USD",
        "ceiling_nano": 1500,
        "fee_nano": 30,
        "coordinator_key": COORDINATOR.public,
        "submitted_at_us": 1_800_000_000_000_000,
        "ended_at_us": 1_800_000_100_000_000,
    } | changes
    card = ReceiptDevice("k" * 64, "dev-1", "Radeon RX", "driver 3", (("dot-f32", 10**12),))
    return {"devices": [card] if known["segments"] else []} | known


RECEIPT = build_receipt(**facts())
FILE = sign_receipt(RECEIPT, COORDINATOR)


def payload_of(file: bytes) -> bytes:
    return Envelope.from_json(file).payload


def test_a_receipt_verifies_and_says_what_was_built() -> None:
    result = verify_receipt(FILE, COORDINATOR.public, recompute_job_id=job_id_of)
    assert result.receipt == RECEIPT
    assert result.trusted and result.job_id_checked
    assert RECEIPT.invoice_nano == 1000
    assert RECEIPT.final_state_root == root(3)


def test_without_a_trusted_key_the_result_says_so() -> None:
    result = verify_receipt(FILE, None)
    assert result.receipt == RECEIPT
    assert not result.trusted and not result.job_id_checked


def test_a_whole_forgery_verifies_as_untrusted_only() -> None:
    forged = sign_receipt(replace(RECEIPT, coordinator_key=MALLORY.public), MALLORY)
    assert not verify_receipt(forged, None).trusted
    with pytest.raises(EnvelopeError) as caught:
        verify_receipt(forged, COORDINATOR.public)
    assert caught.value.code == "ENVELOPE_BAD_SIGNATURE"


def test_the_payload_is_a_canonical_in_toto_statement() -> None:
    payload = payload_of(FILE)
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://flopmarket.dev/receipt/v3"
    assert json.loads(FILE)["payloadType"] == "application/vnd.in-toto+json"
    state, outputs = statement["subject"]
    assert state["digest"] == {"flopmarketStateRootV1": root(3).hex()}
    expected = sequence_root([root(100), root(101), root(102)])
    assert outputs["digest"] == {"flopmarketSequenceRootV1": expected.hex()}
    assert payload == json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    assert statement["predicate"]["job"]["seed"] == "18446744073709551615"

    def numbers(value: object) -> bool:
        if isinstance(value, dict):
            return any(map(numbers, value.values()))
        if isinstance(value, list):
            return any(map(numbers, value))
        return isinstance(value, int | float)

    assert not numbers(statement), "every number is a decimal string"


@given(
    steps=st.lists(st.integers(1, 50), max_size=6),
    data=st.data(),
    spec=st.binary(max_size=30),
    account=st.text(max_size=8),
)
def test_any_consistent_receipt_survives_the_file(
    steps: list[int], data: st.DataObject, spec: bytes, account: str
) -> None:
    prices = [data.draw(st.integers(0, 10**12)) for _ in steps]
    extra = [data.draw(st.integers(0, 10**12)) for _ in steps]
    receipt = build_receipt(
        **facts(
            job_spec=spec,
            job_id=job_id_of(spec),
            buyer_account_id=account,
            steps=sum(steps),
            verification=data.draw(st.sampled_from(Level)),
            **data.draw(
                st.sampled_from(
                    [
                        {"mode": Mode.EXACT, "device_class": ""},
                        {"mode": Mode.CLASS, "device_class": "ab" * 32},
                        {"mode": Mode.TOLERANCE, "device_class": ""},
                    ]
                )
            ),
            segments=chain(steps, prices, extra),
            ceiling_nano=sum(prices) + sum(extra),
            replaces=data.draw(st.sampled_from([b"", root(1)])),
            fee_nano=data.draw(st.integers(0, sum(prices))),
        )
    )
    file = sign_receipt(receipt, COORDINATOR)
    result = verify_receipt(file, COORDINATOR.public, recompute_job_id=job_id_of)
    assert result.receipt == receipt


def test_a_cancelled_job_may_have_fewer_steps_or_none() -> None:
    part = build_receipt(**facts(outcome=Outcome.CANCELLED, segments=chain([10], [400])))
    assert verify_receipt(sign_receipt(part, COORDINATOR), COORDINATOR.public).receipt == part
    none = build_receipt(**facts(outcome=Outcome.FAILED, segments=[], fee_nano=0))
    assert none.final_state_root == none.initial_state_root
    assert none.invoice_nano == 0


def test_steps_may_be_missing_only_where_there_is_no_state() -> None:
    """A segment of an inference job that turned out wrong later leaves a hole."""
    nothing = state_root({})
    apart = [
        replace(item, state_root_before=nothing, state_root_after=nothing)
        for item in chain([10, 5], [400, 200])
    ]
    apart[1] = replace(apart[1], first_step=15)
    kept = facts(initial_state_root=nothing, outcome=Outcome.FAILED, segments=apart)
    first = build_receipt(**facts())
    corrected = build_receipt(**kept, replaces=file_digest(sign_receipt(first, COORDINATOR)))
    file = sign_receipt(corrected, COORDINATOR)
    assert verify_receipt(file, COORDINATOR.public).receipt == corrected
    for wrong in (
        {"outcome": Outcome.COMPLETED},
        {"segments": [apart[0], replace(apart[1], first_step=9)]},
    ):
        with pytest.raises(ReceiptError):
            build_receipt(**(kept | wrong))
    with pytest.raises(ReceiptError):
        build_receipt(**facts(outcome=Outcome.FAILED, segments=[
            RECEIPT.segments[0], replace(RECEIPT.segments[1], first_step=15),
        ]))  # fmt: skip


def with_segment(position: int, /, **changes: Any) -> Receipt:
    segments = list(RECEIPT.segments)
    segments[position] = replace(segments[position], **changes)
    return replace(RECEIPT, segments=tuple(segments))


INCONSISTENT = {
    "gap in index": with_segment(1, index=2),
    "gap in steps": with_segment(1, first_step=11),
    "overlap": with_segment(1, first_step=9),
    "empty segment": with_segment(1, steps=0),
    "stale start": with_segment(1, state_root_before=root(0)),
    "other end": with_segment(2, state_root_after=root(9)),
    "other final state": replace(RECEIPT, final_state_root=root(9)),
    "other initial state": replace(RECEIPT, initial_state_root=root(9)),
    "dearer segment": with_segment(1, price_nano=401),
    "lower invoice": replace(RECEIPT, invoice_nano=999),
    "above the ceiling": replace(RECEIPT, ceiling_nano=999),
    "fee above the invoice": replace(RECEIPT, fee_nano=1001),
    "fee above the prices": replace(
        with_segment(0, price_nano=0, surcharge_nano=400), surcharge_nano=400, fee_nano=601
    ),
    "surcharge in the price": with_segment(0, price_nano=300, surcharge_nano=100),
    "an auditor without an audit": with_segment(0, auditor=HOUSE),
    "a verdict without an audit": with_segment(0, verdict_digest=root(9)),
    "an audit by nobody": with_segment(0, audit=AuditOutcome.CONFIRMED, verdict_digest=root(9)),
    "an audit without a verdict": with_segment(0, audit=AuditOutcome.CONFIRMED, auditor=HOUSE),
    "an unlisted device": replace(RECEIPT, devices=()),
    "a device that did nothing": replace(
        RECEIPT, devices=(*RECEIPT.devices, replace(RECEIPT.devices[0], device_id="dev-2"))
    ),
    "too few steps": replace(RECEIPT, steps=26),
    "too many steps": replace(RECEIPT, steps=24),
    "too many steps, cancelled": replace(RECEIPT, steps=24, outcome=Outcome.CANCELLED),
    "missing segment": replace(RECEIPT, segments=RECEIPT.segments[:2]),
    "segments swapped": replace(RECEIPT, segments=RECEIPT.segments[::-1]),
    "ended before it began": replace(RECEIPT, ended_at_us=1),
}


@pytest.mark.parametrize("name", INCONSISTENT)
def test_contradictions_are_neither_signed_nor_believed(name: str) -> None:
    receipt = INCONSISTENT[name]
    with pytest.raises(ReceiptError) as caught:
        sign_receipt(receipt, COORDINATOR)
    assert caught.value.code == "RECEIPT_INCONSISTENT"
    lie = sign_payload(PAYLOAD_TYPE, statement_bytes(receipt), COORDINATOR).to_json()
    for key in (COORDINATOR.public, None):
        with pytest.raises(ReceiptError) as caught:
            verify_receipt(lie, key)
        assert caught.value.code == "RECEIPT_INCONSISTENT"


def test_the_base_receipt_is_consistent() -> None:
    check_consistency(RECEIPT)


def edited(change: Any) -> bytes:
    """The statement after ``change(statement)``, signed by the coordinator all the same."""
    statement = json.loads(payload_of(FILE))
    change(statement)
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def set_in(*path: Any) -> Any:
    *keys, last, value = path

    def change(statement: Any) -> None:
        for key in keys:
            statement = statement[key]
        statement[last] = value

    return change


MALFORMED = {
    "unknown member": edited(set_in("predicate", "refund", "1")),
    "missing member": edited(lambda statement: statement["predicate"]["job"].pop("seed")),
    "a number": edited(set_in("predicate", "job", "steps", 25)),
    "a float": edited(set_in("predicate", "job", "steps", 25.0)),
    "leading zero": edited(set_in("predicate", "job", "steps", "025")),
    "negative": edited(set_in("predicate", "totals", "fee_nano", "-1")),
    "forty digits": edited(set_in("predicate", "job", "seed", "1" * 40)),
    "other digits": edited(set_in("predicate", "job", "steps", "٢٥")),
    "upper-case hex": edited(set_in("predicate", "job", "id", RECEIPT.job_id.hex().upper())),
    "short digest": edited(set_in("predicate", "job", "id", "00")),
    "unknown outcome": edited(set_in("predicate", "outcome", "splendid")),
    "other predicate": edited(set_in("predicateType", "https://flopmarket.dev/receipt/v1")),
    "other outputs subject": edited(
        set_in("subject", 1, "digest", {"flopmarketSequenceRootV1": root(9).hex()})
    ),
    "no subject": edited(set_in("subject", [])),
    "key id of another": edited(set_in("predicate", "coordinator", "key_id", MALLORY.key_id)),
    "weak key": edited(set_in("predicate", "coordinator", "public_key", "00" * 32)),
    "predicate a list": edited(set_in("predicate", [])),
    "segments a text": edited(set_in("predicate", "segments", "abc")),
    "spec not base64": edited(set_in("predicate", "job", "spec", "!")),
    "white space": payload_of(FILE) + b"\n",
    "second spelling": payload_of(FILE).replace(b"acc-buyer", b"\\u0061cc-buyer"),
    "member twice": payload_of(FILE).replace(b'{"_type"', b'{"_type":"x","_type"', 1),
    "not JSON": b"}",
    "not UTF-8": b'{"a":"\xff"}',
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_statements_in_any_other_form_are_refused_even_when_signed(name: str) -> None:
    file = sign_payload(PAYLOAD_TYPE, MALFORMED[name], COORDINATOR).to_json()
    for key in (COORDINATOR.public, None):
        with pytest.raises(ReceiptError) as caught:
            verify_receipt(file, key)
        assert caught.value.code == "RECEIPT_MALFORMED"


def test_altered_files_are_refused() -> None:
    document = json.loads(FILE)
    cheaper = edited(set_in("predicate", "buyer_account_id", "x"))
    rows = [
        (document | {"signatures": []}, "ENVELOPE_UNSIGNED"),
        (document | {"payloadType": "application/vnd.other+json"}, "ENVELOPE_WRONG_TYPE"),
        (
            document | {"payload": json.loads(
                sign_payload(PAYLOAD_TYPE, cheaper, MALLORY).to_json())["payload"]},
            "ENVELOPE_BAD_SIGNATURE",
        ),
    ]  # fmt: skip
    for changed, code in rows:
        with pytest.raises(EnvelopeError) as caught:
            verify_receipt(json.dumps(changed).encode(), COORDINATOR.public)
        assert caught.value.code == code
    with pytest.raises(EnvelopeError) as caught:
        verify_receipt(b"", COORDINATOR.public)
    assert caught.value.code == "ENVELOPE_MALFORMED"


def test_a_receipt_signed_by_a_trusted_key_for_another_coordinator_is_refused() -> None:
    file = sign_payload(
        PAYLOAD_TYPE, statement_bytes(replace(RECEIPT, coordinator_key=MALLORY.public)), COORDINATOR
    ).to_json()
    with pytest.raises(ReceiptError) as caught:
        verify_receipt(file, COORDINATOR.public)
    assert caught.value.code == "RECEIPT_WRONG_KEY"
    with pytest.raises(EnvelopeError) as refused:
        verify_receipt(file, None)
    assert refused.value.code == "ENVELOPE_BAD_SIGNATURE"
    with pytest.raises(ReceiptError) as caught:
        sign_receipt(RECEIPT, MALLORY)
    assert caught.value.code == "RECEIPT_WRONG_KEY"


def test_a_swapped_job_specification_is_found() -> None:
    file = sign_receipt(replace(RECEIPT, job_spec=b"another job"), COORDINATOR)
    assert not verify_receipt(file, COORDINATOR.public).job_id_checked
    with pytest.raises(ReceiptError) as caught:
        verify_receipt(file, COORDINATOR.public, recompute_job_id=job_id_of)
    assert caught.value.code == "RECEIPT_WRONG_JOB"


@pytest.mark.parametrize(
    "change",
    [
        {"devices": [ReceiptDevice("k" * 64, "dev-1", "card", "", (("b", 1), ("a", 1)))]},
        {"replaces": b"short"},
        {"seed": -1},
        {"seed": 1.5},
        {"steps": True},
        {"job_id": b"short"},
        {"profile": 7},
    ],
    ids=str,
)
def test_values_that_cannot_be_read_back_are_not_signed(change: dict[str, Any]) -> None:
    with pytest.raises(ReceiptError):
        sign_receipt(build_receipt(**facts(**change)), COORDINATOR)
