"""Fast kernels against exact ones on one device, taking turns in one run.

``python -m tests.bench.bench_numerics [--device SPEC] [--repeats N] [words...]`` prints for each
workload the median time of a step under either law with the least and the greatest, their ratio
(above 1: fast mode is faster), the rate of products, and digests of both results. A fast session is
opened a second time in poisoned memory, and must come to the digest of the first. ``words`` choose
the workloads whose names have one of them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from flopmarket.engine import dtypes, functional, graph
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Node
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.runtime.session import Array, Session
from flopmarket.engine.tensor import Tensor
from flopmarket.engine.trace import trace, training_step
from flopmarket.jobs import bundle
from tests.bench.bench_steps import Case, convolutional, perceptron

LEAST_SECONDS = 0.03
"""A measurement repeats short steps until it takes so long."""
DIGEST_STEPS = 3

Tensors = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Workload:
    """A step: its program and tensors, and the operations of its products (0: not of interest)."""

    name: str
    program: Program
    state: Tensors
    inputs: Tensors
    dot_flops: int = 0


def pure(
    name: str, arrays: list[Array], compute: Callable[..., Node], dot_flops: int = 0
) -> Workload:
    """A step that computes one result from tensors that stay."""
    specs = [
        TensorSpec(f"x{at}", dtypes.from_numpy(array.dtype), array.shape)
        for at, array in enumerate(arrays)
    ]
    leaves = [graph.input_("state", s.name, s.dtype, s.shape) for s in specs]
    result = compute(*leaves)
    specs.append(TensorSpec("result", result.dtype, result.shape))
    program = Program.build(
        frozen=[], state=specs, inputs=[], next_state=[*leaves, result], outputs=[]
    )
    state = {spec.name: array for spec, array in zip(specs, arrays, strict=False)}
    state["result"] = np.zeros(result.shape, result.dtype.numpy)
    return Workload(name, program, state, {}, dot_flops)


def training(case: Case) -> Workload:
    """A training step of the peer table."""
    random = np.random.default_rng(1)
    inputs = {
        "x": random.standard_normal(case.x_shape).astype(np.float32),
        "y": random.integers(0, 10, case.x_shape[0]).astype(np.int32),
    }
    step = training_step(case.model, functional.cross_entropy, case.optimizer)
    state = step.init(1)
    program = trace(step, state, inputs)
    return Workload(case.name, program, state, inputs)


def product(n: int, dtype: DType) -> Workload:
    """A square product."""
    random = np.random.default_rng(2)
    a, b = (random.standard_normal((1, n, n)).astype(dtype.numpy) for _ in range(2))
    return pure(f"product of {n}, {dtype}", [a, b], graph.dot, 2 * n**3)


def workloads() -> dict[str, Callable[[], Workload]]:
    """Makers by name."""

    def bells(*shapes: tuple[int, ...]) -> list[Array]:
        random = np.random.default_rng(3)
        return [random.standard_normal(shape).astype(np.float32) for shape in shapes]

    def attention(q: Node, k: Node, v: Node) -> Node:
        return functional.scaled_dot_product_attention(
            Tensor(q), Tensor(k), Tensor(v), is_causal=True
        ).node

    found: dict[str, Callable[[], Workload]] = {
        "MLP step": lambda: training(perceptron()),
        "conv step": lambda: training(convolutional()),
    }
    for n, dtype in (
        (1024, dtypes.float32),
        (2048, dtypes.float32),
        (4096, dtypes.float32),
        (2048, dtypes.bfloat16),
        (4096, dtypes.bfloat16),
    ):
        found[f"product {n} {dtype}"] = lambda n=n, dtype=dtype: product(n, dtype)
    m = 1 << 22
    found["exp"] = lambda: pure("exp of 4 M", bells((m,)), lambda x: Tensor(x).exp().node)
    found["division"] = lambda: pure("4 M quotients", bells((m,), (m,)), graph.div)
    found["root"] = lambda: pure("4 M roots", [abs(bells((m,))[0])], graph.sqrt)
    found["sum"] = lambda: pure(
        "sum of 16 M", bells((4, m)), lambda x: graph.reduce("sum", x, (0, 1))
    )
    found["columns"] = lambda: pure(
        "sums of 512 columns of 8192", bells((8192, 512)), lambda x: graph.reduce("sum", x, (0,))
    )
    found["softmax"] = lambda: pure(
        "softmax 4096 x 1024", bells((4096, 1024)), lambda x: functional.softmax(Tensor(x), 1).node
    )
    found["attention"] = lambda: pure(
        "causal attention, 8 heads of 512 x 64", bells(*[(8, 512, 64)] * 3), attention
    )
    return found


def opened(work: Workload, device: str | None, options: CompileOptions) -> Session:
    """A session with the workload's state."""
    session = open_session(work.program, device, options)
    session.load({}, work.state)
    return session


def digest(session: Session, work: Workload) -> str:
    """Of the state after some steps from the beginning."""
    session.load({}, work.state)
    for step in range(DIGEST_STEPS):
        session.step(work.inputs, seed=1, step=step)
    return bundle.root(session.read_state()).hex()[:12]


def seconds(session: Session, work: Workload, steps: int) -> float:
    """Mean time of a step."""
    began = time.perf_counter()
    for step in range(steps):
        session.step(work.inputs, seed=1, step=step)
    return (time.perf_counter() - began) / steps


def measure(work: Workload, device: str | None, repeats: int) -> None:
    """Print one row."""
    began = time.perf_counter()
    sessions = {law: opened(work, device, CompileOptions(numerics=law)) for law in Numerics}
    digests = {law: digest(session, work) for law, session in sessions.items()}
    fast = CompileOptions(numerics=Numerics.FAST, poison=True, poison_byte=0x41)
    again = opened(work, device, fast)
    steady = digest(again, work) == digests[Numerics.FAST]
    again.close()
    ready = time.perf_counter() - began
    times: dict[Numerics, list[float]] = {law: [] for law in Numerics}
    steps = {
        law: max(1, round(LEAST_SECONDS / max(1e-6, seconds(session, work, 2))))
        for law, session in sessions.items()
    }
    for _ in range(repeats):
        for law, session in sessions.items():
            times[law].append(seconds(session, work, steps[law]))
    row = f"{work.name}:"
    for law, found in times.items():
        row += f" {law} {_ms(median(found))} ({_ms(min(found))} to {_ms(max(found))})"
        if work.dot_flops:
            row += f" {work.dot_flops / median(found) / 1e9:,.0f} GFLOP/s"
        row += f" {digests[law]};"
    ratio = median(times[Numerics.EXACT]) / median(times[Numerics.FAST])
    same = "" if steady else " FAST IS NOT STEADY"
    sys.stdout.write(f"{row} ratio {ratio:.2f}; ready {ready:.0f} s{same}\n")
    sys.stdout.flush()
    for session in sessions.values():
        session.close()


def _ms(value: float) -> str:
    return f"{value * 1e3:.3g} ms"


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--device")
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    for name, make in workloads().items():
        if not given.words or any(word in name for word in given.words):
            measure(make(), given.device, given.repeats)


if __name__ == "__main__":
    main()
