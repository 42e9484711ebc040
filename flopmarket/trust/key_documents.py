"""Documents about keys: rotation, revocation, recovery, invitations, enrolment, certificates.

A link of an account's chain (:mod:`flopmarket.trust.ownership`) names in ``previous`` the digest of
the link before it, 32 zero bytes when it is the first: a history has one order, and two documents
that were signed at the same point cannot both hold. Times and audience are the envelope's.
"""

from __future__ import annotations

from typing import Annotated

from flopmarket.limits import MAX_CSR_BYTES
from flopmarket.trust.documents import Identifier, KeyId, Label, RawPublicKey
from flopmarket.trust.encoding import Digest, Length, MaxLength, document, tagged_hash
from flopmarket.trust.errors import DocumentError
from flopmarket.trust.keys import KeyPair, KeyRole, PublicKey

SIGNATURE_BYTES = 64
NO_LINK = bytes(32)
"""``previous`` of a first link."""

CounterSignature = Annotated[bytes, Length(SIGNATURE_BYTES)]


@document("flopmarket.key-rotation.v1")
class KeyRotation:
    """Signed by the old key and countersigned by the new one: "this key takes my place".

    ``role`` is the old key's: owner, device or ci. ``previous`` is that of the account's chain for
    an owner key, and zero for the others, whose order follows from their keys.
    """

    account_id: Identifier
    role: KeyRole
    old_key: RawPublicKey
    new_key: RawPublicKey
    previous: Digest
    countersignature: CounterSignature

    def __post_init__(self) -> None:
        if self.role not in (KeyRole.OWNER, KeyRole.DEVICE, KeyRole.CI):
            raise _invalid(f"a {self.role} key is not rotated by a document")
        if self.old_key == self.new_key:
            raise _invalid("a key does not take its own place")
        if self.role is not KeyRole.OWNER and self.previous != NO_LINK:
            raise _invalid("only owner keys have a chain")


@document("flopmarket.key-revocation.v1")
class KeyRevocation:
    """Signed by the owner key: "this device or CI key, and whatever took its place, ends now"."""

    account_id: Identifier
    key_id: KeyId
    reason: Label


@document("flopmarket.recovery-key.v1")
class RecoveryKey:
    """Says "this key may replace the account's owner key"; countersigned by the recovery key.

    Signed by the owner key while the account has no recovery key, else by the recovery key that it
    replaces: whoever steals an owner key cannot take the way back away.
    """

    account_id: Identifier
    recovery_key: RawPublicKey
    previous: Digest
    countersignature: CounterSignature


@document("flopmarket.key-recovery.v1")
class KeyRecovery:
    """Signed by the recovery key, countersigned by the new one: "this is the owner key again"."""

    account_id: Identifier
    new_key: RawPublicKey
    previous: Digest
    countersignature: CounterSignature


@document("flopmarket.recovery-objection.v1")
class RecoveryObjection:
    """Signed by the owner key during the waiting time: "this recovery is not mine".

    ``recovery`` is the digest of the recovery's link. The recovery key means nothing afterwards.
    """

    account_id: Identifier
    recovery: Digest
    previous: Digest


@document("flopmarket.invitation.v1")
class Invitation:
    """Signed by the owner key: "whoever has the secret of this key may enrol one device key".

    The secret is the seed of ``invitation_key``: 32 bytes that travel in the token and never to the
    coordinator. Holds until the envelope expires, once.
    """

    account_id: Identifier
    invitation_key: RawPublicKey
    label: Label


@document("flopmarket.enrolment.v1")
class Enrolment:
    """Signed by the key of an invitation, countersigned by the device key: "this is the device"."""

    account_id: Identifier
    device_key: RawPublicKey
    label: Label
    countersignature: CounterSignature


@document("flopmarket.account-admission.v1")
class AccountAdmission:
    """Signed by the key of an operator's invitation: "this owner key may open an account".

    It travels beside the registration, which that owner key signs: nobody between can put another
    key in its place.
    """

    owner_key: RawPublicKey


@document("flopmarket.certificate-request.v1")
class CertificateRequest:
    """Signed by a device key: "certify this TLS key as mine" (PEM, PKCS#10)."""

    device_key_id: KeyId
    request_pem: Annotated[bytes, MaxLength(MAX_CSR_BYTES)]


Countersigned = KeyRotation | RecoveryKey | KeyRecovery | Enrolment


def rotation(
    account_id: str, role: KeyRole, old: PublicKey, new: KeyPair, previous: bytes = NO_LINK
) -> KeyRotation:
    """The rotation to ``new``, countersigned; the old key is still to sign it."""
    signature = new.sign(_rotation_bytes(account_id, role, old.raw, new.public.raw, previous))
    return KeyRotation(account_id, role, old.raw, new.public.raw, previous, signature)


def recovery_key(account_id: str, key: KeyPair, previous: bytes) -> RecoveryKey:
    """The setting of a recovery key, countersigned."""
    signature = key.sign(_claim_bytes("recovery", account_id, key.public.raw, previous))
    return RecoveryKey(account_id, key.public.raw, previous, signature)


def recovery(account_id: str, new: KeyPair, previous: bytes) -> KeyRecovery:
    """The recovery to ``new``, countersigned; the recovery key is still to sign it."""
    signature = new.sign(_claim_bytes("owner", account_id, new.public.raw, previous))
    return KeyRecovery(account_id, new.public.raw, previous, signature)


def enrolment(account_id: str, device: KeyPair, label: str, invitation: PublicKey) -> Enrolment:
    """The enrolment of a device, countersigned; the key of the invitation is still to sign it."""
    signature = device.sign(_claim_bytes("device", account_id, device.public.raw, invitation.raw))
    return Enrolment(account_id, device.public.raw, label, signature)


def check_countersignature(body: Countersigned, signer: PublicKey) -> PublicKey:
    """The new key, which has signed too; :class:`DocumentError` ``COUNTERSIGNATURE`` otherwise.

    Nobody can so claim a key that is somebody else's. ``signer`` signed the envelope.
    """
    match body:
        case KeyRotation():
            raw = body.new_key
            message = _rotation_bytes(body.account_id, body.role, body.old_key, raw, body.previous)
        case RecoveryKey():
            raw = body.recovery_key
            message = _claim_bytes("recovery", body.account_id, raw, body.previous)
        case KeyRecovery():
            raw = body.new_key
            message = _claim_bytes("owner", body.account_id, raw, body.previous)
        case Enrolment():
            raw = body.device_key
            message = _claim_bytes("device", body.account_id, raw, signer.raw)
    key = PublicKey(raw)
    if not key.verifies(body.countersignature, message):
        raise DocumentError(
            f"key {key.key_id} did not countersign: whoever names a key must hold it",
            code="COUNTERSIGNATURE",
        )
    return key


def _rotation_bytes(
    account_id: str, role: KeyRole, old: bytes, new: bytes, previous: bytes
) -> bytes:
    texts = _texts(account_id, role.value)
    return tagged_hash("flopmarket.rotation-countersignature.v1", texts, old, new, previous)


def _claim_bytes(what: str, account_id: str, key: bytes, context: bytes) -> bytes:
    texts = _texts(what, account_id)
    return tagged_hash("flopmarket.key-countersignature.v1", texts, key, context)


def _texts(*texts: str) -> bytes:
    """Texts of any length, each behind its own length."""
    raw = [text.encode() for text in texts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in raw)


def _invalid(message: str) -> DocumentError:
    return DocumentError(message, code="DOCUMENT_INVALID")
