"""Audits by other owners: a worker that lies, and an auditor that lies about an honest worker.

A market of its own, whose rules let any device with a bond audit from its first day, so that it
happens within seconds. The worker and the auditor disagree, and the dispute between them goes down
to one tile that the reference interpreter recomputes; the transcript is replayed here again.
"""

from __future__ import annotations

import json

from flopmarket.demo.attacks.league import End, League
from flopmarket.demo.attacks.stage import BUYER, HONEST, Stage
from flopmarket.jobs.dispute_replay import replay_file
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.dispute_documents import Outcome

ASK = "0.0002"
"""An hour: cheaper than the honest worker whatever its first forecast says."""
DEARER = "0.13"
WARM_UP_JOBS = 2
RULES = {
    "full_streak": 0,
    "onboarding_streak": 0,
    "bond_units": 1,
    "house_ppm": 0,
    "canary_ppm": 0,
    "cross_ppm": 0,
    "check_ppm": 1_000_000,
}
"""Everybody with a bond audits, the house only when nobody else can, and level check is all."""


def play(stage: Stage, league: League) -> None:
    """Both liars; ``stage`` has a coordinator of its own."""
    stage.say("\n[bold]Blind audits[/] by other owners' workers, and what two of them disagree on")
    rules = stage.folder / "rules.json"
    rules.write_text(json.dumps(RULES))
    stage.open("--audit-rules", str(rules), "--audit-jitter", "0")
    for _ in range(WARM_UP_JOBS):  # what pays for audits are fees and surcharges of earlier jobs
        stage.buy(HONEST, verify=Level.CHECK)
    stage.hire("carl", ask=ASK, fault="lower-precision")
    stage.wait_for("carl")
    _disputed(
        stage, league, "carl", (2, 7, 8), "works in float16; an owner it does not know audits it",
        wrong=Outcome.PRODUCER_WRONG,
    )  # fmt: skip
    stage.dismiss("carl")
    stage.hire("oscar", ask=DEARER, fault="wrong-op")
    stage.wait_for("oscar")
    _disputed(
        stage, league, "oscar", (7, 20), "audits an honest worker and reports other weights",
        wrong=Outcome.AUDITOR_WRONG,
    )  # fmt: skip
    stage.dismiss("oscar")


def _disputed(
    stage: Stage,
    league: League,
    bot: str,
    threats: tuple[int, ...],
    tried: str,
    *,
    wrong: Outcome,
) -> None:
    # Whom a buyer does not let compute may not audit either: both see its data.
    result = stage.buy(bot, HONEST, verify=Level.CHECK)
    with stage.client(BUYER) as buyer:
        found = [item for item in buyer.disputes() if item.job_id == result.job_id]
        files = [buyer.dispute_transcript(item.dispute_id) for item in found if item.transcript]
        contradictions = buyer.check_audits(result.job_id)
    with stage.client(bot) as owner:
        account = owner.account()
    replayed = [replay_file(file) for file in files]
    verdicts = {item.verdict.outcome for item in replayed}
    codes = ", ".join(sorted({item.verdict.reason for item in replayed}))
    place = replayed[0].place if replayed else "no dispute"
    right = result.state_root == stage.right_root
    league.add(
        bot,
        threats,
        tried,
        End.CAUGHT,
        f"{codes}: {place}; bond {account.bond}; the buyer's weights are "
        f"{'right' if right else 'WRONG'}; every draw re-derived, "
        f"{len(contradictions)} contradictions",
        verdicts == {wrong} and right and account.bond.nano == 0 and not contradictions,
    )
