"""Live offers, filtered and sorted by any figure they advertise, a page at a time.

A filter only ever leaves offers out; equal offers stay in the order of their ids; a page continues
behind the last key it showed, so offers that come and go meanwhile are neither repeated nor lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from flopmarket.errors import InvalidInput
from flopmarket.market.money import NANO_PER_UNIT
from flopmarket.market.offer import PFLOP, SECONDS_PER_HOUR
from flopmarket.market.suitability import (
    INFERENCE,
    INFERENCE_BANDWIDTH_BYTES_PER_SECOND,
    TRAINING,
    TRAINING_CLASSES,
    TRAINING_MEMORY_BYTES,
    USES,
)
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.book.table import (
    ASK,
    BANDWIDTH,
    CLASS_COLUMN,
    LAUNCH,
    MODE_BIT,
    Codes,
    Flags,
    Floats,
    OfferTable,
    Rows,
)

Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64]
Key = tuple[float, str]
"""Sort key and offer id of the last offer of a page."""

DEFAULT_ORDER = "price"
_MAX_VALUE_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class OfferFilter:
    """One condition: ``field op value``, with numbers or texts as the field has them."""

    field: str
    op: str
    value: str


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one page, in order. ``last`` is where the next one goes on, None at the end."""

    rows: Sequence[int]
    last: Key | None
    matching: int


class _Columns:
    """Figures of some rows in one class of work."""

    def __init__(self, table: OfferTable, rows: Rows, work_class: str) -> None:
        self.table = table
        self.rows = rows
        self.work_class = work_class

    def exact(self, column: int) -> npt.NDArray[np.int64]:
        figures: npt.NDArray[np.int64] = self.table.exact[:, column][self.rows]
        return figures

    def floats(self, column: int) -> Floats:
        return self.exact(column).astype(np.float64)

    @property
    def rate(self) -> npt.NDArray[np.int64]:
        rates: npt.NDArray[np.int64] = self.table.shown[:, CLASS_COLUMN[self.work_class]]
        return rates[self.rows]

    def per(self, of: Numbers, by: Numbers, scale: float, without: float = 0.0) -> Floats:
        """``of * scale / by``; ``without`` where ``by`` is zero."""
        found = np.full(len(self.rows), without)
        np.divide(of * scale, by, out=found, where=by > 0)
        return found


NUMBERS: Mapping[str, Callable[[_Columns], Numbers]] = MappingProxyType(
    {
        "price": lambda c: c.per(c.floats(ASK), c.rate, PFLOP / SECONDS_PER_HOUR, without=math.inf),
        "ask_per_hour": lambda c: c.exact(ASK),
        "flops": lambda c: c.rate,
        "flops_per_dollar": lambda c: c.per(
            c.rate.astype(np.float64), c.exact(ASK), NANO_PER_UNIT * SECONDS_PER_HOUR
        ),
        "flops_per_watt": lambda c: c.per(
            c.rate.astype(np.float64), c.table.milliwatts[c.rows], 1e3
        ),
        "flops_per_card_dollar": lambda c: c.per(
            c.rate.astype(np.float64), c.table.card_price[c.rows], NANO_PER_UNIT
        ),
        "memory": lambda c: c.table.memory[c.rows],
        "bandwidth": lambda c: c.exact(BANDWIDTH),
        "launch": lambda c: c.exact(LAUNCH),
        "watts": lambda c: c.table.milliwatts[c.rows] / 1e3,
        "card_price": lambda c: c.table.card_price[c.rows],
        "reliability": lambda c: c.per(
            c.table.verified[c.rows].astype(np.float64),
            c.table.verified[c.rows] + c.table.rejected[c.rows],
            1.0,
        ),
        "verified_segments": lambda c: c.table.verified[c.rows],
        "rejected_segments": lambda c: c.table.rejected[c.rows],
        "updated": lambda c: c.table.updated[c.rows],
    }
)
"""Figures by name. Amounts are nano-units (``price``: for 10^15 operations of the class), the
others per second, watt, currency unit, bytes, nanoseconds, watts and microseconds."""

_NUMBER_OPS: Mapping[str, Callable[[Numbers, float], Flags]] = MappingProxyType(
    {
        "=": lambda column, value: column == value,
        "!=": lambda column, value: column != value,
        "<": lambda column, value: column < value,
        "<=": lambda column, value: column <= value,
        ">": lambda column, value: column > value,
        ">=": lambda column, value: column >= value,
    }
)
_CODES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "account": ("accounts", "account"),
        "device_name": ("names", "name"),
        "driver": ("drivers", "driver"),
        "profile": ("profiles", "profile"),
        "region": ("regions", "region"),
        "watts_source": ("sources", "source"),
        "device_class": ("device_classes", "device_class"),
    }
)
_TEXT_OPS = ("=", "!=", "~")
FIELDS = (*NUMBERS, "offer", *_CODES, "state", "suited_for", "mode")


