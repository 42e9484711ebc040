"""Predicted time of work on a device: one roofline over the program's own counted work.

A step takes ``max(sum of work / rate, bytes / bandwidth) + launches + host time``, times what the
device's deliveries say of such steps (:mod:`flopmarket.market.calibrate`). Before the first step
come transfer and kernel builds. Whole picoseconds, rounded up. Quotes, the order book and leases
all use :func:`predict`.
"""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.errors import InvalidInput
from flopmarket.market.calibrate import (
    NO_FACTORS,
    Factors,
    scaled,
    setup_families,
    step_families,
)
from flopmarket.market.headline import headline_class
from flopmarket.market.work import DeviceRates, JobWork, Promise, StepWork

__all__ = [
    "DeviceRates",
    "JobWork",
    "NoRate",
    "Prediction",
    "StepWork",
    "predict",
    "step_picoseconds",
]

PICOSECONDS_PER_SECOND = 10**12
PICOSECONDS_PER_MICROSECOND = 10**6
PICOSECONDS_PER_MILLISECOND = 10**9
PICOSECONDS_PER_NANOSECOND = 1_000


class NoRate(InvalidInput):
    """The offer states no rate for a class of work that the program has."""

    default_code = "NO_RATE"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a job is expected to take on one device, in picoseconds.

    ``roofline_picoseconds`` is one step by the benchmark alone, ``step_picoseconds`` the same after
    calibration by ``factor_ppm``. Transfer and builds happen once and are calibrated by
    ``setup_factor_ppm``; ``setup_roofline_picoseconds`` is their sum before. ``work_class`` is the
    headline class.
    """

    work_class: str
    steps: int
    roofline_picoseconds: int
    factor_ppm: int
    step_picoseconds: int
    setup_factor_ppm: int
    setup_roofline_picoseconds: int
    transfer_picoseconds: int
    build_picoseconds: int

    @property
    def setup_picoseconds(self) -> int:
        """Transfer and builds."""
        return self.transfer_picoseconds + self.build_picoseconds

    @property
    def priced_step_picoseconds(self) -> int:
        """What a step is priced by: its own time, and its part of the job's one setup."""
        return self.step_picoseconds + _ceil(self.setup_picoseconds, self.steps)

    @property
    def run_picoseconds(self) -> int:
        """All steps on this device, without the setup."""
        return self.step_picoseconds * self.steps


def predict(
    work: JobWork,
    rates: DeviceRates,
    factors: Factors = NO_FACTORS,
    promise: Promise | None = None,
) -> Prediction:
    """The job on the device; :class:`NoRate` when a class of its work has no rate there.

    With a ``promise`` no factor is higher than it was when the job was quoted.
    """
    roofline = step_picoseconds(work.step, rates)
    work_class = headline_class(work.step, rates)
    factor_ppm = factors.ppm(step_families(work.program, work_class, roofline))
    transfer = 0
    if rates.download_bytes_per_second:
        transfer = _ceil(
            work.download_bytes * PICOSECONDS_PER_SECOND, rates.download_bytes_per_second
        )
    build = work.kernels * rates.build_milliseconds * PICOSECONDS_PER_MILLISECOND
    setup_ppm = factors.ppm(setup_families(work.program))
    if promise is not None:
        factor_ppm = min(factor_ppm, promise.step_ppm)
        setup_ppm = min(setup_ppm, promise.setup_ppm)
    return Prediction(
        work_class=work_class,
        steps=work.steps,
        roofline_picoseconds=roofline,
        factor_ppm=factor_ppm,
        step_picoseconds=scaled(roofline, factor_ppm),
        setup_factor_ppm=setup_ppm,
        setup_roofline_picoseconds=transfer + build,
        transfer_picoseconds=scaled(transfer, setup_ppm),
        build_picoseconds=scaled(build, setup_ppm),
    )


def step_picoseconds(work: StepWork, rates: DeviceRates) -> int:
    """One step by the benchmark alone, at least 1; :class:`NoRate` when a class has no rate."""
    compute = 0
    for work_class, count in sorted(work.flops.items()):
        if not count:
            continue
        rate = rates.flops_per_second.get(work_class, 0)
        if rate <= 0:
            raise NoRate(
                f"the offer states no rate for {work_class}", details={"work_class": work_class}
            )
        compute += _ceil(count * PICOSECONDS_PER_SECOND, rate)
    transfer = 0
    if work.bytes_moved:
        if rates.bandwidth_bytes_per_second <= 0:
            raise NoRate("the offer states no memory bandwidth")
        transfer = _ceil(
            work.bytes_moved * PICOSECONDS_PER_SECOND, rates.bandwidth_bytes_per_second
        )
    host = work.launches * rates.launch_nanoseconds + rates.step_nanoseconds
    return max(1, max(compute, transfer) + host * PICOSECONDS_PER_NANOSECOND)


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
