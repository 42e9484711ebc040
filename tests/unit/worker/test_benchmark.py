"""The device benchmark: what it counts, that it ends, what it does with a device that fails."""

from __future__ import annotations

import itertools

import pytest

from flopmarket.bench import BenchmarkResult, benchmark
from flopmarket.bench.device import REFERENCE_SIZES, STAGES, measure
from flopmarket.bench.growing import Bench, Stage
from flopmarket.bench.workloads import BANDWIDTH, LAUNCH, STEP, Sizes, Workload
from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.engine.errors import EngineError
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.runtime.session import ReferenceSession, Session
from flopmarket.errors import InvalidInput

TINY = Sizes(
    gemm=8,
    elements=64,
    copy_elements=64,
    reduce_rows=2,
    chain=6,
    launches=2,
    network=8,
)


def test_there_is_a_stage_for_every_class_of_work() -> None:
    assert {stage.kind for stage in STAGES} == {*WORK_CLASSES, BANDWIDTH, LAUNCH, STEP}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.kind)
@pytest.mark.parametrize("repeats", [1, 3])
def test_a_workload_is_mostly_its_own_class(stage: Stage, repeats: int) -> None:
    workload = stage.workload(REFERENCE_SIZES, repeats)
    assert workload.kind == stage.kind
    assert workload.counted > 0
    if stage.kind in WORK_CLASSES:
        assert workload.counted >= 0.9 * workload.program.cost.total_flops


def test_gemm_counts_two_operations_a_term() -> None:
    stage = next(stage for stage in STAGES if stage.kind == "dot-f32")
    assert stage.workload(TINY, 3).counted == 3 * 2 * 8**3


def test_the_reference_can_be_measured() -> None:
    result = benchmark("reference", sizes=TINY, budget_seconds=5.0)
    assert set(result.flops_per_second) == set(WORK_CLASSES)
    assert all(rate > 0 for rate in result.flops_per_second.values())
    assert result.bandwidth_bytes_per_second > 0
    assert result.launch_nanoseconds > 0
    assert result.step_nanoseconds >= 0
    assert result.failures == {}
    assert BenchmarkResult.from_json(result.to_json()).flops_per_second == result.flops_per_second


class SlowFirst:
    """A clock and a session: the first step of a session takes a minute (a build), others 1 s."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def open(self, workload: Workload) -> Session:
        inner = ReferenceSession(workload.program)
        seconds = itertools.chain([60.0], itertools.repeat(1.0))
        original = inner.step

        def step(*arguments: object, **named: object) -> object:
            self.now += next(seconds)
            return original(*arguments, **named)  # type: ignore[arg-type]

        inner.step = step  # type: ignore[method-assign,assignment]
        return inner


def test_building_kernels_is_never_counted_as_work() -> None:
    world = SlowFirst()
    bench = Bench(world.open, world.monotonic, TINY)
    result = measure(bench, world.open, budget_seconds=1000.0)
    assert result.flops_per_second["dot-f32"] == 2 * 8**3  # one second a step
    late = SlowFirst()
    hurried = measure(Bench(late.open, late.monotonic, TINY), late.open, budget_seconds=70.0)
    assert hurried.flops_per_second["dot-f32"] == 2 * 8**3
    assert "budget" in hurried.failures[LAUNCH]


def test_a_class_that_fails_is_rate_zero_with_its_reason() -> None:
    def opener(workload: Workload) -> Session:
        if workload.kind == "dot-int":
            raise EngineError("no such kernel", code="DEVICE_BUILD")
        return ReferenceSession(workload.program)

    clock = itertools.count()
    bench = Bench(opener, lambda: float(next(clock)), TINY)
    result = measure(bench, opener, budget_seconds=1e9)
    assert result.flops_per_second["dot-int"] == 0
    assert "DEVICE_BUILD" in result.failures["dot-int"]
    assert result.flops_per_second["dot-f32"] > 0


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"flops_per_second": {}},
        {
            "flops_per_second": {"dot-f99": 1},
            "bandwidth_bytes_per_second": 1,
            "launch_nanoseconds": 1,
            "step_nanoseconds": 1,
            "build_milliseconds": 1,
            "failures": {},
            "seconds": 1,
            "profile": PROFILE,
        },
    ],
)
def test_what_is_no_benchmark_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as caught:
        BenchmarkResult.from_json(value)
    assert caught.value.code == "BENCHMARK_MALFORMED"
