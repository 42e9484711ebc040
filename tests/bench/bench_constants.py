"""What the constants of FX1 cost: DOT chunks of 256, 512, 1024; REDUCE lanes and blocks.

``python -m tests.bench.bench_constants [--device NAME] [--small] [families...]`` prints medians
and least times, their ratios to the constants as they are (above 1: slower than those) and the
largest error against float64. The variants of one shape take turns, so that a noisy machine is
noisy for all of them. "none" is no law: one chain a result, or split finely in an order of its own.

Families: gemm (square products), thin (1, 4 and 16 rows times a matrix, as in decoding; the
matrices do not stay in a cache), tall (weight gradients: 512 x 512 over 65,536 terms), reduce.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine.exact import DOT_CHUNK, REDUCE_BLOCK, REDUCE_LANES
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.devices import DeviceKind
from flopmarket.engine.runtime.launches import Launch
from flopmarket.engine.runtime.memory import Buffer
from flopmarket.engine.runtime.open import opened
from flopmarket.engine.runtime.opencl import Device
from tests.bench import constant_kernels as kernels

Array = np.ndarray[Any, Any]

CHUNKS = (0, 256, 512, 1024)
LANES = (32, 64, 128)
BLOCKS = (2048, 4096, 8192)
CHECKED_ROWS = 32
ROUNDS = 15
ROUND_S = 0.02
UNROLL = 16


@dataclass(frozen=True)
class Variant:
    """One choice of constants on one shape, ready to run.

    ``turns`` are launches of equal work on different copies of the data, run one after another.
    """

    name: str
    is_current: bool
    turns: Sequence[Sequence[Launch]]
    error: Callable[[], float]


@dataclass(frozen=True)
class Shape:
    """The variants that are compared on one shape; ``work`` is FLOPs or bytes of one run."""

    name: str
    work: float
    unit: str
    variants: Sequence[Variant]


class Workshop:
    """A device with what the families need: compiled sources, random data, memory to free."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.is_cpu = device.info.kind is DeviceKind.CPU
        self._random = np.random.default_rng(5)
        self._buffers: list[Buffer] = []

    def normal(self, *shape: int) -> Array:
        return self._random.standard_normal(shape, dtype=np.float32)

    def given(self, array: Array) -> Buffer:
        buffer = self.empty(array.size)
        self.device.upload(buffer, array)
        return buffer

    def empty(self, count: int) -> Buffer:
        buffer = self.device.alloc(4 * count)
        self._buffers.append(buffer)
        return buffer

    def read(self, buffer: Buffer, *shape: int) -> Array:
        array = np.empty(shape, np.float32)
        self.device.download(buffer, array)
        return array

    def launch(
        self,
        source: str,
        name: str,
        arguments: Sequence[Buffer | int],
        size: tuple[int, ...],
        local: tuple[int, ...] | None = None,
    ) -> Launch:
        module = self.device.compile(source, numerics=None)
        values = [a if isinstance(a, Buffer) else np.int32(a) for a in arguments]
        return module.launch(name, values, size, local)

    def release(self) -> None:
        self.device.finish()
        for buffer in self._buffers:
            buffer.release()
        self._buffers.clear()


def distance(found: Array, exact: Array) -> float:
    return float(np.abs(found - exact).max())


# ---------------------------------------------------------------- products


def gemm(shop: Workshop, *, small: bool) -> Iterator[Shape]:
    """Square products through the C buffer, and on GPUs through a second set of registers."""
    for n in (512, 1024) if small else (1024, 2048, 4096):
        a, b = shop.normal(n, n), shop.normal(n, n)
        exact = a[:CHECKED_ROWS].astype(np.float64) @ b.astype(np.float64)
        build = _cpu_gemms if shop.is_cpu else _gpu_gemms
        yield Shape(f"gemm {n}^3", 2.0 * n**3, "GFLOP/s", build(shop, a, b, exact))
        shop.release()


