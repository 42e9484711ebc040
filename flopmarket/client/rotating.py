"""Rotate a key in its file, so that a crash at any moment can be gone on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flopmarket.client.client import Client
from flopmarket.trust.key_identity import next_key_path, read_identity, replace_key_file
from flopmarket.trust.keys import KeyPair, KeyRole


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did; ``kept`` is the file of the old key."""

    old_key_id: str
    key_id: str
    role: KeyRole
    kept: Path


def rotate_key_file(client: Client, path: Path, account_id: str = "") -> Rotated:
    """Let a new key take the place of the one in ``path``, at the coordinator and on disk.

    The new key lies beside it until the coordinator has agreed; where that happened in an earlier
    attempt, only the files are put in order. ``account_id`` is for a key file that does not say.
    """
    old = KeyPair.load(path)
    known = read_identity(path)
    if known is not None:
        account_id, role = known.account_id, known.role
    else:
        account_id = account_id or old.key_id
        role = KeyRole.OWNER if account_id == old.key_id else KeyRole.CI
    fresh = next_key_path(path)
    if fresh.exists():
        new = KeyPair.load(fresh)
        if not client.is_registered(new, account_id, role):
            client.rotate_key(old, new, account_id=account_id, role=role)
    else:
        new = KeyPair.generate()
        new.save(fresh)
        client.rotate_key(old, new, account_id=account_id, role=role)
    kept = replace_key_file(path, new, account_id, role)
    return Rotated(old.key_id, new.key_id, role, kept)
