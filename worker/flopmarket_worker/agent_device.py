"""One device of a worker, with all that offering it and working on it needs."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.offers import Calibration, DeviceCard, OwnerTerms


@dataclass(frozen=True, slots=True)
class AgentDevice:
    """One device that is offered."""

    card: DeviceCard
    calibration: Calibration
    owner: OwnerTerms
    executor: JobExecutor
