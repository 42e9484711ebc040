"""``python -m tests.sim --classes``: what bots of a class have in the end, and who else loses.

As :mod:`tests.sim.cheats`, in a market of one class of devices, all of whose jobs are of class
mode. What a bot costs others is counted beside its profit: honest devices that were convicted, and
units that nobody could decide. Who is shut out is compared with an honest device at that time,
everybody else with one in the end.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from flopmarket.trust.modes import Mode
from tests.sim.cheats import UNIT_NANO, Cheat, Result, honest_gain_nano
from tests.sim.class_bots import (
    Accuser,
    AwayArbiter,
    ClassLiar,
    Framer,
    LyingArbiter,
    Misnamed,
)
from tests.sim.classes import befriend, fund_audits, in_class
from tests.sim.kinds import FAST_CARD, class_of_kind
from tests.sim.schedule import SECOND_US
from tests.sim.steady import Kind, Steady
from tests.sim.worker import Worker

SECONDS = 90
"""Of virtual time, in which six devices deliver some hundred segments and audits of them."""
ACCOUNTS = 6
"""Of a class, so that a difference between two leaves four to ask."""
LATE_US = 240 * SECOND_US
"""How long after the end of the run a job may wait for devices that can still take it."""


class ClassSteady(Steady):
    """Every device is of one class, and so is every job."""

    beside: tuple[Kind, ...] = ()
    """Bots among those who are not looked at."""

    def __init__(self, seed: int, kinds: tuple[Kind, ...], *, seconds: int) -> None:
        own = len(kinds)
        super().__init__(
            seed, (*kinds, *self.beside), seconds=seconds, others=ACCOUNTS - own - len(self.beside)
        )
        self._kinds = kinds

    def _workers(self, devices: Any) -> list[Worker]:
        workers = super()._workers(devices)
        for worker in workers:
            worker.card = in_class(worker.card)
        befriend(workers)
        return workers

    def _arrange(self) -> None:
        fund_audits(self.place)
        super()._arrange()

    def _next_job(self) -> dict[str, Any]:
        return super()._next_job() | {
            "mode": Mode.CLASS,
            "class_digest": class_of_kind(FAST_CARD),
            "deadline_us": self._until_us + LATE_US,
        }

    @property
    def convicted(self) -> int:
        """Honest devices that were banned."""
        return sum(worker.honest and worker.banned for worker in self.workers)


class AmongLiars(ClassSteady):
    """Two others lie, so that arbiters are asked."""

    beside = (ClassLiar, Accuser)


@dataclass(frozen=True, slots=True)
class Harm:
    """What one bot came to in all runs."""

    books: Result
    convicted: int
    undecided: int


def _among(name: str, *kinds: Kind, market: type[Steady] = ClassSteady) -> Cheat:
    return Cheat(name, kinds, market, len(kinds), market, SECONDS)


CLASS_CHEATS: tuple[Cheat, ...] = (
    _among("lies alone", ClassLiar),
    _among("calls others wrong", Accuser),
    _among("names a class that it is not of", Misnamed),
    _among("lies as an arbiter, beside two liars", LyingArbiter, market=AmongLiars),
    _among("is away as an arbiter, beside two liars", AwayArbiter, market=AmongLiars),
    _among("two friends say the same of others", Framer, Framer),
    _among("three friends of six say the same", Framer, Framer, Framer),
)
DECIDES = 3
"""So many friends may convict whom they like; it is said in the quote."""


def measure(cheat: Cheat, seeds: range) -> Harm:
    """All runs of one bot."""
    profits, gains, banned, convicted, undecided = [], [], 0, 0, 0
    for seed in seeds:
        gc.disable()
        try:
            market = cheat.market(seed, cheat.kinds, seconds=cheat.seconds)
            over_us, gain_nano = market.play_books()
            until_us = over_us if market.over() else None
            honest_nano = honest_gain_nano(cheat, seed, until_us)
        finally:
            gc.enable()
        assert isinstance(market, ClassSteady)
        profits.append((gain_nano - honest_nano) / UNIT_NANO)
        gains.append(gain_nano / UNIT_NANO)
        banned += market.over()
        convicted += market.convicted
        undecided += market.laws.seen["class UNDECIDED"]
    books = Result(cheat.name, tuple(profits), tuple(gains), banned)
    return Harm(books, convicted, undecided)


def report(runs: int) -> int:
    """Measure and print all of them; 1 when fewer than three convicted somebody honest."""
    wrong = 0
    print("units of pay; mean profit with its interval of 99 %, highest, gain without comparison,")
    print("runs in which it was shut out, honest devices convicted, differences undecided a run")
    for cheat in CLASS_CHEATS:
        found = measure(cheat, range(runs))
        books = found.books
        wrong = max(wrong, int(found.convicted > 0 and cheat.devices < DECIDES))
        print(
            f"| {cheat.name} | {books.mean:.1f} ± {books.half_width:.1f} "
            f"| {max(books.profits):.1f} | {sum(books.gains) / runs:.1f} | {books.banned}/{runs} "
            f"| {found.convicted} | {found.undecided / runs:.1f} |",
            flush=True,
        )
    return wrong
