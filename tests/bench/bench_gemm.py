"""float32 matrix product against NumPy (and torch, if importable), interleaved in one run.

``python -m tests.bench.bench_gemm [sizes...]`` prints medians, the ratio peer/ours (above 1: we are
faster) and the SHA-256 of our result, which must be the same on every machine. Our time includes
packing both operands; "packed" leaves the packing of B out, as for weights that stay. Operands and
result live in device memory, as the peers' live in theirs.

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

from flopmarket.engine.codegen.templates import gemm
from flopmarket.engine.runtime.cache import KernelCache
from flopmarket.engine.runtime.devices import find
from flopmarket.engine.runtime.opencl import Device, Launch, open_device

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


def prepare(
    device: Device, a: np.ndarray, b: np.ndarray, tile: gemm.GemmTile
) -> tuple[list[Launch], Callable[[], np.ndarray]]:
    """Launches (pack A, pack B, product) for a square product, and a function that reads C."""
    n = a.shape[0]
    spec = gemm.GemmSpec(
        M=n,
        N=n,
        K=n,
        tile=tile,
        parameters="__global float* restrict C",
        store=lambda batch, m, column, value: (
            f"C[{m} * {n} + {column}] = "
            f"select({value}, as_float(0x7fc00000), (uint)isnan({value}));"
        ),
        contract_helper=True,
        compute_units=device.info.compute_units,
    )
    module = device.compile(
        gemm.render_source(
            spec,
            load_a=lambda batch, m, k: f"A[{m} * {n} + {k}]",
            load_b=lambda batch, column, k: f"B[{k} * {n} + {column}]",
            parameters_a="__global const float* restrict A",
            parameters_b="__global const float* restrict B",
        )
    )
    left, right, out = (device.alloc(4 * n * n) for _ in range(3))
    device.upload(left, a)
    device.upload(right, b)
    buffers = {
        "packed_a": device.alloc(gemm.packed_a_bytes(spec)),
        "packed_b": device.alloc(gemm.packed_b_bytes(spec)),
    }
    launches = [
        module.launch(
            launch.kernel,
            [*(buffers[name] for name in launch.operands), last],
            launch.global_size,
            launch.local_size,
        )
        for launch, last in zip(gemm.launches(spec), (left, right, out), strict=True)
    ]

    def read() -> np.ndarray:
        result = np.empty((n, n), np.float32)
        device.download(out, result)
        return result

    return launches, read


def measure(device: Device, size: int, tile: gemm.GemmTile) -> Result:
    """Medians of interleaved turns for one size, about ``SECONDS_PER_SIZE`` long."""
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    launches, read = prepare(device, a, b, tile)

    def run(chosen: Sequence[Launch]) -> None:
        device.run(chosen)
        device.finish()

    contestants: dict[str, Callable[[], object]] = {
        "ours": lambda: run(launches),
        "packed": lambda: run([launches[0], launches[2]]),
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
        sha256=hashlib.sha256(read().tobytes()).hexdigest(),
    )


def main(arguments: Sequence[str]) -> None:
    """Print the table for the given sizes."""
    sizes = [int(text) for text in arguments] or list(SIZES)
    with open_device(find(), cache=KernelCache()) as device:
        tile = gemm.legal_tiles(device.info)[0]
        print(f"{device.info.index_name} {device.info.name}, tile {tile}; GFLOP/s of medians")
        print(
            f"{'size':>6} {'ours':>7} {'packed':>7} {'numpy':>7} {'torch':>7} {'ratio':>6}  sha256"
        )
        for size in sizes:
            result = measure(device, size, tile)
            rates = [
                "-" if taken is None else f"{2e-9 * size**3 / taken:.0f}"
                for taken in (result.ours_s, result.packed_s, result.numpy_s, result.torch_s)
            ]
            columns = " ".join(f"{rate:>7}" for rate in rates)
            print(f"{size:>6} {columns} {result.ratio:>6.2f}  {result.sha256[:16]}", flush=True)
            device.finish()


if __name__ == "__main__":
    main(sys.argv[1:])
