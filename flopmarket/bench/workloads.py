"""The programs a device benchmark runs: one class of counted work each, nothing else of weight.

Every workload is an ordinary step program of the engine, so a rate is *operations as the price
function counts them* (``engine.cost``) over the time a step takes, all overheads of the real path
included. Values stay finite and away from subnormals however long a chain runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flopmarket.engine import dtypes, graph
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Node
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.runtime.session import Array
from flopmarket.jobs.builds import kernel_count

BANDWIDTH = "bandwidth"
LAUNCH = "launch"
STEP = "step"
BUILD = "build"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the workloads are, so that a test can measure a slow device in little time.

    ``gemm`` is the side of a square product; ``elements`` of pointwise chains; ``copy_elements`` of
    the bandwidth stage; ``reduce_rows`` rows of 4096 are folded; ``chain`` operations follow each
    other in one kernel; ``launches`` tiny kernels make the launch stage; ``build`` is the side of
    the products whose kernels are built.
    """

    gemm: int = 1024
    elements: int = 1 << 20
    copy_elements: int = 1 << 24
    reduce_rows: int = 256
    chain: int = 64
    launches: int = 16
    build: int = 64


@dataclass(frozen=True, slots=True)
class Workload:
    """A program that does work of one kind, and its tensors."""

    kind: str
    program: Program
    frozen: Mapping[str, Array]
    state: Mapping[str, Array]

    @property
    def counted(self) -> int:
        """Operations of the class (or bytes moved, launches, steps, kernels) in one step."""
        cost = self.program.cost
        if self.kind == BANDWIDTH:
            return cost.bytes_moved
        if self.kind == LAUNCH:
            return cost.launches
        if self.kind == STEP:
            return 1
        if self.kind == BUILD:
            return kernel_count(self.program)
        return cost.flops[self.kind]


def gemm(sizes: Sizes, repeats: int) -> Workload:
    """``repeats`` float products [n, n] x [n, n], each of the one before.

    Every product has a right operand of its own, computed from the weights, so that both operands
    are packed each time, as they are when a network trains.
    """
    n = sizes.gemm
    weights = _input("state", "weights", dtypes.float32, (1, n, n))
    x = _input("state", "x", dtypes.float32, (1, n, n))
    product = x
    for at in range(repeats):
        scale = graph.filled(1.0 - at * 2.0**-12, dtypes.float32, (1, n, n))
        product = graph.dot(product, graph.mul(weights, scale))
    random = np.random.default_rng(1)
    # Rows of variance 1/n: the products keep the size of what goes in.
    first = random.standard_normal((1, n, n)).astype(np.float32)
    second = (random.standard_normal((1, n, n)) / np.sqrt(n)).astype(np.float32)
    state = {"x": x, "weights": weights}
    return _workload("dot-f32", {}, state, [product, weights], [], [first, second])


def integer_gemm(sizes: Sizes, repeats: int) -> Workload:
    """``repeats`` int8 products into int32, each of another shift of the operand."""
    n = sizes.gemm
    weights = _input("frozen", "weights", dtypes.int8, (1, n, n))
    x = _input("state", "x", dtypes.int32, (1, n, n))
    total = x
    for _ in range(repeats):
        total = graph.dot(graph.cast(total, dtypes.int8), weights)
    random = np.random.default_rng(2)
    frozen = random.integers(-1, 2, (1, n, n)).astype(np.int8)
    state = random.integers(-100, 100, (1, n, n)).astype(np.int32)
    return _workload("dot-int", {"weights": weights}, {"x": x}, [total], [frozen], [state])


def elementwise(sizes: Sizes, repeats: int) -> Workload:
    """Chains of fused multiply-adds on every element: x <- x*0.5 + 1."""
    shape = (sizes.elements,)
    x = _input("state", "x", dtypes.float32, shape)
    half = graph.filled(0.5, dtypes.float32, shape)
    one = graph.filled(1.0, dtypes.float32, shape)
    value = x
    for _ in range(sizes.chain * repeats):
        value = graph.fma(value, half, one)
    state = np.random.default_rng(3).random(shape, dtype=np.float32)
    return _workload("elementwise-f32", {}, {"x": x}, [value], [], [state])


