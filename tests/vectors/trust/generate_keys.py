"""Writes ``chains.json`` beside this file: chains of owner keys, right and wrong ones.

Run it as a module when the protocol gets a new version, and read the difference. All from fixed
seeds. ``links`` are envelopes in binary form, hex; a case has ``owner``, ``recovery`` (raw public
keys) and ``head``, or the code that it is ``refused`` with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import Envelope, seal
from flopmarket.trust.key_documents import (
    NO_LINK,
    RecoveryObjection,
    recovery,
    recovery_key,
    rotation,
)
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.ownership import link_digest, verify_chain

FILE = Path(__file__).parent / "chains.json"
KEYS = {
    name: KeyPair.from_seed(bytes([40 + number]) * 32)
    for number, name in enumerate(
        ("owner", "second", "third", "words", "thief", "coordinator", "other")
    )
}
NOW_US = 1_800_000_000_000_000


def sealed(body: Document, key: KeyPair, audience: str = "") -> Envelope:
    """Signed at a fixed moment."""
    return seal(
        body,
        key,
        audience=audience or KEYS["coordinator"].key_id,
        nonce=b"\x11" * 16,
        issued_at_us=NOW_US,
        expires_at_us=NOW_US + 60_000_000,
    )


def cases() -> list[dict[str, Any]]:
    """Every chain with what it comes to."""
    owner, second, third, words, thief = (
        KEYS[name] for name in ("owner", "second", "third", "words", "thief")
    )
    account = owner.key_id
    set_words = sealed(recovery_key(account, words, NO_LINK), owner)
    at_words = link_digest(set_words, owner.public)
    stolen = sealed(rotation(account, KeyRole.OWNER, owner.public, thief, at_words), owner)
    at_stolen = link_digest(stolen, owner.public)
    back = sealed(recovery(account, second, at_stolen), words)
    rotated = sealed(rotation(account, KeyRole.OWNER, owner.public, second), owner)
    at_rotated = link_digest(rotated, owner.public)
    again = sealed(rotation(account, KeyRole.OWNER, second.public, third, at_rotated), second)
    objected = sealed(RecoveryObjection(account, bytes(32), at_words), owner)
    other_role = rotation(account, KeyRole.CI, owner.public, second)
    body = rotation(account, KeyRole.OWNER, owner.public, second)
    elsewhere = rotation("0" * 64, KeyRole.OWNER, owner.public, second)
    takes = sealed(recovery_key(account, thief, at_words), owner)
    returns = sealed(rotation(account, KeyRole.OWNER, second.public, owner, at_rotated), second)
    foreign = sealed(body, owner, audience=KEYS["other"].key_id)
    unsigned = replace(rotated, signatures=())
    rows: Sequence[tuple[str, Sequence[Envelope], str]] = (
        ("new", (), ""),
        ("rotated", (rotated,), ""),
        ("rotated-twice", (rotated, again), ""),
        ("recovery-key", (set_words,), ""),
        ("stolen-and-recovered", (set_words, stolen, back), ""),
        ("objected", (set_words, objected), ""),
        ("missing-first-link", (again,), "ENVELOPE_UNKNOWN_KEY"),
        ("wrong-order", (again, rotated), "ENVELOPE_UNKNOWN_KEY"),
        ("repeated", (rotated, rotated), "ENVELOPE_UNKNOWN_KEY"),
        ("old-key-signs-on", (set_words, rotated), "OWNERSHIP_STALE"),
        ("owner-takes-recovery-key", (set_words, takes), "ENVELOPE_UNKNOWN_KEY"),
        ("recovery-without-key", (back,), "RECOVERY_MISSING"),
        ("recovery-at-another-point", (set_words, back), "OWNERSHIP_STALE"),
        ("key-comes-back", (rotated, returns), "OWNERSHIP_KEY_USED"),
        ("other-role", (sealed(other_role, owner),), "OWNERSHIP_BROKEN"),
        ("other-account", (sealed(elsewhere, owner),), "OWNERSHIP_OTHER_ACCOUNT"),
        ("not-countersigned",
         (sealed(replace(body, countersignature=bytes(64)), owner),), "COUNTERSIGNATURE"),
        ("somebody-elses-key",
         (sealed(replace(body, new_key=third.public.raw), owner),), "COUNTERSIGNATURE"),
        ("other-market", (foreign,), "ENVELOPE_WRONG_AUDIENCE"),
        ("unsigned", (unsigned,), "ENVELOPE_UNSIGNED"),
        ("signed-by-thief", (sealed(body, thief),), "ENVELOPE_UNKNOWN_KEY"),
    )  # fmt: skip
    return [_case(name, links, refused) for name, links, refused in rows]


def _case(name: str, links: Sequence[Envelope], refused: str) -> dict[str, Any]:
    owner, audience = KEYS["owner"].public, KEYS["coordinator"].key_id
    case: dict[str, Any] = {
        "name": name,
        "first_key": owner.raw.hex(),
        "audience": audience,
        "links": [link.to_bytes().hex() for link in links],
    }
    if refused:
        return case | {"refused": refused}
    found = verify_chain(owner, links, audience=audience)
    return case | {
        "owner": found.owner.raw.hex(),
        "recovery": "" if found.recovery is None else found.recovery.raw.hex(),
        "head": found.head.hex(),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(cases(), indent=1) + "\n")
