"""How well times are predicted: real jobs in a worker's own engine process, against the roofline.

``python -m tests.bench.bench_prediction [DEVICE]``: the device is benchmarked as for an offer; then
five jobs run in rounds, each with the factors that a lease would have been given when it began.
Prints the error of the roofline alone and of the calibrated prediction by job and round, and setup
(cold kernel builds) beside its prediction. The aim is a median below 25 % after calibration, on a
machine that does nothing else: what segments of one run differ by is printed, too.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flopmarket.bench import BenchmarkResult
from flopmarket.demo import digits
from flopmarket.engine import functional, nn, optim
from flopmarket.engine.tensor import Tensor
from flopmarket.jobs.builds import kernel_count
from flopmarket.jobs.host import EngineProcess, SegmentDone
from flopmarket.jobs.job import InferenceJob, TrainingJob
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.process import DATA_FILE, FROZEN_FILE, PROGRAM_FILE
from flopmarket.market.accuracy import Accuracy, Delivered, accuracy_of
from flopmarket.market.calibrate import (
    Factors,
    Running,
    learn,
    setup_families,
    step_families,
)
from flopmarket.market.predict import PICOSECONDS_PER_MICROSECOND, Prediction, predict
from flopmarket.market.work import DeviceRates, JobWork, StepWork
from flopmarket.trust.encoding import encode

ROUNDS = 4
SEGMENTS = 5
TARGET_PPM = 250_000


class Pointwise(nn.Module):
    """Twelve exact GELUs in a row."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(12):
            x = functional.gelu(x) * 0.9 + 0.1
        return x


