"""The device benchmark: integers for an offer, in about ten seconds.

Each stage runs one workload of :mod:`flopmarket.bench.workloads` through the engine's own session,
the path that jobs take: all of them at their smallest, then, in what is left of the time, at the
length that the device needs to be filled (:mod:`flopmarket.bench.growing`). Reported is the median
rate at the largest length. A class the device cannot compute has rate 0: not offered.

What a launch costs is Hockney's other parameter: the time that work takes beyond what the
asymptotic rates explain, as the launches of a small network show it. With the rates of a large
device alone a small program would be predicted many times too fast. The host's time for a step is
that of a step with one tiny kernel; building is timed with an empty kernel cache.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from flopmarket.bench import workloads
from flopmarket.bench.growing import (
    Bench,
    Length,
    Measured,
    Monotonic,
    Opener,
    Stage,
    grown,
    measured,
)
from flopmarket.bench.workloads import Sizes, Workload
from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.engine.errors import EngineError
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.runtime.session import Session
from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_MEASURED_BYTES
from flopmarket.market.predict import (
    PICOSECONDS_PER_NANOSECOND,
    DeviceRates,
    NoRate,
    StepWork,
    step_picoseconds,
)

STAGES: tuple[Stage, ...] = (
    Stage("dot-f32", workloads.gemm, 8, 3, 32, most_seconds=0.03, weight=3),
    Stage("dot-int", workloads.integer_gemm, 8, 3, 32, most_seconds=0.03),
    Stage("elementwise-f32", workloads.elementwise, 2, 6, 16, is_denser=True),
    Stage("integer", workloads.integers, 2, 6, 16, is_denser=True),
    Stage("reduce-f32", workloads.reductions, 2, 6, 32),
    Stage("f64", workloads.doubles, 2, 6, 16, is_denser=True),
    Stage(workloads.BANDWIDTH, workloads.bandwidth, 2, 2, 64, least_repeats=32),
    Stage(workloads.LAUNCH, workloads.launches),
    Stage(workloads.STEP, workloads.host),
)
"""In the order they are measured."""

BENCHMARK_FORMAT = 3
"""Counts what a result holds and how its stages measure; results of another one are measured
again."""

_GROWING_SHARE = 0.7  # of the budget: after it no workload grows any more
_NETWORK_STEPS = 15
_MEMORY_PARTS = 4  # of the device's memory, one of which a workload may take
REFERENCE_SIZES = Sizes(
    gemm=96,
    elements=1 << 14,
    copy_elements=1 << 18,
    reduce_rows=8,
    chain=16,
    launches=8,
    network=32,
)
"""For the interpreter, which is a thousand times slower than a device."""


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """Medians. ``flops_per_second`` has every class of ``WORK_CLASSES``, 0 for what did not run;
    ``failures`` says why. ``step_nanoseconds`` is a step's time beside its kernels,
    ``build_milliseconds`` that of one kernel's first build. ``seconds`` is what the measurement
    took."""

    flops_per_second: dict[str, int]
    bandwidth_bytes_per_second: int
    launch_nanoseconds: int
    step_nanoseconds: int
    build_milliseconds: int
    failures: dict[str, str]
    seconds: float
    profile: str = PROFILE

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "profile": self.profile,
            "flops_per_second": dict(self.flops_per_second),
            "bandwidth_bytes_per_second": self.bandwidth_bytes_per_second,
            "launch_nanoseconds": self.launch_nanoseconds,
            "step_nanoseconds": self.step_nanoseconds,
            "build_milliseconds": self.build_milliseconds,
            "failures": dict(self.failures),
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BenchmarkResult:
        """Inverse of :meth:`to_json`; InvalidInput (BENCHMARK_MALFORMED) for anything else."""
        try:
            rates = {str(k): int(v) for k, v in value["flops_per_second"].items()}
            result = cls(
                flops_per_second=rates,
                bandwidth_bytes_per_second=int(value["bandwidth_bytes_per_second"]),
                launch_nanoseconds=int(value["launch_nanoseconds"]),
                step_nanoseconds=int(value["step_nanoseconds"]),
                build_milliseconds=int(value["build_milliseconds"]),
                failures={str(k): str(v) for k, v in value["failures"].items()},
                seconds=float(value["seconds"]),
                profile=str(value["profile"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(
                f"not a benchmark: {type(error).__name__}", code="BENCHMARK_MALFORMED"
            ) from None
        if set(rates) - set(WORK_CLASSES) or min([0, *rates.values()]) < 0:
            raise InvalidInput("a benchmark of unknown classes", code="BENCHMARK_MALFORMED")
        return result


def benchmark(
    device: str | None,
    *,
    cache_dir: Path | None = None,
    sizes: Sizes | None = None,
    budget_seconds: float = 20.0,
    monotonic: Monotonic = time.perf_counter,
) -> BenchmarkResult:
    """Measure ``device`` (as ``devices.find`` takes it, or "reference").

    A stage that would begin after the budget is left out with its reason. Raises EngineError when
    there is no such device.
    """
    from flopmarket.engine.runtime import devices
    from flopmarket.engine.runtime.open import REFERENCE, open_session
    from flopmarket.engine.runtime.resident import CompileOptions

    if device is None and not devices.discover():
        device = REFERENCE
    memory_bytes = 0
    if device == REFERENCE:
        sizes = sizes or REFERENCE_SIZES
    else:
        card = devices.find(device)
        memory_bytes = min(MAX_MEASURED_BYTES, card.global_memory_bytes // _MEMORY_PARTS)

    def opener(workload: Workload) -> Session:
        return open_session(workload.program, device, CompileOptions(cache_dir=cache_dir))

    def cold_opener(workload: Workload) -> Session:
        with TemporaryDirectory(prefix="flopmarket-bench-") as empty:
            return open_session(workload.program, device, CompileOptions(cache_dir=Path(empty)))

    bench = Bench(opener, monotonic, sizes or Sizes(), memory_bytes)
    return measure(bench, cold_opener, budget_seconds=budget_seconds)


def measure(bench: Bench, cold_opener: Opener, *, budget_seconds: float) -> BenchmarkResult:
    """Run every stage, and a small network on a session that ``cold_opener`` makes.

    A device that builds nothing at all is stated as one that does not say what building takes.
    """
    began = bench.monotonic()
    found: dict[str, Measured] = {}
    failures: dict[str, str] = {}
    for number, stage in enumerate(STAGES):
        now = bench.monotonic()
        left = began + budget_seconds - now
        if left <= 0:
            failures[stage.kind] = f"the budget of {budget_seconds} s was used up"
            continue
        deadline = now + left / (len(STAGES) - number)
        try:
            found[stage.kind] = measured(bench, stage, Length(), deadline)
        except EngineError as error:
            failures[stage.kind] = f"{error.code}: {error.message}"
    host_seconds = found[workloads.STEP].seconds if workloads.STEP in found else 0.0
    growing = [stage for stage in STAGES if stage.most_doublings and stage.kind in found]
    for number, stage in enumerate(growing):
        now = bench.monotonic()
        left = began + _GROWING_SHARE * budget_seconds - now
        share = left * stage.weight / sum(later.weight for later in growing[number:])
        found[stage.kind] = grown(
            bench, stage, found[stage.kind], now + share, host_seconds=host_seconds
        )
    rates = {kind: item.rate for kind, item in found.items()}
    classes = {kind: int(rates.get(kind, 0)) for kind in WORK_CLASSES}
    bandwidth = int(rates.get(workloads.BANDWIDTH, 0))
    launch = _nanoseconds(rates.get(workloads.LAUNCH, 0.0))
    step = max(0, _nanoseconds(rates.get(workloads.STEP, 0.0)) - launch)
    build = 0
    try:
        build, network_seconds = _network(cold_opener, bench)
    except EngineError as error:
        failures[workloads.NETWORK] = f"{error.code}: {error.message}"
    else:
        alone = DeviceRates(classes, bandwidth, 0, step)
        launch = max(launch, _launch_nanoseconds(network_seconds, bench.sizes, alone))
    return BenchmarkResult(
        flops_per_second=classes,
        bandwidth_bytes_per_second=bandwidth,
        launch_nanoseconds=launch,
        step_nanoseconds=step,
        build_milliseconds=build,
        failures=failures,
        seconds=bench.monotonic() - began,
    )


def _network(cold_opener: Opener, bench: Bench) -> tuple[int, float]:
    """Milliseconds to build one kernel of the small network, as a first open and its first step
    take them, and the median seconds of a later step."""
    workload = workloads.network(bench.sizes)
    began = bench.monotonic()
    session = cold_opener(workload)
    try:
        session.load(workload.frozen, workload.state)
        session.step({}, seed=0, step=0)
        stamps = [bench.monotonic()]
        for step in range(_NETWORK_STEPS):
            session.step({}, seed=0, step=step + 1)
            stamps.append(bench.monotonic())
    finally:
        session.close()
    build = int((stamps[0] - began) * 1000 / workload.counted)
    return build, median(after - before for before, after in pairwise(stamps))


def _launch_nanoseconds(network_seconds: float, sizes: Sizes, alone: DeviceRates) -> int:
    """What each launch of the small network takes beyond a prediction in which none costs anything;
    0 where there is no such prediction."""
    cost = workloads.network(sizes).program.cost
    work = StepWork(cost.flops, cost.bytes_moved, cost.launches)
    try:
        explained = step_picoseconds(work, alone) // PICOSECONDS_PER_NANOSECOND
    except NoRate:
        return 0
    return (int(network_seconds * 1e9) - explained) // cost.launches


def _nanoseconds(per_second: float) -> int:
    """Time of one, rounded up; 0 when it was not measured."""
    return -int(-1e9 // per_second) if per_second else 0
