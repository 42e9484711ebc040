"""What a key file is for, beside it: account and role, once a key's id is not its account's.

``default.pem`` has ``default.json`` when it is a rotated owner key, a CI key or a device key that
joined; a first owner key needs none. Nothing in it is secret or believed by anybody else.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from flopmarket.limits import MAX_KEY_FILE_BYTES
from flopmarket.trust.errors import UnusableKey
from flopmarket.trust.keys import KEY_ID_LENGTH, KeyPair, KeyRole


@dataclass(frozen=True, slots=True)
class KeyIdentity:
    """The account a key acts for, and as what.

    ``lineage`` is the id of the first key of those that took each other's place, and ``previous``
    the name of the file of the one before; empty for a first key.
    """

    account_id: str
    role: KeyRole
    lineage: str = ""
    previous: str = ""


def identity_path(key_file: Path) -> Path:
    """The file that stands beside a key file."""
    return key_file.with_suffix(".json")


def read_identity(key_file: Path) -> KeyIdentity | None:
    """What stands beside a key file; None when nothing does."""
    path = identity_path(key_file)
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_KEY_FILE_BYTES))
        account_id = content["account_id"]
        lineage, previous = content.get("lineage", ""), content.get("previous", "")
        if not isinstance(account_id, str) or len(account_id) != KEY_ID_LENGTH:
            raise ValueError("account_id")
        if not isinstance(previous, str) or "/" in previous:
            raise ValueError("previous")
        return KeyIdentity(account_id, KeyRole(content["role"]), str(lineage), previous)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnusableKey(
            f"{path} does not say what the key is for: {error}",
            code="KEY_IDENTITY_MALFORMED",
            hint="remove it and name the account with --account",
        ) from None


def write_identity(key_file: Path, identity: KeyIdentity) -> None:
    """Write it, whole or not at all."""
    path = identity_path(key_file)
    optional = {"lineage": identity.lineage, "previous": identity.previous}
    content = {"account_id": identity.account_id, "role": identity.role.value}
    content |= {name: value for name, value in optional.items() if value}
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(content) + "\n", "utf-8")
    fresh.replace(path)


def replace_key_file(path: Path, new: KeyPair, account_id: str, role: KeyRole) -> Path:
    """Put ``new`` in the place of the key in ``path``; returns where the old key lies now.

    The new file is whole on disk before the old one is moved away, so that a crash loses neither.
    """
    old = KeyPair.load(path)
    kept = path.with_name(f"{path.stem}.{old.key_id[:8]}.pem")
    fresh = next_key_path(path)
    if not fresh.exists():
        new.save(fresh)
    if not kept.exists():
        os.link(path, kept)
    known = read_identity(path)
    lineage = known.lineage if known is not None and known.lineage else old.key_id
    write_identity(path, KeyIdentity(account_id, role, lineage, kept.name))
    fresh.replace(path)
    return kept


def kept_key_files(path: Path) -> list[Path]:
    """Where rotations have left the keys before the one in ``path``."""
    return [
        each
        for each in path.parent.glob(f"{path.stem}.{'[0-9a-f]' * 8}.pem")
        if KeyPair.load(each).key_id.startswith(each.name[len(path.stem) + 1 : -len(path.suffix)])
    ]


def next_key_path(path: Path) -> Path:
    """Where the key that is to follow is kept until the coordinator has agreed."""
    return path.with_name(f"{path.stem}.next.pem")
