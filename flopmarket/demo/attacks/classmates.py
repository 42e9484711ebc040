"""Class mode: a worker that lies to a class of four accounts, where no referee can recompute.

Kernels are the device's fast ones, whose bits only devices of its class have. An auditor of the
class differs from the liar, two arbiters of further accounts are asked, and three equal answers
stand against one. What the weights should be is what the honest three came to before.
"""

from __future__ import annotations

from flopmarket.demo.attacks.league import End, League
from flopmarket.demo.attacks.stage import BUYER, Stage
from flopmarket.trust.modes import Mode

LIAR = "cleo"
CLASSMATES = ("cato", "cyra", "cyrus")
ASK = "0.0002"
"""An hour: cheaper than its classmates whatever a first forecast says."""
DEARER = "0.12"
FUND = "0.05"


def play(stage: Stage, league: League) -> None:
    """The liar; ``stage`` has a coordinator of its own that is open already."""
    stage.say("\n[bold]A class[/] of devices judges itself: fast kernels that no referee has")
    stage.fund_audits(FUND)
    first, *others = CLASSMATES
    stage.hire(first, ask=DEARER, modes=Mode.CLASS)
    stage.wait_for(first)  # it measures for all of them
    for name in others:
        stage.hire(name, ask=DEARER, modes=Mode.CLASS)
    for name in others:
        stage.wait_for(name)
    agreed = stage.buy(*CLASSMATES, mode=Mode.CLASS).state_root
    stage.hire(LIAR, ask=ASK, fault="lower-precision", modes=Mode.CLASS)
    stage.wait_for(LIAR)
    result = stage.buy(LIAR, *CLASSMATES, mode=Mode.CLASS)
    with stage.client(BUYER) as buyer:
        contradictions = buyer.check_audits(result.job_id)
    fate = stage.fate(LIAR, result)
    right = result.state_root == agreed
    league.add(
        LIAR,
        (29,),
        "works in float16 in a class of four accounts",
        End.CAUGHT,
        f"{fate}; the weights are {'those' if right else 'NOT those'} of the honest three; "
        f"every arbiter re-derived, {len(contradictions)} contradictions",
        fate.lost_all("CLASS_OUTVOTED") and right and not contradictions,
    )
    for name in (LIAR, *CLASSMATES):
        stage.dismiss(name)