def list_rows(
    table: OfferTable,
    *,
    since_us: int,
    work_class: str,
    needs_rate: bool,
    filters: Sequence[OfferFilter],
    order_by: str,
    after: Key | None,
    size: int,
) -> Page:
    """Live offers that satisfy all filters, sorted by a figure of :data:`NUMBERS`; ``-`` reverses.

    :class:`InvalidInput` for a figure, an operator or a value that does not exist.
    """
    descending, name = order_by.startswith("-"), order_by.removeprefix("-")
    if name not in NUMBERS:
        raise InvalidInput(
            f"offers are ordered by {', '.join(NUMBERS)}, not {name[:40]!r}", code="ORDER_UNKNOWN"
        )
    rows = table.rows()
    rows = rows[table.present(rows, since_us)]
    if needs_rate:
        rows = rows[table.shown[rows, CLASS_COLUMN[work_class]] > 0]
    for condition in filters:
        rows = rows[_holds(_Columns(table, rows, work_class), condition)]
    matching = len(rows)
    keys = NUMBERS[name](_Columns(table, rows, work_class))
    keys = -keys if descending else keys
    if after is not None:
        key, offer_id = after
        behind = table.id_rank[rows] > table.rank_of(offer_id)
        later = (keys > key) | ((keys == key) & behind)
        rows, keys = rows[later], keys[later]
    order = _first(keys, table.id_rank[rows], size)
    shown = rows[order].tolist()
    last = None
    if len(rows) > size:
        last = (keys[order[-1]].item(), table.offer_ids[shown[-1]])
    return Page(shown, last, matching)


def _first(keys: Numbers, ranks: Rows, count: int) -> Rows:
    """Positions of the least by key, then by rank, in order, without sorting the others."""
    if len(keys) <= count:
        return np.lexsort((ranks, keys))
    worst = np.partition(keys, count - 1)[count - 1]
    less, equal = np.flatnonzero(keys < worst), np.flatnonzero(keys == worst)
    room = count - len(less)
    if len(equal) > room:
        equal = equal[np.argpartition(ranks[equal], room - 1)[:room]]
    chosen = np.concatenate((less, equal))
    return chosen[np.lexsort((ranks[chosen], keys[chosen]))]


def _holds(columns: _Columns, condition: OfferFilter) -> Flags:
    name, op, value = condition.field, condition.op, condition.value
    if name not in FIELDS:
        raise InvalidInput(
            f"offers have no {name[:40]!r}; there are {', '.join(FIELDS)}",
            code="FILTER_FIELD_UNKNOWN",
        )
    if len(value) > _MAX_VALUE_CHARACTERS:
        raise InvalidInput("the value of a filter is too long", code="FILTER_VALUE")
    if name in NUMBERS:
        if op not in _NUMBER_OPS:
            raise _bad_op(op, tuple(_NUMBER_OPS))
        return _NUMBER_OPS[op](NUMBERS[name](columns), _number(value))
    if op not in _TEXT_OPS:
        raise _bad_op(op, _TEXT_OPS)
    if name == "suited_for":
        return _suited(columns, op, value)
    if name == "mode":
        return _takes(columns, op, value)
    if name == "state":
        names = ["idle", "busy"]
        return _texts(names, op, value)[columns.table.busy[columns.rows].astype(np.int64)]
    if name == "offer":
        ids = [columns.table.offer_ids[row] for row in columns.rows]
        return _texts(ids, op, value)
    codes, column = _CODES[name]
    table = columns.table
    known: Codes = getattr(table, codes)
    numbers: Rows = getattr(table, column)[columns.rows]
    return _texts(known.texts, op, value)[numbers]


def _texts(texts: Sequence[str], op: str, value: str) -> Flags:
    if op == "~":
        part = value.casefold()
        found = [part in text.casefold() for text in texts]
    else:
        found = [(text == value) == (op == "=") for text in texts]
    return np.array(found, np.bool_)


def _suited(columns: _Columns, op: str, value: str) -> Flags:
    """As :func:`flopmarket.market.suitability.suited_for`, over all rows."""
    if value not in USES:
        raise InvalidInput(f"devices are suited for {', '.join(USES)}", code="FILTER_VALUE")
    table, rows = columns.table, columns.rows
    suits: dict[str, Flags] = {}
    suits[TRAINING] = table.memory[rows] >= TRAINING_MEMORY_BYTES
    for name in TRAINING_CLASSES:
        suits[TRAINING] &= columns.exact(CLASS_COLUMN[name]) > 0
    integer, single = columns.exact(CLASS_COLUMN["dot-int"]), columns.exact(CLASS_COLUMN["dot-f32"])
    wide = columns.exact(BANDWIDTH) >= INFERENCE_BANDWIDTH_BYTES_PER_SECOND
    suits[INFERENCE] = ((integer > 0) | (single > 0)) & ((integer > single) | wide)
    return suits[value] if op != "!=" else ~suits[value]


def _takes(columns: _Columns, op: str, value: str) -> Flags:
    """Which rows take jobs of a mode."""
    if value not in list(Mode):
        raise InvalidInput(f"modes are {', '.join(Mode)}", code="FILTER_VALUE")
    takes: Flags = (columns.table.modes[columns.rows] & MODE_BIT[Mode(value)]) != 0
    return takes if op != "!=" else ~takes


def _number(text: str) -> float:
    """An integer exactly, anything else as a float that is a number."""
    try:
        value: float = int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise InvalidInput(f"{text[:40]!r} is not a number", code="FILTER_VALUE")
    return value


def _bad_op(op: str, ops: Sequence[str]) -> InvalidInput:
    return InvalidInput(
        f"{op[:8]!r} does not compare this field; there are {' '.join(ops)}",
        code="FILTER_OP_UNKNOWN",
    )
