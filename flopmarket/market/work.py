"""What is predicted and priced: counted work of a step and a job, and what a device sustains.

Plain values. The engine counts the work (``engine.cost``), the benchmark measures the device
(``flopmarket.bench``); :mod:`flopmarket.market.predict` brings the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class StepWork:
    """Counted work of one step: what pricing needs of the engine's ``Cost``."""

    flops: Mapping[str, int]
    bytes_moved: int
    launches: int


@dataclass(frozen=True, slots=True)
class Promise:
    """The factors of a device, parts per million, that a job was quoted with: what the device
    delivers later makes the job cheaper and never dearer."""

    step_ppm: int
    setup_ppm: int


NO_PROMISES: Mapping[str, Promise] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class JobWork:
    """Counted work of a whole job on one device.

    ``download_bytes`` is what a worker fetches before the first step, ``kernels`` what it builds;
    ``program`` (the digest in hex, "" when unknown) is the calibration's closest family.
    ``promised`` are the quoted factors by offer; a job that does not exist yet has none.
    """

    step: StepWork
    steps: int
    download_bytes: int = 0
    kernels: int = 0
    program: str = ""
    promised: Mapping[str, Promise] = field(default_factory=lambda: NO_PROMISES)

    def operations(self, work_class: str, steps: int | None = None) -> int:
        """Counted operations of a class in ``steps`` steps, or in all of them."""
        return self.step.flops.get(work_class, 0) * (self.steps if steps is None else steps)


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """What a device sustains, as its offer states it; a figure of 0 is not stated.

    ``step_nanoseconds`` is the host's time for one step besides its kernels, ``build_milliseconds``
    the time to build one kernel for the first time; the link is that to the coordinator.
    """

    flops_per_second: Mapping[str, int]
    bandwidth_bytes_per_second: int
    launch_nanoseconds: int
    step_nanoseconds: int = 0
    build_milliseconds: int = 0
    download_bytes_per_second: int = 0
    upload_bytes_per_second: int = 0
