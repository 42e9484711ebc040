"""How much a benchmark challenge computes, and where each piece of it lies: integers only.

A *product* stage multiplies ``products`` pairs of matrices, a *memory* stage fills and walks an
array. The results are folded tile by tile (block by block) into 16 bytes; a leaf of a stage's tree
is a row of folds, or a run of words that were read. Both sides and any third party derive the same
places from the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from flopmarket.errors import InvalidInput
from flopmarket.limits import (
    MAX_BENCHMARK_ELEMENTS,
    MAX_BENCHMARK_LEAVES,
    MAX_BENCHMARK_PASSES,
    MAX_BENCHMARK_PRODUCTS,
    MAX_BENCHMARK_READS,
    MAX_BENCHMARK_SIDE,
    MAX_BENCHMARK_STAGES,
    MAX_BENCHMARK_TERMS,
)
from flopmarket.trust.encoding import document

TILE_SIDE = 64
FOLD_WORDS = 4
FOLD_BYTES = 4 * FOLD_WORDS
BLOCK_ELEMENTS = 1024
BLOCKS_PER_LEAF = 256
READS_PER_LEAF = 1024
READ_BYTES = 4
ELEMENT_GRAIN = BLOCK_ELEMENTS * BLOCKS_PER_LEAF
"""An array of a memory stage has a multiple of these elements (1 MiB)."""

_SIDES = (512, 1024, 2048, 4096, 8192, 16384)
_TERMS = 1024
_MANY_TERMS = 4096
_FAST_FLOPS_PER_SECOND = 4 * 10**12
_PASSES = 12
_MICROSECONDS = 1_000_000


class Operands(StrEnum):
    """What the matrices of a product hold.

    ``FRACTIONS`` have 24 bits and their sums are rounded, so that nothing but the exact profile
    gives the verifier's bits. ``INTEGERS`` are for devices without it: up to
    :data:`LARGEST_INTEGER` in size on the left, -1, 0 or 1 on the right, all partial sums below
    2^24. Every float32 arithmetic gives the same bits in any order of the sum, and one with fewer
    than 12 bits in its operands does not.
    """

    FRACTIONS = "fractions"
    INTEGERS = "integers"


LARGEST_INTEGER = 4095


@document("flopmarket.benchmark-product-shape.v2")
class ProductShape:
    """[side, terms] x [terms, side], ``products`` times in a stage, ``stages`` times in all."""

    stages: int
    products: int
    side: int
    terms: int
    operands: Operands = Operands.FRACTIONS

    def __post_init__(self) -> None:
        if self.operands is Operands.INTEGERS and self.terms * LARGEST_INTEGER >= 2**24:
            raise _refused(f"{self.terms} terms of integers may pass 2^24, where floats round")
        _within("product stages", self.stages, 1, MAX_BENCHMARK_STAGES)
        _within("products of a stage", self.products, 1, MAX_BENCHMARK_PRODUCTS)
        _within("side of a product", self.side, TILE_SIDE, MAX_BENCHMARK_SIDE, TILE_SIDE)
        _within("terms of a product", self.terms, 1, MAX_BENCHMARK_TERMS)
        _within("leaves of a stage", self.leaf_count, 1, MAX_BENCHMARK_LEAVES)

    @property
    def tiles_across(self) -> int:
        """Tiles along one side."""
        return self.side // TILE_SIDE

    @property
    def tile_count(self) -> int:
        """Tiles of one stage."""
        return self.products * self.tiles_across**2

    @property
    def leaf_count(self) -> int:
        """Leaves of one stage's tree."""
        return self.products * self.tiles_across

    @property
    def leaf_bytes(self) -> int:
        """Length of a leaf: the folds of one row of tiles."""
        return self.tiles_across * FOLD_BYTES

    @property
    def flops(self) -> int:
        """Counted ``dot-f32`` operations of one stage; drawing operands is not counted."""
        return 2 * self.products * self.side**2 * self.terms


@document("flopmarket.benchmark-memory-shape.v1")
class MemoryShape:
    """An array of uint32 walked ``passes`` times a stage; ``stages`` 0 leaves memory out."""

    stages: int
    elements: int
    passes: int
    reads: int

    def __post_init__(self) -> None:
        if self.stages == 0:
            if self.elements or self.passes or self.reads:
                raise _refused("a challenge without memory stages has no array")
            return
        _within("memory stages", self.stages, 1, MAX_BENCHMARK_STAGES)
        _within("elements", self.elements, ELEMENT_GRAIN, MAX_BENCHMARK_ELEMENTS, ELEMENT_GRAIN)
        _within("passes of a stage", self.passes, 1, MAX_BENCHMARK_PASSES)
        _within("reads of a stage", self.reads, READS_PER_LEAF, MAX_BENCHMARK_READS, READS_PER_LEAF)

    @property
    def block_count(self) -> int:
        """Blocks of the array."""
        return self.elements // BLOCK_ELEMENTS

    @property
    def block_leaves(self) -> int:
        """Leaves that hold folds; those with words that were read follow."""
        return self.block_count // BLOCKS_PER_LEAF

    @property
    def leaf_count(self) -> int:
        """Leaves of one stage's tree."""
        return self.block_leaves + self.reads // READS_PER_LEAF

    @property
    def leaf_bytes(self) -> int:
        """Length of a leaf of either kind: 4096."""
        return BLOCKS_PER_LEAF * FOLD_BYTES

    @property
    def array_bytes(self) -> int:
        """What a device that passes has in memory at the least."""
        return 4 * self.elements

    @property
    def moved_bytes(self) -> int:
        """Counted bytes of a stage: a pass reads two words an element and writes one; the fill
        writes and the fold reads one each."""
        return self.array_bytes * (3 * self.passes + 2)


