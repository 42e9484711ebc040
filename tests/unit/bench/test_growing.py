"""The plain benchmark on simulated devices: as large as a device needs, as small as it can bear."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.bench import BenchmarkResult
from flopmarket.bench.device import STAGES, measure
from flopmarket.bench.growing import Bench, Length, Stage, grown, measured
from flopmarket.bench.workloads import NETWORK, Sizes, network
from flopmarket.engine.cost import WORK_CLASSES, Cost
from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.market.predict import DeviceRates, StepWork, step_picoseconds
from tests.unit.bench.simulated import SMALL, Card, card

PLENTY = 1 << 40
GROWING = [stage for stage in STAGES if stage.most_doublings]
BUDGET_SECONDS = 10.0


def _stage(kind: str) -> Stage:
    return next(stage for stage in STAGES if stage.kind == kind)


def _rate(device: Card, kind: str, memory_bytes: int = PLENTY, seconds: float = 100.0) -> float:
    bench = Bench(device.open, device.monotonic, SMALL, memory_bytes)
    stage, deadline = _stage(kind), device.now + seconds
    first = measured(bench, stage, Length(), deadline)
    host_seconds = device.host + device.launch
    return grown(bench, stage, first, deadline, host_seconds=host_seconds).rate


def _measured(device: Card, memory_bytes: int = PLENTY) -> BenchmarkResult:
    bench = Bench(device.open, device.monotonic, SMALL, memory_bytes)
    return measure(bench, device.open, budget_seconds=BUDGET_SECONDS)


def test_every_class_of_work_and_bandwidth_can_grow() -> None:
    assert {stage.kind for stage in GROWING} == {*WORK_CLASSES, "bandwidth"}


@pytest.mark.parametrize("kind", WORK_CLASSES)
def test_sizes_grow_on_a_fast_device_until_its_rate_is_reached(kind: str) -> None:
    device = card(rate=1e12, half=1e7, launch=1e-6, host=10e-6)
    smallest = _stage(kind).workload(SMALL, 1)
    at_first = smallest.counted / device.seconds(smallest.program.cost)
    rate = _rate(device, kind)
    assert at_first < 0.5 * device.rates[kind]
    assert rate > 1.5 * at_first
    # What is out of reach for reductions is their bandwidth: four bytes an operation.
    most = min(1e12, device.bandwidth / 4) if kind == "reduce-f32" else 1e12
    assert rate > 0.8 * most
    lengths = device.lengths(kind)
    assert lengths == sorted(lengths) and len(set(lengths)) == len(lengths)


@pytest.mark.parametrize("stage", GROWING, ids=lambda stage: stage.kind)
def test_a_slow_device_is_measured_at_the_smallest_size_alone(stage: Stage) -> None:
    device = card(rate=5e6, half=0.0)
    rate = _rate(device, stage.kind)
    assert device.lengths(stage.kind) == [stage.workload(SMALL, 1).counted]
    assert rate > 0


def test_growth_ends_when_the_rate_does_not_rise() -> None:
    device = card(rate=5e10, half=0.0, launch=0.0, host=0.0)
    _rate(device, "elementwise-f32")
    first, *others = device.lengths("elementwise-f32")
    assert len(others) == 1 and others[0] > first


def test_the_rate_of_the_largest_size_counts_not_the_best() -> None:
    """A cache flatters small sizes: what is stated is what large work gets."""

    class Cached(Card):
        def seconds(self, cost: Cost) -> float:
            slow = 4 if cost.peak_memory_bytes > 1 << 20 else 1
            return slow * super().seconds(cost)

    alike = card(rate=1e10, half=0.0)
    device = Cached(alike.rates, alike.half, alike.bandwidth, alike.launch, alike.host)
    rate = _rate(device, "elementwise-f32")
    largest = device.opened[-1]
    assert largest.memory_bytes > 1 << 20
    assert rate == pytest.approx(largest.counted / device.seconds(largest.program.cost))


@pytest.mark.parametrize("stage", GROWING, ids=lambda stage: stage.kind)
def test_an_allocation_that_fails_is_replaced_by_a_smaller_one(stage: Stage) -> None:
    smallest = stage.workload(SMALL, 1).memory_bytes
    device = card(rate=1e13, half=1e9, memory_bytes=3 * smallest)  # and it says that it has more
    rate = _rate(device, stage.kind)
    fitting = [w for w in device.opened if w.memory_bytes <= device.memory_bytes]
    assert len(fitting) < len(device.opened)
    best = max(fitting, key=lambda workload: workload.counted)
    assert rate == pytest.approx(best.counted / device.seconds(best.program.cost))


def test_a_device_without_memory_for_the_smallest_size_has_no_rate() -> None:
    device = card(rate=1e12, half=0.0, memory_bytes=0)
    result = _measured(device)
    assert set(result.flops_per_second.values()) == {0}
    assert all("DEVICE_MEMORY" in result.failures[kind] for kind in WORK_CLASSES)
    assert result.launch_nanoseconds == 0


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(1e6, 1e15),
    half=st.floats(0.0, 1e9),
    launch=st.floats(0.0, 1e-3),
    host=st.floats(0.0, 1e-2),
    build=st.floats(0.0, 2.0),
    memory_bytes=st.integers(0, 1 << 34),
    kind=st.sampled_from([stage.kind for stage in GROWING]),
)
def test_time_and_memory_are_bounded(
    rate: float,
    half: float,
    launch: float,
    host: float,
    build: float,
    memory_bytes: int,
    kind: str,
) -> None:
    device = card(rate, half, launch=launch, host=host, build=build)
    seconds = 1.0
    found = _rate(device, kind, memory_bytes, seconds)
    asymptote = device.bandwidth if kind == "bandwidth" else rate
    assert 0 < found <= asymptote * 1.001
    first, *longer = device.opened
    assert all(workload.memory_bytes <= memory_bytes for workload in longer)
    # The last one began in time and took its build and at least two steps, of which one is timed.
    one = device.seconds(device.opened[-1].program.cost)
    assert device.now <= seconds + build + 2 * one + 1e-6
    # Nothing longer than a stage allows is begun, unless the smallest is.
    most = max(device.seconds(first.program.cost), 1.001 * _stage(kind).most_seconds)
    assert all(device.seconds(workload.program.cost) <= most for workload in longer)


def test_all_stages_of_a_slow_device_end_in_the_budget() -> None:
    device = card(rate=2e9, half=0.0, build=0.4)
    result = _measured(device)
    assert result.failures == {}
    assert device.now < BUDGET_SECONDS


@pytest.mark.parametrize("half", [0.0, 1e6, 1e8])
def test_a_small_program_is_not_predicted_faster_than_it_is(half: float) -> None:
    """High rates alone would: the launches of a small network bring n_half into the prediction."""
    device = card(rate=1e13, half=half, launch=5e-6)
    result = _measured(device)
    for side in (16, 32, 64):
        cost = network(Sizes(network=side)).program.cost
        truth = device.seconds(cost)
        rates = DeviceRates(
            result.flops_per_second,
            result.bandwidth_bytes_per_second,
            result.launch_nanoseconds,
            result.step_nanoseconds,
        )
        work = StepWork(cost.flops, cost.bytes_moved, cost.launches)
        assert step_picoseconds(work, rates) / 1e12 >= 0.95 * truth


def test_large_work_is_predicted_by_the_rates() -> None:
    device = card(rate=1e12, half=1e6, launch=5e-6)
    result = _measured(device)
    cost = _stage("dot-f32").workload(SMALL.doubled(6), 4).program.cost
    rates = DeviceRates(
        result.flops_per_second, result.bandwidth_bytes_per_second, result.launch_nanoseconds
    )
    work = StepWork(cost.flops, cost.bytes_moved, cost.launches)
    assert step_picoseconds(work, rates) / 1e12 == pytest.approx(device.seconds(cost), rel=0.2)


def test_a_launch_never_costs_less_than_a_tiny_kernel_does() -> None:
    device = card(rate=1e12, half=0.0, launch=7e-6)
    result = _measured(device)
    assert result.launch_nanoseconds >= 7_000
    assert NETWORK not in result.failures


@pytest.mark.parametrize("stage", GROWING, ids=lambda stage: stage.kind)
def test_tensors_of_grown_workloads_are_those_of_the_program(stage: Stage) -> None:
    workload = stage.workload(SMALL.doubled(1), 3)
    for specs, tensors in (
        (workload.program.frozen, workload.frozen),
        (workload.program.state, workload.state),
    ):
        assert [spec.name for spec in specs] == list(tensors)
        for spec in specs:
            tensor = tensors[spec.name]
            assert (tensor.shape, tensor.dtype) == (spec.shape, spec.dtype.numpy)
            assert np.isfinite(tensor.astype(np.float64)).all()


@pytest.mark.parametrize("repeats", [1, 5])
def test_a_pass_reads_and_writes_each_byte_once(repeats: int) -> None:
    workload = _stage("bandwidth").workload(SMALL, repeats)
    assert workload.counted == 2 * repeats * 4 * SMALL.copy_elements
    assert workload.counted <= workload.program.cost.bytes_moved
    session = ReferenceSession(workload.program)
    session.load(workload.frozen, workload.state)
    session.step({}, seed=0, step=0)
    assert (session.read_state()["x"] == repeats).all()


def test_a_doubled_workload_is_as_much_more_as_its_stage_says() -> None:
    for stage in GROWING:
        small, large = (stage.workload(SMALL.doubled(times), 1).counted for times in (1, 2))
        assert large == pytest.approx(stage.growth * small, rel=0.01)