def doubles(sizes: Sizes, repeats: int) -> Workload:
    """Chains of float64 multiply-adds on every element: x <- x*0.5 + 1."""
    shape = (max(1, sizes.elements // 4),)
    x = _input("state", "x", dtypes.float64, shape)
    half = graph.filled(0.5, dtypes.float64, shape)
    one = graph.filled(1.0, dtypes.float64, shape)
    value = x
    for _ in range(sizes.chain * repeats):
        value = graph.fma(value, half, one)
    state = np.random.default_rng(5).random(shape)
    return _workload("f64", {}, {"x": x}, [value], [], [state])


def integers(sizes: Sizes, repeats: int) -> Workload:
    """Chains of multiply, shift and xor modulo 2**32, which no compiler folds into fewer."""
    shape = (sizes.elements,)
    x = _input("state", "x", dtypes.uint32, shape)
    factor = graph.filled(1664525, dtypes.uint32, shape)
    distance = graph.filled(13, dtypes.uint32, shape)
    value = x
    for _ in range(sizes.chain * repeats // 3):
        value = graph.mul(value, factor)
        value = graph.bit("xor", value, graph.bit("shr", value, distance))
    state = np.arange(sizes.elements, dtype=np.uint32)
    return _workload("integer", {}, {"x": x}, [value], [], [state])


def reductions(sizes: Sizes, repeats: int) -> Workload:
    """Sums along rows of 4096, of ``repeats`` different tensors."""
    shape = (sizes.reduce_rows, 4096)
    names = [f"x{index}" for index in range(repeats)]
    leaves = {name: _input("frozen", name, dtypes.float32, shape) for name in names}
    sums = {name: _input("state", name, dtypes.float32, shape[:1]) for name in names}
    random = np.random.default_rng(4)
    return _workload(
        "reduce-f32",
        leaves,
        sums,
        [graph.reduce("sum", leaves[name], (1,)) for name in names],
        [random.random(shape, dtype=np.float32) for _ in names],
        [np.zeros(shape[:1], np.float32) for _ in names],
    )


def bandwidth(sizes: Sizes, repeats: int) -> Workload:
    """Passes over ``repeats`` large arrays, reading and writing each once."""
    shape = (sizes.copy_elements // repeats,)
    names = [f"x{index}" for index in range(repeats)]
    leaves = {name: _input("state", name, dtypes.float32, shape) for name in names}
    one = graph.filled(1.0, dtypes.float32, shape)
    return _workload(
        BANDWIDTH,
        {},
        leaves,
        [graph.add(leaf, one) for leaf in leaves.values()],
        [],
        [np.zeros(shape, np.float32) for _ in names],
    )


def launches(sizes: Sizes, repeats: int) -> Workload:
    """A chain of tiny kernels that cannot be fused: fold, spread, fold again."""
    shape = (8, 8)
    x = _input("state", "x", dtypes.float32, shape)
    value = x
    for _ in range(sizes.launches * repeats):
        folded = graph.reduce("max", value, (0,))
        value = graph.expand(graph.reshape(folded, (8, 1)), shape)
    return _workload(LAUNCH, {}, {"x": x}, [value], [], [np.ones(shape, np.float32)])


def host(sizes: Sizes, repeats: int) -> Workload:
    """One tiny kernel: what is left of a step is the host's."""
    x = _input("state", "x", dtypes.float32, (8,))
    value = graph.add(x, graph.filled(1.0, dtypes.float32, (8,)))
    return _workload(STEP, {}, {"x": x}, [value], [], [np.ones(8, np.float32)])


def kernels(sizes: Sizes, repeats: int) -> Workload:
    """A dozen kernels of the sorts that a small network has, none like another."""
    n = sizes.build
    x = _input("state", "x", dtypes.float32, (1, n, n))
    value = x
    for columns in (n + 4, n + 8):
        weights = graph.filled(0.5, dtypes.float32, (1, value.shape[2], columns))
        ramp = graph.cast(graph.iota(2, weights.shape), dtypes.float32)
        value = graph.dot(value, graph.mul(weights, graph.sqrt(ramp)))
        value = graph.max_(value, graph.filled(0.0, dtypes.float32, value.shape))
        sums = graph.reshape(graph.reduce("sum", value, (2,)), (1, n, 1))
        mean = graph.expand(sums, value.shape)
        value = graph.div(value, graph.add(mean, graph.filled(1.0, dtypes.float32, value.shape)))
    largest = graph.reduce("max", value, (1,))
    total = graph.reduce("sum", graph.mul(value, value), (2,))
    value = graph.mul(value, graph.expand(graph.reshape(largest, (1, 1, n + 8)), value.shape))
    value = graph.add(value, graph.expand(graph.reshape(total, (1, n, 1)), value.shape))
    back = graph.slice_(value, [(0, 1, 1), (0, 1, n), (0, 1, n)])
    return _workload(BUILD, {}, {"x": x}, [back], [], [np.ones((1, n, n), np.float32)])


def _input(kind: str, name: str, dtype: DType, shape: tuple[int, ...]) -> Node:
    return graph.input_(kind, name, dtype, shape)


def _workload(
    kind: str,
    frozen: Mapping[str, Node],
    state: Mapping[str, Node],
    next_state: list[Node],
    frozen_values: list[Array],
    state_values: list[Array],
) -> Workload:
    # One element comes back, so that a step has ended when its outputs are there.
    first = next_state[0]
    probe = graph.slice_(first, [(0, 1, 1)] * len(first.shape))
    program = Program.build(
        frozen=[TensorSpec(name, node.dtype, node.shape) for name, node in frozen.items()],
        state=[TensorSpec(name, node.dtype, node.shape) for name, node in state.items()],
        inputs=[],
        next_state=next_state,
        outputs=[("probe", probe)],
    )
    return Workload(
        kind,
        program,
        dict(zip(frozen, frozen_values, strict=True)),
        dict(zip(state, state_values, strict=True)),
    )
