"""Cases that need more than the model's one loop: silence, friends, faults, what trust costs.

The same audit rules as in :mod:`flopmarket.demo.economics`, the same units of pay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flopmarket.demo.economics import UNIT_NANO, Floats, Ints, Tables, always, play, warm_up
from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust.audit_policy import (
    RULES,
    AuditRules,
    Consequence,
    Level,
    Signature,
    after_fault,
    after_silence,
    look_back,
    rate_ppm,
    split_slash,
)


def vanish(
    seed: int,
    *,
    runs: int = 1_000,
    units: int = 5_000,
    saved: float = 1.0,
    pause: int = 0,
    roots_differ: bool,
    rules: AuditRules = RULES,
) -> Floats:
    """A settled worker that cheats always, and says nothing when a wrong unit is drawn. After a
    strike it is honest for ``pause`` units, so that old strikes lapse.

    ``roots_differ=True`` is the rule: auditors recompute without the worker, so silence is a lost
    dispute. ``False`` plays the weaker rule that a silence is a strike and nothing else.
    """
    rng = np.random.default_rng(seed)
    tables = Tables(rules)
    workers = warm_up(rng, tables, runs, 10_000)
    assert workers.settled()
    rate = workers.rate()
    stake = workers.stake / 2
    profit = np.zeros(runs)
    active = np.ones(runs, np.bool_)
    silences: list[list[int]] = [[] for _ in range(runs)]
    honest_until = np.zeros(runs, np.int64)
    for unit in range(units):
        wrong = active & (unit >= honest_until)
        drawn = wrong & (rng.integers(0, PARTS_PER_MILLION, runs) < rate)
        profit += saved * wrong
        for run in np.flatnonzero(drawn):
            past = silences[run]
            if after_silence(rules, unit, past, roots_differ=roots_differ) is Consequence.SLASH:
                profit[run] -= stake[run] + 1.0
                active[run] = False
            else:
                profit[run] -= 1.0
                past.append(unit)
                honest_until[run] = unit + 1 + pause
    return profit


def flaky(
    seed: int,
    *,
    runs: int = 1_000,
    units: int = 5_000,
    dropped: float = 0.02,
    for_long: float = 0.1,
    unfinished_units: float = 2.5,
    rules: AuditRules = RULES,
) -> tuple[Floats, int]:
    """Share of an always-on worker's earnings that an honest one keeps which loses a fraction
    ``dropped`` of its sessions, one unit each; and how many of the runs were slashed.

    A drop loses the unit in hand. ``for_long`` of the drops last more than a day: then the finished
    units that are not durable yet are lost, too, and a unit that was drawn for an audit and waits
    for its opening is forfeited with a strike. An audit waits ten minutes or so: ten units.
    """
    rng = np.random.default_rng(seed)
    workers = warm_up(rng, Tables(rules), runs, 10_000)
    rate = workers.rate() / PARTS_PER_MILLION
    earned = np.zeros(runs)
    active = np.ones(runs, np.bool_)
    strikes: list[list[int]] = [[] for _ in range(runs)]
    waiting = 1.0 - (1.0 - rate) ** 10
    for unit in range(units):
        drop = active & (rng.random(runs) < dropped)
        long_drop = drop & (rng.random(runs) < for_long)
        earned += active & ~drop
        earned -= unfinished_units * long_drop
        silent = long_drop & (rng.random(runs) < waiting)
        for run in np.flatnonzero(silent):
            past = strikes[run]
            earned[run] -= 1.0
            if after_silence(rules, unit, past, roots_differ=False) is Consequence.SLASH:
                earned[run] -= workers.stake[run] / 2
                active[run] = False
            past.append(unit)
    return earned / units, int((~active).sum())


def lazy_auditor(
    seed: int, *, audits: int = 2_000, runs: int = 1_000, rules: AuditRules = RULES
) -> tuple[Floats, Ints]:
    """Profit over an honest auditor of one which every worker tells its ``inner``; it agrees
    without computing, until a canary is among its tasks; and how many tasks that took.
    """
    rng = np.random.default_rng(seed)
    stake = (rules.bond_units + rules.held_units) * 1.0
    first = rng.geometric(rules.canary_ppm / PARTS_PER_MILLION, runs)
    caught = first <= audits
    return np.minimum(first, audits) - stake * caught, first


def own_buyer(
    friends: float, void_units: int, follower_units: int = 0, rules: AuditRules = RULES
) -> float:
    """Share of its bond that a cheat saves which, when a wrong unit is drawn, is first caught in a
    job that it bought itself: the buyer's refund, the auditor's part where a friend is drawn, and
    what a friend is owed that went on from the wrong state for ``follower_units``. ``void_units``
    of that job are wrong.
    """
    bond = rules.bond_units * UNIT_NANO
    split = split_slash(rules, bond, void_units * UNIT_NANO, follower_units * UNIT_NANO)
    drawn = friends * (1 - rules.house_ppm / PARTS_PER_MILLION)
    return (split.owed_nano + split.refund_nano + drawn * split.auditor_nano) / bond


def wash(
    seed: int, *, units: int, saved: float = 1.0, runs: int = 1_000, rules: AuditRules = RULES
) -> Floats:
    """Buys its own work for ``units`` units, at no cost but the fee, to be trusted; then cheats
    real buyers until it is caught. The work itself is counted as free, in the cheat's favour.
    """
    played = play(seed, always, warm=units, most=20_000, saved=saved, runs=runs)
    fees = units * rules.fee_ppm / PARTS_PER_MILLION
    return played.profit - fees - played.workers.own_audits / 2


def flips(
    seed: int,
    *,
    rate: float,
    runs: int = 1_000,
    units: int = 20_000,
    rules: AuditRules = RULES,
) -> tuple[int, float]:
    """Honest cards whose memory flips a bit in a fraction ``rate`` of units: how many of the runs
    are slashed, and the mean number of units that go unpaid.
    """
    rng = np.random.default_rng(seed)
    stake = (rules.bond_units + rules.held_units) * UNIT_NANO
    signature = Signature(differing_elements=1, most_flipped_bits=1, follows=True)
    slashed = unpaid = 0
    for _ in range(runs):
        happened = np.flatnonzero(rng.random(units) < rate).tolist()
        found: list[int] = []
        over = False
        for unit in happened:
            since = unit - found[-1] if found else units
            streak = min(since, rules.full_streak + since // 10)
            chance = rate_ppm(rules, Level.DETER, streak, UNIT_NANO, stake)
            if over or rng.integers(0, PARTS_PER_MILLION) >= chance:
                continue
            window = set(look_back(rules, unit, found))
            for fault in [other for other in happened if other in window] + [unit]:
                over |= after_fault(rules, signature, fault, found) is Consequence.SLASH
                found.append(fault)
        slashed += over
        unpaid += len(found)
    return slashed, unpaid / runs


@dataclass(frozen=True, slots=True)
class Overhead:
    """What trust costs, in parts of the work sold."""

    audits: float
    canaries: float
    cross: float
    hashing: float
    transfers: float
    benchmarks: float

    @property
    def total(self) -> float:
        return sum(
            (
                self.audits,
                self.canaries,
                self.cross,
                self.hashing,
                self.transfers,
                self.benchmarks,
            )
        )


def club(
    seed: int,
    *,
    cards: int = 50,
    units: int = 10_000,
    warm: int = 5_000,
    hash_share: float,
    transfer_share: float,
    benchmark_share: float,
    rules: AuditRules = RULES,
) -> Overhead:
    """A club's steady state: audits as they are drawn over ``units`` units a card; what hashing,
    transfers and benchmarks take of the cards' time is given.
    """
    rng = np.random.default_rng(seed)
    workers = warm_up(rng, Tables(rules), cards, warm)
    one = PARTS_PER_MILLION
    drawn = rng.integers(0, one, (units, cards)) < workers.rate()
    audits = int(drawn.sum())
    work = units * cards
    canaries = int((rng.integers(0, one, audits) < rules.canary_ppm).sum())
    cross = int((rng.integers(0, one, audits) < rules.cross_ppm).sum())
    return Overhead(
        audits / work,
        canaries / work,
        cross / work,
        hash_share,
        transfer_share,
        benchmark_share,
    )
