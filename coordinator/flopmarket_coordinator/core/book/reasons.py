"""Why offers do not take a work: for every reason the number of offers it holds for.

Computed when somebody asks, over all offers at once and in the order of :mod:`core.matching`: of
each offer the first reason counts. Prices are compared by their bounds; the offers whose bounds lie
on both sides of a limit are decided one by one, up to a maximum that keeps the answer cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from flopmarket.limits import MAX_EXACT_REASONS
from flopmarket.market.money import MAX_NANO, MoneyError
from flopmarket.market.order import NO_CAP, owner_admitted, region_admitted, step_limit_nano
from flopmarket.market.predict import NoRate
from flopmarket.market.price import PICOSECONDS_PER_HOUR
from flopmarket.market.reasons import Reason
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.book.search import MARGIN, Filter, Resources
from flopmarket_coordinator.core.book.table import (
    ASK,
    CLASS_COLUMN,
    MODE_BIT,
    NO_RATE_COST,
    Flags,
    Floats,
    OfferTable,
    Rows,
)
from flopmarket_coordinator.core.matching import Demand

_ROUNDED_PICOSECONDS = 1024.0
"""More than all roundings up in one step's time together, times the largest calibration."""
_STEP_END = 2**63


@dataclass(frozen=True, slots=True)
class Limits:
    """What is asked besides the demand itself. ``steps`` must have a price together; a step costs
    at most ``cap_nano`` and takes at most ``most_picoseconds``. ``busy_counts``: the offer must be
    idle, and not be one of ``avoid`` (offer ids)."""

    since_us: int
    steps: int = 1
    cap_nano: int = NO_CAP
    most_picoseconds: int = NO_CAP
    busy_counts: bool = False
    avoid: Collection[str] = ()


def count_reasons(table: OfferTable, demand: Demand, limits: Limits) -> dict[Reason, int]:
    """How many offers each reason keeps away; those that fit are in none of the counts."""
    return _Counter(table, demand).run(limits)


