"""What cheating earns: many runs at once of the project's own audit rules, in units of pay.

One unit is one segment; a run is one identity or a chain of them. Every decision and every division
of money comes out of :mod:`flopmarket.trust.audit_policy`, tabulated over the few values that it
depends on, so that a thousand runs advance with a handful of array operations.

The account is relative to honest work on the same units: a cheat gains what it saves of a unit's
cost and loses what is forfeited, with the pay of the unit that was caught. All simplifications
favour the cheat: other wrong units are paid until the verdict, which comes at once; re-entry is
free but for what the rules charge; it knows every rate.

Money inside is counted in half units, because a newcomer's pay is divided by halves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust.audit_policy import (
    RULES,
    AuditRules,
    Level,
    audit_debt_nano,
    divide_pay,
    rate_ppm,
)

HALF_NANO = 1_000_000
UNIT_NANO = 2 * HALF_NANO
Z99 = 2.576
"""Two-sided 99 % of a normal distribution."""

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over runs with its 99 % confidence interval, and how many runs were above zero."""

    mean: float
    low: float
    high: float
    above_zero: float

    @classmethod
    def of(cls, values: Floats) -> Estimate:
        half = Z99 * float(values.std(ddof=1)) / sqrt(len(values))
        mean = float(values.mean())
        return cls(mean, mean - half, mean + half, float((values > 0).mean()))

    def __str__(self) -> str:
        return (
            f"{self.mean:+9.2f}  [{self.low:+9.2f}, {self.high:+9.2f}]  > 0: {self.above_zero:6.1%}"
        )


