"""The golden programs themselves: what is computed before a device may offer exact mode.

Every primitive, every element type, every form of contraction that is left after canonicalisation,
and shapes on both sides of every threshold (docs/numerics.md §4). Small enough for the reference,
and few enough kernels for a driver to build in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from flopmarket.engine import dtypes, floats, functional, graph, samples
from flopmarket.engine.dtypes import DType
from flopmarket.engine.golden import sums
from flopmarket.engine.golden.suite import Array, Golden, Leaves
from flopmarket.engine.graph import Node
from flopmarket.engine.samples import Sampler
from flopmarket.engine.tensor import Tensor

_F32 = dtypes.float32
_FLOATS = tuple(dtype for dtype in dtypes.DTYPES if dtype.is_float)
_FLOATS_OF_ALL = tuple(dtype for dtype in _FLOATS if dtype is not dtypes.float64)
_INTEGERS = tuple(dtype for dtype in dtypes.DTYPES if dtype.is_integer)

THRESHOLDS = (1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 511, 512, 513, 4095, 4096, 4097)
"""Lengths at which some tile, lane, chunk or block of the engine ends."""

_WAYS_OF_EVERY_TYPE = ("WHERE", "a LOOP's carry")
_DIRECT = ("reshape", dtypes.float64)  # a 16-bit product is rounded before it is added to


def programs() -> dict[str, Callable[[], Golden]]:
    """Name -> maker, in the order in which admission asks."""
    rows: dict[str, Callable[[], Golden]] = {}
    rows |= {f"arithmetic {d}": partial(_arithmetic, d) for d in _FLOATS}
    rows |= {"integers": _integers, "movement": _movement}
    # What needs float64 stands alone: a device without it may do the rest.
    for suffix, floats_ in (("", _FLOATS_OF_ALL), (" float64", (dtypes.float64,))):
        rows[f"literals{suffix}"] = partial(_literals, f"literals{suffix}", floats_)
        rows[f"contraction{suffix}"] = partial(_contraction, f"contraction{suffix}", floats_)
        rows[f"rounding{suffix}"] = partial(_rounding, f"rounding{suffix}", not suffix)
        rows[f"conversions{suffix}"] = partial(_conversions, f"conversions{suffix}", bool(suffix))
    rows |= {f"dot {d}": partial(sums.dot, d) for d in _FLOATS}
    rows |= {"integer dot": sums.integer_dot}
    rows |= {f"reduce {d}": partial(sums.reduce, d) for d in _FLOATS}
    rows |= {"softmax": sums.softmax, "layer norm": sums.layer_norm}
    rows |= {"convolution": sums.convolution, "attention": sums.attention}
    rows |= {"adam step": sums.adam_step}
    return rows


# ---------------------------------------------------------------- elementwise


def _arithmetic(dtype: DType) -> Golden:
    name = f"arithmetic {dtype}"
    g = Leaves(name, 11)
    a, b, c, d = (g.add(array) for array in samples.adversarial_of(dtype, 1024, 3))
    minus = graph.filled(-1.0, dtype, a.shape)
    g.give("a + c", graph.add(a, c))
    g.give("a * b", graph.mul(a, b))
    g.give("a * b + c", graph.fma(a, b, c))
    g.give("c - a", graph.fma(a, minus, c))
    g.give("a * b + c * d", graph.add(graph.mul(a, b), graph.mul(c, d)))
    g.give("a / b", graph.div(a, b))
    g.give("sqrt a", graph.sqrt(a))
    g.give("max", graph.max_(a, c))
    g.give("a < c", graph.cmp("lt", a, c))
    g.give("a == -a", graph.cmp("eq", a, graph.mul(a, minus)))
    g.give("bits of a + c", graph.bitcast(graph.add(a, c), dtypes.unsigned_of(dtype)))
    tiny = g.add(_subnormal(dtype, 1024))
    half = graph.filled(0.5, dtype, tiny.shape)
    g.give("subnormal sum", graph.add(tiny, graph.permute(tiny, (0,))))
    g.give("subnormal product", graph.mul(tiny, half))
    g.give("subnormal root", graph.sqrt(tiny))
    g.give("subnormal quotient", graph.div(tiny, a))
    g.give("subnormal comparison", graph.cmp("lt", graph.filled(0.0, dtype, tiny.shape), tiny))
    return g.golden()


def _subnormal(dtype: DType, count: int) -> Array:
    """Every magnitude of subnormal, and the smallest normal numbers."""
    fraction_bits = np.finfo(np.float32).nmant if dtype is _F32 else _fraction_bits(dtype)
    unsigned = dtypes.unsigned_of(dtype).numpy
    words = Sampler(7).words(count) >> np.uint64(64 - fraction_bits - 1)
    return np.asarray(words.astype(unsigned).view(dtype.numpy))


def _fraction_bits(dtype: DType) -> int:
    return {dtypes.float16: 10, dtypes.bfloat16: 7, dtypes.float64: 52}[dtype]


def _integers() -> Golden:
    g = Leaves("integers", 21)
    for dtype in _INTEGERS:
        x, y = g.integers(dtype, 512), g.integers(dtype, 512)
        few = graph.cast(g.integers(dtypes.int8, 512), dtype)
        for label, node in (
            ("add", graph.add(x, y)),
            ("mul", graph.mul(x, y)),
            ("div", graph.div(x, y)),
            ("div by few", graph.div(x, few)),
            ("max", graph.max_(x, y)),
            ("lt", graph.cmp("lt", x, y)),
        ):
            g.give(f"{dtype} {label}", node)
        if dtype.kind != "u":
            continue
        amount = graph.bit("and", y, graph.filled(min(127, 4 * dtype.bits - 1), dtype, (512,)))
        for kind in ("shl", "shr"):
            g.give(f"{dtype} {kind}", graph.bit(kind, x, amount))
        for kind in ("and", "or", "xor"):
            g.give(f"{dtype} {kind}", graph.bit(kind, x, y))
    return g.golden()


def _literals(name: str, types: tuple[DType, ...]) -> Golden:
    """Arithmetic with literals that compilers like to fold, and on two literals."""
    g = Leaves(name, 22)
    for dtype in types:
        a = g.add(samples.adversarial_of(dtype, 256, 5)[0])
        tenth = graph.filled(0.1, dtype, a.shape)
        smallest = np.array([1], dtypes.unsigned_of(dtype).numpy).view(dtype.numpy)[0]
        results = [graph.fma(tenth, tenth, a), graph.fma(a, graph.filled(-1.0, dtype, a.shape), a)]
        for value in (0.0, -0.0, np.inf, -np.inf, np.nan, smallest, -1.0, 1.0):
            literal = graph.filled(value, dtype, a.shape)
            results += [graph.mul(a, literal), graph.add(a, literal), graph.mul(tenth, literal)]
            results += [graph.max_(a, literal), graph.fma(literal, tenth, a)]
        g.give(str(dtype), _mixed(results))
    return g.golden()


def _mixed(results: list[Node]) -> Node:
    """One unsigned tensor that depends on every bit of tensors of one shape: a single kernel."""
    unsigned = dtypes.unsigned_of(results[0].dtype)
    factor = graph.filled(0x9D, unsigned, results[0].shape)  # odd: a bijection
    total = graph.filled(0, unsigned, results[0].shape)
    for result in results:
        total = graph.bit("xor", graph.mul(total, factor), graph.bitcast(result, unsigned))
    return total


def _contraction(name: str, types: tuple[DType, ...]) -> Golden:
    """A product that reaches an addition by a way that canonicalisation does not look through."""
    g = Leaves(name, 23)
    for dtype in types:
        a, b, c, d = (g.add(array) for array in samples.adversarial_of(dtype, 1024, 9))
        product = graph.mul(a, b)
        square = (32, 32)

        def squared(x: Node) -> Node:
            return graph.reshape(x, (32, 32))

        ways = {
            "reshape": graph.add(graph.reshape(graph.mul(squared(a), squared(b)), a.shape), c),
            "permute": graph.add(
                graph.permute(graph.mul(squared(a), squared(b)), (1, 0)),
                graph.permute(squared(c), (1, 0)),
            ),
            "slice": graph.add(
                graph.slice_(product, [(1023, -1, 1024)]), graph.slice_(c, [(1023, -1, 1024)])
            ),
            "pad": graph.add(graph.pad(product, [(1, 1)]), graph.pad(c, [(1, 1)])),
            "expand": graph.add(
                graph.expand(graph.reshape(product, (1, 1024)), (2, 1024)),
                graph.concat([graph.reshape(x, (1, 1024)) for x in (c, d)], 0),
            ),
            "WHERE": graph.add(graph.where(graph.cmp("lt", a, d), product, c), d),
            "CONCAT": graph.add(graph.concat([product, d], 0), graph.concat([c, a], 0)),
            "MAX": graph.add(graph.max_(product, d), c),
            "SCATTER add": graph.scatter("add", c, graph.iota(0, (1024,)), product),
            "SCATTER set": graph.add(graph.scatter("set", d, graph.iota(0, (1024,)), product), c),
            "GATHER": graph.add(graph.gather(product, graph.iota(0, (1024,)), 0), c),
            "REDUCE": graph.reduce(
                "sum", graph.reshape(graph.concat([product, c], 0), (2, 1024)), (0,)
            ),
            "a LOOP's carry": _carried(product, c, d),
            "two products": graph.add(
                graph.where(graph.cmp("lt", c, d), product, d),
                graph.where(graph.cmp("lt", a, b), graph.mul(c, d), a),
            ),
        }
        assert squared(a).shape == square
        for label, node in ways.items():
            if dtype is _F32 or label in _WAYS_OF_EVERY_TYPE or (label, dtype) == _DIRECT:
                g.give(f"{dtype} through {label}", node)
    return g.golden()


def _carried(product: Node, addend: Node, factor: Node) -> Node:
    """A product that is carried to the next turn of a loop and added to there."""

    def body(
        carries: tuple[Tensor, ...], items: tuple[Tensor, ...]
    ) -> tuple[list[Tensor], list[Tensor]]:
        total, term = carries
        return [total + term, items[0] * Tensor(factor)], []

    slices = graph.concat([graph.reshape(x, (1, *x.shape)) for x in (addend, product, factor)], 0)
    last, _ = functional.scan(body, [Tensor(addend), Tensor(product)], [Tensor(slices)])
    return last[0].node


# ---------------------------------------------------------------- conversions


def _conversions(name: str, with_float64: bool) -> Golden:
    """All pairs of element types, at the edges of each; those with float64, or the others."""
    g = Leaves(name, 24)
    for source in dtypes.DTYPES:
        x: Node | None = None
        for target in dtypes.DTYPES:
            if target is not source and (dtypes.float64 in (source, target)) == with_float64:
                x = g.add(_convertible(source)) if x is None else x
                g.give(f"{source} to {target}", graph.cast(x, target))
    return g.golden()


def _convertible(dtype: DType) -> Array:
    if dtype is dtypes.bool_:
        return np.asarray(np.arange(256) % 3 == 0)
    if dtype.is_integer:
        return Sampler(25).integers(dtype, 512)
    powers = [
        sign * (2.0**e + shift)
        for e in (7, 8, 15, 16, 24, 31, 32, 53, 63, 64)
        for shift in (-1, -0.5, 0, 0.5, 1)
        for sign in (1, -1)
    ]
    edges = [0.5, -0.5, 0.0, -0.0, np.nan, np.inf, -np.inf, 1e-40, 1e-310, 65504.0, 65520.0]
    spread = np.ldexp(Sampler(26).unit(256), 1 + Sampler(27).below(68, 256))
    with np.errstate(all="ignore"):
        return floats.literal(np.concatenate([np.array(powers + edges), spread]), dtype)


def _rounding(name: str, from_float32: bool) -> Golden:
    """16-bit floats: all values read, and every boundary between two of them rounded."""
    g = Leaves(name, 28)
    for dtype in _FLOATS:
        if dtype.size_bytes != 2:
            continue
        edges = samples.rounding_edges(dtype)
        if not from_float32:
            wide = edges[::5].astype(np.float64) * (1 + 2.0**-30)
            g.give(f"float64 to {dtype}", graph.cast(g.add(wide), dtype))
            continue
        g.give(f"float32 to {dtype}", graph.cast(g.add(edges), dtype))
        every = g.add(np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy))
        g.give(f"{dtype} to float32", graph.cast(every, _F32))
        one = graph.filled(1.0, dtype, every.shape)
        third = graph.filled(1 / 3, dtype, every.shape)
        g.give(f"{dtype} + 1", graph.add(every, one))
        g.give(f"{dtype} / 3", graph.mul(every, third))
        g.give(f"1 / {dtype}", graph.div(one, every))
        g.give(f"sqrt {dtype}", graph.sqrt(every))
    return g.golden()


def _movement() -> Golden:
    """Index maps, computed indices out of range, and the order of scattered additions."""
    g = Leaves("movement", 29)
    x = g.bell(65, 33)
    index = g.integers(dtypes.int32, 257)
    near = g.add((Sampler(30).below(70, 257) - 3).astype(np.int32))
    updates = g.bell(257, 33)
    g.give("gather", graph.gather(x, near, 0))
    g.give("gather clamps", graph.gather(x, index, 1))
    g.give("scatter add", graph.scatter("add", x, near, updates))
    g.give("scatter set", graph.scatter("set", x, near, updates))
    g.give("window", graph.window(x, ((0, 3, 2, 5), (1, 4, 1, 2))))
    padded = graph.pad(x, ((1, 2), (3, 4)))
    g.give("views", graph.slice_(graph.permute(padded, (1, 0)), ((39, -3, 13), (0, 7, 10))))
    g.give("concat", graph.concat([x, graph.slice_(x, ((64, -1, 65), (0, 1, 33))), x], 1))
    g.give("iota", graph.iota(1, (3, 300), dtypes.uint32))
    return g.golden()
