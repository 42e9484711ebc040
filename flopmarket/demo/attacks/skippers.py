"""Segments that nobody may recompute: a worker that leaves a step out and keeps fitting records.

A market of its own, whose coordinator may spend next to nothing on a segment. It draws steps after
the worker has signed the root of every state, and computes those alone.
"""

from __future__ import annotations

from flopmarket.demo.attacks.league import End, League
from flopmarket.demo.attacks.stage import BUYER, HONEST, Stage

LIAR = "skip"
ASK = "0.0002"
"""An hour: cheaper than the honest worker whatever its first forecast says."""


def play(stage: Stage, league: League) -> None:
    """The liar; ``stage`` has a coordinator of its own."""
    stage.say("\n[bold]Segments too big to be recomputed[/]: drawn steps of them are")
    stage.open("--max-house-flops", "1")
    stage.hire(LIAR, ask=ASK, fault="left-out-step")
    stage.wait_for(LIAR)
    result = stage.buy(LIAR, HONEST)
    fate = stage.fate(LIAR, result)
    with stage.client(BUYER) as buyer:
        contradictions = buyer.check_audits(result.job_id)
    right = result.state_root == stage.right_root
    league.add(
        LIAR,
        (1, 28),
        "leaves a step out of a segment too big to be recomputed, with records that fit",
        End.CAUGHT,
        f"{fate}; the buyer's weights are {'right' if right else 'WRONG'}; every draw "
        f"re-derived, {len(contradictions)} contradictions",
        fate.lost_all("STEP_DIFFERS") and right and not contradictions,
    )
