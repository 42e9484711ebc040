"""Chains of owner keys, and the vectors that other implementations are held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flopmarket.errors import FlopmarketError
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.key_documents import rotation
from flopmarket.trust.keys import KeyPair, KeyRole, PublicKey
from flopmarket.trust.ownership import follow_rotations, link_digest, verify_chain
from tests.vectors.trust.generate_keys import FILE, KEYS, cases, sealed

VECTORS = json.loads(FILE.read_text())


def test_the_vectors_are_what_the_generator_writes() -> None:
    assert cases() == VECTORS


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_every_chain_is_read_alike_or_refused_by_code(case: dict[str, Any]) -> None:
    links = [Envelope.from_bytes(bytes.fromhex(item)) for item in case["links"]]
    first = PublicKey(bytes.fromhex(case["first_key"]))
    if "refused" in case:
        with pytest.raises(FlopmarketError) as caught:
            verify_chain(first, links, audience=case["audience"])
        assert caught.value.code == case["refused"]
        return
    found = verify_chain(first, links, audience=case["audience"])
    assert found.owner.raw.hex() == case["owner"]
    assert ("" if found.recovery is None else found.recovery.raw.hex()) == case["recovery"]
    assert found.head.hex() == case["head"] and found.links == len(links)


def test_rotations_of_other_keys_follow_one_after_another() -> None:
    account, audience = KEYS["owner"].key_id, KEYS["coordinator"].key_id
    first, second, third = KEYS["second"], KEYS["third"], KEYS["words"]
    one = sealed(rotation(account, KeyRole.CI, first.public, second), first)
    two = sealed(rotation(account, KeyRole.CI, second.public, third), second)
    back = sealed(rotation(account, KeyRole.CI, third.public, first), third)

    def follow(*rotations: Envelope, role: KeyRole = KeyRole.CI) -> PublicKey:
        return follow_rotations(first.public, account, role, rotations, audience=audience)

    assert follow() == first.public
    assert follow(one, two) == third.public
    for wrong in ((two,), (two, one), (one, one), (one, two, back), (one,) * 40):
        with pytest.raises(FlopmarketError):
            follow(*wrong)
    with pytest.raises(FlopmarketError):
        follow(one, role=KeyRole.DEVICE)


def test_a_link_is_named_by_what_was_signed_and_by_whom() -> None:
    pair = KeyPair.generate()
    account = KEYS["owner"].key_id
    body = rotation(account, KeyRole.OWNER, KEYS["owner"].public, pair)
    envelope = sealed(body, KEYS["owner"])
    assert link_digest(envelope, KEYS["owner"].public) != link_digest(envelope, pair.public)


def test_the_file_lies_beside_the_other_vectors() -> None:
    assert Path(FILE).parent.name == "trust"
