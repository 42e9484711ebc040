"""The best offers for a work, found without looking at all of them, and exactly.

A work is a vector of resources (operations of each class, bytes, launches, ...), an offer a vector
of what a unit of each costs there; their product bounds the price from below, of an offer and of a
leaf of similar ones (:mod:`.tree`). Leaves are opened in the order of their bounds, until none that
is left can hold anything better. What is compared in the end is the exact price, in integers, of
the few offers whose bounds come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace

import numpy as np

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.market.offer import Offer
from flopmarket.market.order import MILLI, owner_admitted, region_admitted
from flopmarket.market.predict import JobWork
from flopmarket.market.price import PriceTerms
from flopmarket.market.reasons import Reason
from flopmarket_coordinator.core.book.table import (
    ASK,
    BUILT,
    CLASS_COLUMN,
    CLASSES,
    COST_COLUMNS,
    FETCHED,
    LAUNCHED,
    MODE_BIT,
    MOVED,
    NO_RATE_COST,
    STEPPED,
    Flags,
    Floats,
    OfferTable,
    Rows,
)
from flopmarket_coordinator.core.book.tree import Leaves, OfferIndex
from flopmarket_coordinator.core.matching import Demand, fits

MARGIN = 1e-9
"""Relative room for the rounding of floats: their error stays a million times below it."""
_FIRST_LEAVES = 16
_MOST_LEAVES = 8
_FIRST_MEMBERS = 32
_MOST_MEMBERS = 8_192
_LARGEST_COUNT = 10**50  # keeps products finite; a bound may be too low


@dataclass(frozen=True, slots=True)
class Found:
    """An offer that fits a demand. ``rank_nano`` is the exact price of a step in nano-units an hour
    times picoseconds; offers come in the order of it, then of speed, then of ids."""

    row: int
    offer: Offer
    terms: PriceTerms
    rank_nano: int


class Resources:
    """A work as a vector over the columns of :attr:`OfferTable.cost`.

    Computing and moving bytes overlap, so there are two vectors and the larger product counts.
    """

    def __init__(self, work: JobWork) -> None:
        shared = np.zeros(COST_COLUMNS)
        shared[LAUNCHED] = _count(work.step.launches)
        shared[STEPPED] = 1.0
        shared[FETCHED] = _count(work.download_bytes) / work.steps
        shared[BUILT] = _count(work.kernels) / work.steps
        computed, moved = shared.copy(), shared
        computed[:CLASSES] = [_count(work.step.flops.get(name, 0)) for name in WORK_CLASSES]
        moved[MOVED] = _count(work.step.bytes_moved)
        self.matrix: Floats = np.stack((computed, moved), axis=1)

    def bounds(self, costs: Floats) -> Floats:
        """Below the exact price of a step, for each row of costs."""
        found: Floats = (costs @ self.matrix).max(axis=1) * (1.0 - MARGIN)
        return found


class Filter:
    """What a demand asks for besides a price, over rows at once. Never stricter than the exact
    rules; where it cannot be exact it lets a row pass."""

    def __init__(self, table: OfferTable, demand: Demand) -> None:
        wanted = demand.constraints
        self._table = table
        self._memory = max(demand.peak_memory_bytes, wanted.min_memory_bytes)
        self._profile = table.profiles.known(demand.profile)
        self._mode = MODE_BIT[demand.mode]
        self._device_class = None
        if demand.device_class:
            self._device_class = table.device_classes.known(demand.device_class)
        self._buyer = table.accounts.known(demand.buyer) if demand.buyer else -1
        self._regions: Flags | None = None
        if wanted.allowed_regions or wanted.denied_regions:
            self._regions = np.array(
                [region_admitted(wanted, name) for name in table.regions.texts], np.bool_
            )
        self._owners: Flags | None = None
        if wanted.allowed_owners or wanted.denied_owners:
            named = {*wanted.allowed_owners, *wanted.denied_owners}
            self._owners = np.full(len(table.accounts.texts), not wanted.allowed_owners)
            for account in named:
                if (code := table.accounts.known(account)) >= 0:
                    self._owners[code] = owner_admitted(wanted, account)
        self._efficiency = float(wanted.min_flops_per_watt) * (1.0 - MARGIN)
        self._class = CLASS_COLUMN.get(wanted.work_class, -1)

    def passes(self, rows: Rows) -> Flags:
        """Which rows may satisfy the demand."""
        table = self._table
        good: Flags = (table.memory[rows] >= self._memory) & (table.profile[rows] == self._profile)
        good &= (table.modes[rows] & self._mode) != 0
        if self._device_class is not None:
            good &= table.device_class[rows] == self._device_class
        if self._buyer >= 0:
            good &= table.account[rows] != self._buyer
        if self._regions is not None:
            good &= self._regions[table.region[rows]]
        if self._owners is not None:
            good &= self._owners[table.account[rows]]
        if self._efficiency:
            power = table.milliwatts[rows].astype(np.float64)
            rates = table.exact[rows, self._class].astype(np.float64) if self._class >= 0 else 0.0
            good &= (power > 0) & (rates * MILLI >= self._efficiency * power)
        return good


@dataclass(frozen=True, slots=True)
class Source:
    """Leaves to search in. ``index`` tells which rows of the first part have changed since."""

    parts: Sequence[Leaves]
    index: OfferIndex | None = None

    def still(self, part: int, rows: Rows) -> Flags | None:
        """Which rows of a part are as they were put there; None when all are."""
        if self.index is None or part or not self.index.changed:
            return None
        return ~self.index.stale(rows)


@dataclass(slots=True)
class _Run:
    """Equal offers, sorted by id: the next of them to look at."""

    part: int
    members: Rows
    at: int = 0


@dataclass(slots=True)
class _Block:
    """Rows that were fetched together, by their bounds: the next of them to look at."""

    bounds: Floats
    rows: Rows
    at: int = 0

    def without_gone(self, allowed: Flags) -> None:
        """Leave out what is no longer to be had."""
        kept = allowed[self.rows[self.at :]]
        self.bounds, self.rows = self.bounds[self.at :][kept], self.rows[self.at :][kept]
        self.at = 0

    def first(self) -> _Entry:
        """The next row, as it stands on the heap."""
        return (float(self.bounds[self.at]), 0, 0, 0, int(self.rows[self.at]), None, self)


_Entry = tuple[float, int, int, int, int, "Found | None", "_Run | _Block | None"]
"""Price or its bound; 0 for a bound, 1 for the exact price; picoseconds; rank of the id; row."""


class Stream:
    """Offers that fit a demand, best first, computed as they are asked for.

    ``allowed`` marks rows that may be had (idle, present, not taken); it is read when a row is
    looked at. ``most_picoseconds`` leaves out offers that are slower for certain.
    """

    def __init__(
        self,
        table: OfferTable,
        demand: Demand,
        source: Source,
        allowed: Flags,
        *,
        resources: Resources | None = None,
        most_picoseconds: int = 0,
    ) -> None:
        self._table = table
        self._demand = demand
        self._source = source
        self._allowed = allowed
        self._filter = Filter(table, demand)
        self._resources = resources or Resources(demand.work)
        self._slowest = most_picoseconds * (1.0 + MARGIN)
        self._heap: list[_Entry] = []
        bounds = [self._resources.bounds(part.least) for part in source.parts]
        self._leaf_bounds: Floats = np.concatenate(bounds) if bounds else np.zeros(0)
        self._first_leaves = np.cumsum([0, *(len(part) for part in bounds)])
        self._order = _least_first(self._leaf_bounds, _FIRST_LEAVES)
        self._opened = 0
        self._at_once = 1
        self._frontier = self._frontier_now()

    def peek(self, most_nano: float | None = None) -> Found | None:
        """The best offer that is left; None when there is none, or none at ``most_nano`` or less
        (a ``rank_nano``)."""
        heap = self._heap
        while True:
            value = heap[0][0] if heap else np.inf
            if value >= self._frontier and self._frontier < NO_RATE_COST:
                if most_nano is not None and self._frontier > most_nano:
                    return None
                self._fetch()
                continue
            if value >= NO_RATE_COST or (most_nano is not None and value > most_nano):
                return None
            *_, row, found, cursor = heap[0]
            if isinstance(cursor, _Block):
                self._evaluate(cursor)
            elif not self._allowed[row]:
                self.drop()
            else:
                return found

    def drop(self) -> None:
        """Forget the best offer."""
        *_, cursor = heappop(self._heap)
        if isinstance(cursor, _Run):
            self._advance(cursor)

    def put_back(self, found: Sequence[Found]) -> None:
        """Offers that were dropped count again."""
        for item in found:
            heappush(self._heap, self._entry(item, None))

    def _entry(self, found: Found, run: _Run | None) -> _Entry:
        order = int(self._table.id_rank[found.row])
        return (found.rank_nano, 1, found.terms.step_picoseconds, order, found.row, found, run)

    def _frontier_now(self) -> float:
        """Below the price of everything in leaves that were not opened."""
        if self._opened == len(self._order):
            if len(self._order) == len(self._leaf_bounds):
                return np.inf
            others = np.ones(len(self._leaf_bounds), np.bool_)
            others[self._order] = False
            rest = np.flatnonzero(others)
            rest = rest[np.argsort(self._leaf_bounds[rest], kind="stable")]
            self._order = np.concatenate((self._order, rest))
        return float(self._leaf_bounds[self._order[self._opened]])

    def _fetch(self) -> None:
        """Open the next leaves."""
        leaves = self._order[self._opened : self._opened + self._at_once]
        self._opened += len(leaves)
        self._at_once = min(2 * self._at_once, _MOST_LEAVES)
        self._frontier = self._frontier_now()
        for part, leaves_of_part in enumerate(self._source.parts):
            first, behind = self._first_leaves[part], self._first_leaves[part + 1]
            here = leaves[(leaves >= first) & (leaves < behind)] - first
            if len(here):
                self._open(part, leaves_of_part, here)

    def _open(self, part: int, leaves: Leaves, which: Rows) -> None:
        rows = leaves.rows[which].ravel()
        if leaves.runs:
            rows = self._without_runs(part, leaves, rows)
        rows = rows[self._may_have(part, rows)]
        bounds = self._resources.bounds(self._table.cost[rows])
        if self._slowest:
            fast = bounds <= self._slowest * self._table.exact[rows, ASK]
            rows, bounds = rows[fast], bounds[fast]
        if len(rows):
            order = bounds.argsort()
            heappush(self._heap, _Block(bounds[order], rows[order]).first())

    def _without_runs(self, part: int, leaves: Leaves, rows: Rows) -> Rows:
        """Begin the runs among these rows; the others are left."""
        single = np.ones(len(rows), np.bool_)
        for at, row in enumerate(rows.tolist()):
            members = leaves.runs.get(row)
            if members is not None:
                single[at] = False
                self._advance(_Run(part, members))
        return rows[single]

    def _may_have(self, part: int, rows: Rows) -> Flags:
        good = self._allowed[rows] & self._filter.passes(rows)
        still = self._source.still(part, rows)
        return good if still is None else good & still

    def _evaluate(self, block: _Block) -> None:
        """The exact price of the next offer of a block, the first on the heap, if it fits."""
        row = int(block.rows[block.at])
        block.at += 1
        there = bool(self._allowed[row])
        if not there:
            block.without_gone(self._allowed)
        if block.at < len(block.rows):
            heapreplace(self._heap, block.first())
        else:
            heappop(self._heap)
        found = self._found(row) if there else None
        if found is not None:
            heappush(self._heap, self._entry(found, None))

    def _advance(self, run: _Run) -> None:
        """The next member of a run that fits."""
        size = _FIRST_MEMBERS
        while run.at < len(run.members):
            members = run.members[run.at : run.at + size]
            for at in np.flatnonzero(self._may_have(run.part, members)).tolist():
                found = self._found(int(members[at]))
                if found is not None:
                    run.at += at + 1
                    heappush(self._heap, self._entry(found, run))
                    return
            run.at += len(members)
            size = min(2 * size, _MOST_MEMBERS)

    def _found(self, row: int) -> Found | None:
        offer = self._table.offer(row)
        terms = fits(self._demand, offer)
        if isinstance(terms, Reason):
            return None
        return Found(row, offer, terms, terms.ask_nano_per_hour * terms.step_picoseconds)


def _least_first(values: Floats, count: int) -> Rows:
    """Positions of the ``count`` least values in ascending order, or of all."""
    if len(values) <= count:
        return np.argsort(values, kind="stable")
    least = np.argpartition(values, count)[:count]
    return least[np.argsort(values[least], kind="stable")]


def _count(value: int) -> float:
    return float(min(value, _LARGEST_COUNT))
