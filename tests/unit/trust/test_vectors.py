"""The envelope vectors: every file in tests/vectors/trust opens, or is refused with its code."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from flopmarket.trust import documents
from flopmarket.trust.encoding import decode, digest, domain_of, encode
from flopmarket.trust.envelope import Envelope, Opened, keys_by_id, open_envelope
from flopmarket.trust.errors import EnvelopeError
from flopmarket.trust.keys import PublicKey
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


def test_there_are_enough_vectors_of_both_kinds() -> None:
    assert len(load("envelopes-accepted.json")) >= 6
    refused = load("envelopes-refused.json")
    assert len(refused) >= 12
    codes = {case.values[0]["expect"]["code"] for case in refused}
    assert len(codes) == 9, "every envelope code has a vector"


def test_the_protocol_still_writes_the_vectors_byte_for_byte() -> None:
    """Envelopes made from the same seeds today are those that were recorded."""
    generator = runpy.run_path(str(VECTORS / "generate.py"))
    for name in ("accepted", "refused"):
        recorded = json.loads((VECTORS / f"envelopes-{name}.json").read_text())
        assert generator[name]() == recorded
