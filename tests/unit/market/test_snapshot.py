"""Signed price snapshots: what is signed is what is read, and a changed history shows."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import FlopmarketError
from flopmarket.market.money import MAX_NANO
from flopmarket.market.snapshot import (
    NO_SNAPSHOT,
    PriceSnapshot,
    SnapshotPrice,
    check_chain,
    sign_snapshot,
    verify_snapshot,
)
from flopmarket.market.tape import EMPTY_TAPE
from flopmarket.trust.keys import KeyPair

KEY = KeyPair.from_seed(bytes(31) + b"a")
OTHER = KeyPair.from_seed(bytes(31) + b"b")
EMPTY = PriceSnapshot(1, 5, "USD", KEY.public, NO_SNAPSHOT, 0, EMPTY_TAPE, ())
numbers = st.integers(0, MAX_NANO)
prices = st.none() | numbers
digests = st.binary(min_size=32, max_size=32)
snapshots = st.builds(
    PriceSnapshot,
    number=numbers,
    as_of_us=numbers,
    currency=st.text(max_size=8),
    coordinator_key=st.just(KEY.public),
    previous=digests,
    trades=numbers,
    tape_digest=digests,
    prices=st.lists(
        st.builds(
            SnapshotPrice, st.text(max_size=9), prices, prices, prices, prices, numbers, numbers,
            numbers,
        ),
        max_size=3,
    ).map(tuple),
)  # fmt: skip


def following(before: PriceSnapshot, **changes: object) -> PriceSnapshot:
    values = {"number": before.number + 1, "previous": before.digest}
    return replace(before, **(values | changes))  # type: ignore[arg-type]


@given(snapshots)
def test_what_is_signed_is_what_is_read(snapshot: PriceSnapshot) -> None:
    file = sign_snapshot(snapshot, KEY)
    checked = verify_snapshot(file, KEY.public)
    assert checked.snapshot == snapshot and checked.trusted
    assert not verify_snapshot(file, None).trusted


def test_an_empty_market_has_a_snapshot() -> None:
    assert verify_snapshot(sign_snapshot(EMPTY, KEY), KEY.public).snapshot == EMPTY


def test_it_is_signed_by_the_key_it_names() -> None:
    with pytest.raises(FlopmarketError) as error:
        sign_snapshot(EMPTY, OTHER)
    assert error.value.code == "SNAPSHOT_WRONG_KEY"
    with pytest.raises(FlopmarketError) as error:
        verify_snapshot(sign_snapshot(EMPTY, KEY), OTHER.public)
    assert error.value.code == "ENVELOPE_BAD_SIGNATURE"


def _payload(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def changed(file: bytes) -> bytes:
        envelope = json.loads(file)
        payload = base64.b64decode(envelope["payload"])
        envelope["payload"] = base64.b64encode(change(payload)).decode()
        return json.dumps(envelope).encode()

    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda file: b"",
        lambda file: b"{}",
        lambda file: file[:-1],
        lambda file: b" " * (1 << 20) + file,
        lambda file: file.replace(b"price-snapshot", b"something-else"),
        _payload(lambda payload: b"[]"),
        _payload(lambda payload: payload + b" "),
        _payload(lambda payload: payload.replace(b'"number":"1"', b'"number":"2"')),
        _payload(lambda payload: payload.replace(b'"number":"1"', b'"number":"01"')),
        _payload(lambda payload: payload.replace(b'"number":"1"', b'"number":1')),
        _payload(lambda payload: payload[:-1] + b',"more":""}'),
    ],
)
@pytest.mark.parametrize("key", [KEY.public, None], ids=["trusted", "own"])
def test_a_changed_file_is_refused(change: Callable[[bytes], bytes], key: object) -> None:
    file = sign_snapshot(EMPTY, KEY)
    with pytest.raises(FlopmarketError):
        verify_snapshot(change(file), key)  # type: ignore[arg-type]


def test_a_chain_holds() -> None:
    second = following(EMPTY, trades=3, tape_digest=bytes([1]) * 32)
    check_chain([EMPTY, second, following(second, number=9)])
    check_chain([])


@pytest.mark.parametrize(
    "changes",
    [
        {"previous": bytes(32)},
        {"number": 1},
        {"coordinator_key": OTHER.public},
        {"tape_digest": bytes([7]) * 32},
        {"number": 5, "tape_digest": bytes([7]) * 32},
    ],
)
def test_a_contradiction_is_named(changes: dict[str, object]) -> None:
    with pytest.raises(FlopmarketError) as error:
        check_chain([EMPTY, following(EMPTY, **changes)])
    assert error.value.code == "SNAPSHOT_CHAIN_BROKEN"
    with pytest.raises(FlopmarketError):
        check_chain([following(EMPTY, trades=3), following(EMPTY, number=3, trades=2)])
