"""Golden programs of contractions, folds, and the functions and models that are made of them."""

from __future__ import annotations

import numpy as np

from flopmarket.engine import dtypes, functional, graph, nn, optim, samples, trace
from flopmarket.engine.dtypes import DType
from flopmarket.engine.golden.suite import Array, Golden, Leaves
from flopmarket.engine.graph import Node
from flopmarket.engine.samples import Sampler
from flopmarket.engine.tensor import Tensor

_F32 = dtypes.float32
_NARROW = tuple(d for d in dtypes.DTYPES if d.is_integer and d.size_bytes <= 2)

_DOT_SHAPES: dict[DType, tuple[tuple[int, int, int], ...]] = {
    _F32: (
        *((1, 1, 1), (2, 33, 3), (31, 2, 32), (2, 511, 3), (3, 4095, 1), (33, 31, 32)),
        *((63, 65, 64), (32, 257, 33), (33, 513, 17), (5, 4096, 8), (9, 4097, 31), (257, 33, 255)),
    ),
}
"""(rows, terms, columns); element types that are not named get :data:`_FEW_DOT_SHAPES`."""
_FEW_DOT_SHAPES = ((5, 65, 3), (33, 513, 65))
_FEW_LENGTHS = (65, 4097)
_LENGTHS = (1, 2, 31, 33, 63, 64, 65, 257, 511, 4095, 4096, 4097, 8193)


def dot(dtype: DType) -> Golden:
    g = Leaves(f"dot {dtype}", 13)
    for rows, terms, columns in _DOT_SHAPES.get(dtype, _FEW_DOT_SHAPES):
        a, b = g.bell(1, rows, terms, dtype=dtype), g.bell(1, terms, columns, dtype=dtype)
        g.give(f"{rows}x{terms}x{columns}", graph.dot(a, b))
    a, b = g.bell(2, 5, 600, dtype=dtype), g.bell(2, 600, 7, dtype=dtype)
    counts = [[0, 1, 511, 512, 513], [600, 700, -1, 64, 2]]
    g.give("valid", graph.dot(a, b, g.add(np.array(counts, dtype=np.int32))))
    special = g.add(samples.adversarial_of(dtype, 33 * 40, 8)[0].reshape(1, 33, 40))
    g.give("special values", graph.dot(special, g.bell(1, 40, 24, dtype=dtype)))
    if dtype in (dtypes.float16, dtypes.bfloat16):
        mixed = graph.dot(g.bell(1, 9, 65, dtype=dtype), g.bell(1, 65, 33))
        g.give("mixed with float32", mixed)
    return g.golden()


def integer_dot() -> Golden:
    g = Leaves("integer dot", 14)
    for left in (*_NARROW, dtypes.int32):
        for right in _NARROW:
            if left is not right and left.size_bytes == right.size_bytes == 2:
                continue
            if left.kind == right.kind and left is not right:
                continue  # what is left has every signedness beside every other, and every width
            a, b = g.integers(left, 1, 5, 130), g.integers(right, 1, 130, 33)
            g.give(f"{left} by {right}", graph.dot(a, b))
    a, b = g.integers(dtypes.int8, 1, 3, 130), g.integers(dtypes.uint8, 1, 130, 5)
    valid = g.add(np.array([[0, 65, 200]], dtype=np.int32))
    g.give("valid", graph.dot(a, b, valid))
    return g.golden()


def reduce(dtype: DType) -> Golden:
    g = Leaves(f"reduce {dtype}", 15)
    thorough = dtype is _F32
    for count in _LENGTHS if thorough else _FEW_LENGTHS:
        x = g.bell(3, count, dtype=dtype)
        g.give(f"sum of {count}", graph.reduce("sum", x, (1,)))
        if count == 65 or (thorough and count == 4097):
            y = g.bell(3, count, dtype=dtype)
            g.give(f"sum of products of {count}", graph.reduce("sumprod", x, (1,), y))
    tall = g.bell(4097 if thorough else 130, 17, dtype=dtype)
    g.give("sum of columns", graph.reduce("sum", tall, (0,)))
    if thorough:
        g.give("product of columns", graph.reduce("prod", tall, (0,)))
        g.give("sum of two axes", graph.reduce("sum", g.bell(5, 9, 64), (0, 2)))
        whole = g.integers(dtypes.int32, 3, 4097)
        g.give("sum of int32", graph.reduce("sum", whole, (1,)))
        g.give("product of int32", graph.reduce("prod", whole, (1,)))
    special = g.add(samples.adversarial_of(dtype, 4 * 130, 6)[0].reshape(4, 130))
    for kind in ("sum", "max", "min") if thorough else ("sum", "max"):
        g.give(f"{kind} of special values", graph.reduce(kind, special, (1,)))
    return g.golden()


