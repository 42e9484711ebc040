"""Two training steps against torch on the same CPU, interleaved in one run.

``python -m tests.bench.bench_steps``: the multilayer perceptron and the convolutional network of
the design's peer table. Prints the median time of a step, the ratio to torch's (where torch is
installed), and the digest of our state after the steps, which must be the same on every machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from flopmarket.engine import functional, nn, optim
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.runtime.session import Session
from flopmarket.engine.trace import trace, training_step
from flopmarket.jobs import bundle

REPEATS = 15
PAUSE_SECONDS = 0.2  # OpenBLAS and OpenMP threads spin for a while after a call


@dataclass(frozen=True, slots=True)
class Case:
    """One step: our model and optimizer, torch's twin, and the input's shape."""

    name: str
    model: nn.Module
    optimizer: optim.Optimizer
    x_shape: tuple[int, ...]
    torch_twin: Callable[[Any], tuple[Any, Any]]


def perceptron() -> Case:
    """784-512-512-10, batch 256, Adam."""

    def twin(torch: Any) -> tuple[Any, Any]:
        model = torch.nn.Sequential(
            torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512),
            torch.nn.ReLU(), torch.nn.Linear(512, 10),
        )  # fmt: skip
        return model, torch.optim.Adam(model.parameters(), lr=1e-3)

    model = nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )
    return Case("MLP 784-512-512-10, batch 256, Adam", model, optim.Adam(lr=1e-3), (256, 784), twin)


def convolutional() -> Case:
    """Three stride-2 convolutions and a linear layer, batch 64 of 3x32x32, SGD."""

    def twin(torch: Any) -> tuple[Any, Any]:
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 32, 3, stride=2, padding=1), torch.nn.ReLU(),
            torch.nn.Conv2d(32, 64, 3, stride=2, padding=1), torch.nn.ReLU(),
            torch.nn.Conv2d(64, 128, 3, stride=2, padding=1), torch.nn.ReLU(),
            torch.nn.Flatten(), torch.nn.Linear(2048, 10),
        )  # fmt: skip
        return model, torch.optim.SGD(model.parameters(), lr=1e-2)

    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 10),
    )
    name = "3 conv + linear, batch 64 of 3x32x32, SGD"
    return Case(name, model, optim.SGD(lr=1e-2), (64, 3, 32, 32), twin)


def torch_or_none() -> Any:
    """The peer, or None with a word about it."""
    try:
        import torch
    except ImportError:
        sys.stdout.write("torch is not installed: no peer to compare with\n")
        return None
    return torch


def measure(case: Case, torch: Any) -> None:
    """Print one row."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(case.x_shape).astype(np.float32)
    y = rng.integers(0, 10, case.x_shape[0]).astype(np.int32)
    step = training_step(case.model, functional.cross_entropy, case.optimizer)
    state = step.init(1)
    program = trace(step, state, {"x": x, "y": y})
    began = time.perf_counter()
    session = open_session(program)
    session.load({}, state)
    session.step({"x": x, "y": y}, seed=1, step=0)
    cold = time.perf_counter() - began
    peer = torch_step(case, torch, x, y) if torch is not None else None
    ours: list[float] = []
    theirs: list[float] = []
    for repeat in range(REPEATS):
        ours.append(timed(lambda: our_step(session, x, y, repeat + 1)))  # noqa: B023
        if peer is not None:
            theirs.append(timed(peer))
    digest = bundle.root(session.read_state()).hex()[:16]
    session.close()
    mine = median(ours) * 1e3
    sys.stdout.write(f"{case.name}: {mine:.1f} ms (min {min(ours) * 1e3:.1f}, max "
                     f"{max(ours) * 1e3:.1f}; first {cold:.1f} s)")  # fmt: skip
    if theirs:
        other = median(theirs) * 1e3
        sys.stdout.write(f"; torch {other:.1f} ms; ours / torch = {mine / other:.2f}")
    sys.stdout.write(f"; state {digest} after {2 * REPEATS + 1} steps\n")


def timed(run: Callable[[], object]) -> float:
    """Seconds of the second of two runs, after a pause."""
    time.sleep(PAUSE_SECONDS)
    run()
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def our_step(session: Session, x: Any, y: Any, number: int) -> None:
    """One step on the resident session."""
    session.step({"x": x, "y": y}, seed=1, step=number)


def torch_step(case: Case, torch: Any, x: Any, y: Any) -> Callable[[], object]:
    """The peer's step on the same data."""
    model, optimizer = case.torch_twin(torch)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))
    loss = torch.nn.CrossEntropyLoss()

    def run() -> float:
        optimizer.zero_grad()
        value = loss(model(tx), ty)
        value.backward()
        optimizer.step()
        return float(value.detach())

    run()
    return run


def main() -> None:
    """Measure both."""
    torch = torch_or_none()
    for case in (perceptron(), convolutional()):
        measure(case, torch)


if __name__ == "__main__":
    main()
