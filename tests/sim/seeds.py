"""Which market a seed plays: seven in ten are of exact jobs alone."""

from __future__ import annotations

from tests.sim.classes import ClassRun
from tests.sim.scenario import Run
from tests.sim.step_run import StepRun

EACH = 5
STEPS = 1
"""Seeds of this remainder have segments that are too big for the house."""
CLASSES = 3
"""Every other seed of this remainder has classes of devices, whose runs are three times as long."""
KINDS: dict[int, type[Run]] = {CLASSES: ClassRun, STEPS: StepRun}


def run_of(seed: int) -> type[Run]:
    """The kind of run that this seed is."""
    return KINDS.get(kind_of(seed), Run)


def kind_of(seed: int) -> int:
    """The remainder in :data:`KINDS` that a seed stands for."""
    found = seed % EACH
    return -1 if found == CLASSES and seed % (2 * EACH) != CLASSES else found
