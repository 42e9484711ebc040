"""What lets a worker check a signer without believing the coordinator: chains and rotations."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.limits import MAX_KEY_ROTATIONS
from flopmarket.trust.documents import DeviceGrant
from flopmarket.trust.envelope import Envelope, unverified_body
from flopmarket.trust.keys import PublicKey
from flopmarket_coordinator.store import identity, keys
from flopmarket_coordinator.store.engine import Transaction


@dataclass(frozen=True, slots=True)
class SignerProof:
    """From an account's first owner key to the key that signed; all empty where they are one."""

    first_key: bytes = b""
    links: tuple[Envelope, ...] = ()
    rotations: tuple[Envelope, ...] = ()


def signer_proof(
    tx: Transaction, account_id: str, signer: str, grant: Envelope | None
) -> SignerProof:
    """The proof for a key of the account: an owner key, or a CI key with its grant."""
    owner = signer if grant is None else grant.signatures[0].key_id_hint
    if grant is None and owner == account_id:
        return SignerProof()
    first = identity.key(tx, account_id)
    assert first is not None, "an account is named by its first owner key"
    links: list[Envelope] = []
    if owner != account_id:
        for link in keys.links(tx, account_id):
            links.append(Envelope.from_bytes(link.envelope))
            if link.owner_key_id == owner:
                break
    rotations = [] if grant is None else _rotations(tx, grant, signer)
    return SignerProof(first.public_key, tuple(links), tuple(rotations))


def _rotations(tx: Transaction, grant: Envelope, signer: str) -> list[Envelope]:
    body = unverified_body(grant, DeviceGrant)
    granted = PublicKey(body.device_key).key_id
    found: list[Envelope] = []
    while signer != granted and len(found) < MAX_KEY_ROTATIONS:
        before = keys.predecessor(tx, signer)
        if before is None or before.ended_by is None:
            break
        found.append(Envelope.from_bytes(before.ended_by))
        signer = before.key_id
    return found[::-1]
