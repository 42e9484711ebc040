"""What must hold of the tape at rest: trades follow from segments, candles from trades, snapshots
from one another. Rows are compared as they are stored, so that a changed byte shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flopmarket.errors import FlopmarketError
from flopmarket.market.snapshot import PriceSnapshot, check_chain, verify_snapshot
from flopmarket.market.tape import EMPTY_TAPE
from flopmarket.trust.keys import PublicKey
from flopmarket_coordinator.core.invariants import Finding
from flopmarket_coordinator.core.tape import candles_of
from flopmarket_coordinator.store import snapshots
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.tape_rebuild import derived, stored_candles, stored_trades
from flopmarket_coordinator.store.tape_rows import candle_row, key_of


def check_tape(tx: Transaction, key: PublicKey) -> tuple[Finding, ...]:
    """The first break of each rule; empty when the tape is right."""
    every = list(derived(tx))
    right = {item.number: item.row for item in every if item.row is not None}
    expected = candles_of(item.trade for item in every if item.trade and item.row)
    rules = {
        "trade-printed": (
            (f"segment {item.segment_id}", "is settled and has a price, and is on no tape")
            for item in every
            if item.trade is not None and item.number == 0
        ),
        "trade-derived": _trades_follow(right, stored_trades(tx)),
        "candle-derived": _candles_follow(
            {key_of(candle): candle_row(candle) for candle in expected.values()},
            stored_candles(tx),
        ),
        "price-snapshot": _snapshots_hold(
            list(snapshots.every(tx)),
            {number: row["tape_digest"] for number, row in right.items()},
            key,
        ),
    }
    found = ((name, next(iter(breaks), None)) for name, breaks in rules.items())
    return tuple(Finding(name, *first) for name, first in found if first is not None)


def _trades_follow(
    right: Mapping[int, Mapping[str, Any]], stored: Iterator[Mapping[Any, Any]]
) -> Iterator[tuple[str, str]]:
    number = 0
    for number, row in enumerate(stored, 1):
        if row["number"] != number:
            yield f"trade {number}", f"is missing: the next one is number {row['number']}"
        wanted = right.get(row["number"])
        if wanted is None:
            yield f"trade {row['number']}", "is of no settled segment"
        elif difference := _difference(wanted, row):
            yield f"trade {row['number']}", difference
    if number < len(right):
        yield f"trade {number + 1}", "is missing, and all behind it"


def _candles_follow(
    right: Mapping[Any, Mapping[str, Any]], stored: Mapping[Any, Mapping[Any, Any]]
) -> Iterator[tuple[str, str]]:
    for key in sorted({*right, *stored}):
        name = "candle {} {} s {} {}".format(*key)
        if key not in stored:
            yield name, "is missing"
        elif key not in right:
            yield name, "has no trades, or is too old to be kept"
        elif difference := _difference(right[key], stored[key]):
            yield name, difference


def _difference(right: Mapping[str, Any], stored: Mapping[Any, Any]) -> str:
    for name, value in right.items():
        if stored[name] != value:
            return f"{name} is {_shown(stored[name])}, it follows {_shown(value)}"
    return ""


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _snapshots_hold(
    stored: Sequence[snapshots.SnapshotRow], tape: Mapping[int, bytes], key: PublicKey
) -> Iterator[tuple[str, str]]:
    before: list[PriceSnapshot] = []
    for row in stored:
        name = f"snapshot {row.number}"
        try:
            read = verify_snapshot(row.envelope, key).snapshot
            check_chain([*before, read])
        except FlopmarketError as error:
            yield name, error.message
            return
        if (read.number, read.digest) != (row.number, row.digest):
            yield name, "its row and its signed contents differ"
        right = tape.get(read.trades) if read.trades else EMPTY_TAPE
        if read.tape_digest != right:
            yield name, f"names another tape of {read.trades} trades"
        before = [read]
