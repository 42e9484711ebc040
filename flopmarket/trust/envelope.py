"""Signed documents: DSSE envelopes with an audience, a nonce and a lifetime.

The envelope format is DSSE v1 (github.com/secure-systems-lab/dsse): the signature covers the
pre-authentication encoding of the payload type and the payload bytes. The payload of the protocol's
own documents is an encoded :class:`Header` that holds the encoded body, and the payload type is the
body's domain tag, so a signature made for one meaning cannot be shown as another.

:func:`open_envelope` verifies before it parses, never re-serialises to check, and returns the id of
the key that verified; the key id inside an envelope is a hint that decides nothing. What that key
may sign is :mod:`flopmarket.trust.policy`; whether it is revoked is the caller's key look-up.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.limits import (
    ENVELOPE_NONCE_BYTES,
    MAX_CLOCK_SKEW_US,
    MAX_DOCUMENT_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_ENVELOPE_CANDIDATE_KEYS,
    MAX_ENVELOPE_JSON_BYTES,
    MAX_ENVELOPE_PAYLOAD_BYTES,
    MAX_ENVELOPE_SIGNATURES,
)
from flopmarket.trust.encoding import (
    AnyDocument,
    Document,
    Length,
    MaxLength,
    decode,
    document,
    domain_of,
    encode,
    tagged_hash,
)
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError
from flopmarket.trust.keys import KEY_ID_LENGTH, KeyPair, PublicKey
from flopmarket.trust.replay import ReplayCache

PAYLOAD_TYPE_PREFIX = "application/vnd."

KeyResolver = Callable[[str], PublicKey | None]
"""Looks a key up by the id hint of an envelope; None when there is no such key in good standing."""


@document("flopmarket.header.v1", max_bytes=MAX_ENVELOPE_PAYLOAD_BYTES)
class Header:
    """What surrounds every signed body; the payload of an envelope is this, encoded.

    ``audience`` is the key id of the coordinator it is meant for; times are microseconds since the
    Unix epoch, and the document holds from ``issued_at_us`` until just before ``expires_at_us``.
    """

    audience: Annotated[str, MaxLength(KEY_ID_LENGTH)]
    nonce: Annotated[bytes, Length(ENVELOPE_NONCE_BYTES)]
    issued_at_us: int
    expires_at_us: int
    body: Annotated[bytes, MaxLength(MAX_DOCUMENT_BYTES)]


@document("flopmarket.signature.v1")
class Signature:
    """One signature and an unauthenticated hint at the key that made it."""

    key_id_hint: Annotated[str, MaxLength(128)]
    signature: Annotated[bytes, MaxLength(512)]


@document("flopmarket.envelope.v1", max_bytes=MAX_ENVELOPE_BYTES)
class Envelope:
    """A DSSE envelope: opaque payload bytes, their type, and who signed the two together."""

    payload_type: Annotated[str, MaxLength(256)]
    payload: Annotated[bytes, MaxLength(MAX_ENVELOPE_PAYLOAD_BYTES)]
    signatures: Annotated[tuple[Signature, ...], MaxLength(MAX_ENVELOPE_SIGNATURES)]

    def signed_bytes(self) -> bytes:
        """What the signatures are over."""
        return pre_authentication_encoding(self.payload_type, self.payload)

    def to_bytes(self) -> bytes:
        """Binary form, for messages and storage; equal to the bytes it was read from."""
        return encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """Inverse of :meth:`to_bytes`; ``ENVELOPE_MALFORMED`` for anything else."""
        try:
            return decode(cls, data)
        except FlopmarketError as error:
            raise _malformed(error.message) from error

    def to_json(self) -> bytes:
        """The DSSE JSON form, for files that other tools read."""
        return json.dumps(
            {
                "payload": _base64(self.payload),
                "payloadType": self.payload_type,
                "signatures": [
                    {"keyid": item.key_id_hint, "sig": _base64(item.signature)}
                    for item in self.signatures
                ],
            },
            indent=2,
            sort_keys=True,
        ).encode("utf-8")

    @classmethod
    def from_json(cls, data: bytes, *, max_bytes: int = MAX_ENVELOPE_JSON_BYTES) -> Envelope:
        """Read the DSSE JSON form; unknown members are ignored, as DSSE asks."""
        envelope = read_json_envelope(data, max_bytes=max_bytes)
        try:
            encode(envelope)
        except FlopmarketError as error:
            raise _malformed(error.message) from error
        return envelope


@dataclass(frozen=True, slots=True)
class Opened(Generic[AnyDocument]):
    """What an envelope proved: this key signed this body under this header.

    ``envelope_digest`` names the signed bytes and the key that verified (32 bytes); a changed hint
    or another file form does not change it.
    """

    body: AnyDocument
    key_id: str
    header: Header
    envelope_digest: bytes


def payload_type_of(body_type: type) -> str:
    """The DSSE payload type of a document type: its domain tag under ``application/vnd.``."""
    return PAYLOAD_TYPE_PREFIX + domain_of(body_type)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """DSSE v1 PAE: ``DSSEv1 <length> <type> <length> <payload>``, lengths in decimal bytes."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(
    body: Document,
    key: KeyPair,
    *,
    audience: str,
    nonce: bytes,
    issued_at_us: int,
    expires_at_us: int,
) -> Envelope:
    """Sign ``body`` for one audience and lifetime.

    ``nonce`` is 16 bytes that the signer never used before. Documents that must hold for years name
    a far expiry; there is no "never".
    """
    _check_lifetime(issued_at_us, expires_at_us)
    header = Header(
        audience=audience,
        nonce=nonce,
        issued_at_us=issued_at_us,
        expires_at_us=expires_at_us,
        body=encode(body),
    )
    return sign_payload(payload_type_of(type(body)), encode(header), key)


