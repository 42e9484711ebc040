"""``python -m tests.sim --steps``: what cheats of drawn steps have in the market's books.

As :mod:`tests.sim.cheats`, in a market in which every segment is too big for the house and nobody
else may audit: two of six steps are drawn from each segment that is audited, so that an audit sees
one wrong step with a chance of a third. An answer may take twenty seconds.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import cache
from typing import Any

from tests.sim.cheats import Cheat, Result
from tests.sim.schedule import SECOND_US
from tests.sim.steady import Steady
from tests.sim.step_bots import (
    Chooser,
    Dumb,
    Fader,
    HalfWorker,
    Late,
    OddShape,
    OtherRoots,
    OtherState,
    Redrawer,
    WrongEnd,
)
from tests.sim.step_house import StepHouse
from tests.sim.step_run import STEP_PARAMETERS
from tests.sim.stepping import StepWorker

SECONDS = 150
STEPS = 6
UNIT_NANO = 500_000
"""Pay of a segment of six seconds at 0.30 an hour."""
ALONE = replace(
    STEP_PARAMETERS,
    audit_rules=replace(STEP_PARAMETERS.audit_rules, bond_units=10_000),
    audit_waits=replace(STEP_PARAMETERS.audit_waits, worker_us=20 * SECOND_US),
)


class OneStep(HalfWorker):
    """Makes up one step of a segment, the least that is wrong."""

    most = 1


class OneStepChosen(Chooser):
    """The same, and answers only where the draw missed it."""

    most = 1


class StepSteady(Steady):
    """Nothing but large jobs."""

    honest = StepWorker
    house_kind = StepHouse

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, parameters=ALONE, **more)

    def _next_job(self) -> dict[str, Any]:
        stateless = self.dice.chance(0.3)
        return {"large": True, "stateless": stateless, "steps": 12, "segment_steps": STEPS}


CHEATS: tuple[Cheat, ...] = tuple(
    Cheat(name, (kind,), StepSteady)
    for name, kind in (
        ("makes up one to three of six steps", HalfWorker),
        ("makes up one step", OneStep),
        ("the same, silent where a wrong step was drawn", Chooser),
        ("one step, silent where it was drawn", OneStepChosen),
        ("signs once more where a wrong step was drawn", Redrawer),
        ("signs the roots of honest work", OtherRoots),
        ("commits to another end", WrongEnd),
        ("hands over other states", OtherState),
        ("commits to outputs of one step", OddShape),
        ("is away once steps are drawn", Fader),
        ("answers late", Late),
        ("answers nothing", Dumb),
    )
)


@cache
def _honest(seed: int) -> Steady:
    market = StepSteady(seed, (StepWorker,), seconds=SECONDS)
    market.play_books()
    return market


def one(cheat: Cheat, seed: int) -> tuple[float, float, bool]:
    """Profit and gain of one run in units, and whether it was shut out."""
    gc.disable()
    try:
        market = cheat.market(seed, cheat.kinds, seconds=SECONDS)
        over_us, gain_nano = market.play_books()
        honest_nano = _honest(seed).gain_at(over_us)
    finally:
        gc.enable()
    return (gain_nano - honest_nano) / UNIT_NANO, gain_nano / UNIT_NANO, market.over()


def report(runs: int) -> int:
    """Measure and print all of them; 1 when one's interval of 99 % reaches zero."""
    worst = 0
    print("units of pay; mean profit with its interval of 99 %, highest, gain without comparison")
    for cheat in CHEATS:
        profits, gains, over = zip(*(one(cheat, seed) for seed in range(runs)), strict=True)
        found = Result(cheat.name, profits, gains, sum(over))
        worst = max(worst, int(found.mean + found.half_width >= 0))
        print(
            f"| {found.name} | {found.mean:.1f} ± {found.half_width:.1f} "
            f"| {max(profits):.1f} | {sum(gains) / runs:.1f} | {found.banned}/{runs} |",
            flush=True,
        )
    return worst
