"""Price snapshots: numbered, chained and signed by the coordinator, checked without it.

A snapshot file is a DSSE envelope (JSON) around canonical JSON: members sorted, no white space,
ASCII, every integer a decimal string, digests lower-case hex, a price that does not exist null.
Each names the digest of the one before it and the digest of the tape so far, so that a coordinator
which changes its history contradicts what it signed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.limits import MAX_SNAPSHOT_BYTES
from flopmarket.market.money import MAX_NANO, Nano
from flopmarket.trust.envelope import read_json_envelope, sign_payload, verify_signature
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError
from flopmarket.trust.json_fields import digest_of, integer_of, text_of
from flopmarket.trust.keys import KeyPair, PublicKey

PAYLOAD_TYPE = "application/vnd.flopmarket.price-snapshot+json"
DOCUMENT_TYPE = "https://flopmarket.dev/price-snapshot/v1"
NO_SNAPSHOT = bytes(32)
"""What the first snapshot names as the one before it."""

_PRICES = ("ask_nano", "bid_nano", "mid_nano", "last_nano")


class SnapshotError(InvalidInput):
    """A snapshot is malformed, or does not follow the one before it."""

    default_code = "SNAPSHOT_MALFORMED"


@dataclass(frozen=True, slots=True)
class SnapshotPrice:
    """Where one class of work stood in exact mode; nano-units per PFLOP, None where there was no
    such price."""

    work_class: str
    ask_nano: Nano | None
    bid_nano: Nano | None
    mid_nano: Nano | None
    last_nano: Nano | None
    last_trade_us: int
    offers: int
    orders: int


@dataclass(frozen=True, slots=True)
class PriceSnapshot:
    """What a coordinator swears its market looked like at one instant.

    ``trades`` is how many there were so far, ``tape_digest`` covers them
    (:func:`flopmarket.market.tape.digest_of_tape`); ``previous`` is the digest of snapshot
    ``number - 1``.
    """

    number: int
    as_of_us: int
    currency: str
    coordinator_key: PublicKey
    previous: bytes
    trades: int
    tape_digest: bytes
    prices: tuple[SnapshotPrice, ...]

    @property
    def digest(self) -> bytes:
        """What the next snapshot names: sha256 of the signed bytes."""
        return hashlib.sha256(snapshot_bytes(self)).digest()


@dataclass(frozen=True, slots=True)
class VerifiedSnapshot:
    """A snapshot with a good signature; ``trusted`` is False when the file itself named the key."""

    snapshot: PriceSnapshot
    trusted: bool


def sign_snapshot(snapshot: PriceSnapshot, key: KeyPair) -> bytes:
    """The snapshot file, signed by the coordinator key that it names."""
    if key.public != snapshot.coordinator_key:
        raise SnapshotError("the snapshot names another coordinator key", code="SNAPSHOT_WRONG_KEY")
    payload = snapshot_bytes(snapshot)
    if _parse(payload) != snapshot:
        raise SnapshotError("a field has a value that cannot be read back")
    return sign_payload(PAYLOAD_TYPE, payload, key).to_json()


def verify_snapshot(file: bytes, coordinator_key: PublicKey | None) -> VerifiedSnapshot:
    """Check a snapshot file offline, with the key the caller trusts or else the one inside.

    Raises :class:`EnvelopeError` for the signature, :class:`SnapshotError` for the content.
    """
    envelope = read_json_envelope(file, max_bytes=MAX_SNAPSHOT_BYTES)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise EnvelopeError(
            f"a price snapshot has payload type {PAYLOAD_TYPE}", code=EnvelopeCode.WRONG_TYPE
        )
    # Without a trusted key the file's own claim says whom to check it against, and no more.
    key = coordinator_key or _parse(envelope.payload).coordinator_key
    verify_signature(envelope, lambda _hint: key)
    snapshot = _parse(envelope.payload)
    if snapshot.coordinator_key != key:
        raise SnapshotError(
            f"signed by {key.key_id}, but it names {snapshot.coordinator_key.key_id}",
            code="SNAPSHOT_WRONG_KEY",
        )
    return VerifiedSnapshot(snapshot, coordinator_key is not None)


def check_chain(snapshots: Sequence[PriceSnapshot]) -> None:
    """:class:`SnapshotError` ``SNAPSHOT_CHAIN_BROKEN`` unless each follows the one before it.

    Snapshots come in order of number; a gap proves nothing about those around it and is allowed.
    """
    for before, after in itertools.pairwise(snapshots):
        if after.coordinator_key != before.coordinator_key:
            raise _broken(after, "is of another coordinator")
        if after.number <= before.number:
            raise _broken(after, f"does not come after {before.number}")
        if after.number == before.number + 1 and after.previous != before.digest:
            raise _broken(after, "names another snapshot as the one before it")
        if after.trades < before.trades:
            raise _broken(after, f"has {after.trades} trades, there were {before.trades} before")
        if after.trades == before.trades and after.tape_digest != before.tape_digest:
            raise _broken(after, "has another tape of as many trades")


def snapshot_bytes(snapshot: PriceSnapshot) -> bytes:
    """The canonical JSON that is signed."""
    members = {
        "_type": DOCUMENT_TYPE,
        "number": str(snapshot.number),
        "as_of_us": str(snapshot.as_of_us),
        "currency": snapshot.currency,
        "coordinator": {
            "key_id": snapshot.coordinator_key.key_id,
            "public_key": snapshot.coordinator_key.raw.hex(),
        },
        "previous": snapshot.previous.hex(),
        "tape": {"trades": str(snapshot.trades), "digest": snapshot.tape_digest.hex()},
        "prices": [_price_members(price) for price in snapshot.prices],
    }
    return json.dumps(members, sort_keys=True, separators=(",", ":")).encode("ascii")


def _price_members(price: SnapshotPrice) -> dict[str, str | None]:
    values = {name: getattr(price, name) for name in _PRICES}
    return {
        "work_class": price.work_class,
        **{name: None if value is None else str(value) for name, value in values.items()},
        "last_trade_us": str(price.last_trade_us),
        "offers": str(price.offers),
        "orders": str(price.orders),
    }


def _parse(payload: bytes) -> PriceSnapshot:
    """The snapshot whose canonical bytes are ``payload``, and no other spelling of it."""
    try:
        snapshot = _read(json.loads(payload))
        spelled = snapshot_bytes(snapshot)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise SnapshotError(f"{type(error).__name__}: {error}"[:200]) from None
    except FlopmarketError as error:
        raise SnapshotError(error.message) from error
    if spelled != payload:
        raise SnapshotError("not in canonical form, or it says more than a snapshot does")
    return snapshot


def _read(members: Mapping[str, Any]) -> PriceSnapshot:
    return PriceSnapshot(
        number=_count_of(members["number"]),
        as_of_us=_count_of(members["as_of_us"]),
        currency=text_of(members["currency"]),
        coordinator_key=PublicKey(digest_of(members["coordinator"]["public_key"])),
        previous=digest_of(members["previous"]),
        trades=_count_of(members["tape"]["trades"]),
        tape_digest=digest_of(members["tape"]["digest"]),
        prices=tuple(
            SnapshotPrice(
                work_class=text_of(item["work_class"]),
                last_trade_us=_count_of(item["last_trade_us"]),
                offers=_count_of(item["offers"]),
                orders=_count_of(item["orders"]),
                **{name: None if item[name] is None else _count_of(item[name]) for name in _PRICES},
            )
            for item in members["prices"]
        ),
    )


def _count_of(value: object) -> int:
    return integer_of(value, MAX_NANO)


def _broken(snapshot: PriceSnapshot, text: str) -> SnapshotError:
    return SnapshotError(f"snapshot {snapshot.number} {text}", code="SNAPSHOT_CHAIN_BROKEN")
