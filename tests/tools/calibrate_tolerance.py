"""Honest differences between runtimes, for the profiles of ``flopmarket/trust/tolerance.py``.

``python -m tests.tools.calibrate_tolerance`` prints quantiles for each kind of operation: the
largest over all pairs of runtimes of this machine, over signed and positive data and over seeds.
Runtimes are the reference (exact mode), NumPy's BLAS, torch, and OpenCL kernels built with
``-cl-fast-relaxed-math``: sums in four different orders, functions of four libraries.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from flopmarket.engine import dtypes, graph, macros
from flopmarket.engine.reference import evaluate
from flopmarket.engine.rewrite import canonicalise
from flopmarket.trust.tolerance import LEAST_NORMAL, UNIT, Array, OpKind, quantiles_milli

SEEDS = range(6)
TERMS = (64, 256, 1024, 4096)
ROWS, COLUMNS = 48, 64
ELEMENTS = 1 << 14

Runtime = Callable[[OpKind, Array, Array], Array]

RELAXED = """
__kernel void run_dot(__global const float* a, __global const float* b, __global float* y, int k) {
    int row = get_global_id(0), column = get_global_id(1), columns = get_global_size(1);
    float total = 0.0f;
    for (int i = 0; i < k; i++) total += a[row * k + i] * b[i * columns + column];
    y[row * columns + column] = total;
}
__kernel void run_sum(__global const float* a, __global const float* b, __global float* y, int k) {
    int row = get_global_id(0);
    float total = 0.0f;
    for (int i = 0; i < k; i++) total += a[row * k + i];
    y[row] = total;
}
__kernel void run_function(__global const float* a, __global const float* b,
                           __global float* y, int k) {
    int i = get_global_id(0);
    y[i] = exp(a[i]);
}
__kernel void run_rounded(__global const float* a, __global const float* b,
                          __global float* y, int k) {
    int i = get_global_id(0);
    y[i] = a[i] / b[i];
}
"""


def operands(kind: OpKind, terms: int, seed: int, *, positive: bool) -> tuple[Array, Array]:
    """Inputs of one operation, float32; the second one is ignored by some kinds."""
    rng = np.random.default_rng(seed)
    draw = rng.random if positive else rng.standard_normal
    shapes = {
        OpKind.DOT: ((ROWS, terms), (terms, COLUMNS)),
        OpKind.SUM: ((ROWS * COLUMNS, terms), (1,)),
    }.get(kind, ((ELEMENTS,), (ELEMENTS,)))
    a, b = (draw(shape).astype(np.float32) for shape in shapes)
    return a, np.where(b == 0, np.float32(1), b)


def magnitude_of(kind: OpKind, a: Array, b: Array) -> Array:
    """The operation on absolute values, in float64."""
    wide_a, wide_b = np.abs(a.astype(np.float64)), np.abs(b.astype(np.float64))
    if kind is OpKind.DOT:
        return np.asarray(wide_a @ wide_b)
    if kind is OpKind.SUM:
        return np.asarray(wide_a.sum(axis=1))
    return np.asarray(np.exp(a.astype(np.float64)) if kind is OpKind.FUNCTION else wide_a / wide_b)


def by_reference(kind: OpKind, a: Array, b: Array) -> Array:
    """Exact mode."""
    shape_a, shape_b = a.shape, b.shape
    if kind is OpKind.DOT:
        shape_a, shape_b = (1, *shape_a), (1, *shape_b)
    left = graph.input_("input", "a", dtypes.float32, shape_a)
    right = graph.input_("input", "b", dtypes.float32, shape_b)
    node = {
        OpKind.DOT: lambda: graph.dot(left, right),
        OpKind.SUM: lambda: graph.reduce("sum", left, [1]),
        OpKind.FUNCTION: lambda: macros.exp(left),
        OpKind.ROUNDED: lambda: graph.div(left, right),
    }[kind]()
    leaves = {left: a.reshape(shape_a), right: b.reshape(shape_b)}
    (found,) = evaluate(canonicalise([node]), leaves)
    return np.asarray(found).reshape(magnitude_of(kind, a, b).shape)


def by_numpy(kind: OpKind, a: Array, b: Array) -> Array:
    """OpenBLAS, pairwise sums, NumPy's exp."""
    if kind is OpKind.DOT:
        return np.asarray(a @ b)
    if kind is OpKind.SUM:
        return np.asarray(a.sum(axis=1))
    return np.asarray(np.exp(a) if kind is OpKind.FUNCTION else a / b)


