"""Runs with segments that are too big for the house, of which it draws steps.

Whoever misbehaves is one of :mod:`tests.sim.step_bots`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flopmarket.trust.audit_policy import Level
from flopmarket_coordinator.parameters import Parameters
from tests.sim.bots import BOTS
from tests.sim.scenario import PARAMETERS, Run
from tests.sim.schedule import SECOND_US
from tests.sim.step_bots import STEP_BOTS
from tests.sim.step_house import StepHouse
from tests.sim.stepping import StepWorker
from tests.sim.worker import Worker

STEP_PARAMETERS = replace(
    PARAMETERS,
    max_house_flops=600,
    stall_us=25 * SECOND_US,
    house_disputes=True,
    audit_rules=replace(
        PARAMETERS.audit_rules, least_steps=2, full_streak=2, onboarding_streak=3, bond_units=1
    ),
    audit_waits=replace(PARAMETERS.audit_waits, worker_us=120 * SECOND_US),
)
"""The house can pay for two steps of a large program (256 operations each), or for a whole segment
of a small one. Newcomers stay such a little longer: until there are auditors, it is the house that
looks. Rounds of expiry may be twenty seconds apart in a market where nothing else happens; that is
no downtime, by which deadlines would move."""


class StepRun(Run):
    """A market drawn from a seed in which most jobs are large."""

    honest = StepWorker
    house_kind = StepHouse

    def __init__(
        self,
        seed: int,
        parameters: Parameters = STEP_PARAMETERS,
        bots: tuple[type[Worker], ...] = BOTS,
    ) -> None:
        super().__init__(seed, parameters, STEP_BOTS if bots == BOTS else bots)

    def _shape(self) -> dict[str, Any]:
        dice = self.dice
        if dice.chance(0.2):
            return super()._shape()
        segment_steps = dice.randint(3, 8)
        return {
            "large": True,
            "stateless": dice.chance(0.3),
            "steps": segment_steps * dice.randint(1, 3) + dice.randint(0, 1),
            "segment_steps": segment_steps,
            "checkpoint_segments": dice.randint(1, 2),
            "verification": dice.choice((Level.DETER, Level.DETER, Level.CHECK, Level.DUAL)),
        }