def jobs() -> Iterator[tuple[str, PreparedJob]]:
    """Training and inference, of products, of convolutions, of pointwise work, of launches."""
    random = np.random.default_rng(0)
    data = digits.load()
    yield (
        "digits, convolutions, Adam",
        TrainingJob(
            model=digits.convolutional_classifier(), loss=functional.cross_entropy,
            optimizer=optim.Adam(lr=1e-3), data=(data.train_x, data.train_y), batch=64,
            steps=20 * SEGMENTS, segment_steps=20,
        ).prepare(),
    )  # fmt: skip
    rows = random.random((2_048, 784), dtype=np.float32)
    labels = random.integers(0, 10, 2_048).astype(np.int32)
    perceptron = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
    yield (
        "perceptron, Adam",
        TrainingJob(
            model=perceptron, loss=functional.cross_entropy, optimizer=optim.Adam(lr=1e-3),
            data=(rows, labels), batch=256, steps=10 * SEGMENTS, segment_steps=10,
        ).prepare(),
    )  # fmt: skip
    perceptron.load_state_dict(perceptron.init(0))
    many = np.concatenate([rows] * 15)
    yield (
        "perceptron, inference",
        InferenceJob(
            model=perceptron, inputs=many, batch=256, segment_steps=120 // SEGMENTS
        ).prepare(),
    )
    yield (
        "pointwise, inference",
        InferenceJob(
            model=Pointwise(), inputs=random.random((64 * 12 * SEGMENTS, 4_096), dtype=np.float32),
            batch=64, segment_steps=4,
        ).prepare(),
    )  # fmt: skip
    small = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    yield (
        "tiny network: launches",
        TrainingJob(
            model=small, loss=functional.cross_entropy, optimizer=optim.Adam(lr=1e-3),
            data=(rows[:256, :8].copy(), labels[:256] % 2), batch=16, steps=100 * SEGMENTS,
            segment_steps=100,
        ).prepare(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lease:
    """One run of a job: the prediction it began with, and the time of each segment."""

    forecast: Prediction
    delivered: tuple[Delivered, ...]
    setup_us: int


def work_of(job: PreparedJob) -> JobWork:
    """What a coordinator counts of it; nothing travels in this bench."""
    cost = job.program.cost
    step = StepWork(cost.flops, cost.bytes_moved, cost.launches)
    kernels = kernel_count(job.program)
    return JobWork(step, job.steps, kernels=kernels, program=job.program.digest.hex())


async def lease(
    engine: EngineProcess, name: str, job: PreparedJob, forecast: Prediction, folder: Path
) -> Lease:
    """Run the job, segment by segment, as a worker does."""
    folder.mkdir(exist_ok=True)
    files = {"program": PROGRAM_FILE, "frozen": FROZEN_FILE, "data": DATA_FILE}
    for kind, content in job.artifacts().items():
        (folder / files.get(kind, "state.safetensors")).write_bytes(content)
    spec = job.spec(buyer="bench", max_price_nano=1, deadline_us=0, nonce=bytes(16))
    began = time.monotonic()
    await engine.open(folder, encode(spec))
    await engine.load_state(folder / "state.safetensors" if job.state else None, 0)
    setup_us = round((time.monotonic() - began) * 1e6)
    delivered: list[Delivered] = []
    for first in range(0, job.steps, job.segment_steps):
        steps = min(job.segment_steps, job.steps - first)
        state = folder / "end.safetensors" if job.state else None
        ran = engine.run(
            first, steps, outputs_path=folder / "outputs.safetensors", state_path=state
        )
        delivered += [
            _delivered(name, forecast, steps, event.run_us)
            async for event in ran
            if isinstance(event, SegmentDone)
        ]
    await engine.close_job()
    return Lease(forecast, tuple(delivered), setup_us)


def _delivered(name: str, forecast: Prediction, steps: int, run_us: int) -> Delivered:
    return Delivered(
        offer_id="device",
        device_name=name,
        work_class=forecast.work_class,
        roofline_us=_microseconds(forecast.roofline_picoseconds * steps),
        predicted_us=_microseconds(forecast.step_picoseconds * steps),
        measured_us=run_us,
    )


def _microseconds(picoseconds: int) -> int:
    return max(1, picoseconds // PICOSECONDS_PER_MICROSECOND)


def taught(known: dict[str, Running], job: JobWork, done: Lease) -> None:
    """What a settlement of these segments teaches."""
    forecast = done.forecast
    families = step_families(job.program, forecast.work_class, forecast.roofline_picoseconds)
    for item in done.delivered:
        known |= learn(known, families, item.measured_us, item.roofline_us)
    expected_us = _microseconds(forecast.setup_roofline_picoseconds)
    known |= learn(known, setup_families(job.program), done.setup_us, expected_us)


async def measure(device: str | None) -> tuple[list[list[Lease]], list[str]]:
    """Leases by round and job, and the names of the jobs."""
    with tempfile.TemporaryDirectory(prefix="flopmarket-bench-") as name:
        folder = Path(name)
        engine = await EngineProcess.start(device, cache_dir=folder / "kernels")
        try:
            result = BenchmarkResult.from_json(await engine.benchmark())
            _write_rates(result)
            rates = DeviceRates(
                result.flops_per_second,
                result.bandwidth_bytes_per_second,
                result.launch_nanoseconds,
                result.step_nanoseconds,
                result.build_milliseconds,
            )
            prepared = list(jobs())
            known: dict[str, Running] = {}
            rounds: list[list[Lease]] = []
            for _ in range(ROUNDS):
                done: list[Lease] = []
                for at, (name, job) in enumerate(prepared):
                    work = work_of(job)
                    factors = Factors({key: item.factor_ppm for key, item in known.items()})
                    forecast = predict(work, rates, factors)
                    job_folder = folder / f"job-{at}"
                    done.append(await lease(engine, name, job, forecast, job_folder))
                    taught(known, work, done[-1])
                rounds.append(done)
            return rounds, [name for name, _ in prepared]
        finally:
            await engine.stop()


def _write_rates(result: BenchmarkResult) -> None:
    rates = ", ".join(f"{k} {v / 1e9:.1f}" for k, v in result.flops_per_second.items())
    sys.stdout.write(f"GFLOP/s: {rates}\n")
    sys.stdout.write(
        f"{result.bandwidth_bytes_per_second / 1e9:.1f} GB/s, launch "
        f"{result.launch_nanoseconds / 1e3:.1f} us, step {result.step_nanoseconds / 1e3:.0f} us, "
        f"build {result.build_milliseconds} ms a kernel ({result.seconds:.1f} s of benchmark)\n\n"
    )


def report(rounds: list[list[Lease]], names: list[str]) -> Accuracy:
    """Print the tables; the accuracy of all rounds but the first."""
    write = sys.stdout.write
    write(f"{'job':28} {'class':16} {'ms/segment':>12}  uncalibrated  round: 1 {'2':>9}")
    write("".join(f"{number:>9}" for number in range(3, ROUNDS + 1)) + "\n")
    for at, name in enumerate(names):
        every = [done[at].delivered for done in rounds]
        together = accuracy_of("", "", "", [item for items in every for item in items])
        times = sorted(item.measured_us for items in every for item in items)
        write(
            f"{name:28} {rounds[0][at].forecast.work_class:16} {times[len(times) // 2] / 1e3:12.1f}"
            f"  {_percent(together.uncalibrated_error_p50_ppm):>12} "
        )
        write("".join(f"{_percent(accuracy_of('', '', '', items).error_p50_ppm):>9}"
                      for items in every) + "\n")  # fmt: skip
    write("\nsetup (builds): predicted and taken, first round (cold) and last\n")
    for at, name in enumerate(names):
        first, last = rounds[0][at], rounds[-1][at]
        write(
            f"{name:28} {_setup_seconds(first):6.2f} s {first.setup_us / 1e6:6.2f} s"
            f"   {_setup_seconds(last):6.2f} s {last.setup_us / 1e6:6.2f} s\n"
        )
    later = [item for done in rounds[1:] for lease in done for item in lease.delivered]
    total = accuracy_of("", "", "", later)
    noise = sorted(_noise_ppm(lease) for done in rounds for lease in done)
    write(
        f"\nwhat no prediction can know: segments are {_percent(noise[len(noise) // 2])} from the "
        "median of their own run (median over runs)\n"
    )
    write(
        f"\nall jobs, rounds 2 to {ROUNDS}, {total.segments} segments: median error "
        f"{_percent(total.error_p50_ppm)} (p90 {_percent(total.error_p90_ppm)}); uncalibrated "
        f"{_percent(total.uncalibrated_error_p50_ppm)} "
        f"(p90 {_percent(total.uncalibrated_error_p90_ppm)})\n"
        f"aim: median below {_percent(TARGET_PPM)}: "
        f"{'reached' if total.error_p50_ppm < TARGET_PPM else 'MISSED'}\n"
    )
    return total


def _noise_ppm(done: Lease) -> int:
    """How far the segments of one run are from each other, of which the machine is the cause."""
    times = sorted(item.measured_us for item in done.delivered)
    middle = times[len(times) // 2]
    own = [replace(item, predicted_us=middle) for item in done.delivered]
    return accuracy_of("", "", "", own).error_p50_ppm


def _setup_seconds(done: Lease) -> float:
    return done.forecast.setup_picoseconds / 1e12


def _percent(ppm: int) -> str:
    return f"{ppm / 10_000:.1f} %"


def main() -> None:
    """Measure and print."""
    device = sys.argv[1] if len(sys.argv) > 1 else None
    rounds, names = asyncio.run(measure(device))
    report(rounds, names)


if __name__ == "__main__":
    main()
