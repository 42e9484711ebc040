"""The tensor programs of a benchmark challenge: what a device runs, and what recomputes a part.

A *product* multiplies two matrices drawn from a key and folds every 64 x 64 tile of the result into
four words; a *walk* fills an array from a key, mixes far elements of it pass after
pass, and folds the end; it also reads the array of the walk before. All of it is ordinary engine
work: the same kernels, the same exact bits as a paid job. A fold is an exact integer sum over
weighted bit patterns, so one wrong bit anywhere in a tile changes it, and folding needs no second
pass over the link: 16 bytes leave the device for 16 KiB that were computed.

The counterparts recompute single tiles, blocks and reads, on the reference or on any session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flopmarket.engine import compose, enclose, graph
from flopmarket.engine.compose import broadcast_to, like
from flopmarket.engine.dtypes import float32, int32, uint32, uint64
from flopmarket.engine.graph import Node, Shape
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.random import philox
from flopmarket.trust.benchmark_shape import (
    BLOCK_ELEMENTS,
    FOLD_WORDS,
    READS_PER_LEAF,
    TILE_SIDE,
    MemoryShape,
    Operands,
    ProductShape,
)

Draw = Callable[[Node, Node, int, Node, int], Node]
"""An operand by (key, number of the product, which side, line numbers, terms)."""

FOLDS = "folds"
READS = "reads"
_LEFT, _RIGHT = 0, 1
_READ = 4  # second counter word of Philox, after those of lines and terms of either operand


def product_program(shape: ProductShape) -> Program:
    """One product of a stage; the session's seed is the stage's key, its step the product's number.

    Output ``folds`` is uint32 [side / 64, side / 64, 4], a row of it being a leaf of the tree.
    """
    side, terms, tiles = shape.side, shape.terms, shape.tiles_across
    seed, step = _session_leaves()
    key, number = graph.reshape(seed, (1, 2)), graph.reshape(step, (1, 1))
    lines = graph.iota(1, (1, side), uint32)
    draw = _drawing(shape.operands)
    left, right = (draw(key, number, which, lines, terms) for which in (_LEFT, _RIGHT))
    bits = _bits(graph.dot(left, graph.permute(right, (0, 2, 1))), shape.operands)
    rows = TILE_SIDE // FOLD_WORDS
    parted = graph.reshape(bits, (tiles, rows, FOLD_WORDS, tiles, TILE_SIDE))
    return _stateless([], [(FOLDS, _fold(parted, (1, 4), 2))])


def tile_program(tiles: int, terms: int, operands: Operands = Operands.FRACTIONS) -> Program:
    """``tiles`` tiles at once: inputs ``key`` uint32 [t, 2], ``number``, ``row``, ``column`` [t].

    ``row`` and ``column`` are the first line of either operand. Output ``folds`` uint32 [t, 4].
    """
    inputs = [_spec("key", (tiles, 2)), *(_spec(n, (tiles,)) for n in ("number", "row", "column"))]
    key, number, row, column = (_input(spec) for spec in inputs)
    number = graph.reshape(number, (tiles, 1))
    line = graph.iota(1, (tiles, TILE_SIDE), uint32)
    rows, columns = (graph.add(line, _widened_row(first, line.shape)) for first in (row, column))
    draw = _drawing(operands)
    left = draw(key, number, _LEFT, rows, terms)
    right = draw(key, number, _RIGHT, columns, terms)
    bits = _bits(graph.dot(left, graph.permute(right, (0, 2, 1))), operands)
    parted = graph.reshape(bits, (tiles, TILE_SIDE // FOLD_WORDS, FOLD_WORDS, TILE_SIDE))
    return _stateless(inputs, [(FOLDS, _fold(parted, (1, 3), 2))])


def walk_program(shape: MemoryShape) -> Program:
    """A memory stage: reads of the array before, then a new one. State ``x`` uint32 [elements].

    Input ``strides`` uint32 [passes]; the session's seed is the stage's key. Outputs: ``folds``
    uint32 [blocks, 4] of the new array, ``reads`` uint32 [reads] of the old one.
    """
    elements, passes = shape.elements, shape.passes
    seed, _ = _session_leaves()
    x = graph.input_("state", "x", uint32, (elements,))
    strides_spec = _spec("strides", (passes,))
    index = graph.iota(0, (elements,), uint32)
    keys = _split(seed, (elements,))
    held = enclose.hole(uint32, (elements,))
    stride = enclose.hole(uint32, ())
    far = graph.gather(held, _wrapped(index, broadcast_to(stride, (elements,)), elements), 0)
    walk = enclose.Open(
        carries=(held,),
        items=(stride,),
        initial=(_fill(index, keys),),
        scanned=(_input(strides_spec),),
        following=(_mix(held, far),),
        slices=(),
    )
    (ended,), _ = enclose.enclose(walk, passes, reverse=False)
    blocks = (elements // BLOCK_ELEMENTS, BLOCK_ELEMENTS // FOLD_WORDS, FOLD_WORDS)
    folds = _fold(graph.reshape(ended, blocks), (1,), 2)
    reads = graph.gather(x, _read_positions(_split(seed, (shape.reads,)), shape), 0)
    return Program.build(
        frozen=[],
        state=[TensorSpec("x", uint32, (elements,))],
        inputs=[strides_spec],
        next_state=[ended],
        outputs=[(FOLDS, folds), (READS, reads)],
    )


def block_program(shape: MemoryShape) -> Program:
    """One block recomputed from the fill: inputs ``key`` [2], ``first`` [], ``strides`` [passes].

    An element depends on 2^passes elements of the fill. Output ``folds`` uint32 [4].
    """
    inputs = [_spec("key", (2,)), _spec("first", ()), _spec("strides", (shape.passes,))]
    ended = _cone(shape, inputs, BLOCK_ELEMENTS)
    parted = graph.reshape(ended, (BLOCK_ELEMENTS // FOLD_WORDS, FOLD_WORDS))
    return _stateless(inputs, [(FOLDS, _fold(parted, (0,), 1))])


def element_program(shape: MemoryShape) -> Program:
    """The element of a walk that a read should have found: inputs ``key`` (of the walk), ``first``
    (its position) and ``strides``. Output ``reads`` uint32 [1]."""
    inputs = [_spec("key", (2,)), _spec("first", ()), _spec("strides", (shape.passes,))]
    return _stateless(inputs, [(READS, _cone(shape, inputs, 1))])


def position_program(shape: MemoryShape) -> Program:
    """Where a stage reads: input ``key`` uint32 [2]; output ``reads`` uint32 [reads]."""
    spec = _spec("key", (2,))
    keys = _split(_input(spec), (shape.reads,))
    return _stateless([spec], [(READS, _read_positions(keys, shape))])


def _cone(shape: MemoryShape, inputs: Sequence[TensorSpec], count: int) -> Node:
    """``count`` neighbouring elements of the end of a walk.

    Layer p is kept as [2^(passes - p), count]: a row for each sum of a subset of the later strides.
    """
    key, first, strides = (_input(spec) for spec in inputs)
    elements = shape.elements
    starts = graph.reshape(first, (1,))
    for turn in reversed(range(shape.passes)):
        stride = broadcast_to(compose.part(strides, 0, turn, 1), starts.shape)
        starts = graph.concat([starts, _wrapped(starts, stride, elements)], 0)
    cone = (2**shape.passes, count)
    places = broadcast_to(graph.reshape(starts, (cone[0], 1)), cone)
    value = _fill(_wrapped(places, graph.iota(1, cone, uint32), elements), _split(key, cone))
    for _ in range(shape.passes):
        half = value.shape[0] // 2
        value = _mix(compose.part(value, 0, 0, half), compose.part(value, 0, half, half))
    return graph.reshape(value, (count,))


def _drawing(operands: Operands) -> Draw:
    """The drawing of a kind of operands."""
    return _integer_operand if operands is Operands.INTEGERS else _operand


def _bits(product: Node, operands: Operands) -> Node:
    """uint32: the bits of a product, as an integer where it is one (so that -0 is 0)."""
    if operands is Operands.INTEGERS:
        product = graph.cast(product, int32)
    return graph.bitcast(product, uint32)


def _operand(key: Node, number: Node, which: int, lines: Node, terms: int) -> Node:
    """float32 [t, l, terms] in [-1, 1) in steps of 2^-23, for line numbers [t, l] and keys [t, 2].

    Every result is wanted to the last bit, which depends on the order of the sum.
    """
    value = _drawn(key, number, which, lines, terms)
    unit = graph.cast(graph.bit("shr", value, like(8, value)), float32)
    return graph.fma(unit, like(2.0**-23, unit), like(-1.0, unit))


def _integer_operand(key: Node, number: Node, which: int, lines: Node, terms: int) -> Node:
    """float32 [t, l, terms] that are integers: -4095 to 4095 on the left, -1, 0 or 1 on the right.

    The left ones have 12 bits, one more than float16 and TF32 hold; the right ones make no sum
    pass 2^24.
    """
    value = _drawn(key, number, which, lines, terms)
    if which == _RIGHT:
        upper = graph.bit("shr", value, like(16, value))
        third = graph.bit("shr", graph.mul(upper, like(3, upper)), like(16, upper))
        signed = graph.bitcast(third, int32)
        return graph.cast(graph.add(signed, like(-1, signed)), float32)
    size = graph.bitcast(graph.bit("shr", value, like(20, value)), int32)
    odd = graph.bitcast(graph.bit("and", value, like(1, value)), int32)
    sign = graph.add(like(1, odd), graph.mul(odd, like(-2, odd)))
    return graph.cast(graph.mul(size, sign), float32)


def _drawn(key: Node, number: Node, which: int, lines: Node, terms: int) -> Node:
    """uint32 [t, l, terms] for line numbers [t, l] and keys [t, 2].

    Philox draws two words a line and two a term; an element is made of their mixture. A Philox
    block an element would cost a CPU as long as the product. Since every result is wanted to the
    last bit, nothing is gained from structure in the operands but equal lines, and there are none.
    """
    count, length = lines.shape
    places = graph.iota(1, (count, terms), uint32)
    near, nearer = (
        _widened(w, (count, length, terms), 2) for w in _words(key, number, 2 * which, lines)
    )
    far, farther = (
        _widened(w, (count, length, terms), 1) for w in _words(key, number, 2 * which + 1, places)
    )
    value = _scramble(graph.add(near, far), 16)
    value = _scramble(graph.mul(value, like(0x7FEB352D, value)), 15)
    value = graph.bit("xor", value, graph.bit("xor", nearer, farther))
    return _scramble(graph.mul(value, like(0x846CA68B, value)), 16)


def _words(key: Node, number: Node, stream: int, index: Node) -> tuple[Node, Node]:
    """Two words of one Philox block for every index [t, n] under keys [t, 2] and numbers [t, 1]."""
    keys = tuple(_widened_row(compose.part(key, 1, at, 1), index.shape) for at in (0, 1))
    counter = (_widened_row(number, index.shape), like(stream, index), index, like(0, index))
    first, second, _, _ = philox(counter, (keys[0], keys[1]))
    return first, second


def _widened(words: Node, shape: Shape, axis: int) -> Node:
    """[t, n] seen as ``shape`` [t, l, k], repeated along ``axis``."""
    count, n = words.shape
    return graph.expand(graph.reshape(words, (count, n, 1) if axis == 2 else (count, 1, n)), shape)


def _widened_row(values: Node, shape: Shape) -> Node:
    """[t, 1] repeated over [t, n]."""
    return graph.expand(graph.reshape(values, (shape[0], 1)), shape)


def _fold(bits: Node, axes: tuple[int, ...], lanes: int) -> Node:
    """uint32 [.., 4]: sums modulo 2^32 of the bits times odd weights that depend on the place.

    ``lanes`` is the axis of length 4 whose places are summed apart; ``axes`` are summed. Every
    element is in one lane and read once.
    """
    place = graph.bitcast(compose.ramp(bits.shape, axes), uint32)
    scattered = graph.mul(place, like(0x9E3779B1, place))
    weight = graph.bit("or", scattered, like(1, place))
    # The upper bits reach the lower ones before they are weighted and summed.
    mixed = _scramble(bits, 15)
    sums = graph.reduce("sum", graph.mul(mixed, weight), axes)
    kept = [axis for axis in range(len(bits.shape)) if axis not in axes]
    order = [at for at, axis in enumerate(kept) if axis != lanes]
    return graph.permute(sums, [*order, kept.index(lanes)])


def _fill(index: Node, keys: tuple[Node, Node]) -> Node:
    """The first content: two rounds of multiply and shift on the index under the key."""
    value = graph.bit("xor", index, keys[0])
    value = _scramble(graph.mul(value, like(0x9E3779B1, value)), 16)
    value = graph.bit("xor", value, keys[1])
    return _scramble(graph.mul(value, like(0x85EBCA6B, value)), 13)


def _mix(near: Node, far: Node) -> Node:
    """One pass on one element: not linear, so that passes do not collapse into one."""
    value = graph.add(near, graph.mul(far, like(0x9E3779B1, far)))
    return graph.mul(_scramble(value, 15), like(0x2C1B3C6D, value))


def _scramble(value: Node, distance: int) -> Node:
    return graph.bit("xor", value, graph.bit("shr", value, like(distance, value)))


def _wrapped(index: Node, by: Node, elements: int) -> Node:
    """index + by, at most once around an array of ``elements`` < 2^31."""
    far = graph.add(index, by)
    back = graph.add(far, like(2**32 - elements, far))
    return graph.where(graph.cmp("lt", far, like(elements, far)), far, back)


def _read_positions(keys: tuple[Node, Node], shape: MemoryShape) -> Node:
    """uint32 [reads] in 0..elements-1, drawn from the key of the stage that reads."""
    assert shape.reads % READS_PER_LEAF == 0
    index = graph.iota(0, (shape.reads,), uint32)
    zero = like(0, index)
    word = graph.cast(philox((zero, like(_READ, index), index, zero), keys)[0], uint64)
    scaled = graph.mul(word, like(shape.elements, word))
    return graph.cast(graph.bit("shr", scaled, like(32, scaled)), uint32)


def _session_leaves() -> tuple[Node, Node]:
    return graph.input_("seed", "seed", uint32, (2,)), graph.input_("step", "step", uint32, ())


def _split(key: Node, shape: Shape) -> tuple[Node, Node]:
    low, high = (broadcast_to(compose.part(key, 0, at, 1), shape) for at in (0, 1))
    return low, high


def _spec(name: str, shape: Shape) -> TensorSpec:
    return TensorSpec(name, uint32, shape)


def _input(spec: TensorSpec) -> Node:
    return graph.input_("input", spec.name, spec.dtype, spec.shape)


def _stateless(inputs: Sequence[TensorSpec], outputs: Sequence[tuple[str, Node]]) -> Program:
    return Program.build(frozen=[], state=[], inputs=inputs, next_state=[], outputs=outputs)
