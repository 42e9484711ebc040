"""Writes the receipt vectors beside this file: run it as a script, by generate.py's rules.

README.md describes the format. Everything is derived from fixed seeds, so an unchanged protocol
gives unchanged files.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flopmarket.trust.audit_policy import Level
from flopmarket.trust.envelope import sign_payload
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.merkle import state_root
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
    sign_receipt,
    statement_bytes,
)

FOLDER = Path(__file__).parent
COORDINATOR, MALLORY = (KeyPair.from_seed(bytes([n]) * 32) for n in (3, 2))
SPEC = b"job specification"

Statement = dict[str, Any]


def _root(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()


def _segments(*steps: int, price: int = 400, surcharge: int = 0) -> list[ReceiptSegment]:
    audits = list(AuditOutcome)
    return [
        ReceiptSegment(
            index=at,
            first_step=sum(steps[:at]),
            steps=count,
            device_key_id=MALLORY.key_id,
            device_id=f"dev-{at}",
            state_root_before=_root(f"state {at}"),
            state_root_after=_root(f"state {at + 1}"),
            outputs_root=_root(f"outputs {at}"),
            commitment_digest=_root(f"commitment {at}"),
            audit=audits[at % len(audits)],
            auditor=("", HOUSE, MALLORY.key_id)[at % len(audits)],
            verdict_digest=_root(f"verdict {at}") if at % len(audits) else b"",
            challenge_digest=_root(f"challenge {at}"),
            price_nano=price,
            surcharge_nano=surcharge,
        )
        for at, count in enumerate(steps)
    ]


_NOTHING = state_root({})


def _hole() -> list[ReceiptSegment]:
    nothing = {"state_root_before": _NOTHING, "state_root_after": _NOTHING}
    first, last = (replace(segment, **nothing) for segment in _segments(5, 10))  # type: ignore[arg-type]
    return [first, replace(last, first_step=15)]


def _receipt(**changes: Any) -> Receipt:
    facts: dict[str, Any] = {
        "job_id": hashlib.sha256(SPEC).digest(),
        "job_spec": SPEC,
        "buyer_account_id": "acc-buyer",
        "program_digest": _root("program"),
        "profile": "FX1",
        "mode": Mode.EXACT,
        "device_class": "",
        "verification": Level.DETER,
        "data_root": _root("data"),
        "seed": 7,
        "steps": 25,
        "outcome": Outcome.COMPLETED,
        "initial_state_root": _root("state 0"),
        "segments": _segments(10, 10, 5),
        "currency": "USD",
        "ceiling_nano": 1500,
        "fee_nano": 30,
        "coordinator_key": COORDINATOR.public,
        "submitted_at_us": 1_800_000_000_000_000,
        "ended_at_us": 1_800_000_100_000_000,
    }
    known = facts | changes
    devices = [
        ReceiptDevice(segment.device_key_id, segment.device_id, "Radeon RX", "driver 3", rates)
        for segment, rates in zip(known["segments"], ((("dot-f32", 10**12),), (), ()), strict=False)
    ]
    return build_receipt(**({"devices": devices} | known))


GOOD = _receipt()
FILE = sign_receipt(GOOD, COORDINATOR)


def _case(name: str, why: str, file: bytes, **more: Any) -> dict[str, Any]:
    known = {
        "name": name,
        "why": why,
        "coordinator_key": COORDINATOR.public.raw.hex(),
        "job_id_is_sha256_of_spec": True,
        "receipt_json": file.decode(),
    }
    return known | more


def accepted() -> list[dict[str, Any]]:
    """Receipts that verify, with some of what they say."""
    cancelled = {"outcome": Outcome.CANCELLED, "segments": _segments(10)}
    nothing = {"outcome": Outcome.FAILED, "segments": [], "fee_nano": 0}
    flop = {"currency": "flopcoin", "buyer_account_id": "Büro 🧮"}
    large = {"segments": _segments(25, price=2**63), "ceiling_nano": 10**39 - 1, "seed": 2**64 - 1}
    spec = bytes(range(256))
    rows: list[tuple[str, str, Receipt, dict[str, Any]]] = [
        ("three-segments", "the plain case: one audit outcome each", GOOD, {}),
        ("one-segment", "a job in one piece", _receipt(segments=_segments(25)), {}),
        ("free", "prices of zero add up to an invoice of zero",
         _receipt(segments=_segments(25, price=0), fee_nano=0), {}),
        ("cancelled", "ended by its buyer with 10 of 25 steps paid", _receipt(**cancelled), {}),
        ("nothing-done", "failed before any step: it ends in its first state",
         _receipt(**nothing), {}),
        ("at-the-ceiling", "an invoice may be all that was held", _receipt(ceiling_nano=1200), {}),
        ("fee-is-all", "the fee may be the whole invoice", _receipt(fee_nano=1200), {}),
        ("other-currency", "amounts in flopcoin; text beyond ASCII is escaped",
         _receipt(**flop), {}),
        ("large-numbers", "39 digits, and a price beyond 63 bits: receipts are exact",
         _receipt(**large), {}),
        ("instant", "ended in the microsecond of its submission",
         _receipt(ended_at_us=1_800_000_000_000_000), {}),
        ("surcharge", "two owners: 97 % on every price",
         _receipt(verification=Level.DUAL, segments=_segments(25, surcharge=388)), {}),
        ("correction", "names the file that it replaces, and ends early",
         _receipt(outcome=Outcome.FAILED, segments=_segments(10), replaces=_root("file")), {}),
        ("hole", "a stateless job may lack steps in the middle",
         _receipt(outcome=Outcome.FAILED, initial_state_root=_NOTHING, segments=_hole()), {}),
        ("class-mode", "bound to a class of devices, whose bits alone are equal",
         _receipt(mode=Mode.CLASS, device_class=_root("class").hex()), {}),
        ("tolerance-mode", "judged within bounds, not by equality",
         _receipt(mode=Mode.TOLERANCE), {}),
        ("binary-spec", "any bytes may be a specification",
         _receipt(job_spec=spec, job_id=hashlib.sha256(spec).digest()), {}),
        ("no-known-key", "verified with the key inside: whole, and trusted by nobody",
         GOOD, {"coordinator_key": None}),
        ("spec-not-checked", "without recomputation a swapped specification passes",
         replace(GOOD, job_spec=b"other"), {"job_id_is_sha256_of_spec": False}),
    ]  # fmt: skip
    return [
        _case(name, why, sign_receipt(receipt, COORDINATOR), **more)
        | {
            "expect": {
                "trusted": "coordinator_key" not in more,
                "job_id_checked": "job_id_is_sha256_of_spec" not in more,
                "job_id": receipt.job_id.hex(),
                "outcome": str(receipt.outcome),
                "segments": len(receipt.segments),
                "invoice_nano": str(receipt.invoice_nano),
                "final_state_root": receipt.final_state_root.hex(),
                "outputs_root": receipt.outputs_root.hex(),
                "payload_sha256": hashlib.sha256(statement_bytes(receipt)).hexdigest(),
            }
        }
        for name, why, receipt, more in rows
    ]


def _edited(change: Callable[[Statement], object]) -> bytes:
    """The statement after ``change``, signed by the coordinator all the same."""
    statement = json.loads(statement_bytes(GOOD))
    change(statement)
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    return sign_payload(PAYLOAD_TYPE, payload, COORDINATOR).to_json()


def _set(*path: Any) -> bytes:
    *keys, last, value = path

    def change(statement: Any) -> None:
        for key in keys:
            statement = statement[key]
        statement[last] = value

    return _edited(change)


def _job(name: str, value: Any) -> bytes:
    return _set("predicate", "job", name, value)


def _total(name: str, value: Any) -> bytes:
    return _set("predicate", "totals", name, value)


def _segment(at: int, name: str, value: Any) -> bytes:
    return _set("predicate", "segments", at, name, value)


def _raw(payload: bytes) -> bytes:
    return sign_payload(PAYLOAD_TYPE, payload, COORDINATOR).to_json()


def refused() -> list[dict[str, Any]]:
    """Forgeries and accidents, each with the code it must end in."""
    payload = statement_bytes(GOOD)
    document = json.loads(FILE)
    forged = sign_receipt(replace(GOOD, coordinator_key=MALLORY.public), MALLORY)
    borrowed = statement_bytes(replace(GOOD, coordinator_key=MALLORY.public))
    cheaper = json.loads(_total("ceiling_nano", "1300"))["payload"]
    no_signature = base64.b64encode(bytes(64)).decode()
    rows: list[tuple[str, str, str, bytes]] = [
        # who signed what
        ("unsigned", "an empty list of signatures", "ENVELOPE_UNSIGNED",
         json.dumps(document | {"signatures": []}).encode()),
        ("no-signatures-member", "the member is missing", "ENVELOPE_UNSIGNED",
         json.dumps({k: v for k, v in document.items() if k != "signatures"}).encode()),
        ("signed-twice", "who signed would have two answers", "ENVELOPE_MALFORMED",
         json.dumps(document | {"signatures": document["signatures"] * 2}).encode()),
        ("zero-signature", "64 zero bytes", "ENVELOPE_BAD_SIGNATURE",
         json.dumps(document | {"signatures": [{"keyid": "", "sig": no_signature}]}).encode()),
        ("other-coordinator", "whole, signed by another key than the trusted one",
         "ENVELOPE_BAD_SIGNATURE", forged),
        ("altered", "a lower ceiling under the old signature", "ENVELOPE_BAD_SIGNATURE",
         json.dumps(document | {"payload": cheaper}).encode()),
        ("other-type", "a good payload shown as another kind of document", "ENVELOPE_WRONG_TYPE",
         json.dumps(document | {"payloadType": "application/json"}).encode()),
        ("names-another", "signed by the trusted key, names another coordinator",
         "RECEIPT_WRONG_KEY", _raw(borrowed)),
        ("other-job", "the job id is not that of the specification inside", "RECEIPT_WRONG_JOB",
         sign_receipt(replace(GOOD, job_spec=b"another job"), COORDINATOR)),
        # not a file
        ("empty", "no bytes", "ENVELOPE_MALFORMED", b""),
        ("not-json", "a closing brace", "ENVELOPE_MALFORMED", b"}"),
        ("a-list", "JSON, and no object", "ENVELOPE_MALFORMED", b"[]"),
        ("no-payload", "the member is missing", "ENVELOPE_MALFORMED",
         json.dumps({k: v for k, v in document.items() if k != "payload"}).encode()),
        ("payload-not-base64", "outside the alphabet", "ENVELOPE_MALFORMED",
         json.dumps(document | {"payload": "!!!!"}).encode()),
        ("payload-a-number", "of another type", "ENVELOPE_MALFORMED",
         json.dumps(document | {"payload": 7}).encode()),
        # a signed payload that is no canonical statement
        ("payload-empty", "nothing, signed", "RECEIPT_MALFORMED", _raw(b"")),
        ("payload-not-json", "signed garbage", "RECEIPT_MALFORMED", _raw(b"}")),
        ("payload-not-utf8", "signed bytes that are no text", "RECEIPT_MALFORMED",
         _raw(b'{"_type":"\xff"}')),
        ("payload-deep", "lists in lists", "RECEIPT_MALFORMED", _raw(b"[" * 2_000)),
        ("white-space", "a line break after the statement", "RECEIPT_MALFORMED",
         _raw(payload + b"\n")),
        ("second-spelling", "an escape for a letter", "RECEIPT_MALFORMED",
         _raw(payload.replace(b"acc-buyer", b"\\u0061cc-buyer"))),
        ("member-twice", "two readers, two meanings", "RECEIPT_MALFORMED",
         _raw(payload.replace(b'{"_type"', b'{"_type":"x","_type"', 1))),
        ("unknown-member", "says more than a receipt does", "RECEIPT_MALFORMED",
         _set("predicate", "refund", "1")),
        ("missing-member", "a job without a seed", "RECEIPT_MALFORMED",
         _edited(lambda s: s["predicate"]["job"].pop("seed"))),
        ("other-predicate", "a version that is no more", "RECEIPT_MALFORMED",
         _set("predicateType", "https://flopmarket.dev/receipt/v2")),
        ("other-statement-type", "an older in-toto", "RECEIPT_MALFORMED",
         _set("_type", "https://in-toto.io/Statement/v0.1")),
        ("no-subject", "about nothing", "RECEIPT_MALFORMED", _set("subject", [])),
        ("wrong-outputs-subject", "not the root over the segments' outputs", "RECEIPT_MALFORMED",
         _set("subject", 1, "digest", {"flopmarketSequenceRootV1": "00" * 32})),
        ("a-number", "25 instead of the text 25", "RECEIPT_MALFORMED", _job("steps", 25)),
        ("a-float", "25.0", "RECEIPT_MALFORMED", _job("steps", 25.0)),
        ("leading-zero", "025", "RECEIPT_MALFORMED", _job("steps", "025")),
        ("plus-sign", "+25", "RECEIPT_MALFORMED", _job("steps", "+25")),
        ("negative-fee", "-1", "RECEIPT_MALFORMED", _total("fee_nano", "-1")),
        ("forty-digits", "beyond the longest number", "RECEIPT_MALFORMED",
         _job("seed", "1" * 40)),
        ("other-digits", "Arabic-Indic digits", "RECEIPT_MALFORMED", _job("steps", "٢٥")),
        ("half-a-character", "an unpaired surrogate is no text", "RECEIPT_MALFORMED",
         _job("buyer_account_id", "\ud800")),
        ("upper-case-hex", "a digest in capitals", "RECEIPT_MALFORMED",
         _job("id", GOOD.job_id.hex().upper())),
        ("short-digest", "one byte", "RECEIPT_MALFORMED", _job("id", "00")),
        ("spec-not-base64", "an exclamation mark", "RECEIPT_MALFORMED", _job("spec", "!")),
        ("unknown-outcome", "splendid", "RECEIPT_MALFORMED",
         _set("predicate", "outcome", "splendid")),
        ("unknown-level", "splendid", "RECEIPT_MALFORMED", _job("verification", "splendid")),
        ("unknown-mode", "splendid", "RECEIPT_MALFORMED", _job("mode", "splendid")),
        ("short-class", "one byte", "RECEIPT_MALFORMED", _job("device_class", "00")),
        ("short-challenge", "one byte", "RECEIPT_MALFORMED",
         _segment(0, "challenge_digest", "00")),
        ("rates-a-list", "no rates by class", "RECEIPT_MALFORMED",
         _set("predicate", "devices", 0, "proved_flops_per_second", ["dot-f32"])),
        ("unknown-audit", "an audit outcome that is not paid", "RECEIPT_MALFORMED",
         _segment(0, "audit", "refuted")),
        ("other-key-id", "not the id of the key beside it", "RECEIPT_MALFORMED",
         _set("predicate", "coordinator", "key_id", MALLORY.key_id)),
        ("weak-key", "a point of small order", "RECEIPT_MALFORMED",
         _set("predicate", "coordinator", "public_key", "00" * 32)),
        # canonical, signed, and a contradiction
        ("class-unnamed", "class mode without a class", "RECEIPT_INCONSISTENT",
         _job("mode", "class")),
        ("class-of-exact", "a class beside exact mode", "RECEIPT_INCONSISTENT",
         _job("device_class", "ab" * 32)),
        ("gap-in-index", "segment 2 follows segment 0", "RECEIPT_INCONSISTENT",
         _segment(1, "index", "2")),
        ("gap-in-steps", "a step that nobody ran", "RECEIPT_INCONSISTENT",
         _segment(1, "first_step", "11")),
        ("overlap", "a step that was paid twice", "RECEIPT_INCONSISTENT",
         _segment(1, "first_step", "9")),
        ("empty-segment", "no steps", "RECEIPT_INCONSISTENT", _segment(1, "steps", "0")),
        ("stale-start", "starts from a state that was not reached", "RECEIPT_INCONSISTENT",
         _segment(1, "state_root_before", "00" * 32)),
        ("other-end", "the last segment ends elsewhere", "RECEIPT_INCONSISTENT",
         _segment(2, "state_root_after", "00" * 32)),
        ("other-start", "the job starts elsewhere than its first segment", "RECEIPT_INCONSISTENT",
         _job("initial_state_root", "00" * 32)),
        ("dearer-segment", "prices do not add up", "RECEIPT_INCONSISTENT",
         _segment(1, "price_nano", "401")),
        ("hidden-surcharge", "a surcharge that the total does not say", "RECEIPT_INCONSISTENT",
         _segment(1, "surcharge_nano", "1")),
        ("audited-by-nobody", "confirmed without an auditor", "RECEIPT_INCONSISTENT",
         _segment(1, "auditor", "")),
        ("no-verdict", "confirmed without a verdict", "RECEIPT_INCONSISTENT",
         _segment(1, "verdict_digest", "")),
        ("auditor-of-nothing", "not sampled, by the house", "RECEIPT_INCONSISTENT",
         _segment(0, "auditor", HOUSE)),
        ("unlisted-device", "a segment of a device without a record", "RECEIPT_INCONSISTENT",
         _set("predicate", "devices", [])),
        ("lower-invoice", "less than the prices", "RECEIPT_INCONSISTENT",
         _total("invoice_nano", "1199")),
        ("above-the-ceiling", "more than was held", "RECEIPT_INCONSISTENT",
         _total("ceiling_nano", "1199")),
        ("fee-above-invoice", "more than was paid", "RECEIPT_INCONSISTENT",
         _total("fee_nano", "1201")),
        ("steps-missing", "completed with 25 of 26", "RECEIPT_INCONSISTENT", _job("steps", "26")),
        ("steps-too-many", "25 of 24", "RECEIPT_INCONSISTENT", _job("steps", "24")),
        ("ends-before-it-began", "a microsecond after the epoch", "RECEIPT_INCONSISTENT",
         _set("predicate", "ended_at_us", "1")),
    ]  # fmt: skip
    return [_case(name, why, file) | {"expect": {"code": code}} for name, why, code, file in rows]


def main() -> None:
    """Write both files."""
    for name, cases in (("accepted", accepted()), ("refused", refused())):
        text = json.dumps(cases, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
        (FOLDER / f"receipts-{name}.json").write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
