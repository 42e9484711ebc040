"""Sorting, ranks and running extremes on nodes: total orders on the bits of values.

A value is compared through its :func:`order_key`, an unsigned integer whose order is that of the
values: NaN above everything, -0 equal to +0. Equal keys keep their order, so every sort is stable
and every result is a function of the values alone. Only positions are computed here; values are
gathered by them, which makes everything differentiable.

A sort is a sorting network (bitonic; K. Batcher, "Sorting networks and their applications", 1968)
on words of (key, position), one LOOP over its stages; short rows count ranks instead.
"""

from __future__ import annotations

from flopmarket.engine import compose, dtypes, enclose, graph
from flopmarket.engine.compose import like, literal
from flopmarket.engine.dtypes import bool_, int32, uint8, uint32, uint64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.rounding import sign_bit
from flopmarket.engine.scattering import gather, scatter

MAX_RANKED = 256
"""Longest row that is sorted by counting ranks, one fold of length squared. Measured with PoCL on
two cores: equal times at 256; the network is 2 times faster at 1024, 15 at 4096, 70 at 65536."""


def order_key(x: Node) -> Node:
    """Unsigned words, the wider the larger, that order as ``x``; no derivative."""
    if x.dtype is bool_:
        return graph.cast(x, uint8)
    if x.dtype.kind == "u":
        return x
    words = dtypes.unsigned_of(x.dtype)
    if x.dtype.kind == "i":
        bits = graph.bitcast(x, words)
        return graph.bit("xor", bits, like(sign_bit(x.dtype), bits))
    # Adding +0 turns -0 into +0 and changes nothing else. Negative floats order backwards.
    bits = graph.bitcast(graph.add(x, like(0.0, x)), words)
    top = like(sign_bit(x.dtype), bits)
    below = graph.cmp("lt", x, like(0.0, x))
    return graph.bit("xor", bits, graph.where(below, like(2**words.bits - 1, bits), top))


def argsort(x: Node, axis: int, descending: bool = False) -> Node:
    """int32 positions along ``axis`` in ascending order of the values; equal ones keep theirs.

    NaN counts as the largest. Rows of up to 2^31 - 1 elements.
    """
    length = x.shape[axis]
    if length > 2**31 - 1:
        raise EngineError(f"a row of {length} does not sort", code="SHAPE_TOO_LARGE")
    if x.elements == 0 or length == 1:
        return graph.filled(0, int32, x.shape)
    key = order_key(x)
    if descending:
        key = compose.invert(key)
    if length <= MAX_RANKED:
        return _by_ranks(key, axis)
    last = len(x.shape) - 1
    moved = compose.swap(key, axis, last)
    if key.dtype is uint64:
        order = _wide_network(moved)
    else:
        order = _network(graph.cast(moved, uint64))
    return compose.swap(order, axis, last)


def _by_ranks(key: Node, axis: int) -> Node:
    """Every element's rank is the number of elements before it; the inverse is the order."""
    wide = (*key.shape[: axis + 1], key.shape[axis], *key.shape[axis + 1 :])

    def spread(node: Node, at: int) -> Node:
        shape = (*node.shape[:at], 1, *node.shape[at:])
        return graph.expand(graph.reshape(node, shape), wide)

    mine, other = spread(key, axis + 1), spread(key, axis)
    earlier = graph.cmp("lt", graph.iota(axis + 1, wide), graph.iota(axis, wide))
    tied = graph.bit("and", graph.cmp("eq", other, mine), earlier)
    before = graph.bit("or", graph.cmp("lt", other, mine), tied)
    rank = graph.reduce("sum", graph.cast(before, int32), (axis + 1,))
    places = graph.iota(axis, key.shape)
    return scatter("set", places, axis, rank, places)


def _network(key: Node) -> Node:
    """int32 order of the rows of ``key``, uint64 [.., n] below 2^32."""
    shift = like(32, key)
    position = graph.iota(len(key.shape) - 1, key.shape, uint64)
    words = graph.bit("or", graph.bit("shl", key, shift), position)
    ordered = _bitonic(words)
    return graph.cast(graph.bit("and", ordered, like(2**32 - 1, ordered)), int32)


def _wide_network(key: Node) -> Node:
    """The same for 64-bit keys: by their low words, then stably by the high ones."""
    axis = len(key.shape) - 1
    first = _network(graph.bit("and", key, like(2**32 - 1, key)))
    high = gather(graph.bit("shr", key, like(32, key)), axis, first)
    return gather(first, axis, _network(high))


