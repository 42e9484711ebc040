"""When a job should be done: waiting, setup, steps and the last audit, likely and at worst.

Nothing is assumed that was not observed. Every time is a prediction (:mod:`.predict`) times a
quantile of measured over predicted:

- *late*: of the segments that the quoted offers delivered lately;
- *audit*: from a segment's commitment to its verdict, over the segment's own time.

Each sample is joined by :data:`PRIOR_PPM`, which is all there is before the first delivery: a
prediction is then believed within a factor of two. With ``q`` for 50 % or 95 %::

    finish(q) = wait * late(q) + setup + run * late(q) + upload + segment * audit(q)

- *wait* is zero when one of the offers is idle. Else the offers come free in the order of what
  their leases still take, the orders that are ahead take one each, and a round more for every
  ``len(offers)`` of them.
- *run* of a chain is that of the cheapest offer, and of the slowest at 95 %: a cheaper one may be
  gone. Independent segments run on all idle offers at once, or on the cheapest.
- *upload* and *segment* are those of the last segment: earlier ones are uploaded and audited while
  the job runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flopmarket.market.calibrate import ONE_PPM, quantile, scaled
from flopmarket.market.predict import PICOSECONDS_PER_SECOND, Prediction

PRIOR_PPM = (ONE_PPM // 2, ONE_PPM, ONE_PPM * 2)
_LIKELY, _WORST = 50, 95


@dataclass(frozen=True, slots=True)
class Runner:
    """An offer that may run the job. ``busy_picoseconds`` is what its present lease still takes,
    0 when it is idle; ``upload_bytes_per_second`` is 0 when it does not say."""

    forecast: Prediction
    busy_picoseconds: int
    upload_bytes_per_second: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Seconds from now, median and 95th percentile; ``samples`` are deliveries behind *late*."""

    wait_seconds_p50: float
    wait_seconds_p95: float
    finish_seconds_p50: float
    finish_seconds_p95: float
    samples: int


def finish(
    runners: Sequence[Runner],
    *,
    segment_steps: int,
    independent: bool,
    last_upload_bytes: int,
    orders_ahead: int,
    late_ppm: Sequence[int],
    audit_ppm: Sequence[int],
) -> Finish:
    """The finish of one job on ``runners``, cheapest first and at least one."""
    times = [
        _picoseconds(
            runners,
            percent=percent,
            segment_steps=segment_steps,
            independent=independent,
            last_upload_bytes=last_upload_bytes,
            orders_ahead=orders_ahead,
            late_ppm=quantile((*PRIOR_PPM, *late_ppm), percent),
            audit_ppm=quantile((*PRIOR_PPM, *audit_ppm), percent),
        )
        for percent in (_LIKELY, _WORST)
    ]
    (wait_p50, all_p50), (wait_p95, all_p95) = times
    return Finish(
        wait_p50 / PICOSECONDS_PER_SECOND,
        wait_p95 / PICOSECONDS_PER_SECOND,
        all_p50 / PICOSECONDS_PER_SECOND,
        all_p95 / PICOSECONDS_PER_SECOND,
        len(late_ppm),
    )


def _picoseconds(
    runners: Sequence[Runner],
    *,
    percent: int,
    segment_steps: int,
    independent: bool,
    last_upload_bytes: int,
    orders_ahead: int,
    late_ppm: int,
    audit_ppm: int,
) -> tuple[int, int]:
    """Waiting, and waiting with everything after it."""
    wait = scaled(_wait(runners, orders_ahead), late_ppm)
    worst = max(runners, key=lambda runner: runner.forecast.priced_step_picoseconds)
    chosen = runners[0] if percent == _LIKELY or independent else worst
    forecast = chosen.forecast
    segment = forecast.step_picoseconds * min(segment_steps, forecast.steps)
    run = forecast.run_picoseconds
    if independent:
        run = max(segment, _shared(runners))
    upload = 0
    if chosen.upload_bytes_per_second:
        upload = last_upload_bytes * PICOSECONDS_PER_SECOND // chosen.upload_bytes_per_second
    after = forecast.setup_picoseconds + scaled(run, late_ppm) + upload
    return wait, wait + after + scaled(segment, audit_ppm)


def _wait(runners: Sequence[Runner], orders_ahead: int) -> int:
    """Until one of the offers is free for this job."""
    busy = sorted(runner.busy_picoseconds for runner in runners)
    if busy[0] == 0:
        return 0
    rounds, place = divmod(orders_ahead, len(busy))
    return busy[place] + rounds * (sum(busy) // len(busy))


def _shared(runners: Sequence[Runner]) -> int:
    """All steps, done by all idle offers at once; by the cheapest when none is idle."""
    idle = [runner for runner in runners if runner.busy_picoseconds == 0] or runners[:1]
    steps_per_second = sum(
        PICOSECONDS_PER_SECOND / runner.forecast.step_picoseconds for runner in idle
    )
    return int(idle[0].forecast.steps / steps_per_second * PICOSECONDS_PER_SECOND)