# ---------------------------------------------------------------- functions and models


def softmax() -> Golden:
    g = Leaves("softmax", 17)
    x = Tensor(g.bell(9, 257))
    g.give("log softmax of 257", functional.log_softmax(x, 1).node)
    for rows, columns in ((3, 33), (2, 4097)):
        x = Tensor(g.bell(rows, columns))
        g.give(f"softmax of {columns}", functional.softmax(x, 1).node)
    return g.golden()


def layer_norm() -> Golden:
    g = Leaves("layer norm", 18)
    for rows, columns in ((9, 257),):
        x, scale, shift = (Tensor(g.bell(*s)) for s in ((rows, columns), (columns,), (columns,)))
        g.give(f"of {columns}", functional.layer_norm(x, (columns,), scale, shift).node)
    return g.golden()


def convolution() -> Golden:
    g = Leaves("convolution", 19)
    pixels, kernel, bias = (Tensor(g.bell(*s)) for s in ((2, 6, 11, 11), (8, 6, 3, 3), (8,)))
    g.give("strided", functional.conv2d(pixels, kernel, bias, stride=2, padding=1).node)
    g.give("dense", functional.conv2d(pixels, kernel, None, padding=1).node)
    return g.golden()


def attention() -> Golden:
    """Causal attention over a cache whose later positions hold infinities and NaN."""
    g = Leaves("attention", 20)
    rows, depth = 65, 33
    query = g.bell(1, rows, depth)
    keys, values = (g.sampler.bell(1, rows + 8, depth) for _ in range(2))
    keys[:, rows:], values[:, rows:] = np.nan, np.inf
    k, v = g.add(keys), g.add(values)
    g.give("causal", causal_attention(query, k, v, graph.iota(1, (1, rows))))
    return g.golden()


def causal_attention(query: Node, keys: Node, values: Node, position: Node) -> Node:
    """Attention of [B, R, D] queries at absolute ``position`` int32 [B, R] over [B, C, D].

    Row r sees keys 0..position: others neither count nor touch it, whatever they hold. So a row's
    bits depend on itself and on what it sees, and prefill equals decode.
    """
    batch, rows, _ = query.shape
    capacity = keys.shape[1]
    shape = (batch, rows, capacity)
    one = graph.filled(1, dtypes.int32, position.shape)
    seen = graph.add(position, one)
    columns = graph.iota(2, shape)
    visible = graph.cmp("lt", columns, graph.expand(graph.reshape(seen, (batch, rows, 1)), shape))
    scores = graph.dot(query, graph.permute(keys, (0, 2, 1)))
    masked = graph.where(visible, scores, graph.filled(-np.inf, _F32, shape))
    weights = functional.softmax(Tensor(masked), 2).node
    return graph.dot(weights, values, seen)


def adam_step() -> Golden:
    """Forward, backward and the optimizer's update of a small perceptron: one whole step."""
    sampler = Sampler(31)
    model = nn.Sequential(nn.Linear(33, 65), nn.ReLU(), nn.Linear(65, 10))
    step = trace.training_step(model, functional.cross_entropy, optim.Adam(lr=1e-3))
    shapes = {name: spec.shape for name, spec in step.init_specs().items()}
    state = {name: np.abs(sampler.bell(*shape)) * np.float32(0.1) for name, shape in shapes.items()}
    labels = sampler.below(10, 32).astype(np.int32)
    batch = {"x": sampler.bell(32, 33), "y": labels}
    program = trace.trace(step, state, batch)
    leaves: dict[Node, Array] = {}
    for leaf in program.leaves:
        kind, name = leaf.arg
        leaves[leaf] = np.asarray(state[name] if kind == "state" else batch[name])
    names = [f"next {spec.name}" for spec in program.state] + [s.name for s in program.outputs]
    return Golden("adam step", program, leaves, tuple(names))
