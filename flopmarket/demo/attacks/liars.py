"""Workers that lie about their results. Each is the cheapest on offer, so it gets the job first."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.demo.attacks.league import End, League
from flopmarket.demo.attacks.stage import HONEST, Fate, Stage


@dataclass(frozen=True, slots=True)
class Liar:
    """A bot by its fault (``flopmarket_worker.faults``) and the codes that may convict it.

    ``keeps_bond``: what it did is what an honest card with a bad memory does, once.
    """

    fault: str
    threats: tuple[int, ...]
    tried: str
    codes: tuple[str, ...]
    keeps_bond: bool = False

    def is_caught(self, fate: Fate) -> bool:
        """Whether it was convicted of nothing else, was paid nothing, and lost what it should."""
        convicted = bool(fate.rejected) and fate.rejected <= set(self.codes)
        return convicted and not fate.paid and (fate.bond.nano > 0) == self.keeps_bond


ASK = "0.0002"
"""An hour; so little that no forecast of a first job makes somebody else cheaper."""

_STATE = ("STATE_DIFFERS",)
LIARS = (
    Liar("wrong-weights", (1,), "all the work, eight weights off by one bit at the end", _STATE),
    Liar("skipped-step", (1,), "leaves one step out", _STATE),
    Liar("stale-state", (1, 5), "commits to the state of the step before", _STATE),
    Liar("lower-precision", (2,), "float16 inputs to its matrix products", _STATE),
    Liar("wrong-op", (3,), "another operation in place of one of the program's", _STATE),
    Liar("wrong-data-row", (4,), "trains on another row than the order says", _STATE),
    Liar("flipped-bit", (22,), "one bit of one value, as a bad memory would", _STATE, True),
)


def play(stage: Stage, league: League) -> None:
    """One liar after the other, the next one starting while the present one works."""
    stage.say("\n[bold]Liars[/]: workers with real kernels whose commitments are wrong")
    names = [f"mallory-{liar.fault}" for liar in LIARS]
    for at, (liar, name) in enumerate(zip(LIARS, names, strict=True)):
        if at == 0:
            stage.hire(name, ask=ASK, fault=liar.fault)
        stage.wait_for(name)
        if at + 1 < len(LIARS):
            stage.hire(names[at + 1], ask=ASK, fault=LIARS[at + 1].fault)
        _judge(stage, league, liar, name)
        stage.dismiss(name)


def _judge(stage: Stage, league: League, liar: Liar, name: str) -> None:
    result = stage.buy(name, HONEST)
    fate = stage.fate(name, result)
    with stage.client(name) as owner:
        told = {item.reason for item in owner.disputes() if item.job_id == result.job_id}
    right = result.state_root == stage.right_root
    found = [*sorted(fate.rejected), *sorted(told)] or ["nothing"]
    league.add(
        name,
        liar.threats,
        liar.tried,
        End.CAUGHT,
        f"{', '.join(found)}; bond {fate.bond}{' kept' if fate.bond.nano else ''}, "
        f"paid {fate.paid} segments; the buyer's weights are {'right' if right else 'WRONG'}",
        right and liar.is_caught(fate),
    )
