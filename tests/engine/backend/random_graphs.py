"""Random legal graphs over every primitive and element type, with awkward leaf values.

A new element type joins through ``dtypes.DTYPES``, a new primitive by a method of :class:`Builder`
and its name in :data:`STEPS`. Randomness comes from outside: a seed, or hypothesis' own stream of
choices, which then shrinks a failing graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

import numpy as np

from flopmarket.engine import dtypes, floats, graph
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional import control
from flopmarket.engine.graph import Node
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
MAX_ELEMENTS = 20_000

_SMALL = [0, -0.0, 1, -1, 0.5, 1e-40, -1e-45, 1 + 2**-12, 2**-60, 255.5, -128.5]
_LARGE = [3.4e38, -3.4e38, 2.0**31, -(2.0**31), 2.0**63, 2.0**64, np.nan, np.inf, -np.inf]
_SPECIAL = np.array([*_SMALL, *_LARGE])
SPECIAL_FLOATS = _SPECIAL.astype(np.float32)
DTYPES = (dtypes.float32,) * 5 + dtypes.DTYPES
"""What a step draws from: every type, float32 most often."""
FLOATS = tuple(dtype for dtype in DTYPES if dtype.is_float)
CONTRACTED = tuple(
    (a, b) for a in dtypes.DTYPES for b in dtypes.DTYPES if dtypes.contraction(a, b, 64) is not None
)
"""Pairs of element types that DOT takes."""


def special_floats(dtype: dtypes.DType) -> Array:
    """Awkward values of a float type."""
    return floats.literal(_SPECIAL, dtype)


def values(dtype: dtypes.DType, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Random elements, a part of them at the edges of the type."""
    count = int(np.prod(shape))
    if dtype is dtypes.bool_:
        flat = rng.integers(0, 2, count).astype(bool)
    elif dtype.is_float:
        wide = rng.standard_normal(count)
        edge = rng.random(count) < rng.choice([0, 0.02, 0.3])
        with np.errstate(all="ignore"):
            flat = floats.literal(np.where(edge, rng.choice(_SPECIAL, count), wide), dtype)
    else:
        info = np.iinfo(dtype.numpy)
        flat = rng.integers(max(info.min, -9), 10, count).astype(dtype.numpy)
        edges = np.array([info.min, info.max, 0, 1, info.max // 2], dtype=dtype.numpy)
        edge = rng.random(count) < rng.choice([0, 0.1])
        flat = np.where(edge, rng.choice(edges, count), flat).astype(dtype.numpy)
    return np.asarray(dtypes.canonical(flat.reshape(shape)))


class Builder:
    """Grows a graph from leaves by random steps; illegal ones are refused by the builders.

    ``random`` chooses structure and shapes, ``seed`` the values of leaves. Leaves are INPUT nodes
    of ``kind``, their names beginning with ``prefix``.
    """

    def __init__(self, random: Random, seed: int, prefix: str = "x", kind: str = "buffer") -> None:
        self.random = random
        self.rng = np.random.default_rng(seed)
        self.prefix = prefix
        self.kind = kind
        self.nodes: list[Node] = []
        self.leaves: dict[Node, Array] = {}

    def shape(self) -> tuple[int, ...]:
        rank = self.random.choice([0, 1, 1, 2, 2, 2, 3, 4])
        sizes = [1, 1, 2, 3, 5, 8, 17] if rank > 2 else [1, 2, 3, 7, 8, 33, 65]
        return tuple(self.random.choice(sizes) for _ in range(rank))

    def leaf(self, dtype: dtypes.DType | None = None, shape: tuple[int, ...] | None = None) -> Node:
        dtype = self.random.choice(DTYPES) if dtype is None else dtype
        shape = self.shape() if shape is None else shape
        roll = self.random.random()
        if roll < 0.1:
            node = graph.filled(values(dtype, (1,), self.rng)[0], dtype, shape)
        elif roll < 0.15:
            node = graph.const(values(dtype, shape, self.rng), dtype, shape)
        elif roll < 0.2 and dtype is dtypes.int32 and shape:
            node = graph.iota(self.random.randrange(len(shape)), shape, dtype)
        else:
            name = f"{self.prefix}{len(self.leaves)}"
            node = graph.input_(self.kind, name, dtype, shape)
            self.leaves[node] = values(dtype, shape, self.rng)
        self.nodes.append(node)
        return node

    def any(self, dtype: dtypes.DType | None = None) -> Node:
        fitting = [n for n in self.nodes if dtype is None or n.dtype is dtype]
        if fitting and self.random.random() < 0.85:
            return self.random.choice(fitting[-8:])
        return self.leaf(dtype)

    def like(self, node: Node, dtype: dtypes.DType | None = None) -> Node:
        """Some node of ``node``'s shape, made to fit if need be."""
        dtype = node.dtype if dtype is None else dtype
        fitting = [n for n in self.nodes if n.dtype is dtype and n.shape == node.shape]
        if fitting and self.random.random() < 0.7:
            return self.random.choice(fitting)
        row = [n for n in self.nodes if n.dtype is dtype and n.shape and len(node.shape) == 2]
        if row and self.random.random() < 0.3:
            one = self.random.choice(row)
            if one.shape == (node.shape[1],):
                return graph.expand(graph.reshape(one, (1, node.shape[1])), node.shape)
        return self.leaf(dtype, node.shape)

    def grow(self, steps: int, kinds: Sequence[str] | None = None) -> None:
        for _ in range(steps):
            kind = self.random.choice(STEPS if kinds is None else kinds)
            try:
                node = getattr(self, f"_{kind}")()
            except EngineError:
                continue
            if 0 < node.elements <= MAX_ELEMENTS or (
                node.elements == 0 and self.random.random() < 0.3
            ):
                self.nodes.append(node)

    def outputs(self, count: int) -> list[Node]:
        computed = self.nodes[-1:] + self.random.sample(self.nodes, min(count, len(self.nodes)))
        return list(dict.fromkeys(computed))

    def _arithmetic(self) -> Node:
        a = self.any()
        b = self.like(a)
        op = self.random.choice([graph.add, graph.mul, graph.add, graph.mul, graph.div, graph.max_])
        if self.random.random() < 0.15 and a.dtype.is_float:
            b = graph.filled(-1.0, a.dtype, a.shape)
        return op(a, b)

    def _float(self) -> Node:
        a = self.any(self.random.choice(FLOATS))
        if self.random.random() < 0.3:
            return graph.sqrt(a)
        return graph.fma(a, self.like(a), self.like(a))

    def _compare(self) -> Node:
        a = self.any()
        return graph.cmp(self.random.choice(["lt", "eq"]), a, self.like(a))

    def _where(self) -> Node:
        a = self.any()
        return graph.where(self.like(a, dtypes.bool_), a, self.like(a))

    def _bit(self) -> Node:
        kinds = [dtypes.uint32, dtypes.uint8, dtypes.bool_, dtypes.uint64, dtypes.uint16]
        a = self.any(self.random.choice(kinds))
        return graph.bit(self.random.choice(["and", "or", "xor", "shl", "shr"]), a, self.like(a))

    def _cast(self) -> Node:
        a = self.any()
        target = self.random.choice(DTYPES)
        return (graph.bitcast if self.random.random() < 0.3 else graph.cast)(a, target)

    def _view(self) -> Node:
        a = self.any()
        rank = len(a.shape)
        kind = self.random.choice(["reshape", "permute", "expand", "pad", "slice", "window"])
        if kind == "reshape":
            return graph.reshape(a, self._factor(a.elements))
        if kind == "permute":
            return graph.permute(a, self.random.sample(range(rank), rank))
        if kind == "expand":
            return graph.expand(
                a, tuple(self.random.choice([2, 3]) if n == 1 else n for n in a.shape)
            )
        if kind == "pad":
            return graph.pad(
                a, [(self.random.choice([0, 0, 1, 2]), self.random.choice([0, 1])) for _ in a.shape]
            )
        if kind == "slice":
            return graph.slice_(a, [self._range(n) for n in a.shape])
        axes = (
            sorted(self.random.sample(range(rank), self.random.randint(1, min(2, rank))))
            if rank
            else []
        )
        rows = [
            (
                x,
                self.random.choice([1, 2, 3]),
                self.random.choice([1, 2]),
                self.random.choice([1, 2]),
            )
            for x in axes
        ]
        return graph.window(a, rows)

    def _range(self, n: int) -> tuple[int, int, int]:
        if n == 0 or self.random.random() < 0.4:
            return (0, 1, n)
        if self.random.random() < 0.3:
            return (n - 1, -1, n)
        start, step = self.random.randrange(n), self.random.choice([1, 2, 3])
        return (start, step, self.random.randint(1, (n - 1 - start) // step + 1))

    def _factor(self, count: int) -> tuple[int, ...]:
        if count == 0:
            return (0, 3)
        out, divisors = [], [d for d in range(1, 40) if count % d == 0]
        for _ in range(self.random.randint(0, 3)):
            d = self.random.choice([d for d in divisors if count % d == 0])
            out.append(d)
            count //= d
        return (*out, count)

    def _reduce(self) -> Node:
        a = self.any()
        kind = self.random.choice(["sum", "sum", "max", "min", "prod", "sumprod"])
        axes = self.random.sample(range(len(a.shape)), self.random.randint(0, len(a.shape)))
        return graph.reduce(kind, a, axes, self.like(a) if kind == "sumprod" else None)

    def _softmax(self) -> Node:
        a = self.any(self.random.choice(FLOATS))
        if not a.shape:
            return a
        kept = (*a.shape[:-1], 1)
        axis = (len(a.shape) - 1,)

        def wide(row: Node) -> Node:
            return graph.expand(graph.reshape(row, kept), a.shape)

        shifted = graph.add(
            a, graph.mul(wide(graph.reduce("max", a, axis)), graph.filled(-1, a.dtype, a.shape))
        )
        return graph.div(shifted, wide(graph.reduce("sum", shifted, axis)))

    def _dot(self) -> Node:
        float32 = (dtypes.float32, dtypes.float32)
        dtype, other = self.random.choice([float32, self.random.choice(CONTRACTED)])
        B, M, K, N = (
            self.random.choice(c)
            for c in ([1, 1, 2, 3], [1, 3, 8, 40, 70], [0, 1, 7, 33, 64], [1, 2, 9, 40, 65])
        )
        a, b = self.leaf(dtype, (B, M, K)), self.leaf(other, (B, K, N))
        if self.random.random() < 0.4 and dtype.is_float:
            a = graph.max_(a, self.like(a))
        if self.random.random() < 0.4:
            b = graph.permute(self.leaf(other, (B, N, K)), (0, 2, 1))
        valid = self.leaf(dtypes.int32, (B, M)) if self.random.random() < 0.25 else None
        out = graph.dot(a, b, valid)
        if self.random.random() < 0.6:
            self.nodes.append(out)
            out = graph.reshape(out, (B * M, N))
            out = graph.add(out, self.like(out))
        return out

    def _gather(self) -> Node:
        a = self.any()
        if not a.shape:
            return a
        index = self.any(
            self.random.choice([dtypes.int32, dtypes.int32, dtypes.int64, dtypes.uint32])
        )
        return graph.gather(a, index, self.random.randrange(len(a.shape)))

    def _scatter(self) -> Node:
        a = self.any()
        if not a.shape:
            return a
        index = self.leaf(
            self.random.choice([dtypes.int32, dtypes.int64, dtypes.uint32]),
            (self.random.choice([0, 1, 5, 20]),),
        )
        updates = self.leaf(a.dtype, (*index.shape, *a.shape[1:]))
        return graph.scatter(self.random.choice(["add", "set"]), a, index, updates)

    def _concat(self) -> Node:
        a = self.any()
        if not a.shape:
            return a
        return graph.concat(
            [a, self.like(a), a][: self.random.choice([2, 3])], self.random.randrange(len(a.shape))
        )

    def _loop(self) -> Node:
        """A scan whose body is a small random graph over its carries, an item and this graph."""
        a = self.any()
        count = self.random.choice([0, 1, 2, 3, 7])
        item = self.leaf(shape=(count, *a.shape))

        def body(
            carries: tuple[Tensor, ...], items: tuple[Tensor, ...]
        ) -> tuple[list[Tensor], list[Tensor]]:
            inner = _BodyBuilder(self.random, self.random.randrange(2**32))
            inner.nodes = [carries[0].node, items[0].node, *self.nodes[-2:]]
            inner.grow(self.random.randint(1, 4), BODY_STEPS)
            fitting = [n for n in inner.nodes if n.dtype is a.dtype and n.shape == a.shape]
            return [Tensor(fitting[-1])], [Tensor(inner.nodes[-1])]

        (last,), (stacked,) = control.scan(
            body, [Tensor(a)], [Tensor(item)], length=count, reverse=self.random.random() < 0.5
        )
        self.nodes.append(last.node)
        return stacked.node


class _BodyBuilder(Builder):
    """Inside a loop, a leaf is a literal."""

    def leaf(self, dtype: dtypes.DType | None = None, shape: tuple[int, ...] | None = None) -> Node:
        dtype = self.random.choice(DTYPES) if dtype is None else dtype
        shape = self.shape() if shape is None else shape
        return graph.filled(values(dtype, (1,), self.rng)[0], dtype, shape)


STEPS = (
    ["arithmetic"] * 8
    + ["float"] * 3
    + ["compare", "where", "bit", "cast"] * 2
    + ["view"] * 8
    + ["reduce"] * 4
    + ["softmax"]
    + ["dot"] * 2
    + ["gather", "scatter", "concat"]
    + ["loop"]
)
BODY_STEPS = [kind for kind in STEPS if kind != "loop"]
"""Loops within loops have tests of their own; here they would only make programs large."""


def random_graph(seed: int, steps: int = 14) -> tuple[list[Node], dict[Node, Array]]:
    """Outputs of one random graph and values for its leaves."""
    return grown(Random(seed), seed, f"s{seed}_", steps)


def grown(
    random: Random, seed: int, prefix: str, steps: int = 14, kind: str = "buffer"
) -> tuple[list[Node], dict[Node, Array]]:
    """Outputs of one graph that ``random`` chooses, and values for its leaves from ``seed``."""
    builder = Builder(random, seed, prefix, kind)
    for _ in range(3):
        builder.leaf()
    builder.grow(steps)
    return builder.outputs(4), builder.leaves


def as_program(outputs: Sequence[Node], leaves: Iterable[Node]) -> Program:
    """A stateless program of these nodes, whose leaves are of the kind "input"."""
    specs = [TensorSpec(leaf.arg[1], leaf.dtype, leaf.shape) for leaf in leaves]
    named = [(f"output {at}", node) for at, node in enumerate(outputs)]
    return Program.build(frozen=[], state=[], inputs=specs, next_state=[], outputs=named)
