"""The plain benchmark length by length, and what it predicts beside what programs take.

``python -m tests.bench.bench_rates [DEVICE] [--runs N]``: every run of the benchmark prints its
seconds, rates and launch cost. Then single products and steps of networks, small and large, are
measured; beside each stands its time by the roofline of the last run, over the measured one: with
the launch cost that an offer states (of a small network), and with that of tiny kernels. A figure
below one is a prediction that is too fast. Calibration by deliveries is not part of this.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from flopmarket.bench import BenchmarkResult, benchmark
from flopmarket.bench.device import STAGES
from flopmarket.bench.growing import Bench, Length, measured
from flopmarket.bench.workloads import LAUNCH, Sizes
from flopmarket.engine import dtypes
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.market.predict import DeviceRates, StepWork, step_picoseconds
from tests.bench.bench_numerics import Workload, opened, product, seconds, workloads

_SIDES = (128, 256, 512, 1024, 2048, 4096)
_NAMES = ("MLP step", "conv step", "exp", "sum", "softmax", "attention")
_TURNS = 5
_LEAST_SECONDS = 0.03
_MOST_SECONDS = 1.0  # of one step; longer programs are left out


def programs() -> list[Callable[[], Workload]]:
    """Products by size, then steps and pointwise work."""
    made = workloads()
    return [
        *(lambda n=n: product(n, dtypes.float32) for n in _SIDES),
        *(made[name] for name in _NAMES),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", nargs="?", default="PoCL:0")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    logging.basicConfig(stream=sys.stdout, format="  %(message)s")
    logging.getLogger("flopmarket.bench").setLevel(logging.DEBUG)
    for _ in range(given.runs):
        with tempfile.TemporaryDirectory(prefix="flopmarket-bench-") as empty:
            result = benchmark(given.device, cache_dir=Path(empty))
        _write(result)
    tiny = _tiny_launch_nanoseconds(given.device)
    sys.stdout.write(f"a tiny kernel: {tiny / 1e3:.1f} us\npredicted / measured:\n")
    stated = DeviceRates(
        result.flops_per_second,
        result.bandwidth_bytes_per_second,
        result.launch_nanoseconds,
        result.step_nanoseconds,
    )
    for make in programs():
        _compare(make(), given.device, stated, replace(stated, launch_nanoseconds=tiny))


def _write(result: BenchmarkResult) -> None:
    rates = ", ".join(f"{name} {rate / 1e9:,.1f}" for name, rate in result.flops_per_second.items())
    sys.stdout.write(
        f"{result.seconds:.1f} s: {rates} GFLOP/s; "
        f"{result.bandwidth_bytes_per_second / 1e9:,.1f} GB/s, "
        f"launch {result.launch_nanoseconds / 1e3:.1f} us, step "
        f"{result.step_nanoseconds / 1e3:.1f} us, build {result.build_milliseconds} ms "
        f"{result.failures or ''}\n"
    )
    sys.stdout.flush()


def _tiny_launch_nanoseconds(device: str) -> int:
    stage = next(stage for stage in STAGES if stage.kind == LAUNCH)
    bench = Bench(
        lambda work: open_session(work.program, device, CompileOptions()),
        time.perf_counter,
        Sizes(),
    )
    return round(1e9 / measured(bench, stage, Length(), time.perf_counter() + 5.0).rate)


def _compare(work: Workload, device: str, stated: DeviceRates, tiny: DeviceRates) -> None:
    cost = work.program.cost
    counted = StepWork(cost.flops, cost.bytes_moved, cost.launches)
    expected, with_tiny = (step_picoseconds(counted, rates) / 1e12 for rates in (stated, tiny))
    if expected > _MOST_SECONDS:
        return
    session = opened(work, device, CompileOptions())
    session.step(work.inputs, seed=1, step=0)
    steps = max(1, round(_LEAST_SECONDS / seconds(session, work, 2)))
    found = [seconds(session, work, steps) for _ in range(_TURNS)]
    session.close()
    taken = median(found)
    sys.stdout.write(
        f"{work.name:42} {taken * 1e3:8.3f} ms ({min(found) * 1e3:.3f} to {max(found) * 1e3:.3f}), "
        f"{cost.launches:3} launches: {expected / taken:5.2f}, with tiny launches "
        f"{with_tiny / taken:5.2f}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
