"""Open orders: what each still wants, and which of them an offer that has just come may suit.

An order that was examined and found nothing *sleeps*: no offer of that moment suits it, and none
that only got dearer or busier since will. It is looked at again when an offer came or got better
that could suit it (:meth:`OrderTable.woken`, a comparison of bounds over all sleepers at once), or
when the order itself changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flopmarket.market.headline import PFLOP, program_class
from flopmarket.market.money import MAX_NANO, Nano
from flopmarket.market.price import PICOSECONDS_PER_HOUR
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.book.search import MARGIN, Resources
from flopmarket_coordinator.core.book.table import (
    CLASS_COLUMN,
    COST_COLUMNS,
    MODE_BIT,
    Flags,
    Floats,
    Integers,
    OfferTable,
    Rows,
)
from flopmarket_coordinator.core.leasing import StartPoint
from flopmarket_coordinator.core.matching import Demand, OpenWork, money_cap, priority

_FIRST_ROWS = 64
_MOST_PAIRED_OFFERS = 256
_PAIRED_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Piece:
    """A range that one worker may take, and the state that it starts from."""

    start: StartPoint
    step_count: int


@dataclass(frozen=True, slots=True)
class OpenOrder:
    """A job with steps that nobody has.

    ``pieces`` are the first of its open ranges in order of steps; ``money_steps`` counts the steps
    of all of them and ``money_nano`` is left for them. ``rests`` is a limit order, which shows in
    the depth of the book. The other fields are as in :class:`OpenWork`.
    """

    job_id: str
    number: int
    demand: Demand
    pieces: tuple[Piece, ...]
    money_nano: Nano
    money_steps: int
    deadline_us: int
    held: int = 0
    avoid: frozenset[str] = frozenset()
    rests: bool = False

    def work(self, piece: Piece) -> OpenWork:
        """One piece, as the rules of matching see it."""
        return OpenWork(
            job_id=self.job_id,
            first_step=piece.start.step,
            step_count=piece.step_count,
            demand=self.demand,
            money_nano=self.money_nano,
            money_steps=self.money_steps,
            deadline_us=self.deadline_us,
            number=self.number,
            held=self.held,
            avoid=self.avoid,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """An order as matching meets it: figures that do not change while it is open."""

    order: OpenOrder
    group: Hashable
    """Orders of equal groups are offered the same devices, their own apart."""
    demand: Demand
    """Without the buyer, whose own devices are left out order by order, and without the limit
    price, which is in the cap."""
    resources: Resources
    bid: tuple[int, int]
    cap_nano: int
    """No step may cost more than this: a ``rank_nano``."""


class OrderTable:
    """Open orders by job, with columns for those that sleep."""

    def __init__(self) -> None:
        self._row_of: dict[str, int] = {}
        self._standing: list[Standing | None] = []
        self._free: list[int] = []
        self._weights: Floats = np.zeros((_FIRST_ROWS, 2, COST_COLUMNS))
        self._caps: Floats = np.zeros(_FIRST_ROWS)
        self._memory: Floats = np.zeros(_FIRST_ROWS)
        self._asleep: Flags = np.zeros(_FIRST_ROWS, np.bool_)
        self._bid_class: Integers = np.full(_FIRST_ROWS, -1, np.int64)
        self._bid_mode: Integers = np.zeros(_FIRST_ROWS, np.int64)
        self._bid_price: Integers = np.zeros(_FIRST_ROWS, np.int64)
        self._bid_operations: list[int] = []
        self._awake: set[int] = set()

    def __len__(self) -> int:
        return len(self._row_of)

    def put(self, order: OpenOrder) -> None:
        """Add or replace an order; it is awake."""
        row = self._row_of.get(order.job_id)
        if row is None:
            row = self._new_row(order.job_id)
        standing = _standing(order)
        self._standing[row] = standing
        self._weights[row] = standing.resources.matrix.T
        self._caps[row] = float(standing.cap_nano) * (1.0 + MARGIN)
        demand = order.demand
        work_class, price, operations = bid_of(order)
        self._bid_class[row] = CLASS_COLUMN.get(work_class, -1)
        self._bid_mode[row] = MODE_BIT[demand.mode]
        self._bid_price[row] = price
        self._bid_operations[row] = operations
        self._memory[row] = max(demand.peak_memory_bytes, demand.constraints.min_memory_bytes)
        self.wake(row)

    def remove(self, job_id: str) -> None:
        """Forget an order; one that is not here is no error."""
        row = self._row_of.pop(job_id, None)
        if row is None:
            return
        self._standing[row] = None
        self._bid_class[row] = -1
        self._asleep[row] = False
        self._awake.discard(row)
        self._free.append(row)

    def get(self, job_id: str) -> OpenOrder | None:
        """The order of a job, if it is open."""
        row = self._row_of.get(job_id)
        return None if row is None else self.standing(row).order

    def standings(self) -> list[Standing]:
        """All open orders."""
        return [standing for standing in self._standing if standing is not None]

    def standing(self, row: int) -> Standing:
        """The order of a row that is in use."""
        standing = self._standing[row]
        assert standing is not None, f"row {row} has no order"
        return standing

    def awake(self) -> list[int]:
        """Rows of orders that must be examined against every offer."""
        return list(self._awake)

    def wake(self, row: int) -> None:
        """Examine an order again."""
        self._asleep[row] = False
        self._awake.add(row)

    def wake_all(self) -> None:
        """Examine every order again."""
        for row in self._row_of.values():
            self.wake(row)

    def wake_class(self, device_class: str) -> None:
        """Examine the orders again that are bound to a class of devices."""
        for row in self._row_of.values():
            if self.standing(row).demand.device_class == device_class:
                self.wake(row)

    def sleep(self, row: int) -> None:
        """An order found nothing among the offers of this moment."""
        self._asleep[row] = True
        self._awake.discard(row)

    def bids(self, work_class: str, mode: Mode) -> tuple[Rows, Integers, Sequence[int]]:
        """Rows of orders that bid for a class in a mode, their prices for 10^15 operations, and, by
        row, the operations that an order still wants."""
        wanted = self._bid_class == CLASS_COLUMN[work_class]
        rows = np.flatnonzero(wanted & (self._bid_mode == MODE_BIT[mode]))
        return rows, self._bid_price[rows], self._bid_operations

    def woken(self, offers: OfferTable, fresh: Rows) -> list[int]:
        """Sleeping orders that one of these offers may suit; never leaves one out that it does."""
        rows = np.flatnonzero(self._asleep)
        if not len(rows) or not len(fresh):
            return []
        costs, memory = offers.cost[fresh], offers.memory[fresh]
        best = (self._weights[rows] @ costs.min(0)).max(1) * (1.0 - MARGIN)
        rows = rows[(best <= self._caps[rows]) & (self._memory[rows] <= memory.max())]
        if len(fresh) > _MOST_PAIRED_OFFERS:
            return list(rows.tolist())
        suits = np.zeros(len(rows), np.bool_)
        weights, caps, needs = self._weights[rows], self._caps[rows], self._memory[rows]
        for at in range(0, len(fresh), _PAIRED_AT_ONCE):
            some = slice(at, at + _PAIRED_AT_ONCE)
            bounds = (weights @ costs[some].T).max(1) * (1.0 - MARGIN)
            fitting = (bounds <= caps[:, None]) & (needs[:, None] <= memory[some])
            suits |= fitting.any(1)
        return list(rows[suits].tolist())

    def _new_row(self, job_id: str) -> int:
        if self._free:
            row = self._free.pop()
        else:
            row = len(self._standing)
            self._standing.append(None)
            self._bid_operations.append(0)
            if row == len(self._caps):
                for name in _COLUMNS:
                    old = getattr(self, name)
                    grown = np.zeros((2 * row, *old.shape[1:]), old.dtype)
                    grown[:row] = old
                    setattr(self, name, grown)
        self._row_of[job_id] = row
        return row


_COLUMNS = ("_weights", "_caps", "_memory", "_asleep", "_bid_class", "_bid_mode", "_bid_price")


def bid_of(order: OpenOrder) -> tuple[str, Nano, int]:
    """Class, price for 10^15 operations, and operations that a resting order still wants.

    An order with a limit price bids it; one that is limited by money alone bids what is left of it
    for each operation, rounded down. The class is "" for an order that bids nothing.
    """
    demand = order.demand
    work_class = demand.constraints.work_class or program_class(demand.work.step)
    operations = demand.work.step.flops.get(work_class, 0) * order.money_steps
    if not order.rests or operations <= 0:
        return "", 0, 0
    limit = demand.constraints.max_unit_price_nano
    price = limit or max(0, order.money_nano) * PFLOP // operations
    return (work_class, min(price, MAX_NANO), operations) if price else ("", 0, 0)


def _standing(order: OpenOrder) -> Standing:
    wanted = order.demand.constraints
    # The limit price is in the cap, so that orders with other limits share a group.
    unlimited = replace(
        wanted,
        max_unit_price_nano=0,
        work_class=wanted.work_class if wanted.min_flops_per_watt else "",
    )
    demand = replace(order.demand, buyer="", constraints=unlimited)
    work = demand.work
    group = (
        demand.profile,
        demand.mode,
        demand.device_class,
        demand.peak_memory_bytes,
        demand.constraints,
        tuple(sorted(work.step.flops.items())),
        work.step.bytes_moved,
        work.step.launches,
        work.steps,
        work.download_bytes,
        work.kernels,
        work.program,
        tuple(sorted(work.promised.items())),
    )
    cap = money_cap(order.work(Piece(StartPoint(0, 0, "", b""), 1))) if order.money_steps else 0
    return Standing(
        order=order,
        group=group,
        demand=demand,
        resources=Resources(work),
        bid=priority(order.demand, 0, 0)[:2],
        cap_nano=max(0, cap) * PICOSECONDS_PER_HOUR,
    )
