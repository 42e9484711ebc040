"""Learning rates that change: functions of the number of the update, computed in the program.

An optimizer that takes one keeps the counter in its state, so a resumed job goes on where it was.
``AdamW(lr=warmup_cosine(3e-4, warmup=100, steps=10_000))``. The first update has number 0; after
the last of ``steps`` a rate stays where it is. Any function from an int32 scalar to a float32
scalar is a schedule too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log2, pi

from flopmarket.engine.creation import full, where
from flopmarket.engine.optim.protocol import Rate, Schedule, as_count, check
from flopmarket.engine.tensor import Tensor


def constant(lr: float) -> Schedule:
    """Always ``lr``."""
    check(lr >= 0, f"learning rate {lr} is negative")
    return lambda step: full((), lr)


def exponential(lr: float, factor: float, every: int = 1) -> Schedule:
    """``lr`` * factor^(number / every)."""
    check(lr > 0 and factor > 0 and every >= 1, f"exponential({lr}, {factor}, {every})")
    return lambda step: (as_count(step) * (log2(factor) / every)).exp2() * lr


def step(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """``lr``, multiplied by ``factor`` after each ``every`` updates."""
    check(lr > 0 and factor > 0 and every >= 1, f"step({lr}, {every}, {factor})")
    return lambda number: (as_count(number // every) * log2(factor)).exp2() * lr


def piecewise(rates: Sequence[float], boundaries: Sequence[int]) -> Schedule:
    """``rates[i]`` from update ``boundaries[i - 1]`` on; one rate more than boundaries."""
    ascending = all(a < b for a, b in pairwise(boundaries))
    check(len(rates) == len(boundaries) + 1 and ascending, f"piecewise({rates}, {boundaries})")

    def schedule(number: Tensor) -> Tensor:
        value = full((), float(rates[0]))
        for boundary, rate in zip(boundaries, rates[1:], strict=True):
            value = where(number < boundary, value, full((), float(rate)))
        return value

    return schedule


def polynomial(lr: float, steps: int, power: float = 1.0, end: float = 0.0) -> Schedule:
    """From ``lr`` to ``end`` within ``steps`` updates, by (1 - number / steps)^power."""
    check(steps >= 1 and power > 0, f"polynomial over {steps} steps with power {power}")

    def schedule(number: Tensor) -> Tensor:
        left = 1.0 - _progress(number, steps)
        grown = left if power == 1.0 else left.pow(power)
        return grown * (lr - end) + end

    return schedule


def linear(lr: float, steps: int, end: float = 0.0) -> Schedule:
    """From ``lr`` to ``end`` within ``steps`` updates, in a straight line."""
    return polynomial(lr, steps, 1.0, end)


def cosine(lr: float, steps: int, end: float = 0.0) -> Schedule:
    """From ``lr`` to ``end`` within ``steps`` updates, by half a wave of the cosine."""
    check(steps >= 1, f"cosine over {steps} steps")
    return lambda number: _eased(lr, end, _progress(number, steps))


def warmup(schedule: Rate, steps: int, start: float = 0.0) -> Schedule:
    """``start`` times the first rate, rising in a straight line for ``steps`` updates; then
    ``schedule``, which begins its own count there."""
    check(steps >= 1 and start >= 0, f"warm-up of {steps} steps from {start}")

    def risen(number: Tensor) -> Tensor:
        after = (number - steps).maximum(0)
        rate = schedule(after) if callable(schedule) else constant(schedule)(after)
        return rate * (_progress(number, steps) * (1.0 - start) + start)

    return risen


def warmup_cosine(lr: float, warmup: int, steps: int, end: float = 0.0) -> Schedule:
    """Rising from 0 to ``lr`` for ``warmup`` updates, then :func:`cosine` down to ``end`` at
    ``steps``."""
    check(0 < warmup < steps, f"a warm-up of {warmup} in {steps} steps")
    return _warmed(cosine(lr, steps - warmup, end), warmup)


def one_cycle(
    peak: float, steps: int, rise: float = 0.3, start: float = 1 / 25, end: float = 1e-4 / 25
) -> Schedule:
    """Smith's one cycle: by cosines from peak * start up to ``peak`` in the first ``rise`` of the
    ``steps``, then down to peak * end. torch's OneCycleLR."""
    top, last = rise * steps - 1, steps - 1
    check(0 < top < last, f"one_cycle over {steps} steps, {rise} of them rising")

    def schedule(number: Tensor) -> Tensor:
        at = as_count(number)
        up = _eased(peak * start, peak, (at / top).clamp(max=1.0))
        down = _eased(peak, peak * end, ((at - top) / (last - top)).clamp(min=0.0, max=1.0))
        return where(at <= top, up, down)

    return schedule


_warmed = warmup


def _progress(number: Tensor, steps: int) -> Tensor:
    """number / steps, at most 1."""
    return (as_count(number) / float(steps)).clamp(max=1.0)


def _eased(first: float, last: float, progress: Tensor) -> Tensor:
    """From ``first`` to ``last`` by half a cosine wave."""
    return ((progress * pi).cos() + 1.0) * ((first - last) / 2) + last
