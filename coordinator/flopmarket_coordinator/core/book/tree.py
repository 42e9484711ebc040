"""Offers in small leaves of similar ones, and the least cost of every resource in each leaf.

The least costs of a leaf bound the price of any work on any offer in it, so a search looks at the
leaves first and opens few of them. A leaf is made by halving the offers again and again along the
resource whose costs differ most, as in a k-d tree; with the halves of all groups found at once a
hundred thousand offers take a tenth of a second.

Offers whose exact figures are all equal are one *run*, sorted by offer id, and stand in a leaf as
its first member: of a run only the first few can win, however long it is, so a million equal offers
cost no more than a handful.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket_coordinator.core.book.table import (
    COST_COLUMNS,
    FETCHED,
    MOVED,
    NO_RATE_COST,
    NO_ROW,
    Flags,
    Floats,
    OfferTable,
    Rows,
)

LEAF_ROWS = 64
_LEAST_CHANGED = 256
_TINY_COST = 1e-9
_PADDING_COST = 10 * NO_RATE_COST

_WEIGHTS: Floats = np.full(COST_COLUMNS, 0.03)
_WEIGHTS[[WORK_CLASSES.index("dot-f32"), MOVED]] = 0.3
_WEIGHTS[[WORK_CLASSES.index("dot-int"), FETCHED]] = 0.2
_WEIGHTS[WORK_CLASSES.index("elementwise-f32")] = 0.15
"""About the part that each resource has in the price of common work. They decide how tight bounds
are and nothing else."""


@dataclass(frozen=True, slots=True)
class Leaves:
    """Rows by leaf, padded with :data:`NO_ROW`; the least costs by leaf; and of every run of more
    than one offer its members by its first."""

    rows: Rows
    least: Floats
    runs: Mapping[int, Rows]

    def with_any(self, wanted: Flags) -> Leaves:
        """Only leaves with a wanted row. Runs are wanted, since their first member says little."""
        if not len(self.rows):
            return self
        good = wanted[self.rows]
        if self.runs:
            good |= np.isin(self.rows, list(self.runs))
        kept = good.any(axis=1)
        return Leaves(self.rows[kept], self.least[kept], self.runs)


def flat_leaves(table: OfferTable, rows: Rows) -> Leaves:
    """Leaves of rows as they come: quickly made, for few rows."""
    leaves = -(-len(rows) // LEAF_ROWS)
    padded = np.full(leaves * LEAF_ROWS, NO_ROW, np.int64)
    padded[: len(rows)] = rows
    return _leaves_of(table, padded.reshape(leaves, LEAF_ROWS), {})


def grown_leaves(table: OfferTable, rows: Rows) -> Leaves:
    """Leaves of similar rows, equal ones joined in runs."""
    if not len(rows):
        return flat_leaves(table, rows)
    heads, runs = _runs(table, rows)
    depth = (-(-len(heads) // LEAF_ROWS) - 1).bit_length()
    size = -(-len(heads) // (1 << depth))
    padding = len(heads)
    order = np.full(size << depth, padding, np.int64)
    order[:padding] = np.arange(padding)
    measure = np.empty((len(heads) + 1, COST_COLUMNS))
    measure[:-1] = np.log(np.maximum(table.cost[heads], _TINY_COST))
    measure[-1] = np.log(_PADDING_COST)
    for level in range(depth):
        groups = order.reshape(1 << level, -1)
        points = measure[groups]
        spread = (points.max(axis=1) - points.min(axis=1)) * _WEIGHTS
        along = spread.argmax(axis=1)
        keys = np.take_along_axis(points, along[:, None, None], axis=2)[:, :, 0]
        halves = np.argpartition(keys, groups.shape[1] // 2, axis=1)
        order = np.take_along_axis(groups, halves, axis=1).ravel()
    leaves = np.append(heads, NO_ROW)[order]
    return _leaves_of(table, leaves.reshape(1 << depth, size), runs)


class OfferIndex:
    """The leaves of a whole table, as it changes.

    Rows that changed since the leaves were grown are kept beside them, until :meth:`regrown`
    makes new ones.
    """

    def __init__(self, table: OfferTable) -> None:
        self._table = table
        self._changed: set[int] = set()
        self._stale: Flags = np.zeros(len(table.used), np.bool_)
        self._grown = grown_leaves(table, table.rows())
        self._parts: tuple[Leaves, ...] | None = None

    @property
    def overgrown(self) -> bool:
        """Whether new leaves would pay."""
        return len(self._changed) > max(_LEAST_CHANGED, 8 * isqrt(len(self._table)))

    @property
    def changed(self) -> int:
        """How many rows changed since the leaves were grown."""
        return len(self._changed)

    def regrown(self) -> OfferIndex:
        """A new index of the same table."""
        return OfferIndex(self._table)

    def touch(self, row: int) -> None:
        """A row was added, changed in price, or removed."""
        if row >= len(self._stale):
            grown = np.zeros(len(self._table.used), np.bool_)
            grown[: len(self._stale)] = self._stale
            self._stale = grown
        self._stale[row] = True
        self._changed.add(row)
        self._parts = None

    def parts(self) -> Sequence[Leaves]:
        """Leaves with all rows. The first part may name rows that :meth:`stale` tells apart; they
        count in the second."""
        if self._parts is None:
            changed = np.fromiter(self._changed, np.int64, len(self._changed))
            changed = changed[self._table.used[changed]]
            recent = (flat_leaves(self._table, changed),) if len(changed) else ()
            self._parts = (self._grown, *recent)
        return self._parts

    def stale(self, rows: Rows) -> Flags:
        """Which rows of the first part have changed since it was made."""
        return self._stale[rows]


def _leaves_of(table: OfferTable, rows: Rows, runs: Mapping[int, Rows]) -> Leaves:
    costs = table.cost[rows]
    costs[rows == NO_ROW] = _PADDING_COST
    return Leaves(rows, costs.min(axis=1), runs)


def _runs(table: OfferTable, rows: Rows) -> tuple[Rows, Mapping[int, Rows]]:
    """The first member of every run, and the members of those with more than one.

    Sorting by a number that equal offers share brings them together; only neighbours that agree in
    every exact figure are joined.
    """
    rows = rows[np.lexsort((table.id_rank[rows], _likeness(table, rows)))]
    joined = np.zeros(len(rows), np.bool_)
    if len(rows) > 1:
        joined[1:] = True
        for column in table.exact.T:
            figures = column[rows]
            joined[1:] &= figures[1:] == figures[:-1]
    starts = np.flatnonzero(~joined)
    ends = np.append(starts[1:], len(rows))
    runs = {
        int(rows[starts[at]]): rows[starts[at] : ends[at]]
        for at in np.flatnonzero(ends[: len(starts)] - starts > 1).tolist()
    }
    return rows[starts], runs


def _likeness(table: OfferTable, rows: Rows) -> Rows:
    """A number that equal offers share and others seldom do."""
    mixed = np.zeros(len(rows), np.uint64)
    for column in table.exact.T:
        mixed = (mixed ^ column[rows].view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed.view(np.int64)
