"""The vectors of tests/vectors/trust: each envelope and receipt is accepted, or refused by code.

The format is described in tests/vectors/trust/README.md, for other implementations.
"""

from __future__ import annotations

import base64
import hashlib
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope as PeerEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from flopmarket.errors import FlopmarketError
from flopmarket.trust import documents
from flopmarket.trust.encoding import decode, digest, domain_of, encode
from flopmarket.trust.envelope import Envelope, Opened, keys_by_id, open_envelope
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.receipt import VerifiedReceipt, sign_receipt, verify_receipt
from flopmarket.trust.replay import MemoryReplayCache

VECTORS = Path(__file__).parents[2] / "vectors" / "trust"
TYPES = {
    domain_of(cls): cls
    for cls in (documents.CancelRequest, documents.OfferTerms, documents.Deposit)
}


def load(name: str) -> list[Any]:
    cases = json.loads((VECTORS / name).read_text())
    return [pytest.param(case, id=case["name"]) for case in cases]


def received(case: dict[str, Any]) -> Envelope:
    if "envelope_hex" in case:
        return Envelope.from_bytes(bytes.fromhex(case["envelope_hex"]))
    if "envelope_repeat" in case:
        text, count = case["envelope_repeat"]
        return Envelope.from_json((text * count).encode())
    return Envelope.from_json(case["envelope_json"].encode())


def open_case(case: dict[str, Any]) -> Opened[Any]:
    now_us = case["now_us"]
    replay = None
    if now_us is not None:
        replay = MemoryReplayCache(lambda: now_us)
        for used in case["used_nonces"]:
            assert replay.remember(bytes.fromhex(used["nonce"]), used["key_id"], now_us + 1)
    return open_envelope(
        received(case),
        TYPES[case["body_type"]],
        keys=keys_by_id(*(PublicKey(bytes.fromhex(raw)) for raw in case["keys"])),
        audience=case["audience"],
        now_us=now_us,
        replay=replay,
    )


@pytest.mark.parametrize("case", load("envelopes-accepted.json"))
def test_accepted(case: dict[str, Any]) -> None:
    opened = open_case(case)
    expect = case["expect"]
    body_bytes = bytes.fromhex(expect["body_hex"])
    assert opened.body == decode(TYPES[case["body_type"]], body_bytes)
    assert opened.header.body == body_bytes == encode(opened.body)
    assert digest(opened.body).hex() == expect["body_digest"]
    assert opened.key_id == expect["key_id"]
    assert opened.envelope_digest.hex() == expect["envelope_digest"]
    assert opened.header.nonce.hex() == expect["nonce"]
    assert opened.header.issued_at_us == expect["issued_at_us"]
    assert opened.header.expires_at_us == expect["expires_at_us"]
    if "envelope_hex" in case:
        assert received(case).to_bytes().hex() == case["envelope_hex"]


@pytest.mark.parametrize("case", load("envelopes-refused.json"))
def test_refused(case: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError) as caught:
        open_case(case)
    assert caught.value.code == case["expect"]["code"], caught.value.message


def verify_case(case: dict[str, Any]) -> VerifiedReceipt:
    key = case["coordinator_key"]
    return verify_receipt(
        case["receipt_json"].encode(),
        None if key is None else PublicKey(bytes.fromhex(key)),
        recompute_job_id=(
            (lambda spec: hashlib.sha256(spec).digest())
            if case["job_id_is_sha256_of_spec"]
            else None
        ),
    )


@pytest.mark.parametrize("case", load("receipts-accepted.json"))
def test_receipt_accepted(case: dict[str, Any]) -> None:
    found, expect = verify_case(case), case["expect"]
    receipt = found.receipt
    assert (found.trusted, found.job_id_checked) == (expect["trusted"], expect["job_id_checked"])
    assert receipt.job_id.hex() == expect["job_id"]
    assert receipt.outcome == expect["outcome"]
    assert len(receipt.segments) == expect["segments"]
    assert str(receipt.invoice_nano) == expect["invoice_nano"]
    assert receipt.final_state_root.hex() == expect["final_state_root"]
    assert receipt.outputs_root.hex() == expect["outputs_root"]


