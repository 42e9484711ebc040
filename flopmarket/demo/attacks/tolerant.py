"""Tolerance mode: a worker whose products take float16 operands, judged value by value.

It keeps the records of what it did and stands by them: no bit is compared, so what convicts it is
that the house recomputes an operation from the worker's own inputs and finds more than rounding.
"""

from __future__ import annotations

from flopmarket.demo.attacks.league import End, League
from flopmarket.demo.attacks.stage import Stage
from flopmarket.trust.modes import Mode

LIAR = "tilda"
OTHER = "tess"
ASK = "0.0002"
"""An hour: cheaper than the other one whatever a first forecast says."""
DEARER = "0.12"


def play(stage: Stage, league: League) -> None:
    """The liar; ``stage`` has a coordinator of its own that is open already."""
    stage.say("\n[bold]Tolerance mode[/]: values are judged, not bits")
    stage.hire(OTHER, ask=DEARER, modes=Mode.TOLERANCE)
    stage.hire(LIAR, ask=ASK, fault="half-operands", modes=Mode.TOLERANCE)
    stage.wait_for(OTHER)
    stage.wait_for(LIAR)
    result = stage.buy(LIAR, OTHER, mode=Mode.TOLERANCE)
    fate = stage.fate(LIAR, result)
    # The other one's device is exact, and in this mode it runs the kernels of exact mode.
    right = result.state_root == stage.right_root
    league.add(
        LIAR,
        (2, 17),
        "float16 operands in tolerance mode, and records of it that fit",
        End.CAUGHT,
        f"{fate}; the buyer's weights are {'right' if right else 'WRONG'}",
        fate.lost_all("TOLERANCE_FAULT") and right,
    )
    for name in (LIAR, OTHER):
        stage.dismiss(name)
