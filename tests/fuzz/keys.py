"""Targets: the line of `flop join`, links of a chain of owner keys, enrolments, recovery words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flopmarket.trust.encoding import Document, encode
from flopmarket.trust.envelope import Header, payload_type_of, sign_payload
from flopmarket.trust.joining import JoinToken, read_token, write_token
from flopmarket.trust.key_documents import (
    Enrolment,
    KeyRecovery,
    KeyRotation,
    RecoveryKey,
    RecoveryObjection,
    check_countersignature,
    enrolment,
    recovery,
    recovery_key,
    rotation,
)
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.ownership import Ownership, extend, first_ownership, open_link
from flopmarket.trust.recovery_words import from_words, to_words
from tests.fuzz.target import Target, check_same

OWNER, WORDS, NEW, INVITED = (KeyPair.from_seed(bytes([n]) * 32) for n in (11, 12, 13, 14))
AUDIENCE = "c" * 64
ACCOUNT = OWNER.key_id
TOKEN = JoinToken("127.0.0.1:7443", bytes(range(32)), AUDIENCE, ACCOUNT, b"\x05" * 32, 10**15)
FOUNDED = first_ownership(OWNER.public)
WITH_WORDS = Ownership(ACCOUNT, (OWNER.public,), WORDS.public, (), b"\x07" * 32, 1)


def read_line(data: bytes) -> object:
    line = data.decode("latin-1")
    token = read_token(line)
    check_same(write_token(token).encode(), line.strip().encode("latin-1"))
    return token.key.key_id


def line_seeds() -> dict[str, bytes]:
    good = write_token(TOKEN).encode()
    return {"good": good, "cut": good[:-3], "spaces": b"  " + good + b"\n"}


def read_words(data: bytes) -> object:
    return from_words(data.decode("latin-1")).key_id


def word_seeds() -> dict[str, bytes]:
    words = to_words(bytes(range(32)))
    swapped = " ".join(reversed(words.split()))
    return {"good": words.encode(), "swapped": swapped.encode(), "short": words[:40].encode()}


def _read_link(kind: type[Document], signer: KeyPair, before: Ownership, data: bytes) -> object:
    """Bytes that the key which has the say has signed as if they were a link."""
    envelope = sign_payload(payload_type_of(kind), data, signer)
    return extend(before, envelope, audience=AUDIENCE).ownership


def _read_enrolment(data: bytes) -> object:
    envelope = sign_payload(payload_type_of(Enrolment), data, INVITED)
    body, _ = open_link(envelope, Enrolment, INVITED.public, audience=AUDIENCE)
    return check_countersignature(body, INVITED.public)


def _signed(body: Document) -> bytes:
    return encode(Header(AUDIENCE, b"\x11" * 16, 1, 2, encode(body)))


def _seeds(body: Document) -> Callable[[], dict[str, bytes]]:
    good = _signed(body)
    return lambda: {"good": good, "cut": good[:-1]}


TARGETS = (
    Target("join-token", read_line, line_seeds),
    Target("recovery-words", read_words, word_seeds),
    Target(
        "key-rotation",
        partial(_read_link, KeyRotation, OWNER, FOUNDED),
        _seeds(rotation(ACCOUNT, KeyRole.OWNER, OWNER.public, NEW)),
    ),
    Target(
        "recovery-key",
        partial(_read_link, RecoveryKey, OWNER, FOUNDED),
        _seeds(recovery_key(ACCOUNT, WORDS, FOUNDED.head)),
    ),
    Target(
        "key-recovery",
        partial(_read_link, KeyRecovery, WORDS, WITH_WORDS),
        _seeds(recovery(ACCOUNT, NEW, WITH_WORDS.head)),
    ),
    Target(
        "recovery-objection",
        partial(_read_link, RecoveryObjection, OWNER, WITH_WORDS),
        _seeds(RecoveryObjection(ACCOUNT, bytes(32), WITH_WORDS.head)),
    ),
    Target("enrolment", _read_enrolment, _seeds(enrolment(ACCOUNT, NEW, "cellar", INVITED.public))),
)
