"""``python -m tests.sim --flaky``: what honest workers keep that drop some of their sessions.

Runs in pairs with equal seeds: all three devices of a market drop 2 % of their segments half-way,
or none of them does. Half of the drops are an owner who wants the machine back (the lease ends),
half are power cuts of up to a minute (the disk stays). Earnings are pay for what was delivered in
time and not taken back by the end. A segment takes a minute, and there is always more work than
devices.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from flopmarket_worker.core import events
from tests.sim.scenario import PARAMETERS
from tests.sim.schedule import SECOND_US, Dice
from tests.sim.steady import Steady
from tests.sim.worker import Worker

DROPPED = 0.02
SECONDS = 1_200
DEVICES = 3
TIMES = replace(
    PARAMETERS,
    heartbeat_ms=10_000,
    lease_ttl_us=300 * SECOND_US,
    accept_ttl_us=60 * SECOND_US,
    decline_pause_us=60 * SECOND_US,
    stall_us=15 * SECOND_US,
    audit_waits=replace(
        PARAMETERS.audit_waits, answer_us=600 * SECOND_US, worker_us=600 * SECOND_US
    ),
)
"""Times of a real coordinator, but for the day that a worker has to open a commitment."""


class Flaky(Worker):
    """Honest, and not always there."""

    dropped = DROPPED

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._luck = Dice(0, f"drops of {self.dice.seed_name}")
        self.dropped_sessions = 0
        self.drops = lambda: self._luck.chance(self.dropped)

    def drop(self, run: events.Run) -> None:
        """The owner is back, or the power is gone."""
        self.dropped_sessions += 1
        if self._luck.chance(0.5):
            super().drop(run)
        else:
            self.crash(self._luck.between_us(5, 60))


class Dependable(Flaky):
    """The same without drops."""

    dropped = 0.0


@dataclass(frozen=True, slots=True)
class Kept:
    """Of all pairs."""

    ratios: tuple[float, ...]
    """Earnings with drops over earnings without."""
    dropped: int
    segments: int
    """That the flaky delivered."""
    strikes: int
    banned: int

    @property
    def mean(self) -> float:
        """Mean share that was kept."""
        return sum(self.ratios) / len(self.ratios)

    @property
    def deviation(self) -> float:
        """Standard error of the mean."""
        count = len(self.ratios)
        spread = sum((ratio - self.mean) ** 2 for ratio in self.ratios) / max(count - 1, 1)
        return sqrt(spread / count)


def _market(seed: int, kind: Callable[..., Flaky], seconds: int) -> tuple[Steady, int]:
    gc.disable()
    try:
        market = Steady(
            seed,
            (kind,) * DEVICES,
            seconds=seconds,
            step_us=20 * SECOND_US,
            others=0,
            parameters=TIMES,
        )
        earned_nano = market.play_delivered()
    finally:
        gc.enable()
    return market, earned_nano


def measure(seeds: range, kind: Callable[..., Flaky] = Flaky, seconds: int = SECONDS) -> Kept:
    """Play the pairs."""
    ratios, dropped, segments, strikes, banned = [], 0, 0, 0, 0
    for seed in seeds:
        _, without = _market(seed, Dependable, seconds)
        market, kept = _market(seed, kind, seconds)
        ratios.append(kept / without)
        for worker in market.subjects:
            assert isinstance(worker, Flaky)
            dropped += worker.dropped_sessions
        segments += market.laws.seen["segment settled"]
        (struck,) = market.place.raw.execute("SELECT count(*) FROM strike").fetchone()
        strikes += struck
        banned += market.laws.seen["ban"]
    return Kept(tuple(ratios), dropped, segments, strikes, banned)


def report(runs: int) -> int:
    """Measure and print; 1 when less than 95 % was kept, or somebody honest was punished."""
    found = measure(range(runs))
    print(
        f"{found.dropped} drops in {found.segments} segments of {runs} pairs: kept "
        f"{found.mean:.4f} of the earnings (standard error {found.deviation:.4f}, "
        f"{min(found.ratios):.4f} to {max(found.ratios):.4f}), "
        f"{found.strikes} strikes, {found.banned} bans"
    )
    return 1 if found.mean - found.deviation <= 0.95 or found.banned else 0