NO_MEMORY = MemoryShape(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Advertised:
    """What an owner says of a device: operations a second, bytes a second, bytes."""

    dot_flops_per_second: int
    bandwidth_bytes_per_second: int
    memory_bytes: int


@document("flopmarket.benchmark-shapes.v1")
class Shapes:
    """All stages: products first, then memory, in one chain."""

    product: ProductShape
    memory: MemoryShape

    @property
    def stage_count(self) -> int:
        """Stages of both kinds."""
        return self.product.stages + self.memory.stages

    def leaf_count(self, stage: int) -> int:
        """Leaves of one stage's tree."""
        return (self.product if stage < self.product.stages else self.memory).leaf_count

    def leaf_bytes(self, stage: int) -> int:
        """Length of each of them."""
        return (self.product if stage < self.product.stages else self.memory).leaf_bytes


def plan_products(
    advertised: Advertised,
    *,
    stages: int = 12,
    total_us: int = 24 * _MICROSECONDS,
    operands: Operands = Operands.FRACTIONS,
) -> ProductShape:
    """Product stages that take ``total_us`` together at the advertised rate.

    The side is the largest whose matrices take a quarter of the memory and whose product takes at
    most half a stage: drawing operands costs as much as 1 / side of the product. Fast devices get
    longer sums, so that fewer folds are sent to the host for the same work; a tile then costs its
    verifier four times as much. A device that is slower than it said takes longer, and shows it.
    """
    fast = advertised.dot_flops_per_second >= _FAST_FLOPS_PER_SECOND
    terms = _MANY_TERMS if fast else _TERMS
    budget_flops = advertised.dot_flops_per_second * total_us // (stages * _MICROSECONDS)
    side = _SIDES[0]
    for larger in _SIDES[1:]:
        # The result, and both operands as they are drawn and as they are packed.
        fits = 4 * (larger**2 + 4 * larger * terms) <= advertised.memory_bytes // 4
        if fits and 2 * larger**2 * terms <= budget_flops // 2:
            side = larger
    products = budget_flops // (2 * side**2 * terms)
    products = min(max(1, products), MAX_BENCHMARK_PRODUCTS)
    return ProductShape(stages, products, side, terms, operands)


def plan_memory(
    advertised: Advertised,
    *,
    copies: int = 5,
    stages: int = 3,
    reads: int = 1 << 16,
    stage_us: int = 4 * _MICROSECONDS,
    most_elements: int = MAX_BENCHMARK_ELEMENTS,
) -> MemoryShape:
    """Memory stages with the largest array of which ``copies`` fit into 7/8 of the memory.

    ``copies`` is how many arrays the engine keeps for the walk: two sets of state, the fill and two
    sets of a loop's carry. A stage takes at most ``stage_us`` at an eighth of the advertised
    bandwidth, and an array has at most MAX_BENCHMARK_ELEMENTS, whatever a device could allocate.
    Where not even the smallest array fits there is no memory stage.
    """
    room = advertised.memory_bytes * 7 // 8 // (4 * copies)
    walked = _walk_bandwidth(advertised) * stage_us // _MICROSECONDS
    in_time = walked // (4 * (3 * _PASSES + 2))
    most_elements = min(most_elements, MAX_BENCHMARK_ELEMENTS)
    elements = min(room, in_time, most_elements) // ELEMENT_GRAIN * ELEMENT_GRAIN
    return MemoryShape(stages, elements, _PASSES, reads) if elements else NO_MEMORY


def longest_stage_us(shapes: Shapes, advertised: Advertised) -> int:
    """How long a stage may take: four times what is planned, and two seconds for the journey."""
    product = shapes.product.flops * _MICROSECONDS // max(1, advertised.dot_flops_per_second)
    moved = shapes.memory.moved_bytes * _MICROSECONDS if shapes.memory.stages else 0
    memory = moved // max(1, _walk_bandwidth(advertised))
    return 4 * max(product, memory) + 2 * _MICROSECONDS


def _walk_bandwidth(advertised: Advertised) -> int:
    """What a walk is sure to reach: it gathers, and CPU runtimes gather element by element."""
    return advertised.bandwidth_bytes_per_second // 8


def _within(name: str, value: int, least: int, most: int, grain: int = 1) -> None:
    if not least <= value <= most or value % grain:
        multiple = f", a multiple of {grain}" if grain > 1 else ""
        raise _refused(f"{name}: {value}, allowed are {least} to {most}{multiple}")


def _refused(message: str) -> InvalidInput:
    return InvalidInput(message, code="BENCHMARK_SHAPE")