class _Counter:
    def __init__(self, table: OfferTable, demand: Demand) -> None:
        self._table = table
        self._demand = demand
        self._rows: Rows = table.rows()
        self._left: Flags = np.ones(len(self._rows), np.bool_)
        self._counts: dict[Reason, int] = {}
        self._ask: Floats = table.exact[self._rows, ASK].astype(np.float64)
        self._low: Floats = Resources(demand.work).bounds(table.cost[self._rows])
        spread = table.spread[self._rows]
        self._high: Floats = self._low * spread * (1.0 + 4 * MARGIN)
        self._high += self._ask * _ROUNDED_PICOSECONDS
        self._decided = 0

    def run(self, limits: Limits) -> dict[Reason, int]:
        table, rows, demand = self._table, self._rows, self._demand
        wanted = demand.constraints
        profile, buyer = table.profiles.known(demand.profile), table.accounts.known(demand.buyer)
        self._count(Reason.PROFILE, table.profile[rows] != profile)
        self._count(Reason.MODE_NOT_OFFERED, (table.modes[rows] & MODE_BIT[demand.mode]) == 0)
        if demand.device_class:
            wanted_class = table.device_classes.known(demand.device_class)
            self._count(Reason.CLASS_DIFFERS, table.device_class[rows] != wanted_class)
        self._count(Reason.MEMORY, table.memory[rows] < demand.peak_memory_bytes)
        self._count(Reason.SAME_OWNER, table.account[rows] == buyer)
        self._count(Reason.NO_RATE, self._low >= NO_RATE_COST / 2)
        too_long = self._above(_STEP_END - 1, per_step=True)
        self._count(Reason.UNPRICEABLE, too_long | self._above(MAX_NANO))
        owners = _admitted(table.accounts.texts, lambda name: owner_admitted(wanted, name))
        if wanted.allowed_owners or wanted.denied_owners:
            self._count(Reason.OWNER, ~owners[table.account[rows]])
        regions = _admitted(table.regions.texts, lambda name: region_admitted(wanted, name))
        self._count(Reason.REGION, ~regions[table.region[rows]])
        self._count(Reason.MIN_MEMORY, table.memory[rows] < wanted.min_memory_bytes)
        if wanted.min_flops_per_watt:
            self._count_efficiency()
        self._count(Reason.LIMIT_PRICE, self._above(step_limit_nano(wanted, demand.work.step)))
        self._count(Reason.DEADLINE, self._above(limits.most_picoseconds, per_step=True))
        self._count(Reason.BANNED, table.banned[rows])
        self._count(Reason.OFFLINE, ~table.present(rows, limits.since_us))
        if table.requires_proof:
            self._count(Reason.UNPROVED, table.unproved[rows])
        if demand.mode is Mode.CLASS:
            self._count(Reason.CLASS_ALONE, self._alone())
        if limits.busy_counts:
            self._count(Reason.BUSY, table.busy[rows])
            avoided = {table.row_of[name] for name in limits.avoid if name in table.row_of}
            self._count(Reason.RECENTLY_DECLINED, np.isin(rows, list(avoided)))
            self._count(Reason.MAX_PRICE, self._above(limits.cap_nano))
        else:
            self._count(Reason.UNPRICEABLE, self._above(MAX_NANO // limits.steps))
        return self._counts

    def _alone(self) -> Flags:
        """Which rows are of a class without a further account, the buyer's apart."""
        table, buyer = self._table, self._demand.buyer
        code = table.device_class[self._rows]
        texts = table.device_classes.texts
        lonely = [
            at
            for at in np.unique(code[self._left]).tolist()
            if len(table.class_accounts(texts[at]) - {buyer}) < 2
        ]
        return np.isin(code, lonely)

    def _count(self, reason: Reason, holds: Flags) -> None:
        found = self._left & holds
        number = int(np.count_nonzero(found))
        if number:
            self._counts[reason] = self._counts.get(reason, 0) + number
            self._left &= ~found

    def _count_efficiency(self) -> None:
        table, rows, wanted = self._table, self._rows, self._demand.constraints
        watts = table.milliwatts[rows]
        self._count(Reason.POWER_UNKNOWN, watts == 0)
        near = Filter(table, self._demand).passes(rows) & self._left
        rates = table.exact[rows, CLASS_COLUMN[wanted.work_class]] if (
            wanted.work_class in CLASS_COLUMN
        ) else np.zeros(len(rows), np.int64)  # fmt: skip
        sure = rates.astype(np.float64) * 1e3 >= watts * float(wanted.min_flops_per_watt) * (
            1.0 + MARGIN
        )
        for at in np.flatnonzero(near & ~sure).tolist():
            needed = wanted.min_flops_per_watt * int(watts[at])
            near[at] = int(rates[at]) * 1_000 >= needed
        self._count(Reason.EFFICIENCY, ~near)

    def _above(self, most: int, *, per_step: bool = False) -> Flags:
        """Which offers cost more than ``most`` nano-units a step, or take more picoseconds."""
        if most >= NO_CAP:
            return np.zeros(len(self._rows), np.bool_)
        scale = self._ask if per_step else float(PICOSECONDS_PER_HOUR)
        limit = float(most) * scale
        above: Flags = self._low > limit * (1.0 + MARGIN)
        near = self._left & ~above & (self._high > limit * (1.0 - MARGIN))
        positions = np.flatnonzero(near)
        exact = max(0, MAX_EXACT_REASONS - self._decided)
        self._decided += min(exact, len(positions))
        for at in positions[:exact].tolist():
            above[at] = self._exactly_above(int(self._rows[at]), most, per_step)
        rest = positions[exact:]
        likely = np.sqrt(self._low[rest] * self._high[rest])
        above[rest] = likely > np.broadcast_to(limit, above.shape)[rest]
        return above

    def _exactly_above(self, row: int, most: int, per_step: bool) -> bool:
        try:
            terms = self._table.offer(row).terms_for(self._demand.work)
        except (NoRate, MoneyError):
            return True
        if per_step:
            return terms.step_picoseconds > most
        product = terms.ask_nano_per_hour * terms.step_picoseconds
        return product > most * PICOSECONDS_PER_HOUR


def _admitted(names: list[str], admits: Callable[[str], bool]) -> Flags:
    return np.array([admits(name) for name in names] or [True], np.bool_)