def sign_payload(payload_type: str, payload: bytes, key: KeyPair) -> Envelope:
    """A DSSE envelope with one signature over any payload."""
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    return Envelope(payload_type, payload, (Signature(key.key_id, signature),))


def open_envelope(
    envelope: Envelope,
    body_type: type[AnyDocument],
    *,
    keys: Mapping[str, PublicKey] | KeyResolver,
    audience: str | None,
    now_us: int | None,
    replay: ReplayCache | None,
) -> Opened[AnyDocument]:
    """Verify an envelope and return what it says.

    ``keys`` are the keys that may stand behind it: by id, or a function from id to key. ``now_us``
    None skips freshness, for archives that are verified long after; ``replay`` must then be None
    too, and ``audience`` may be, where it was checked before. The nonce is remembered only when
    everything else was right. Raises :class:`EnvelopeError` with the code of the first thing that
    is wrong.
    """
    if now_us is None and replay is not None:
        raise InvalidInput("a replay cache needs the time of day")
    if now_us is not None and audience is None:
        raise InvalidInput("a request is addressed to somebody")
    expected = payload_type_of(body_type)
    if envelope.payload_type != expected:
        raise EnvelopeError(
            f"envelope of type {envelope.payload_type[:128]!r} where {expected!r} is expected",
            code=EnvelopeCode.WRONG_TYPE,
        )
    key = verify_signature(envelope, keys)
    header = _decode_signed(Header, envelope.payload)
    _check_header(header, audience, now_us)
    body = _decode_signed(body_type, header.body)
    key_id = key.key_id
    if replay is not None and not replay.remember(header.nonce, key_id, header.expires_at_us):
        raise EnvelopeError(
            f"nonce {header.nonce.hex()} of key {key_id} was used before",
            code=EnvelopeCode.REPLAYED,
            hint="sign the request again with a new nonce",
        )
    envelope_digest = tagged_hash("flopmarket.envelope-digest.v1", key.raw, envelope.signed_bytes())
    return Opened(body, key_id, header, envelope_digest)


def unverified_body(envelope: Envelope | bytes, body_type: type[AnyDocument]) -> AnyDocument:
    """What an envelope says; no signature is looked at.

    For one that was verified when it came, or of which nothing is believed yet. Bytes are its
    binary form. Raises :class:`~flopmarket.trust.errors.DocumentError` for anything else.
    """
    if isinstance(envelope, bytes):
        envelope = Envelope.from_bytes(envelope)
    return decode(body_type, decode(Header, envelope.payload).body)


