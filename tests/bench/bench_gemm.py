"""float32 matrix product against NumPy (and torch, if importable), interleaved in one run.

``python -m tests.bench.bench_gemm [sizes...]`` prints medians, the ratio peer/ours (above 1: we are
faster) and the SHA-256 of our result, which must be the same on every machine. Ours is the engine's
plan of one DOT, launches only. Its time includes packing both operands; "packed" leaves the packing
of B out, as for weights that stay. Operands and result live in device memory, as the peers' live in
theirs.

The contestants take turns, so that a noisy machine is noisy for all of them, with a pause after
each: threads of OpenBLAS and OpenMP spin for up to a tenth of a second after a call, and would take
a core from whoever is timed next.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flopmarket.engine import dtypes, graph
from flopmarket.engine.codegen.emit import BufferKey
from flopmarket.engine.codegen.lower import choose_tile
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime.devices import find
from flopmarket.engine.runtime.launches import Launch
from flopmarket.engine.runtime.memory import Buffer
from flopmarket.engine.runtime.open import open_target, opened
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.resident import CompileOptions, Resident
from flopmarket.engine.schedule.plan import make_plan, size_bytes

SIZES = (512, 1024, 2048)
PAUSE_S = 0.2
SECONDS_PER_SIZE = 8.0


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of one size, in seconds; ``torch_s`` is None where torch is not installed."""

    size: int
    ours_s: float
    packed_s: float
    numpy_s: float
    torch_s: float | None
    sha256: str

    @property
    def ratio(self) -> float:
        """The better peer's time over ours."""
        peer = self.numpy_s if self.torch_s is None else min(self.numpy_s, self.torch_s)
        return peer / self.ours_s


@dataclass(frozen=True, slots=True)
class Product:
    """A square product on a device: the launches of both packings and the product, in order."""

    pack_b: list[Launch]
    rest: list[Launch]
    read: Callable[[], np.ndarray]


def prepare(device: Device, target: Target, a: np.ndarray, b: np.ndarray) -> Product:
    """The engine's plan of one DOT, with the operands in device memory.

    B is a frozen tensor, so that the plan sets its packing apart.
    """
    n = a.shape[0]
    left = graph.input_("input", "a", dtypes.float32, (1, n, n))
    right = graph.input_("frozen", "b", dtypes.float32, (1, n, n))
    (node,) = canonicalise([graph.dot(left, right)])
    plan = make_plan([node], target)
    families = [step.call.family for step in (*plan.once, *plan.steps)]
    assert families == ["pack", "pack", "gemm"] and len(plan.once) == 1, families
    resident = Resident(device, plan, CompileOptions(), ())
    buffers: dict[BufferKey, Buffer] = {
        leaf: device.alloc(size_bytes(leaf)) for leaf in plan.leaves
    }
    for leaf, array in ((left, a), (right, b)):
        device.upload(buffers[leaf], array)

    def read() -> np.ndarray:
        result = np.empty((n, n), np.float32)
        device.download(resident.buffer(node), result)
        return result

    return Product(resident.bind(plan.once, buffers), resident.bind(plan.steps, buffers), read)


def measure(device: Device, target: Target, size: int) -> Result:
    """Medians of interleaved turns for one size, about ``SECONDS_PER_SIZE`` long."""
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    product = prepare(device, target, a, b)

    def run(chosen: Sequence[Launch]) -> None:
        device.run(chosen)
        device.finish()

    contestants: dict[str, Callable[[], object]] = {
        "ours": lambda: run([*product.pack_b, *product.rest]),
        "packed": lambda: run(product.rest),
        "numpy": lambda: a @ b,
    }
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        pass
    else:
        x, y = torch.from_numpy(a), torch.from_numpy(b)
        contestants["torch"] = lambda: x @ y
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()
    end = time.perf_counter() + SECONDS_PER_SIZE
    while time.perf_counter() < end or len(times["ours"]) < 5:
        for name, call in contestants.items():
            time.sleep(PAUSE_S)
            call()  # wakes the threads of this contestant again
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return Result(
        size=size,
        ours_s=medians["ours"],
        packed_s=medians["packed"],
        numpy_s=medians["numpy"],
        torch_s=medians.get("torch"),
        sha256=hashlib.sha256(product.read().tobytes()).hexdigest(),
    )


def main(arguments: Sequence[str]) -> None:
    """Print the table for the given sizes."""
    sizes = [int(text) for text in arguments] or list(SIZES)
    with opened(find()) as device:
        target = open_target(device)
        chosen = {str(choose_tile(size, size, target.vector_floats)): None for size in sizes}
        tiles = ", ".join(chosen)
        print(f"{device.info.index_name} {device.info.name}, tile {tiles}; GFLOP/s of medians")
        print(
            f"{'size':>6} {'ours':>7} {'packed':>7} {'numpy':>7} {'torch':>7} {'ratio':>6}  sha256"
        )
        for size in sizes:
            result = measure(device, target, size)
            rates = [
                "-" if taken is None else f"{2e-9 * size**3 / taken:.0f}"
                for taken in (result.ours_s, result.packed_s, result.numpy_s, result.torch_s)
            ]
            columns = " ".join(f"{rate:>7}" for rate in rates)
            print(f"{size:>6} {columns} {result.ratio:>6.2f}  {result.sha256[:16]}", flush=True)
            device.finish()


if __name__ == "__main__":
    main(sys.argv[1:])
