"""The programs a device benchmark runs: one class of counted work each, nothing else of weight.

Every workload is an ordinary step program of the engine, so a rate is *operations as the price
function counts them* (``engine.cost``) over the time a step takes, all overheads of the real path
included. Values stay finite and away from subnormals however long a chain runs. Programs cost
nothing until their tensors are asked for, so that their memory can be looked at first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flopmarket.engine import dtypes, enclose, graph
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Node
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.runtime.session import Array
from flopmarket.jobs.builds import kernel_count

BANDWIDTH = "bandwidth"
LAUNCH = "launch"
STEP = "step"
NETWORK = "network"

_BLOCK = 1_048_573
"""Values that are drawn at the most; tensors repeat them. A prime, so that no row of a matrix is
like the one above."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the smallest workloads are. They are doubled for a device that they do not fill.

    ``gemm`` is the side of a square product; ``elements`` of pointwise chains; ``copy_elements`` of
    the bandwidth stage; ``reduce_rows`` rows of 4096 are folded; ``chain`` operations follow each
    other in one kernel; ``launches`` tiny kernels make the launch stage; ``network`` is the side of
    the small network's products.
    """

    gemm: int = 1024
    elements: int = 1 << 20
    copy_elements: int = 1 << 24
    reduce_rows: int = 256
    chain: int = 64
    launches: int = 16
    network: int = 256

    def doubled(self, times: int) -> Sizes:
        """Products of a side, arrays of a length that is doubled so often; all else as it is."""
        return replace(
            self,
            gemm=self.gemm << times,
            elements=self.elements << times,
            copy_elements=self.copy_elements << times,
            reduce_rows=self.reduce_rows << times,
        )


@dataclass(frozen=True, slots=True)
class Workload:
    """A program that does work of one kind. ``values`` are what its tensors repeat, by name;
    ``passes`` go over the state when bandwidth is measured."""

    kind: str
    program: Program
    values: Mapping[str, Array]
    passes: int = 1

    @property
    def frozen(self) -> dict[str, Array]:
        """The frozen tensors, made now."""
        return self._tensors(self.program.frozen)

    @property
    def state(self) -> dict[str, Array]:
        """The first state, made now."""
        return self._tensors(self.program.state)

    @property
    def memory_bytes(self) -> int:
        """What a device needs to run it."""
        return self.program.cost.peak_memory_bytes

    def _tensors(self, specs: Sequence[TensorSpec]) -> dict[str, Array]:
        return {spec.name: _repeated(self.values[spec.name], spec.shape) for spec in specs}

    @property
    def counted(self) -> int:
        """Operations of the class (or bytes moved, launches, steps, kernels) in one step."""
        cost = self.program.cost
        if self.kind == BANDWIDTH:  # the cost has the probe in it, as if it read all
            return 2 * self.passes * cost.state_bytes
        if self.kind == LAUNCH:
            return cost.launches
        if self.kind == STEP:
            return 1
        if self.kind == NETWORK:
            return kernel_count(self.program)
        return cost.flops[self.kind]


def gemm(sizes: Sizes, repeats: int) -> Workload:
    """``repeats`` float products [n, n] x [n, n], each of the one before.

    Every further product has a right operand of its own, computed from the weights, so that both
    operands are packed each time, as they are when a network trains.
    """
    n = sizes.gemm
    weights = _input("state", "weights", dtypes.float32, (1, n, n))
    x = _input("state", "x", dtypes.float32, (1, n, n))
    product = graph.dot(x, weights)
    for at in range(1, repeats):
        scale = graph.filled(1.0 - at * 2.0**-12, dtypes.float32, (1, n, n))
        product = graph.dot(product, graph.mul(weights, scale))
    random = np.random.default_rng(1)
    count = min(n * n, _BLOCK)
    values = {
        "x": random.standard_normal(count).astype(np.float32),
        # Rows of variance 1/n: the products keep the size of what goes in.
        "weights": (random.standard_normal(count) / np.sqrt(n)).astype(np.float32),
    }
    return _workload("dot-f32", [], [x, weights], [product, weights], values)


def integer_gemm(sizes: Sizes, repeats: int) -> Workload:
    """``repeats`` int8 products into int32, each of the lowest bytes of the one before."""
    n = sizes.gemm
    weights = _input("frozen", "weights", dtypes.int8, (1, n, n))
    x = _input("state", "x", dtypes.int8, (1, n, n))
    product = x
    for _ in range(repeats):
        product = graph.cast(graph.dot(product, weights), dtypes.int8)
    random = np.random.default_rng(2)
    count = min(n * n, _BLOCK)
    values: dict[str, Array] = {
        "weights": random.integers(-1, 2, count).astype(np.int8),
        "x": random.integers(-100, 100, count).astype(np.int8),
    }
    return _workload("dot-int", [weights], [x], [product], values)


def elementwise(sizes: Sizes, repeats: int) -> Workload:
    """Chains of fused multiply-adds on every element: x <- x*0.5 + 1."""
    shape = (sizes.elements,)
    x = _input("state", "x", dtypes.float32, shape)
    half = graph.filled(0.5, dtypes.float32, shape)
    one = graph.filled(1.0, dtypes.float32, shape)
    value = x
    for _ in range(sizes.chain * repeats):
        value = graph.fma(value, half, one)
    return _workload("elementwise-f32", [], [x], [value], {"x": _fractions(sizes.elements)})


def doubles(sizes: Sizes, repeats: int) -> Workload:
    """Chains of float64 multiply-adds on every element: x <- x*0.5 + 1."""
    shape = (max(1, sizes.elements // 4),)
    x = _input("state", "x", dtypes.float64, shape)
    half = graph.filled(0.5, dtypes.float64, shape)
    one = graph.filled(1.0, dtypes.float64, shape)
    value = x
    for _ in range(sizes.chain * repeats):
        value = graph.fma(value, half, one)
    values = {"x": _fractions(shape[0]).astype(np.float64)}
    return _workload("f64", [], [x], [value], values)


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
    values = {"x": np.arange(min(sizes.elements, _BLOCK), dtype=np.uint32)}
    return _workload("integer", [], [x], [value], values)


def reductions(sizes: Sizes, repeats: int) -> Workload:
    """Sums along rows of 4096; each of ``repeats`` begins a row below the one before."""
    rows = sizes.reduce_rows
    x = _input("frozen", "x", dtypes.float32, (rows + repeats - 1, 4096))
    names = [f"sums{index}" for index in range(repeats)]
    sums = [_input("state", name, dtypes.float32, (rows,)) for name in names]
    folded = [
        graph.reduce("sum", graph.slice_(x, [(at, 1, rows), (0, 1, 4096)]), (1,))
        for at in range(repeats)
    ]
    values = {name: np.zeros(1, np.float32) for name in names}
    return _workload("reduce-f32", [x], sums, folded, values | {"x": _fractions(rows * 4096)})


def bandwidth(sizes: Sizes, repeats: int) -> Workload:
    """``repeats`` passes over a large array, each of which reads and writes it once.

    More than one are a loop, whose first and last copy is not counted: 6 % at 32 passes.
    """
    shape = (sizes.copy_elements,)
    x = _input("state", "x", dtypes.float32, shape)
    one = graph.filled(1.0, dtypes.float32, shape)
    ended = graph.add(x, one)
    if repeats > 1:
        held = enclose.hole(dtypes.float32, shape)
        passes = enclose.Open(
            carries=(held,),
            items=(),
            initial=(x,),
            scanned=(),
            following=(graph.add(held, one),),
            slices=(),
        )
        (ended,), _ = enclose.enclose(passes, repeats, reverse=False)
    made = _workload(BANDWIDTH, [], [x], [ended], {"x": np.zeros(1, np.float32)})
    return replace(made, passes=repeats)


def launches(sizes: Sizes, repeats: int) -> Workload:
    """A chain of tiny kernels that cannot be fused: fold, spread, fold again."""
    shape = (8, 8)
    x = _input("state", "x", dtypes.float32, shape)
    value = x
    for _ in range(sizes.launches * repeats):
        folded = graph.reduce("max", value, (0,))
        value = graph.expand(graph.reshape(folded, (8, 1)), shape)
    return _workload(LAUNCH, [], [x], [value], {"x": np.ones(1, np.float32)})


def host(sizes: Sizes, repeats: int) -> Workload:
    """One tiny kernel: what is left of a step is the host's."""
    x = _input("state", "x", dtypes.float32, (8,))
    value = graph.add(x, graph.filled(1.0, dtypes.float32, (8,)))
    return _workload(STEP, [], [x], [value], {"x": np.ones(1, np.float32)})