class Tables:
    """The audit rules over stake, streak, debt and room in the bond, as arrays."""

    def __init__(self, rules: AuditRules, level: Level = Level.DETER) -> None:
        self.rules = rules
        self.bond_target = 2 * rules.bond_units
        self.held_most = 2 * rules.held_units
        self.last_streak = rules.onboarding_streak
        self.rate = np.array(
            [
                [
                    rate_ppm(rules, level, streak, UNIT_NANO, stake * HALF_NANO)
                    for stake in range(self.bond_target + self.held_most + 1)
                ]
                for streak in range(self.last_streak + 1)
            ],
            np.int64,
        )
        self.owed = np.array(
            [
                audit_debt_nano(rules, units, UNIT_NANO) // HALF_NANO
                for units in range(rules.own_audit_units + 1)
            ],
            np.int64,
        )
        # What divide_pay does depends on debt and room only up to the pay, which is two halves.
        self.division = np.array(
            [[self._divide(debt, room) for room in range(3)] for debt in range(3)], np.int64
        )

    def _divide(self, debt: int, room: int) -> tuple[int, int, int]:
        bond = (self.bond_target - room) * HALF_NANO
        part = divide_pay(
            self.rules, UNIT_NANO, debt * HALF_NANO, bond, self.bond_target * HALF_NANO
        )
        parts = (part.to_audits_nano, part.to_bond_nano, part.to_held_nano)
        assert not any(nano % HALF_NANO for nano in parts)
        audits, to_bond, held = (nano // HALF_NANO for nano in parts)
        return audits, to_bond, held


@dataclass(slots=True)
class Workers:
    """State of one identity in each run. Money in half units."""

    tables: Tables
    runs: int
    streak: Ints = field(init=False)
    units: Ints = field(init=False)
    bond: Ints = field(init=False)
    held: Ints = field(init=False)
    debt: Ints = field(init=False)
    audits: Ints = field(init=False)
    own_audits: Ints = field(init=False)

    def __post_init__(self) -> None:
        for name in ("streak", "units", "bond", "held", "debt", "audits", "own_audits"):
            setattr(self, name, np.zeros(self.runs, np.int64))

    @property
    def stake(self) -> Ints:
        return self.bond + self.held

    def rate(self) -> Ints:
        """Chance of an audit of the next unit, ppm."""
        return self.tables.rate[np.minimum(self.streak, self.tables.last_streak), self.stake]

    def settled(self) -> bool:
        """Whether another honest unit changes nothing any more: the same for every run."""
        tables = self.tables
        return bool(
            (self.streak >= tables.last_streak).all()
            and (self.stake == tables.bond_target + tables.held_most).all()
            and (self.units >= tables.rules.own_audit_units).all()
            and not self.debt.any()
        )

    def deliver(self, audited: Mask, paid: Mask, right: Mask) -> None:
        """One unit of every run: pay for those ``paid``, streak for those audited and ``right``."""
        tables = self.tables
        last = len(tables.owed) - 1
        self.debt += np.where(audited, tables.owed[np.minimum(self.units, last)], 0)
        room = np.clip(tables.bond_target - self.bond, 0, 2)
        parts = tables.division[np.minimum(self.debt, 2), room]
        parts = np.where(paid[:, None], parts, 0)
        self.debt -= parts[:, 0]
        self.own_audits += parts[:, 0]
        self.bond += parts[:, 1]
        self.held = np.minimum(self.held + parts[:, 2], tables.held_most)
        self.units += paid
        self.audits += audited
        self.streak += audited & right


@dataclass(frozen=True, slots=True)
class Reports:
    """Runs whose fault is confirmed, whose auditor was a friend, whose friend is exposed by it."""

    found: Mask
    friendly: Mask
    exposed: Mask


@dataclass(frozen=True, slots=True)
class World:
    """Who audits. ``colluding`` is the share of outside auditors that are the worker's friends;
    without ``look_back`` the house believes what these reported before the worker was caught.
    """

    rules: AuditRules = RULES
    colluding: float = 0.0
    look_back: bool = True

    def audit(self, rng: np.random.Generator, audited: Mask) -> Reports:
        """What comes of audits of wrong units. Friends report them as right; a cross-audit by
        somebody honest then shows both the worker's fault and the friend's.
        """
        runs = len(audited)

        def chance(ppm: int) -> Mask:
            return rng.integers(0, PARTS_PER_MILLION, runs) < ppm

        def friend() -> Mask:
            return ~chance(self.rules.house_ppm) & (rng.random(runs) < self.colluding)

        friendly = audited & friend()
        exposed = friendly & chance(self.rules.cross_ppm) & ~friend()
        seen = audited & ~friendly & chance(self.rules.detection_ppm)
        return Reports(seen | exposed, friendly, exposed)


class Friends:
    """What colluding auditors gain: an audit's pay without its work, until they are exposed.

    That is by a cross-audit, or because the worker is caught later and the house then recomputes
    what is still held, their reports included (``look_back``). One friend's stake is lost a run.
    """

    def __init__(self, world: World, runs: int) -> None:
        self.window = world.rules.held_units if world.look_back else 0
        self.last = np.full(runs, -world.rules.held_units - 1, np.int64)
        self.stake = world.rules.bond_units + world.rules.held_units

    def profit(self, unit: int, reports: Reports) -> Floats:
        """Of the audits of one unit."""
        looked_back = reports.found & (self.last >= unit - self.window)
        lost = looked_back | reports.exposed
        self.last[reports.friendly] = unit
        profit: Floats = reports.friendly * 1.0 - lost * (self.stake + 1.0)
        return profit


Cheats: TypeAlias = Callable[[np.random.Generator, Workers, int], Mask]
"""Which runs deliver a wrong unit now, given the workers and the number of units since warm-up."""


def always(rng: np.random.Generator, workers: Workers, unit: int) -> Mask:
    """Every unit is wrong."""
    return np.ones(workers.runs, np.bool_)


def share(fraction: float) -> Cheats:
    """A fraction of units, at random."""
    return lambda rng, workers, unit: rng.random(workers.runs) < fraction


def when_unwatched(rng: np.random.Generator, workers: Workers, unit: int) -> Mask:
    """Every unit that is not surely audited."""
    return workers.rate() < PARTS_PER_MILLION


@dataclass(frozen=True, slots=True)
class Played:
    """Outcome of many runs, in units of pay."""

    profit: Floats
    caught: Mask
    cheated: Ints
    workers: Workers


def warm_up(rng: np.random.Generator, tables: Tables, runs: int, units: int) -> Workers:
    """Honest units from the first day. Ends early once nothing changes any more."""
    workers = Workers(tables, runs)
    everybody = np.ones(runs, np.bool_)
    for _ in range(units):
        if workers.settled():
            break
        audited = rng.integers(0, PARTS_PER_MILLION, runs) < workers.rate()
        workers.deliver(audited, everybody, everybody)
    return workers


def play(
    seed: int,
    cheats: Cheats,
    *,
    warm: int,
    most: int,
    saved: float = 1.0,
    runs: int = 1_000,
    world: World | None = None,
    level: Level = Level.DETER,
    returned: float = 0.0,
    held_returned: float = 0.0,
) -> Played:
    """``warm`` honest units, then up to ``most`` more with this strategy until the first fault is
    confirmed; then bond and held pay are gone. ``saved`` is the gain of one wrong unit;
    ``returned`` is the share of the bond that accomplices get back (:func:`own_buyer`). Held pay
    is the reserve's until the house has looked at its units, so by the rules nobody gets a share
    of it; ``held_returned`` plays another rule.
    """
    world = world or World()
    rng = np.random.default_rng(seed)
    workers = warm_up(rng, Tables(world.rules, level), runs, warm)
    profit = np.zeros(runs)
    caught = np.zeros(runs, np.bool_)
    cheated = np.zeros(runs, np.int64)
    friends = Friends(world, runs)
    for unit in range(most):
        active = ~caught
        if not active.any():
            break
        wrong = cheats(rng, workers, unit) & active
        audited = (rng.integers(0, PARTS_PER_MILLION, runs) < workers.rate()) & active
        reports = world.audit(rng, audited & wrong)
        found = reports.found
        cheated += wrong
        lost = (workers.bond * (1.0 - returned) + workers.held * (1.0 - held_returned)) / 2 + 1
        profit += saved * wrong - np.where(found, lost, 0.0)
        profit += friends.profit(unit, reports)
        caught |= found
        workers.deliver(audited & ~found, active & ~found, active)
    return Played(profit, caught, cheated, workers)


def reenter(
    seed: int,
    cheats: Cheats,
    *,
    warm: int,
    cycles: int,
    saved: float = 1.0,
    world: World | None = None,
    most_units: int = 200_000,
) -> Floats:
    """Profit of each of ``cycles`` identities in a row: honest for ``warm`` units of its own, then
    the strategy until it is slashed or leaves, then a new one. The audits that an identity pays for
    itself count against it: an honest worker pays them once in its life.
    """
    world = world or World()
    rng = np.random.default_rng(seed)
    workers = Workers(Tables(world.rules), cycles)
    profit = np.zeros(cycles)
    over = np.zeros(cycles, np.bool_)
    friends = Friends(world, cycles)
    for unit in range(most_units):
        active = ~over
        if not active.any():
            return profit - workers.own_audits / 2
        wrong = cheats(rng, workers, unit) & active & (workers.units >= warm)
        audited = (rng.integers(0, PARTS_PER_MILLION, cycles) < workers.rate()) & active
        reports = world.audit(rng, audited & wrong)
        found = reports.found
        profit += friends.profit(unit, reports)
        profit += saved * wrong - np.where(found, workers.stake / 2 + 1, 0.0)
        over |= found
        workers.deliver(audited & ~found, active & ~found, active)
    raise AssertionError(f"an identity was never caught in {most_units} units")
