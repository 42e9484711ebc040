"""``python -m tests.sim --cheats``: what each rational cheat has in the end, in the market's books.

A cheat plays until it is shut out or the time is over; then everybody is honest until every job has
ended. Its profit is what its accounts have then beyond what they brought, less what one honest
device each earned at the same seed in the same time. What cheating saves in computing is not
counted, and neither is what the device could earn after the ban.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt

from tests.sim.bots import Colluder, LazyAuditor, Milker, Skipper, Vanisher
from tests.sim.friends import Cheap, HandsOver, MadeUp, OwnJobs
from tests.sim.steady import Kind, Steady
from tests.sim.worker import Worker

SECONDS = 150
"""Of virtual time; an honest device delivers some fifteen units of pay in them."""


class RareSkipper(Skipper):
    """Skips in one segment of ten."""

    share = 0.1


class PatientMilker(Milker):
    """Honest for fifteen segments."""

    patience = 15


@dataclass(frozen=True, slots=True)
class Cheat:
    """A way to gain, and who does it."""

    name: str
    kinds: Sequence[Kind]
    market: type[Steady] = Steady
    devices: int = 1
    """How many it has at a time: so many honest ones it is compared with."""
    honest: type[Steady] = Steady
    """The market in which those earn."""
    seconds: int = SECONDS


class InTurn(Steady):
    """One device under a new name after each ban: the next identity comes when the last is gone."""

    def _join(self, worker: Worker) -> None:
        number = self.workers.index(worker)
        if 0 < number < len(self._kinds) and not self.workers[number - 1].banned:
            self.schedule.after(1_000_000, self._join, worker)
        elif not self.quiet:
            worker.start()


CHEATS: tuple[Cheat, ...] = (
    Cheat("skips a step in 60 % of segments", (Skipper,)),
    Cheat("skips a step in 10 % of segments", (RareSkipper,)),
    Cheat("milks after 3 segments", (Milker,)),
    Cheat("milks after 15 segments", (PatientMilker,)),
    Cheat("vanishes when asked to open", (Vanisher,)),
    Cheat("comes back under 3 names", (Milker,) * 3, InTurn),
    Cheat("audits without computing", (LazyAuditor,)),
    Cheat("two friends", (Colluder, Colluder), devices=2),
    Cheat("own buyer, and a friend follows", (HandsOver, Cheap), OwnJobs, devices=2),
    Cheat("own buyer, and a friend makes it up", (HandsOver, MadeUp), OwnJobs, devices=2),
)


@dataclass(frozen=True, slots=True)
class Result:
    """Of all runs, in units of pay (one segment)."""

    name: str
    profits: tuple[float, ...]
    gains: tuple[float, ...]
    """Without the comparison: what the accounts have beyond what they brought."""
    banned: int

    @property
    def mean(self) -> float:
        """Mean profit."""
        return sum(self.profits) / len(self.profits)

    @property
    def half_width(self) -> float:
        """Of the mean's interval of 99 %: Student's t at 19 degrees of freedom is 2.861."""
        count, mean = len(self.profits), self.mean
        spread = sum((profit - mean) ** 2 for profit in self.profits) / max(count - 1, 1)
        return 2.861 * sqrt(spread / count)


UNIT_NANO = 250_000
"""Pay of a segment of three seconds at 0.30 an hour."""


@cache
def _honest(seed: int, kind: Callable[..., Steady], seconds: int) -> Steady:
    market = kind(seed, (Worker,), seconds=seconds)
    market.play_books()
    return market


def honest_gain_nano(cheat: Cheat, seed: int, time_us: int | None) -> int:
    """What as many honest devices had earned at the same seed by some time; None: in the end."""
    market = _honest(seed, cheat.honest, cheat.seconds)  # type: ignore[arg-type]  # classes hash
    gain_nano = market.gain_nano() if time_us is None else market.gain_at(time_us)
    return cheat.devices * gain_nano


def one(cheat: Cheat, seed: int) -> tuple[float, float, bool]:
    """Profit and gain of one run in units, and whether everybody was shut out."""
    gc.disable()
    try:
        market = cheat.market(seed, cheat.kinds, seconds=cheat.seconds)
        over_us, gain_nano = market.play_books()
        honest_nano = honest_gain_nano(cheat, seed, over_us)
    finally:
        gc.enable()
    return (gain_nano - honest_nano) / UNIT_NANO, gain_nano / UNIT_NANO, market.over()


def measure(cheat: Cheat, seeds: range) -> Result:
    """All runs of one cheat."""
    found = [one(cheat, seed) for seed in seeds]
    return Result(
        cheat.name,
        tuple(profit for profit, _, _ in found),
        tuple(gain for _, gain, _ in found),
        sum(banned for _, _, banned in found),
    )


def report(runs: int, seeds_from: int = 0) -> int:
    """Measure and print all of them; 1 when one's interval of 99 % reaches zero."""
    worst = 0
    print("units of pay; mean profit with its interval of 99 %, highest, gain without comparison")
    for cheat in CHEATS:
        found = measure(cheat, range(seeds_from, seeds_from + runs))
        worst = max(worst, int(found.mean + found.half_width >= 0))
        print(
            f"| {found.name} | {found.mean:.1f} ± {found.half_width:.1f} "
            f"| {max(found.profits):.1f} | {sum(found.gains) / runs:.1f} | {found.banned}/{runs} |",
            flush=True,
        )
    return worst