def network(sizes: Sizes) -> Workload:
    """A dozen kernels of the sorts that a small network has, none like another."""
    n = sizes.network
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
    return _workload(NETWORK, [], [x], [back], {"x": np.ones(1, np.float32)})


def _repeated(values: Array, shape: tuple[int, ...]) -> Array:
    count = math.prod(shape)
    return np.tile(values, -(-count // values.size))[:count].reshape(shape)


def _fractions(count: int) -> Array:
    """Between 0 and 1."""
    return np.random.default_rng(3).random(min(count, _BLOCK), dtype=np.float32)


def _input(kind: str, name: str, dtype: DType, shape: tuple[int, ...]) -> Node:
    return graph.input_(kind, name, dtype, shape)


def _workload(
    kind: str,
    frozen: Sequence[Node],
    state: Sequence[Node],
    next_state: list[Node],
    values: Mapping[str, Array],
) -> Workload:
    # One element comes back, so that a step has ended when its outputs are there.
    first = next_state[0]
    probe = graph.slice_(first, [(0, 1, 1)] * len(first.shape))
    program = Program.build(
        frozen=[TensorSpec(node.arg[1], node.dtype, node.shape) for node in frozen],
        state=[TensorSpec(node.arg[1], node.dtype, node.shape) for node in state],
        inputs=[],
        next_state=next_state,
        outputs=[("probe", probe)],
    )
    return Workload(kind, program, values)
