"""Who owns an account: its id is its first owner key's, a chain of documents says what followed.

The chain is checked by everybody for himself. Each link is an envelope signed by the key that had
the say when it was made, and names the link before it:

=================== ============================== ===========================================
link                signed by                      afterwards
=================== ============================== ===========================================
KeyRotation         the owner key                  another owner key
RecoveryKey         the owner key, or the recovery another recovery key
                    key where there is one
KeyRecovery         the recovery key               another owner key; the recovery key stays
RecoveryObjection   the owner key                  no recovery key
=================== ============================== ===========================================

A key is never used twice in one chain. When a link was made and whether a recovery waited long
enough is the coordinator's to see: a chain proves who signed, not when. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flopmarket.limits import MAX_KEY_ROTATIONS, MAX_OWNERSHIP_LINKS, RECOVERY_LINKS
from flopmarket.trust.encoding import AnyDocument, tagged_hash
from flopmarket.trust.envelope import Envelope, Header, keys_by_id, open_envelope, payload_type_of
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError, SignerNotAllowed
from flopmarket.trust.key_documents import (
    NO_LINK,
    KeyRecovery,
    KeyRotation,
    RecoveryKey,
    RecoveryObjection,
    check_countersignature,
)
from flopmarket.trust.keys import KeyRole, PublicKey

Link = KeyRotation | RecoveryKey | KeyRecovery | RecoveryObjection

_TYPES: dict[str, type[Link]] = {
    payload_type_of(kind): kind
    for kind in (KeyRotation, RecoveryKey, KeyRecovery, RecoveryObjection)
}


class OwnershipError(SignerNotAllowed):
    """A document does not continue the account's chain of owner keys."""

    default_code = "OWNERSHIP_BROKEN"


@dataclass(frozen=True, slots=True)
class Ownership:
    """What a chain says so far. ``owners`` are all owner keys, oldest first; the last one owns.

    ``head`` is the digest of the last link, ``retired_recovery`` the recovery keys of the past.
    """

    account_id: str
    owners: tuple[PublicKey, ...]
    recovery: PublicKey | None = None
    retired_recovery: tuple[PublicKey, ...] = ()
    head: bytes = NO_LINK
    links: int = 0

    @property
    def owner(self) -> PublicKey:
        """The key that owns the account."""
        return self.owners[-1]

    @property
    def used(self) -> frozenset[bytes]:
        """Raw keys that may not come (again) into the chain."""
        keys = (*self.owners, *self.retired_recovery)
        return frozenset(key.raw for key in (*keys, *filter(None, (self.recovery,))))


@dataclass(frozen=True, slots=True)
class Extended:
    """An ownership, and the link that led to it, opened."""

    ownership: Ownership
    link: Link
    header: Header


def first_ownership(owner: PublicKey) -> Ownership:
    """That of a new account."""
    return Ownership(owner.key_id, (owner,))


def extend(ownership: Ownership, envelope: Envelope, *, audience: str | None) -> Extended:
    """The ownership after one more link; times are not looked at.

    ``audience`` is the coordinator's key id, None where that was checked before. Raises
    :class:`EnvelopeError`, :class:`~flopmarket.trust.errors.DocumentError` or
    :class:`OwnershipError`: ``OWNERSHIP_STALE`` for a link that was made at another point of the
    chain, ``OWNERSHIP_KEY_USED`` for a key that was in it before, ``OWNERSHIP_FULL`` past the
    limit (the last few links are for recoveries), ``RECOVERY_MISSING`` without a recovery key.
    """
    kind = _TYPES.get(envelope.payload_type)
    if kind is None:
        raise EnvelopeError(
            f"envelope of type {envelope.payload_type[:128]!r} in a chain of owner keys",
            code=EnvelopeCode.WRONG_TYPE,
        )
    signer = _signer(ownership, kind)
    link, header = open_link(envelope, kind, signer, audience=audience)
    most = MAX_OWNERSHIP_LINKS - (RECOVERY_LINKS if kind in (KeyRotation, RecoveryKey) else 0)
    if ownership.links >= most:
        raise OwnershipError(
            f"an account's chain has {ownership.links} links, at most {most} are allowed",
            code="OWNERSHIP_FULL",
            hint="open a new account",
        )
    if link.account_id != ownership.account_id:
        raise OwnershipError(
            f"the document is about account {link.account_id[:64]!r}",
            code="OWNERSHIP_OTHER_ACCOUNT",
        )
    if link.previous != ownership.head:
        raise OwnershipError(
            "the document was made at another point of the account's history",
            code="OWNERSHIP_STALE",
            hint="ask for the account's keys and sign again",
        )
    if not isinstance(link, RecoveryObjection):
        new = check_countersignature(link, signer)
        if new.raw in ownership.used:
            raise OwnershipError(
                f"key {new.key_id} was used for this account before", code="OWNERSHIP_KEY_USED"
            )
    return Extended(_applied(ownership, link, link_digest(envelope, signer)), link, header)