@pytest.mark.parametrize("case", load("receipts-refused.json"))
def test_receipt_refused(case: dict[str, Any]) -> None:
    with pytest.raises(FlopmarketError) as caught:
        verify_case(case)
    assert caught.value.code == case["expect"]["code"], caught.value.message


@pytest.mark.parametrize("case", load("receipts-accepted.json"))
def test_another_projects_verifier_accepts_our_receipts(case: dict[str, Any]) -> None:
    """DSSE by securesystemslib, in-toto by its specification: nothing of ours in the way."""
    file = json.loads(case["receipt_json"])
    payload = base64.b64decode(file["payload"], validate=True)
    statement = json.loads(payload)
    raw = bytes.fromhex(statement["predicate"]["coordinator"]["public_key"])
    key_id = file["signatures"][0]["keyid"]
    key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(raw), key_id)
    peer = PeerEnvelope.from_dict(file)
    assert set(peer.verify([key], 1)) == {key_id}
    assert peer.payload == payload
    assert file["payloadType"] == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert hashlib.sha256(payload).hexdigest() == case["expect"]["payload_sha256"]
    for subject in statement["subject"]:
        assert subject["name"] and all(subject["digest"].values())
    assert statement["subject"][0]["digest"] == {
        "flopmarketStateRootV1": case["expect"]["final_state_root"]
    }


def test_another_projects_verifier_refuses_what_we_refuse_for_its_signature() -> None:
    refused = [
        case.values[0]
        for case in load("receipts-refused.json")
        if case.values[0]["expect"]["code"] == "ENVELOPE_BAD_SIGNATURE"
    ]
    assert len(refused) >= 3
    for case in refused:
        raw = bytes.fromhex(case["coordinator_key"])
        peer = PeerEnvelope.from_dict(json.loads(case["receipt_json"]))
        key_id = PublicKey(raw).key_id
        key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(raw), key_id)
        with pytest.raises(VerificationError):
            peer.verify([key], 1)


def test_there_are_enough_vectors_of_both_kinds() -> None:
    cases = {
        kind: [
            case.values[0]
            for what in ("envelopes", "receipts")
            for case in load(f"{what}-{kind}.json")
        ]
        for kind in ("accepted", "refused")
    }
    assert len(cases["accepted"]) >= 20 and len(cases["refused"]) >= 50
    codes = {case["expect"]["code"] for case in cases["refused"]}
    assert {str(code) for code in EnvelopeCode} <= codes, "every envelope code has a vector"
    assert {code for code in codes if code.startswith("RECEIPT_")} == {
        "RECEIPT_MALFORMED", "RECEIPT_INCONSISTENT", "RECEIPT_WRONG_KEY", "RECEIPT_WRONG_JOB",
    }  # fmt: skip
    readme = (VECTORS / "README.md").read_text()
    for kind in cases:
        for what in ("envelopes", "receipts"):
            names = [case.values[0]["name"] for case in load(f"{what}-{kind}.json")]
            assert len(set(names)) == len(names)
            assert f"| `{what}-{kind}.json` | {len(names)} |" in readme
    assert all(f"`{code}`" in readme for code in codes)


@pytest.mark.parametrize(
    ("script", "what"), [("generate.py", "envelopes"), ("generate_receipts.py", "receipts")]
)
def test_the_protocol_still_writes_the_vectors_byte_for_byte(script: str, what: str) -> None:
    """What is made from the same seeds today is what was recorded."""
    generator = runpy.run_path(str(VECTORS / script))
    for name in ("accepted", "refused"):
        recorded = json.loads((VECTORS / f"{what}-{name}.json").read_text())
        assert generator[name]() == recorded


def test_a_receipt_that_was_read_is_signed_again_as_the_same_bytes() -> None:
    generator = runpy.run_path(str(VECTORS / "generate_receipts.py"))
    for case in generator["accepted"]():
        receipt = verify_case(case).receipt
        assert sign_receipt(receipt, generator["COORDINATOR"]).decode() == case["receipt_json"]
