"""Predicted time of one step on a device: one roofline over the program's own counted work.

``max(sum of work / rate, bytes / bandwidth) + launches``, in whole picoseconds and rounded up, from
the rates that the offer states. Quotes, leases and the order book all use this prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flopmarket.errors import InvalidInput

PICOSECONDS_PER_SECOND = 10**12
PICOSECONDS_PER_NANOSECOND = 1_000


@dataclass(frozen=True, slots=True)
class StepWork:
    """Counted work of one step: what pricing needs of the engine's ``Cost``."""

    flops: Mapping[str, int]
    bytes_moved: int
    launches: int


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """What a device sustains: operations per second by class, bytes per second, launch cost."""

    flops_per_second: Mapping[str, int]
    bandwidth_bytes_per_second: int
    launch_nanoseconds: int


class NoRate(InvalidInput):
    """The offer states no rate for a class of work that the program has."""

    default_code = "NO_RATE"


def step_picoseconds(work: StepWork, rates: DeviceRates) -> int:
    """Predicted time of one step, at least 1; :class:`NoRate` when a class has no rate."""
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
    launches = work.launches * rates.launch_nanoseconds * PICOSECONDS_PER_NANOSECOND
    return max(1, max(compute, transfer) + launches)


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