def verify_chain(first: PublicKey, links: Sequence[Envelope], *, audience: str | None) -> Ownership:
    """The ownership that a whole chain proves, from the account's first owner key on."""
    if len(links) > MAX_OWNERSHIP_LINKS:
        raise OwnershipError(
            f"{len(links)} links, at most {MAX_OWNERSHIP_LINKS}", code="OWNERSHIP_FULL"
        )
    ownership = first_ownership(first)
    for envelope in links:
        ownership = extend(ownership, envelope, audience=audience).ownership
    return ownership


def follow_rotations(
    key: PublicKey,
    account_id: str,
    role: KeyRole,
    rotations: Sequence[Envelope],
    *,
    audience: str | None,
) -> PublicKey:
    """The device or CI key that took the place of ``key``, through any number of rotations."""
    if len(rotations) > MAX_KEY_ROTATIONS:
        raise OwnershipError(
            f"{len(rotations)} rotations, at most {MAX_KEY_ROTATIONS}", code="OWNERSHIP_FULL"
        )
    seen = {key.raw}
    for envelope in rotations:
        body, _ = open_link(envelope, KeyRotation, key, audience=audience)
        if (body.account_id, body.role, body.old_key) != (account_id, role, key.raw):
            raise OwnershipError("the rotation is of another key, role or account")
        key = check_countersignature(body, key)
        if key.raw in seen:
            raise OwnershipError(f"key {key.key_id} comes twice", code="OWNERSHIP_KEY_USED")
        seen.add(key.raw)
    return key


def open_link(
    envelope: Envelope, kind: type[AnyDocument], signer: PublicKey, *, audience: str | None
) -> tuple[AnyDocument, Header]:
    """Body and header of an envelope that ``signer`` signed, whenever that was."""
    opened = open_envelope(
        envelope, kind, keys=keys_by_id(signer), audience=audience, now_us=None, replay=None
    )
    return opened.body, opened.header


def link_digest(envelope: Envelope, signer: PublicKey) -> bytes:
    """32 bytes that name a link: its signed bytes and the key that signed them."""
    return tagged_hash("flopmarket.ownership-link.v1", signer.raw, envelope.signed_bytes())


def _signer(ownership: Ownership, kind: type[Link]) -> PublicKey:
    if kind is RecoveryKey:
        return ownership.recovery or ownership.owner
    if kind is not KeyRecovery:
        return ownership.owner
    if ownership.recovery is None:
        raise OwnershipError(
            "the account has no recovery key", code="RECOVERY_MISSING", hint="flop key recovery"
        )
    return ownership.recovery


def _applied(ownership: Ownership, link: Link, head: bytes) -> Ownership:
    after = replace(ownership, head=head, links=ownership.links + 1)
    recovery, retired = ownership.recovery, ownership.retired_recovery
    gone = retired if recovery is None else (*retired, recovery)
    match link:
        case KeyRotation():
            if link.role is not KeyRole.OWNER or link.old_key != ownership.owner.raw:
                raise OwnershipError("the rotation is not of the account's owner key")
            return replace(after, owners=(*ownership.owners, PublicKey(link.new_key)))
        case KeyRecovery():
            return replace(after, owners=(*ownership.owners, PublicKey(link.new_key)))
        case RecoveryKey():
            new = PublicKey(link.recovery_key)
            return replace(after, recovery=new, retired_recovery=gone)
        case RecoveryObjection():
            if recovery is None:
                raise OwnershipError("there is no recovery key", code="RECOVERY_MISSING")
            return replace(after, recovery=None, retired_recovery=gone)
