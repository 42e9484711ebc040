"""How large a workload has to be for a device: it grows until the rate no longer rises.

A rate that is measured at one size is a rate of that size: a large device ends a small product
before all of it has work. In Hockney's terms the rate at length n is r_inf / (1 + n_half / n), with
r_inf the asymptotic rate and n_half the length at which half of it is reached; n_half differs by
orders of magnitude between devices. So the workload is doubled while a step is short and the rate
rises, within the device's memory; only then is the work repeated inside a step, where the host's
share of the step or the bytes beside the operations can matter. A slow device is measured at the
smallest size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from flopmarket.bench.workloads import Sizes, Workload
from flopmarket.engine.errors import EngineError
from flopmarket.engine.runtime.session import Session

logger = logging.getLogger("flopmarket.bench")

Monotonic = Callable[[], float]
Opener = Callable[[Workload], Session]

RISE = 1.05
"""A rate rises when it becomes so many times what it was. Work grows by :data:`LEAST_GROWTH` at
least, so what rises less was above fifteen times n_half."""
LEAST_GROWTH = 4
"""A step that has no room for so much more work is left as it is."""

_TIMED_STEPS = 9
_WARM_STEPS = 2


@dataclass(frozen=True, slots=True)
class Stage:
    """A kind of work, and how it may grow.

    A doubling of the sizes makes ``growth`` times the work. ``least_repeats`` is the smallest
    number above one that is worth it; ``is_denser`` says that repeated work moves no more bytes. No
    step is made longer than ``most_seconds``, as far as the step before lets it be told: launches
    and the host then take a hundredth. Of the time for growing this stage has ``weight`` parts.
    """

    kind: str
    workload: Callable[[Sizes, int], Workload]
    growth: int = 2
    most_doublings: int = 0
    most_repeats: int = 1
    least_repeats: int = 2
    is_denser: bool = False
    most_seconds: float = 0.02
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Length:
    """How much longer than the smallest a workload is: its sizes doubled, its work repeated."""

    doublings: int = 0
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """A workload of one length: the median seconds of a step, counted work a second."""

    length: Length
    seconds: float
    rate: float


@dataclass(frozen=True, slots=True)
class Bench:
    """How workloads are run: sessions, a clock in seconds, and the smallest sizes.

    No workload above the smallest needs more than ``memory_bytes`` of the device.
    """

    opener: Opener
    monotonic: Monotonic
    sizes: Sizes
    memory_bytes: int = 0


def measured(bench: Bench, stage: Stage, length: Length, deadline: float) -> Measured:
    """Run a workload; after the ``deadline`` no step begins but the one that is needed.

    Raises EngineError when the device cannot.
    """
    workload = _at(bench, stage, length)
    times = _step_seconds(bench.opener(workload), workload, deadline, bench.monotonic)
    seconds = max(median(times), 1e-9)
    rate = workload.counted / seconds
    logger.debug("%s %s: %.3f ms, %.4g /s", stage.kind, length, seconds * 1e3, rate)
    return Measured(length, seconds, rate)


def grown(
    bench: Bench, stage: Stage, found: Measured, deadline: float, *, host_seconds: float = 0.0
) -> Measured:
    """``found``, or the largest length that the device needed beyond it.

    Nothing is begun after the ``deadline``. A length that fails is replaced by a smaller one.
    ``host_seconds`` is what a step takes beside its work: where it is next to nothing of a step,
    repeating the work would show nothing new, unless it becomes denser by it.
    """
    most = stage.most_doublings
    while most and _at(bench, stage, Length(most)).memory_bytes > bench.memory_bytes:
        most -= 1
    while bench.monotonic() < deadline:
        repeatable = stage.is_denser or found.seconds * (RISE - 1) < host_seconds
        longer = _longer(stage, found, most, stage.most_repeats if repeatable else 1)
        if longer == found.length or _at(bench, stage, longer).memory_bytes > bench.memory_bytes:
            break
        before = found
        try:
            found = measured(bench, stage, longer, deadline)
        except EngineError as error:
            logger.info("%s does not run at %s: %s", stage.kind, longer, error)
            if longer.doublings == before.length.doublings:
                break
            most = longer.doublings - 1
            continue
        if found.rate < before.rate * RISE:
            break
    return found


def _at(bench: Bench, stage: Stage, length: Length) -> Workload:
    return stage.workload(bench.sizes.doubled(length.doublings), length.repeats)


def _longer(stage: Stage, found: Measured, most_doublings: int, most_repeats: int) -> Length:
    """The longest length that is still short enough: larger if it can be, else repeated.

    What is repeated already is not made larger any more. The same length where nothing is left.
    """
    length, missing = found.length, stage.most_seconds / found.seconds
    if missing < LEAST_GROWTH:
        return length
    doublings, grown = length.doublings, stage.growth
    while length.repeats == 1 and doublings < most_doublings and grown <= missing:
        doublings, grown = doublings + 1, grown * stage.growth
    if doublings > length.doublings:
        return Length(doublings)
    repeats = min(most_repeats, int(length.repeats * missing))
    least = max(stage.least_repeats, LEAST_GROWTH * length.repeats)
    return Length(doublings, repeats) if repeats >= least else length


def _step_seconds(
    session: Session, workload: Workload, deadline: float, monotonic: Monotonic
) -> list[float]:
    """Seconds of each timed step: at least one, which is never the first (kernels are built in
    it), and no further one after the deadline."""
    times: list[float] = []
    try:
        session.load(workload.frozen, workload.state)
        for step in range(_WARM_STEPS + _TIMED_STEPS):
            began = monotonic()
            session.step({}, seed=0, step=step)
            now = monotonic()
            late = now > deadline
            if step >= _WARM_STEPS or (step > 0 and late):
                times.append(now - began)
            if late and times:
                break
    finally:
        session.close()
    return times
