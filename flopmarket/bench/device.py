"""The device benchmark: integers for an offer, in under fifteen seconds.

Each stage runs one workload of :mod:`flopmarket.bench.workloads` through the engine's own session,
the path that jobs take. A stage warms up, grows its work until a step takes long enough to be
timed, and reports the median rate. A class the device cannot compute has rate 0: not offered.
The host's time for a step is that of a step with one tiny kernel; building is timed with an empty
kernel cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from flopmarket.bench import workloads
from flopmarket.bench.workloads import Sizes, Workload
from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.engine.errors import EngineError
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.runtime.session import Session
from flopmarket.errors import InvalidInput

Monotonic = Callable[[], float]
Opener = Callable[[Workload], Session]
Stage = Callable[[Sizes, int], Workload]

STAGES: tuple[tuple[str, Stage, int], ...] = (
    ("dot-f32", workloads.gemm, 32),
    ("dot-int", workloads.integer_gemm, 32),
    ("elementwise-f32", workloads.elementwise, 16),
    ("integer", workloads.integers, 16),
    ("reduce-f32", workloads.reductions, 32),
    ("f64", workloads.doubles, 16),
    (workloads.BANDWIDTH, workloads.bandwidth, 1),
    (workloads.LAUNCH, workloads.launches, 1),
    (workloads.STEP, workloads.host, 1),
)
"""(class, workload, most repeats of its work in one step)."""

BENCHMARK_FORMAT = 2
"""Counts what a result holds and how its stages measure; results of another one are measured
again."""

_LONG_ENOUGH_SECONDS = 0.02
_TIMED_STEPS = 9
_WARM_STEPS = 2
REFERENCE_SIZES = Sizes(
    gemm=96, elements=1 << 14, copy_elements=1 << 18, reduce_rows=8, chain=16, launches=8
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
    budget_seconds: float = 14.0,
    monotonic: Monotonic = time.perf_counter,
) -> BenchmarkResult:
    """Measure ``device`` (as ``devices.find`` takes it, or "reference").

    A stage that would begin after the budget is left out with its reason. Raises EngineError when
    there is no such device.
    """
    from flopmarket.engine.runtime.open import open_session
    from flopmarket.engine.runtime.resident import CompileOptions

    if sizes is None:
        sizes = REFERENCE_SIZES if device == "reference" else Sizes()

    def opener(workload: Workload) -> Session:
        return open_session(workload.program, device, CompileOptions(cache_dir=cache_dir))

    def cold_opener(workload: Workload) -> Session:
        with TemporaryDirectory(prefix="flopmarket-bench-") as empty:
            return open_session(workload.program, device, CompileOptions(cache_dir=Path(empty)))

    return measure(opener, cold_opener, sizes, budget_seconds=budget_seconds, monotonic=monotonic)


def measure(
    opener: Opener,
    cold_opener: Opener,
    sizes: Sizes,
    *,
    budget_seconds: float,
    monotonic: Monotonic,
) -> BenchmarkResult:
    """Run every stage on sessions that ``opener`` makes, and one build that ``cold_opener`` does.

    A device that builds nothing at all is stated as one that does not say what building takes.
    """
    began = monotonic()
    rates: dict[str, float] = {}
    failures: dict[str, str] = {}
    for number, (kind, stage, most_repeats) in enumerate(STAGES):
        spent = monotonic() - began
        share = (budget_seconds - spent) / (len(STAGES) - number)
        if share <= 0:
            failures[kind] = f"the budget of {budget_seconds} s was used up"
            continue
        try:
            rates[kind] = _rate(opener, stage, sizes, most_repeats, share, monotonic)
        except EngineError as error:
            failures[kind] = f"{error.code}: {error.message}"
    build_milliseconds = 0
    try:
        build_milliseconds = _build_milliseconds(cold_opener, sizes, monotonic)
    except EngineError as error:
        failures[workloads.BUILD] = f"{error.code}: {error.message}"
    launch_nanoseconds = _nanoseconds(rates.get(workloads.LAUNCH, 0.0))
    return BenchmarkResult(
        flops_per_second={kind: int(rates.get(kind, 0)) for kind in WORK_CLASSES},
        bandwidth_bytes_per_second=int(rates.get(workloads.BANDWIDTH, 0)),
        launch_nanoseconds=launch_nanoseconds,
        step_nanoseconds=max(0, _nanoseconds(rates.get(workloads.STEP, 0.0)) - launch_nanoseconds),
        build_milliseconds=build_milliseconds,
        failures=failures,
        seconds=monotonic() - began,
    )


def _nanoseconds(per_second: float) -> int:
    """Time of one, rounded up; 0 when it was not measured."""
    return -int(-1e9 // per_second) if per_second else 0


def _build_milliseconds(cold_opener: Opener, sizes: Sizes, monotonic: Monotonic) -> int:
    """Time to build one kernel, as a first open and its first step take it."""
    workload = workloads.kernels(sizes, 1)
    began = monotonic()
    session = cold_opener(workload)
    try:
        session.load(workload.frozen, workload.state)
        session.step({}, seed=0, step=0)
        return int((monotonic() - began) * 1000 / workload.counted)
    finally:
        session.close()


def _rate(
    opener: Opener,
    stage: Stage,
    sizes: Sizes,
    most_repeats: int,
    share_seconds: float,
    monotonic: Monotonic,
) -> float:
    """Counted work a second: the median over timed steps of the largest fitting workload."""
    repeats = 1
    began = monotonic()
    while True:
        workload = stage(sizes, repeats)
        deadline = began + share_seconds
        times = _step_seconds(opener(workload), workload, deadline, monotonic)
        typical = median(times)
        fits = monotonic() - began < share_seconds / 2
        if typical >= _LONG_ENOUGH_SECONDS or repeats >= most_repeats or not fits:
            return workload.counted / max(typical, 1e-9)
        wanted = int(repeats * _LONG_ENOUGH_SECONDS / max(typical, 1e-9)) + 1
        repeats = min(most_repeats, max(repeats * 2, wanted))


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