def by_torch(kind: OpKind, a: Array, b: Array) -> Array:
    """oneDNN and torch's vectorised functions."""
    import torch

    left, right = torch.from_numpy(a), torch.from_numpy(b)
    if kind is OpKind.DOT:
        return np.asarray((left @ right).numpy())
    if kind is OpKind.SUM:
        return np.asarray(left.sum(dim=1).numpy())
    return np.asarray((left.exp() if kind is OpKind.FUNCTION else left / right).numpy())


def relaxed_opencl() -> Runtime:
    """Kernels that may reorder, contract and approximate, on the first OpenCL device."""
    import pyopencl as cl

    from flopmarket.engine.runtime import devices
    from flopmarket.engine.runtime.opencl import open_device

    device = open_device(devices.find(None))
    context, queue = device.context, device.queue
    built: Any = cl.Program(context, RELAXED).build(["-cl-fast-relaxed-math"])
    kernels = {kind: cl.Kernel(built, f"run_{kind}") for kind in OpKind if kind is not OpKind.MOVE}

    def run(kind: OpKind, a: Array, b: Array) -> Array:
        y = np.empty(magnitude_of(kind, a, b).shape, np.float32)
        reads = cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR
        given = [cl.Buffer(context, reads, hostbuf=np.ascontiguousarray(item)) for item in (a, b)]
        out = cl.Buffer(context, cl.mem_flags.WRITE_ONLY, y.nbytes)
        kernels[kind](queue, y.shape, None, *given, out, np.int32(a.shape[-1]))
        cl.enqueue_copy(queue, y, out)
        return y

    return run


def runtimes() -> Mapping[str, Runtime]:
    """What this machine has."""
    found: dict[str, Runtime] = {"reference": by_reference, "NumPy": by_numpy}
    try:
        import torch  # noqa: F401

        found["torch"] = by_torch
    except ImportError:
        sys.stderr.write("torch is not installed\n")
    found["OpenCL, relaxed"] = relaxed_opencl()
    return found


def cases() -> Iterator[tuple[OpKind, int]]:
    """Kinds with their numbers of terms."""
    yield OpKind.ROUNDED, 1
    yield OpKind.FUNCTION, 1
    for kind in (OpKind.SUM, OpKind.DOT):
        yield from ((kind, terms) for terms in TERMS)


def main() -> None:
    """Print the largest quantiles of every case, and which pair had the largest of all."""
    present = runtimes()
    for kind, terms in cases():
        most, widest = [0, 0, 0, 0], ("", 0)
        for seed in SEEDS:
            for positive in (False, True):
                a, b = operands(kind, terms, seed, positive=positive)
                scale = UNIT * magnitude_of(kind, a, b) + LEAST_NORMAL
                made = {name: run(kind, a, b).astype(np.float64) for name, run in present.items()}
                for one, two in combinations(made, 2):
                    units = (np.abs(made[one] - made[two]) / scale).ravel()
                    found = quantiles_milli(units)
                    most = [max(pair) for pair in zip(most, found, strict=True)]
                    widest = max(widest, (f"{one} / {two}", found[-1]), key=lambda item: item[1])
        sys.stdout.write(f"{kind} of {terms}: {tuple(most)}, widest {widest[0]}\n")


if __name__ == "__main__":
    main()