def _bitonic(words: Node) -> Node:
    """Rows [.., n] of distinct uint64 in ascending order; shorter than a power of two is padded.

    In every turn element i meets element i xor m, and the lower place takes the smaller.
    """
    shape, n = words.shape, words.shape[-1]
    rows = words.elements // n
    size = 1 << (n - 1).bit_length()
    held = graph.reshape(words, (rows, n))
    if size > n:
        real = graph.pad(literal(True, bool_, held.shape), [(0, 0), (0, size - n)])
        padded = graph.pad(held, [(0, 0), (0, size - n)])
        held = graph.where(real, padded, like(2**64 - 1, padded))
    masks = _partners(size)
    carry, mask = enclose.hole(uint64, held.shape), enclose.hole(uint32, ())
    place = graph.iota(0, (size,), uint32)
    partner = graph.bit("xor", place, compose.broadcast_to(mask, (size,)))
    other = graph.gather(carry, partner, 1)
    larger = graph.max_(carry, other)
    smaller = graph.bit("xor", graph.bit("xor", carry, other), larger)
    lower = compose.broadcast_to(graph.cmp("lt", place, partner), held.shape)
    network = enclose.Open(
        carries=(carry,),
        items=(mask,),
        initial=(held,),
        scanned=(graph.const(masks, uint32, (len(masks),)),),
        following=(graph.where(lower, smaller, larger),),
        slices=(),
    )
    (ordered,), _ = enclose.enclose(network, len(masks), reverse=False)
    return graph.reshape(compose.part(ordered, 1, 0, n), shape)


def _partners(size: int) -> list[int]:
    """The m of every turn: 2 w - 1 (both halves of a block of 2 w, one of them backwards) and then
    w / 2, w / 4, .., 1, for w = 1, 2, 4, .."""
    masks: list[int] = []
    half = 1
    while half < size:
        masks += [2 * half - 1, *(half >> by for by in range(1, half.bit_length()))]
        half *= 2
    return masks


# ---------------------------------------------------------------- first and last extremes


def extreme_position(x: Node, axes: tuple[int, ...], largest: bool, last: bool = False) -> Node:
    """int32 (axes kept as 1) row-major position of the first (or last) extreme inside ``axes``.

    The first NaN if there is one, whichever extreme is asked for.
    """
    key = order_key(x)
    if not largest:
        key = _nan_on_top(compose.invert(key), x)
    top = compose.fold("max", key, axes, keep=True)
    hit = graph.cmp("eq", key, graph.expand(top, x.shape))
    index = compose.ramp(x.shape, axes)
    nowhere = like(-1 if last else 2**31 - 1, index)
    picked = graph.where(hit, index, nowhere)
    return compose.fold("max" if last else "min", picked, axes, keep=True)


def _nan_on_top(key: Node, x: Node) -> Node:
    if not x.dtype.is_float:
        return key
    return graph.where(graph.cmp("eq", x, x), key, like(2**key.dtype.bits - 1, key))


def running_extreme(x: Node, axis: int, largest: bool) -> Node:
    """int32 positions of the extreme so far along ``axis``; of equal ones the last; NaN wins."""
    key = order_key(x)
    if not largest:
        key = _nan_on_top(compose.invert(key), x)
    place = graph.iota(axis, x.shape) if x.elements else graph.filled(0, int32, x.shape)
    step = 1
    while step < x.shape[axis]:
        before, old = delayed(key, axis, step), delayed(place, axis, step)
        keep = graph.cmp("lt", key, before)  # the zeros shifted in are no larger than any key
        key, place = graph.where(keep, before, key), graph.where(keep, old, place)
        step *= 2
    return place


def delayed(x: Node, axis: int, by: int) -> Node:
    """Elements moved ``by`` places up along ``axis``, zeros before them."""
    n = x.shape[axis]
    moved = graph.pad(x, [(by, 0) if a == axis else (0, 0) for a in range(len(x.shape))])
    return compose.part(moved, axis, 0, n)


def count_below(boundaries: Node, x: Node, right: bool) -> Node:
    """int32 [*, m]: for each x the number of ``boundaries`` [*, n] below it, or not above it.

    Both have one shape but for the last axis. NaN is above all. Costs n * m comparisons.
    """
    wide = (*x.shape, boundaries.shape[-1])
    edge = graph.expand(graph.reshape(boundaries, (*x.shape[:-1], 1, boundaries.shape[-1])), wide)
    value = graph.expand(graph.reshape(x, (*x.shape, 1)), wide)
    if right:
        counted = compose.invert(graph.cmp("lt", order_key(value), order_key(edge)))
    else:
        counted = graph.cmp("lt", order_key(edge), order_key(value))
    return graph.reduce("sum", graph.cast(counted, int32), (len(x.shape),))
