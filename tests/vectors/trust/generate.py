"""Writes the envelope vectors beside this file: run it as a script.

The files are the reference, not this script: run it only when the protocol gets a new version, and
read the difference. Everything is derived from fixed seeds, so an unchanged protocol gives
unchanged files.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flopmarket.trust.documents import (
    CancelRequest,
    Deposit,
    DepositTarget,
    OfferTerms,
    Rate,
    WattsSource,
)
from flopmarket.trust.encoding import digest, domain_of, encode
from flopmarket.trust.envelope import (
    Envelope,
    Header,
    Signature,
    keys_by_id,
    open_envelope,
    payload_type_of,
    seal,
    sign_payload,
)
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.modes import NO_CLASS, Mode

FOLDER = Path(__file__).parent
ALICE, MALLORY, COORDINATOR = (KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
NOW_US = 1_800_000_000_000_000
MINUTE_US = 60_000_000
CANCEL = CancelRequest(job_id=bytes(range(32)), request_id="stop-1")
OFFER = OfferTerms(
    account_id="acc-1",
    device_key_id=ALICE.key_id,
    device_id="dev-1",
    device_name="Radeon RX 7900 XTX – Büro",
    driver="rusticl 25.2",
    profile="FX1",
    memory_bytes=24 << 30,
    max_allocation_bytes=16 << 30,
    region="eu-de",
    ask_nano_per_hour=120_000_000,
    rates=(Rate("dot-f16", 95_000_000_000_000), Rate("dot-f32", 26_800_000_000_000)),
    bandwidth_bytes_per_second=900_000_000_000,
    launch_nanoseconds=9_000,
    step_nanoseconds=0,
    build_milliseconds=0,
    download_bytes_per_second=0,
    upload_bytes_per_second=0,
    watts_milli=0,
    watts_source=WattsSource.UNKNOWN,
    card_price_nano=999_000_000_000,
    admission_digest=b"\xaa" * 32,
)
FAST_OFFER = replace(
    OFFER,
    admission_digest=NO_CLASS,
    modes=(Mode.CLASS, Mode.TOLERANCE),
    class_kernels=b"\xbb" * 32,
    class_results=b"\xcc" * 32,
    card_fingerprint=b"\xdd" * 32,
)
DEPOSIT = Deposit("acc-1", DepositTarget.AVAILABLE, 2**63 - 1, "USD", "wire 7", "r-1")


def _seal(body: Any = CANCEL, key: KeyPair = ALICE, **changes: Any) -> Envelope:
    arguments: dict[str, Any] = {
        "audience": COORDINATOR.key_id,
        "nonce": b"\x11" * 16,
        "issued_at_us": NOW_US - MINUTE_US,
        "expires_at_us": NOW_US + MINUTE_US,
    }
    return seal(body, key, **(arguments | changes))


def _header(**changes: Any) -> bytes:
    header = Header(
        COORDINATOR.key_id, b"\x11" * 16, NOW_US - MINUTE_US, NOW_US + MINUTE_US, encode(CANCEL)
    )
    return encode(replace(header, **changes))


def _signed(payload: bytes, payload_type: str = payload_type_of(CancelRequest)) -> bytes:
    return sign_payload(payload_type, payload, ALICE).to_bytes()


def _case(name: str, why: str, data: bytes, **more: Any) -> dict[str, Any]:
    form = {"envelope_json": data.decode()} if data[:1] == b"{" else {"envelope_hex": data.hex()}
    known = {
        "name": name,
        "why": why,
        "body_type": domain_of(CancelRequest),
        "keys": [ALICE.public.raw.hex(), MALLORY.public.raw.hex()],
        "audience": COORDINATOR.key_id,
        "now_us": NOW_US,
        "used_nonces": [],
    }
    return known | form | more


def accepted() -> list[dict[str, Any]]:
    """Envelopes that open, with what they open to."""
    rows: list[tuple[str, str, Envelope, Any, Callable[[Envelope], bytes], dict[str, Any]]] = [
        ("cancel", "the plain case", _seal(), CANCEL, Envelope.to_bytes, {}),
        ("cancel-json", "the same, as a DSSE file", _seal(), CANCEL, Envelope.to_json, {}),
        ("offer", "nested items, an enum, text beyond ASCII", _seal(OFFER), OFFER,
         Envelope.to_bytes, {}),
        ("offer-fast-only", "two modes, a class of devices, no proof of admission",
         _seal(FAST_OFFER), FAST_OFFER, Envelope.to_bytes, {}),
        ("deposit", "the largest amount", _seal(DEPOSIT, MALLORY), DEPOSIT, Envelope.to_bytes, {}),
        ("slow-clock", "issued exactly the tolerated five minutes ahead",
         _seal(issued_at_us=NOW_US + 5 * MINUTE_US, expires_at_us=NOW_US + 9 * MINUTE_US), CANCEL,
         Envelope.to_bytes, {}),
        ("archive", "expired long ago and opened without a clock",
         _seal(issued_at_us=1, expires_at_us=2), CANCEL, Envelope.to_bytes, {"now_us": None}),
        ("no-hint", "without a key id: the known keys are tried",
         replace(_seal(), signatures=(replace(_seal().signatures[0], key_id_hint=""),)), CANCEL,
         Envelope.to_bytes, {}),
        ("nonce-of-another-key", "a nonce counts for the key that used it only", _seal(), CANCEL,
         Envelope.to_bytes, {"used_nonces": [{"key_id": MALLORY.key_id, "nonce": "11" * 16}]}),
    ]  # fmt: skip
    cases = []
    for name, why, envelope, body, form, more in rows:
        case = _case(name, why, form(envelope), body_type=domain_of(type(body)), **more)
        opened = open_envelope(
            envelope,
            type(body),
            keys=keys_by_id(ALICE.public, MALLORY.public),
            audience=COORDINATOR.key_id,
            now_us=case["now_us"],
            replay=None,
        )
        case["expect"] = {
            "key_id": opened.key_id,
            "body_hex": encode(body).hex(),
            "body_digest": digest(body).hex(),
            "envelope_digest": opened.envelope_digest.hex(),
            "nonce": opened.header.nonce.hex(),
            "issued_at_us": opened.header.issued_at_us,
            "expires_at_us": opened.header.expires_at_us,
        }
        cases.append(case)
    return cases


def _offered(old: bytes, new: bytes, offer: OfferTerms = FAST_OFFER) -> bytes:
    """An offer whose bytes were changed in one place before it was signed."""
    assert encode(offer).count(old) == 1
    payload = _header(body=encode(offer).replace(old, new))
    return _signed(payload, payload_type_of(OfferTerms))


def _texts(*texts: bytes) -> bytes:
    return b"".join(len(text).to_bytes(4, "big") + text for text in texts)


def refused() -> list[dict[str, Any]]:
    """Attacks and accidents, each with the code it must end in."""
    good = _seal()
    raw = good.to_bytes()
    signature = good.signatures[0]
    document = json.loads(good.to_json())
    changed = bytearray(good.payload)
    changed[-1] ^= 1
    forged = _seal(key=MALLORY)
    relabelled = replace(forged.signatures[0], key_id_hint=ALICE.key_id)
    not_utf8 = encode(CANCEL).replace(b"stop-1", b"stop-\xff")
    zero = encode(CANCEL).replace(b"stop-1", b"stop-\0")
    offer = domain_of(OfferTerms)
    twice = '{"payload": "", ' + good.to_json().decode()[1:]
    rows: list[tuple[str, str, str, bytes, dict[str, Any]]] = [
        ("unsigned", "no signature at all", "UNSIGNED",
         replace(good, signatures=()).to_bytes(), {}),
        ("replayed", "the nonce was used by this key", "REPLAYED", raw,
         {"used_nonces": [{"key_id": ALICE.key_id, "nonce": "11" * 16}]}),
        ("expired", "at the very microsecond of its expiry", "EXPIRED",
         _seal(expires_at_us=NOW_US).to_bytes(), {}),
        ("from-the-future", "one microsecond beyond the tolerated clock difference",
         "NOT_YET_VALID",
         _seal(issued_at_us=NOW_US + 5 * MINUTE_US + 1, expires_at_us=NOW_US + 9 * MINUTE_US)
         .to_bytes(), {}),
        ("never-expires", "expiry zero means nothing", "MALFORMED",
         _signed(_header(expires_at_us=0)), {}),
        ("expires-before-issue", "a lifetime of less than nothing", "MALFORMED",
         _signed(_header(expires_at_us=NOW_US - 2 * MINUTE_US)), {"now_us": None}),
        ("altered-payload", "one bit of the body changed", "BAD_SIGNATURE",
         replace(good, payload=bytes(changed)).to_bytes(), {}),
        ("altered-type", "a good payload shown as another document", "BAD_SIGNATURE",
         replace(good, payload_type=payload_type_of(Deposit)).to_bytes(),
         {"body_type": domain_of(Deposit)}),
        ("other-type", "a good envelope where another document is due", "WRONG_TYPE", raw,
         {"body_type": domain_of(Deposit)}),
        ("borrowed-key-id", "signed by Mallory under Alice's key id", "BAD_SIGNATURE",
         replace(forged, signatures=(relabelled,)).to_bytes(), {}),
        ("stranger", "a good signature of a key nobody registered", "UNKNOWN_KEY", raw,
         {"keys": [MALLORY.public.raw.hex()]}),
        ("wrong-audience", "made for another coordinator", "WRONG_AUDIENCE",
         _seal(audience=MALLORY.key_id).to_bytes(), {}),
        ("empty-signature", "zero bytes of signature", "BAD_SIGNATURE",
         replace(good, signatures=(Signature(ALICE.key_id, b""),)).to_bytes(), {}),
        ("two-signatures", "who signed would have two answers", "MALFORMED",
         replace(good, signatures=(signature, forged.signatures[0])).to_bytes(), {}),
        ("trailing-byte", "after the envelope", "MALFORMED", raw + b"\x00", {}),
        ("trailing-byte-signed", "after the header, signed", "MALFORMED",
         _signed(_header() + b"\x00"), {}),
        ("trailing-byte-body", "after the body, signed", "MALFORMED",
         _signed(_header(body=encode(CANCEL) + b"\x00")), {}),
        ("cut-short", "the last byte is missing", "MALFORMED", raw[:-1], {}),
        ("empty", "no bytes", "MALFORMED", b"", {}),
        ("huge-length", "announces a payload of 4 GiB", "MALFORMED",
         raw.replace(len(good.payload).to_bytes(4, "big"), b"\xff" * 4, 1), {}),
        ("not-utf8", "a request id that is no text, signed", "MALFORMED",
         _signed(_header(body=not_utf8)), {}),
        ("zero-byte", "a request id with a zero byte, signed", "MALFORMED",
         _signed(_header(body=zero)), {}),
        ("body-of-another-type", "the right label around other bytes, signed", "MALFORMED",
         _signed(_header(body=encode(OFFER))), {}),
        ("offer-unknown-mode", "a mode that nobody knows, signed", "MALFORMED",
         _offered(_texts(b"exact"), _texts(b"swift"), OFFER), {"body_type": offer}),
        ("offer-modes-out-of-order", "two spellings of one offer, signed", "MALFORMED",
         _offered(_texts(b"class", b"tolerance"), _texts(b"tolerance", b"class")),
         {"body_type": offer}),
        ("offer-class-unnamed", "class mode without a class, signed", "MALFORMED",
         _offered(b"\xbb" * 32, bytes(32)), {"body_type": offer}),
        ("offer-short-fingerprint", "a fingerprint of one byte, signed", "MALFORMED",
         _offered((32).to_bytes(4, "big") + b"\xdd" * 32, (1).to_bytes(4, "big") + b"\xdd"),
         {"body_type": offer}),
        ("json-garbage", "not JSON", "MALFORMED", b"{", {}),
        ("json-deep", "objects in objects without end", "MALFORMED", b'{"a":' * 100_000, {}),
        ("json-duplicate", "a member twice: two readers, two meanings", "MALFORMED",
         twice.encode(), {}),
        ("json-not-base64", "a payload outside the alphabet", "MALFORMED",
         json.dumps(document | {"payload": "!" + document["payload"][1:]}).encode(), {}),
        ("json-unsigned", "an empty list of signatures", "UNSIGNED",
         json.dumps(document | {"signatures": []}).encode(), {}),
        ("json-altered", "the type changed in the file", "BAD_SIGNATURE",
         json.dumps(document | {"payloadType": payload_type_of(Deposit)}).encode(),
         {"body_type": domain_of(Deposit)}),
        ("json-zero-signature", "64 zero bytes", "BAD_SIGNATURE",
         json.dumps(document | {"signatures": [
             {"keyid": ALICE.key_id, "sig": base64.b64encode(bytes(64)).decode()}]}).encode(), {}),
    ]  # fmt: skip
    cases = []
    for name, why, code, data, more in rows:
        case = _case(name, why, data, **more)
        if name == "json-deep":  # 600 kB of one repeated text is kept as the text and its count
            del case["envelope_json"]
            case["envelope_repeat"] = ['{"a":', 100_000]
        cases.append(case | {"expect": {"code": f"ENVELOPE_{code}"}})
    return cases


def main() -> None:
    """Write both files."""
    for name, cases in (("accepted", accepted()), ("refused", refused())):
        text = json.dumps(cases, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
        (FOLDER / f"envelopes-{name}.json").write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