def _gpu_gemms(shop: Workshop, a: Array, b: Array, exact: Array) -> list[Variant]:
    n = a.shape[0]
    left, right = shop.given(a), shop.given(b)
    choices = [(chunk, depth, False) for depth in (8, 16) for chunk in CHUNKS]
    choices += [(DOT_CHUNK, depth, True) for depth in (8, 16)]
    variants = []
    for chunk, depth, registers in choices:
        out = shop.empty(n * n)
        source = kernels.gpu_gemm(chunk, depth=depth, registers=registers)
        size = (n // kernels.GPU_TILE * kernels.GPU_ITEMS, n // kernels.GPU_TILE)
        launch = shop.launch(source, "gemm", [left, right, out, n, n, n], size)
        name = f"chunk {chunk or 'none'}, depth {depth}{', registers' * registers}"

        def error(out: Buffer = out) -> float:
            return distance(shop.read(out, n, n)[:CHECKED_ROWS], exact)

        current = chunk == DOT_CHUNK and depth == 16 and not registers
        variants.append(Variant(name, current, [[launch]], error))
    return variants


def _cpu_gemms(shop: Workshop, a: Array, b: Array, exact: Array) -> list[Variant]:
    rows, n = a.shape[0], b.shape[1]
    padded = -(-rows // kernels.CPU_ROWS) * kernels.CPU_ROWS
    variants = []
    for chunk in CHUNKS:
        terms = chunk or DOT_CHUNK
        out = shop.empty(padded * n)
        left = shop.given(_packed(a, terms, kernels.CPU_ROWS))
        right = shop.given(_packed(b.T, terms, kernels.CPU_COLUMNS))
        source = kernels.cpu_gemm(continues=chunk == 0)
        size = (n // kernels.CPU_COLUMNS, padded // kernels.CPU_ROWS)
        launches = []
        for start in range(0, a.shape[1], terms):
            count = min(terms, a.shape[1] - start)
            arguments = [left, right, out, count, n, padded * start, n * start]
            launches.append(shop.launch(source, "gemm", arguments, size))

        def error(out: Buffer = out, launches: Sequence[Launch] = launches) -> float:
            out.fill_zero()
            shop.device.run(launches)
            return distance(shop.read(out, padded, n)[:CHECKED_ROWS], exact)

        name = f"chunk {chunk}" if chunk else f"chunk none, blocked by {terms}"
        variants.append(Variant(name, chunk == DOT_CHUNK, [launches], error))
    return variants


def _packed(rows: Array, terms: int, tile: int) -> Array:
    """Chunks of [R, K] one after another, each [R / tile, terms, tile], zeros below."""
    count = -(-rows.shape[0] // tile)
    full = np.zeros((count * tile, rows.shape[1]), np.float32)
    full[: rows.shape[0]] = rows
    tiles = full.reshape(count, tile, rows.shape[1]).transpose(0, 2, 1)
    starts = range(0, rows.shape[1], terms)
    return np.concatenate([tiles[:, start : start + terms].ravel() for start in starts])


def tall(shop: Workshop, *, small: bool) -> Iterator[Shape]:
    """Weight gradients: each chunk is a product of its own, the chunks are added in order."""
    m, k = (120 if shop.is_cpu else 128, 8192) if small else (512, 65_536)
    a, b = shop.normal(m, k), shop.normal(k, m)
    exact = a[:CHECKED_ROWS].astype(np.float64) @ b.astype(np.float64)
    if shop.is_cpu:
        variants = _cpu_gemms(shop, a, b[:, : m // 16 * 16], exact[:, : m // 16 * 16])
    else:
        variants = _gpu_tall(shop, a, b, exact)
    yield Shape(f"tall {m}x{m}x{k}", 2.0 * m * m * k, "GFLOP/s", variants)
    shop.release()


def _gpu_tall(shop: Workshop, a: Array, b: Array, exact: Array) -> list[Variant]:
    m, k = a.shape
    left, right = shop.given(a), shop.given(b)
    tiles = m // kernels.GPU_TILE
    variants = []
    # Without a law: 16 parts, which is enough to fill a GPU and the least to add up.
    for chunk in CHUNKS:
        terms = chunk or k // 16
        parts, out = shop.empty(k // terms * m * m), shop.empty(m * m)
        source = kernels.gpu_gemm(0, depth=16, split=terms)
        size = (tiles * kernels.GPU_ITEMS, tiles, k // terms)
        local = (kernels.GPU_ITEMS, 1, 1)
        launches = [
            shop.launch(source, "gemm", [left, right, parts, m, m, k], size, local),
            shop.launch(kernels.fold(), "fold", [parts, out, k // terms, m * m], (m * m,)),
        ]

        def error(out: Buffer = out) -> float:
            return distance(shop.read(out, m, m)[:CHECKED_ROWS], exact)

        name = f"chunk {chunk}" if chunk else f"chunk none, parts of {terms}"
        variants.append(Variant(name, chunk == DOT_CHUNK, [launches], error))
    return variants


def thin(shop: Workshop, *, small: bool) -> Iterator[Shape]:
    """A few rows times a matrix; its chunks are the parallelism along K."""
    shapes = [(576, 1536), (1536, 576), (2048, 2048), (4096, 4096), (11_008, 4096)]
    for k, n in shapes[:3] if small else shapes:
        copies = max(1, min(64, (2**24 if small else 2**26) // (k * n)))
        w = shop.normal(k, n)
        matrices = shop.given(np.tile(w.ravel(), copies))
        for rows in (1, 4, 16):
            x = shop.normal(rows, k)
            exact = x.astype(np.float64) @ w.astype(np.float64)
            given, out = shop.given(x), shop.empty(rows * n)
            variants = []
            # Without a law: chains of 64 terms, more of them than a GPU needs.
            for chunk in CHUNKS:
                turns = _thin(shop, (given, matrices, out), (rows, k, n), chunk or 64, copies)

                def error(
                    turns: Sequence[Sequence[Launch]] = turns,
                    out: Buffer = out,
                    exact: Array = exact,
                ) -> float:
                    shop.device.run(turns[0])
                    return distance(shop.read(out, *exact.shape), exact)

                name = f"chunk {chunk}" if chunk else "chunk none, chains of 64"
                variants.append(Variant(name, chunk == DOT_CHUNK, turns, error))
            yield Shape(f"thin {rows}x{n}, K={k}", 4.0 * k * n, "GB/s", variants)
        shop.release()


def _thin(
    shop: Workshop,
    buffers: tuple[Buffer, Buffer, Buffer],
    shape: tuple[int, int, int],
    chunk: int,
    copies: int,
) -> list[list[Launch]]:
    (x, matrices, out), (rows, k, n) = buffers, shape
    if shop.is_cpu:
        width, vectors, unroll = 16, max(1, 4 // rows), 1
    else:
        width, vectors, unroll = (4 if rows == 1 else 2), 1, UNROLL // (1 if rows < 16 else 2)
    source = kernels.thin_product(rows, width, chunk, unroll, vectors=vectors, contract=shop.is_cpu)
    count = -(-k // chunk)
    parts = shop.empty(count * rows * n)
    items = n // (width * vectors)
    group = 1 if shop.is_cpu else next(size for size in (64, 48, 32, 16) if items % size == 0)
    added = shop.launch(source, "fold", [parts, out, count, rows * n], (rows * n,))
    turns = []
    for copy in range(copies):
        arguments: list[Buffer | int] = [x, matrices, parts, k, n, copy * k * n]
        chains = shop.launch(source, "chains", arguments, (items, count), (group, 1))
        turns.append([chains, added])
    return turns


# ---------------------------------------------------------------- folds


def reduce(shop: Workshop, *, small: bool) -> Iterator[Shape]:
    """Sums of rows: one long one, long ones, many short ones."""
    divisor = 16 if small else 1
    for rows, n in ((1, 2**24), (1024, 16_384), (65_536, 256)):
        rows, n = (1, n // divisor) if rows == 1 else (rows // divisor, n)
        x = shop.normal(rows, n)
        given = shop.given(x)
        exact = x.astype(np.float64).sum(axis=1)
        variants = []
        for lanes in LANES:
            for block in BLOCKS:
                for width in (16,) if shop.is_cpu else (1, 4):
                    launches, out = _fold_of_rows(shop, given, rows, n, lanes, block, width)

                    def error(out: Buffer = out, exact: Array = exact) -> float:
                        return distance(shop.read(out, exact.size), exact)

                    name = f"{lanes} lanes, blocks of {block}" + f", width {width}" * (width < 16)
                    current = (lanes, block) == (REDUCE_LANES, REDUCE_BLOCK) and width != 1
                    variants.append(Variant(name, current, [launches], error))
        yield Shape(f"reduce {rows}x{n}", 4.0 * rows * n, "GB/s", variants)
        shop.release()


def _fold_of_rows(
    shop: Workshop, x: Buffer, rows: int, n: int, lanes: int, block: int, width: int
) -> tuple[list[Launch], Buffer]:
    launches = []
    while n > 1:
        blocks = -(-n // block)
        jobs = rows * blocks
        out = shop.empty(jobs)
        if n <= lanes:
            launches.append(shop.launch(kernels.finish(lanes), "finish", [x, out, n], (rows,)))
        else:
            groups = -(-jobs // (256 // (lanes // width)))
            size = (jobs,) if shop.is_cpu else (groups * 256,)
            source = (
                kernels.cpu_reduce(lanes, block)
                if shop.is_cpu
                else kernels.gpu_reduce(lanes, block, width)
            )
            launches.append(shop.launch(source, "reduce", [x, out, n, blocks, jobs], size))
        x, n = out, blocks
    return launches, x


# ---------------------------------------------------------------- measuring


def measure(device: Device, shape: Shape) -> list[tuple[float, float]]:
    """Median and least seconds of one run of each variant; they take turns."""
    repeats = []
    for variant in shape.variants:
        _seconds(device, variant, len(variant.turns))
        once = _seconds(device, variant, len(variant.turns))
        repeats.append(max(1, int(ROUND_S / max(once, 1e-7))))
    times: list[list[float]] = [[] for _ in shape.variants]
    for _ in range(ROUNDS):
        for found, variant, count in zip(times, shape.variants, repeats, strict=True):
            found.append(_seconds(device, variant, count))
    return [(statistics.median(found), min(found)) for found in times]


def _seconds(device: Device, variant: Variant, count: int) -> float:
    turns = variant.turns
    launches = [launch for at in range(count) for launch in turns[at % len(turns)]]
    device.finish()
    begin = time.perf_counter()
    device.run(launches)
    device.finish()
    return (time.perf_counter() - begin) / count


def report(device: Device, shape: Shape) -> None:
    """The table of one shape."""
    seconds = measure(device, shape)
    found = list(zip(shape.variants, seconds, strict=True))
    ((current, current_least),) = (times for variant, times in found if variant.is_current)
    print(f"\n{shape.name}")
    print(
        f"  {'':32} {'median us':>10} {shape.unit:>9} {'ratio':>6} "
        f"{'least us':>10} {'ratio':>6} {'max error':>10}"
    )
    for variant, (median, least) in found:
        print(
            f"{'*' if variant.is_current else ' '} {variant.name:32} "
            f"{median * 1e6:10.1f} {shape.work / median / 1e9:9.1f} {median / current:6.3f} "
            f"{least * 1e6:10.1f} {least / current_least:6.3f} {variant.error():10.2e}",
            flush=True,
        )


FAMILIES: dict[str, Callable[..., Iterator[Shape]]] = {
    "gemm": gemm,
    "thin": thin,
    "tall": tall,
    "reduce": reduce,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", default=list(FAMILIES), help=", ".join(FAMILIES))
    parser.add_argument("--device", help='as "NVIDIA:0" (the first one)')
    parser.add_argument("--small", action="store_true", help="shapes for a CPU")
    options = parser.parse_args(arguments)
    with opened(devices.find(options.device)) as device:
        print(f"{device.info.name}, {device.info.driver_version}; * is FX1 as it stands")
        shop = Workshop(device)
        for family in options.families:
            for shape in FAMILIES[family](shop, small=options.small):
                report(device, shape)
    return 0


if __name__ == "__main__":
    sys.exit(main())
