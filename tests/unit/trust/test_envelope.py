"""DSSE envelopes: the specification, other implementations, and laws the vectors cannot state."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as PeerEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from flopmarket.errors import FlopmarketError, InvalidInput, QuotaExceeded
from flopmarket.limits import MAX_ENVELOPE_BYTES, MAX_ENVELOPE_JSON_BYTES
from flopmarket.trust.documents import CancelRequest, DeviceGrant
from flopmarket.trust.encoding import encode
from flopmarket.trust.envelope import (
    Envelope,
    Opened,
    Signature,
    keys_by_id,
    open_envelope,
    payload_type_of,
    pre_authentication_encoding,
    seal,
    sign_payload,
    unverified_body,
    verify_signature,
)
from flopmarket.trust.errors import EnvelopeError
from flopmarket.trust.keys import KeyPair, PublicKey
from flopmarket.trust.replay import MemoryReplayCache

KEY = KeyPair.from_seed(b"k" * 32)
OTHER = KeyPair.from_seed(b"o" * 32)
AUDIENCE = KeyPair.from_seed(b"c" * 32).key_id
BODY = CancelRequest(job_id=b"j" * 32, request_id="r")
NOW_US = 1_000_000_000


def sealed(body: Any = BODY, key: KeyPair = KEY, **changes: Any) -> Envelope:
    arguments: dict[str, Any] = {
        "audience": AUDIENCE,
        "nonce": bytes(16),
        "issued_at_us": NOW_US,
        "expires_at_us": NOW_US + 1000,
    }
    return seal(body, key, **(arguments | changes))


def opened(envelope: Envelope, **changes: Any) -> Opened[CancelRequest]:
    arguments: dict[str, Any] = {
        "keys": keys_by_id(KEY.public, OTHER.public),
        "audience": AUDIENCE,
        "now_us": NOW_US,
        "replay": None,
    }
    return open_envelope(envelope, CancelRequest, **(arguments | changes))


def test_the_specifications_encoding_vector() -> None:
    """github.com/secure-systems-lab/dsse, protocol.md, "Test Vectors"."""
    assert (
        pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pre_authentication_encoding("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


@given(st.tuples(st.text(max_size=20), st.binary(max_size=20)),
       st.tuples(st.text(max_size=20), st.binary(max_size=20)))  # fmt: skip
def test_two_messages_never_share_their_signed_bytes(
    a: tuple[str, bytes], b: tuple[str, bytes]
) -> None:
    assert (a == b) == (pre_authentication_encoding(*a) == pre_authentication_encoding(*b))


def test_securesystemslib_verifies_ours() -> None:
    peer = PeerEnvelope.from_dict(json.loads(sealed().to_json()))
    key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(KEY.public.raw), KEY.key_id)
    assert set(peer.verify([key], 1)) == {KEY.key_id}
    peer.payload_type += "x"
    with pytest.raises(VerificationError):
        peer.verify([key], 1)


def test_we_verify_securesystemslibs() -> None:
    private = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    public = SSlibKey.from_crypto(private.public_key(), KEY.key_id)
    peer = PeerEnvelope(sealed().payload, payload_type_of(CancelRequest), {})
    peer.sign(CryptoSigner(private, public))
    envelope = Envelope.from_json(json.dumps(peer.to_dict()).encode())
    assert opened(envelope).body == BODY
    assert envelope == sealed(), "Ed25519 is deterministic, so both made the same envelope"


@given(
    request=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    nonce=st.binary(min_size=16, max_size=16),
    issued=st.integers(0, 2**63),
    lifetime=st.integers(1, 2**62),
)
def test_what_is_sealed_opens_in_both_forms(
    request: str, nonce: bytes, issued: int, lifetime: int
) -> None:
    body = CancelRequest(job_id=nonce * 2, request_id=request)
    times = {"issued_at_us": issued, "expires_at_us": issued + lifetime}
    envelope = sealed(body, nonce=nonce, **times)
    binary, text = envelope.to_bytes(), envelope.to_json()
    assert Envelope.from_bytes(binary) == Envelope.from_json(text) == envelope
    result = opened(Envelope.from_bytes(binary), now_us=issued)
    assert (result.body, result.key_id) == (body, KEY.key_id)
    assert result.header.nonce == nonce


@given(st.data())
def test_no_changed_byte_changes_what_is_accepted(data: st.DataObject) -> None:
    """A damaged envelope is refused, or only its key-id hint was damaged."""
    raw = bytearray(sealed().to_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    try:
        result = opened(Envelope.from_bytes(bytes(raw)), keys=lambda _hint: KEY.public)
    except EnvelopeError:
        return
    assert result == opened(sealed())


@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_malformed(data: bytes) -> None:
    for read in (Envelope.from_bytes, Envelope.from_json):
        try:
            read(data)
        except EnvelopeError as error:
            assert error.code == "ENVELOPE_MALFORMED"


def test_the_key_id_returned_is_that_of_the_key_that_verified() -> None:
    """Neither the hint nor the name under which the caller filed the key is believed."""
    envelope = sealed()
    lied = replace(envelope, signatures=(replace(envelope.signatures[0], key_id_hint="boss"),))
    assert opened(lied, keys={"boss": KEY.public}).key_id == KEY.key_id
    assert opened(lied, keys=lambda hint: KEY.public if hint == "boss" else None).key_id == (
        KEY.key_id
    )


def test_the_envelope_digest_names_signer_and_content_not_the_carrier() -> None:
    envelope = sealed()
    unhinted = replace(envelope, signatures=(replace(envelope.signatures[0], key_id_hint=""),))
    digest = opened(envelope).envelope_digest
    assert opened(unhinted).envelope_digest == digest
    assert opened(sealed(key=OTHER)).envelope_digest != digest
    assert opened(sealed(nonce=b"n" * 16)).envelope_digest != digest


def test_a_missing_hint_tries_few_keys_only() -> None:
    envelope = sealed()
    unhinted = replace(envelope, signatures=(replace(envelope.signatures[0], key_id_hint=""),))
    many = keys_by_id(*(KeyPair.from_seed(bytes([n]) * 32).public for n in range(16)), KEY.public)
    assert len(many) == 17
    with pytest.raises(EnvelopeError) as caught:
        opened(unhinted, keys=many)
    assert caught.value.code == "ENVELOPE_UNKNOWN_KEY"


def test_a_resolver_that_knows_no_such_key_ends_it() -> None:
    with pytest.raises(EnvelopeError) as caught:
        opened(sealed(), keys=lambda _hint: None)
    assert caught.value.code == "ENVELOPE_UNKNOWN_KEY"


def test_nothing_is_parsed_before_the_signature_holds() -> None:
    rubbish = sign_payload(payload_type_of(CancelRequest), b"rubbish", OTHER)
    with pytest.raises(EnvelopeError) as caught:
        opened(rubbish, keys=lambda _hint: KEY.public)
    assert caught.value.code == "ENVELOPE_BAD_SIGNATURE"
    with pytest.raises(EnvelopeError) as caught:
        opened(rubbish)
    assert caught.value.code == "ENVELOPE_MALFORMED"


def test_a_refused_envelope_does_not_use_up_its_nonce() -> None:
    replay = MemoryReplayCache(lambda: NOW_US)
    for wrong in ({"audience": "x"}, {"now_us": NOW_US + 1000}, {"keys": {}}):
        with pytest.raises(EnvelopeError):
            opened(sealed(), **({"replay": replay} | wrong))
    assert len(replay) == 0
    opened(sealed(), replay=replay)
    with pytest.raises(EnvelopeError) as caught:
        opened(sealed(), replay=replay)
    assert caught.value.code == "ENVELOPE_REPLAYED"


def test_archives_are_opened_without_a_clock_and_without_a_replay_cache() -> None:
    old = sealed(issued_at_us=1, expires_at_us=2)
    assert opened(old, now_us=None).body == BODY
    with pytest.raises(InvalidInput, match="needs the time"):
        opened(old, now_us=None, replay=MemoryReplayCache(lambda: 0))


def test_only_an_archive_is_opened_whoever_it_was_addressed_to() -> None:
    elsewhere = sealed(audience=OTHER.key_id)
    assert opened(elsewhere, now_us=None, audience=None).header.audience == OTHER.key_id
    with pytest.raises(InvalidInput, match="addressed to somebody"):
        opened(elsewhere, audience=None)


@pytest.mark.parametrize("times", [(5, 0), (5, 5), (5, 4)])
def test_a_lifetime_of_nothing_is_not_signed(times: tuple[int, int]) -> None:
    with pytest.raises(EnvelopeError) as caught:
        sealed(issued_at_us=times[0], expires_at_us=times[1])
    assert caught.value.code == "ENVELOPE_MALFORMED"


def test_a_nonce_has_16_bytes() -> None:
    with pytest.raises(FlopmarketError, match="nonce has 15 bytes"):
        sealed(nonce=bytes(15))


def test_oversized_envelopes_are_refused_unread() -> None:
    for read, size in (
        (Envelope.from_bytes, MAX_ENVELOPE_BYTES),
        (Envelope.from_json, MAX_ENVELOPE_JSON_BYTES),
    ):
        with pytest.raises(EnvelopeError, match=str(size)) as caught:
            read(b"{" * (size + 1))
        assert caught.value.code == "ENVELOPE_MALFORMED"


@pytest.mark.parametrize(
    "change",
    [
        {"payload": None},
        {"payload": 1},
        {"payload": "e"},
        {"payloadType": ["x"]},
        {"payloadType": "\ud800"},
        {"payloadType": "x" * 257},
        {"signatures": {}},
        {"signatures": ["x"]},
        {"signatures": [{"keyid": "k"}]},
        {"signatures": [{"keyid": 7, "sig": ""}]},
        {"signatures": [{"keyid": "k" * 129, "sig": ""}]},
        {"signatures": [{"sig": ""}] * 5},
    ],
    ids=str,
)
def test_json_with_wrong_members_is_malformed(change: dict[str, Any]) -> None:
    document = json.loads(sealed().to_json()) | change
    with pytest.raises(EnvelopeError) as caught:
        Envelope.from_json(json.dumps(document).encode())
    assert caught.value.code == "ENVELOPE_MALFORMED"


def test_json_members_that_dsse_does_not_know_are_ignored() -> None:
    document = json.loads(sealed().to_json()) | {"comment": "hello"}
    del document["signatures"][0]["keyid"]
    urlsafe = document["payload"].replace("+", "-").replace("/", "_")
    envelope = Envelope.from_json(json.dumps(document | {"payload": urlsafe}).encode())
    assert opened(envelope).body == BODY


def test_one_document_cannot_be_shown_as_another() -> None:
    """Equal body bytes under another label do not verify."""
    envelope = sealed()
    relabelled = replace(envelope, payload_type=payload_type_of(DeviceGrant))
    with pytest.raises(EnvelopeError) as caught:
        verify_signature(relabelled, keys_by_id(KEY.public))
    assert caught.value.code == "ENVELOPE_BAD_SIGNATURE"


def test_payload_types_are_the_domain_tags() -> None:
    assert payload_type_of(CancelRequest) == "application/vnd.flopmarket.cancel-request.v1"
    assert sealed().payload_type == payload_type_of(CancelRequest)


def test_an_unwieldy_signature_is_a_bad_one() -> None:
    envelope = replace(sealed(), signatures=(Signature(KEY.key_id, bytes(512)),))
    with pytest.raises(EnvelopeError) as caught:
        verify_signature(envelope, {KEY.key_id: PublicKey(KEY.public.raw)})
    assert caught.value.code == "ENVELOPE_BAD_SIGNATURE"


class Clock:
    now_us = 0

    def __call__(self) -> int:
        return self.now_us


def test_replay_cache_forgets_a_nonce_only_after_its_expiry() -> None:
    clock = Clock()
    cache = MemoryReplayCache(clock)
    assert cache.remember(b"n", "a", 10)
    assert cache.remember(b"n", "b", 20)
    clock.now_us = 9
    assert not cache.remember(b"n", "a", 30)
    clock.now_us = 10
    assert cache.remember(b"n", "a", 30)
    assert not cache.remember(b"n", "b", 30)
    assert len(cache) == 2


def test_a_full_replay_cache_refuses_and_forgets_nothing() -> None:
    clock = Clock()
    cache = MemoryReplayCache(clock, max_nonces=3, max_nonces_per_key=2)
    assert cache.remember(b"1", "a", 10)
    assert cache.remember(b"2", "a", 10)
    with pytest.raises(QuotaExceeded, match="key a holds 2") as caught:
        cache.remember(b"3", "a", 10)
    assert caught.value.retryable
    assert cache.remember(b"1", "b", 10)
    with pytest.raises(QuotaExceeded, match="holds 3"):
        cache.remember(b"1", "c", 10)
    assert not cache.remember(b"1", "a", 10), "an old nonce is still known"
    clock.now_us = 10
    assert cache.remember(b"3", "a", 20)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(1, 9),
                          st.integers(0, 3)), max_size=30))  # fmt: skip
def test_replay_cache_against_a_model(steps: list[tuple[int, int, int, int]]) -> None:
    clock = Clock()
    cache = MemoryReplayCache(clock)
    model: dict[tuple[int, int], int] = {}
    for nonce, key, lifetime, pause in steps:
        clock.now_us += pause
        fresh = model.get((nonce, key), -1) <= clock.now_us
        assert cache.remember(bytes([nonce]), str(key), clock.now_us + lifetime) == fresh
        if fresh:
            model[nonce, key] = clock.now_us + lifetime


def test_the_header_holds_the_body_bytes_as_signed() -> None:
    assert opened(sealed()).header.body == encode(BODY)


def test_an_unverified_body_is_read_from_both_forms_whoever_signed() -> None:
    envelope = sealed()
    forged = replace(envelope, signatures=(Signature(OTHER.key_id, bytes(64)),))
    for form in (envelope, envelope.to_bytes(), forged, forged.to_bytes()):
        assert unverified_body(form, CancelRequest) == BODY
    with pytest.raises(FlopmarketError):
        unverified_body(envelope, DeviceGrant)
