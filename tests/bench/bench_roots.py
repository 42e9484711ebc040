"""What it costs a worker to keep the roots of all states of a segment, and what a replay costs.

``python -m tests.bench.bench_roots [STEPS] [ROUNDS] [DEVICE]``: a small perceptron, the multilayer
one of the design's peer table, one of a large state, and one of little state and large batches.
Each round runs the segment without roots, with them, again for the roots, and again for four drawn
steps. Times are over those of the first run: medians, least and most.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from flopmarket.engine import functional, nn, optim
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.trace import trace, training_step
from flopmarket.jobs import bundle
from flopmarket.jobs.instrument import instrument
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.questions import StepsQuestion
from flopmarket.jobs.replay import Replay
from flopmarket.jobs.runner import JobRunner
from flopmarket.jobs.spec import DataOrder, JobKind, OrderKind
from flopmarket.jobs.step_values import DeviceValues
from flopmarket.jobs.stepping import StepReplay

CERTAIN = 1_000_000
DRAWN = 4
"""Steps that are asked for, spread over the segment."""


def perceptron(widths: tuple[int, ...], batch: int, steps: int) -> PreparedJob:
    """Training with Adam on noise."""
    rng = np.random.default_rng(1)
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    step = training_step(nn.Sequential(*layers[:-1]), functional.cross_entropy, optim.Adam(lr=1e-3))
    x = rng.standard_normal((2 * batch, widths[0])).astype(np.float32)
    y = rng.integers(0, widths[-1], 2 * batch).astype(np.int32)
    state = step.init(1)
    program = trace(step, state, {"x": x[:batch], "y": y[:batch]})
    return PreparedJob(
        kind=JobKind.TRAINING,
        program=program,
        frozen={},
        state=state,
        data={"x": x, "y": y},
        order=DataOrder(OrderKind.SHUFFLED, 2 * batch, batch),
        seed=1,
        steps=steps,
        segment_steps=steps,
        title="roots",
    )


def seconds(doing: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    doing()
    return time.perf_counter() - began


def measure(name: str, job: PreparedJob, rounds: int, folder: Path, device: str | None) -> None:
    """Print one row."""
    spec = job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))
    start = folder / "start"
    start.write_bytes(bundle.save(job.state))
    program = instrument(job.program)
    session = open_session(program, device)
    runner = JobRunner(session, spec, job.frozen, job.data)
    replay = Replay(session, program, spec, job.frozen, job.data, lambda: False)
    values = DeviceValues(job.program, lambda own: open_session(own, device))
    drawn = tuple(range(0, job.steps, max(job.steps // DRAWN, 1)))

    def again(steps: tuple[int, ...]) -> float:
        asked = StepsQuestion(start, 0, 0, job.steps, steps, False)
        return seconds(lambda: list(StepReplay(replay, values).answer(asked)))

    def run(chance_ppm: int) -> float:
        runner.load(job.state, 0)
        return seconds(lambda: runner.run_segment(0, job.steps, roots_ppm=chance_ppm))

    run(0)
    found: list[tuple[float, ...]] = []
    for _ in range(rounds):
        plain = run(0)
        found.append((plain, run(CERTAIN) / plain, again(()) / plain, again(drawn) / plain))
    session.close()
    sizes = sum(array.nbytes for array in job.state.values())
    step_ms = [each[0] * 1e3 / job.steps for each in found]
    sys.stdout.write(
        f"{name}: state {sizes / 1e6:.2f} MB in {len(job.state)} tensors, step {told(step_ms)} ms; "
        f"with roots {told([each[1] for each in found])}, roots again "
        f"{told([each[2] for each in found])}, drawn {told([each[3] for each in found])}\n"
    )


def told(numbers: list[float]) -> str:
    """Median, and least to most."""
    return f"{median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"


def main() -> None:
    """Measure all."""
    given = sys.argv[1:]
    steps, rounds = (int(text) for text in (*given[:2], *("30", "5")[len(given[:2]) :]))
    device = given[2] if len(given) > 2 else None
    cases = {
        "small, 70-80-5 batch 32": ((70, 80, 5), 32),
        "state, 784-512-512-10 batch 256": ((784, 512, 512, 10), 256),
        "large, 784-2048-2048-10 batch 256": ((784, 2048, 2048, 10), 256),
        "compute, 784-256-10 batch 4096": ((784, 256, 10), 4096),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (widths, batch) in cases.items():
            measure(name, perceptron(widths, batch, steps), rounds, Path(folder), device)


if __name__ == "__main__":
    main()