def verify_signature(envelope: Envelope, keys: Mapping[str, PublicKey] | KeyResolver) -> PublicKey:
    """The key out of ``keys`` whose signature the envelope bears. Parses nothing.

    Exactly one signature is accepted: with two, "who signed" would have two answers.
    """
    if not envelope.signatures:
        raise EnvelopeError("the envelope has no signature", code=EnvelopeCode.UNSIGNED)
    if len(envelope.signatures) > 1:
        raise _malformed(f"the envelope has {len(envelope.signatures)} signatures, not one")
    signature = envelope.signatures[0]
    message = envelope.signed_bytes()
    candidates = _candidates(signature.key_id_hint, keys)
    if not candidates:
        raise EnvelopeError(
            f"no key in good standing has the id {signature.key_id_hint!r}",
            code=EnvelopeCode.UNKNOWN_KEY,
            hint="register the key (flop account register), or sign with one that is registered",
        )
    for key in candidates:
        if key.verifies(signature.signature, message):
            return key
    raise EnvelopeError(
        f"the signature was not made over these bytes by key {candidates[0].key_id}",
        code=EnvelopeCode.BAD_SIGNATURE,
    )


def keys_by_id(*keys: PublicKey) -> dict[str, PublicKey]:
    """The mapping that :func:`open_envelope` takes."""
    return {key.key_id: key for key in keys}


def read_json_envelope(data: bytes, *, max_bytes: int) -> Envelope:
    """Parse DSSE JSON without the binary form's length limits (a receipt may be larger)."""
    if len(data) > max_bytes:
        raise _malformed(f"the file has {len(data)} bytes, at most {max_bytes} are allowed")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_members)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"not a JSON envelope: {type(error).__name__} {error}"[:200]) from None
    members = _members(value, "envelope")
    listed = members.get("signatures", [])
    if not isinstance(listed, list) or len(listed) > MAX_ENVELOPE_SIGNATURES:
        raise _malformed(f"signatures must be a list of at most {MAX_ENVELOPE_SIGNATURES}")
    items = [_members(item, "signature") for item in listed]
    return Envelope(
        payload_type=_text(members, "payloadType", None),
        payload=_unbase64(_text(members, "payload", None), "payload"),
        signatures=tuple(
            Signature(_text(item, "keyid", ""), _unbase64(_text(item, "sig", None), "sig"))
            for item in items
        ),
    )


def _candidates(hint: str, keys: Mapping[str, PublicKey] | KeyResolver) -> tuple[PublicKey, ...]:
    """The keys worth trying. The hint narrows the search and decides nothing."""
    if not isinstance(keys, Mapping):
        found = keys(hint)
    else:
        found = keys.get(hint)
        if found is None and not hint and len(keys) <= MAX_ENVELOPE_CANDIDATE_KEYS:
            return tuple(keys.values())
    return () if found is None else (found,)


def _check_header(header: Header, audience: str | None, now_us: int | None) -> None:
    if audience is not None and header.audience != audience:
        raise EnvelopeError(
            f"the document is addressed to {header.audience!r}, not to {audience!r}",
            code=EnvelopeCode.WRONG_AUDIENCE,
        )
    _check_lifetime(header.issued_at_us, header.expires_at_us)
    if now_us is None:
        return
    if header.issued_at_us > now_us + MAX_CLOCK_SKEW_US:
        raise EnvelopeError(
            f"issued {header.issued_at_us - now_us} us in the future, at most "
            f"{MAX_CLOCK_SKEW_US} us of clock difference are tolerated",
            code=EnvelopeCode.NOT_YET_VALID,
            hint="check the clock of this machine",
        )
    if header.expires_at_us <= now_us:
        raise EnvelopeError(
            f"expired {now_us - header.expires_at_us} us ago", code=EnvelopeCode.EXPIRED
        )


def _check_lifetime(issued_at_us: int, expires_at_us: int) -> None:
    if expires_at_us <= issued_at_us:
        raise _malformed(
            f"expires at {expires_at_us} us, which is not after its issue at {issued_at_us} us"
        )


def _decode_signed(cls: type[AnyDocument], data: bytes) -> AnyDocument:
    try:
        return decode(cls, data)
    except FlopmarketError as error:
        raise _malformed(error.message) from error


def _malformed(message: str) -> EnvelopeError:
    return EnvelopeError(message, code=EnvelopeCode.MALFORMED)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unbase64(text: str, name: str) -> bytes:
    """Standard or URL-safe alphabet, as DSSE allows; padding required."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise _malformed(f"{name} is not base64") from None


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a JSON member appears twice")
    return members


def _members(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(f"{name} is not a JSON object")
    return value


def _text(members: Mapping[str, Any], name: str, absent: str | None) -> str:
    value = members.get(name, absent)
    if not isinstance(value, str):
        raise _malformed(f"{name} is missing or not text")
    return value
