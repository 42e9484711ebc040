"""The benchmark that cannot be faked: its messages, its keys, and the places that are opened.

A challenge is a chain of stages. The key of a stage is drawn from the nonce and the root of the
stage before, so no stage can be computed before its time or beside another one; the root commits to
every tile of its result. The verifier stamps each root when it arrives and, after the last one,
asks for tiles at places that nobody could know and recomputes them bit by bit. The rate is the
median of work over interval; the journey of a root counts as the device's time.

Both state machines (``benchmark_prover``, ``benchmark_verifier``) and everybody who reads a report
use these derivations. Nothing here has a clock or draws a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated

from flopmarket.errors import InvalidInput
from flopmarket.limits import (
    MAX_BENCHMARK_LEAF_BYTES,
    MAX_BENCHMARK_OPENED,
    MAX_BENCHMARK_STAGES,
)
from flopmarket.trust.benchmark_shape import (
    BLOCK_ELEMENTS,
    BLOCKS_PER_LEAF,
    FOLD_BYTES,
    READ_BYTES,
    READS_PER_LEAF,
    MemoryShape,
    Shapes,
)
from flopmarket.trust.documents import Identifier, KeyId
from flopmarket.trust.encoding import Digest, MaxLength, digest, document, tagged_hash
from flopmarket.trust.merkle import MerkleProof

_KEY_DOMAIN = "flopmarket.benchmark-key.v1"
_STRIDE_DOMAIN = "flopmarket.benchmark-stride.v1"
_PLACE_DOMAIN = "flopmarket.benchmark-place.v1"
_SEED_DOMAIN = "flopmarket.benchmark-seed.v1"
_MICROSECONDS = 1_000_000


class BenchmarkReason(StrEnum):
    """What came of a challenge."""

    ACCEPTED = "BENCHMARK_ACCEPTED"
    NOT_READY = "BENCHMARK_NOT_READY"
    STAGE_LATE = "BENCHMARK_STAGE_LATE"
    STAGE_OUT_OF_ORDER = "BENCHMARK_STAGE_OUT_OF_ORDER"
    OTHER_CHALLENGE = "BENCHMARK_OTHER_CHALLENGE"
    OPENING_LATE = "BENCHMARK_OPENING_LATE"
    OPENING_INCOMPLETE = "BENCHMARK_OPENING_INCOMPLETE"
    SHAPE_WRONG = "BENCHMARK_SHAPE_WRONG"
    PROOF_INVALID = "BENCHMARK_PROOF_INVALID"
    TILE_WRONG = "BENCHMARK_TILE_WRONG"
    BLOCK_WRONG = "BENCHMARK_BLOCK_WRONG"
    READ_WRONG = "BENCHMARK_READ_WRONG"
    MALFORMED = "BENCHMARK_MALFORMED"


WRONG_ANSWERS = frozenset(
    {
        BenchmarkReason.OTHER_CHALLENGE,
        BenchmarkReason.OPENING_INCOMPLETE,
        BenchmarkReason.SHAPE_WRONG,
        BenchmarkReason.PROOF_INVALID,
        BenchmarkReason.TILE_WRONG,
        BenchmarkReason.BLOCK_WRONG,
        BenchmarkReason.READ_WRONG,
    }
)
"""Answers that are something else than what was to be computed, and not merely late, out of turn or
of another protocol."""

REMEDIES = MappingProxyType(
    {
        BenchmarkReason.ACCEPTED: "nothing to do",
        BenchmarkReason.NOT_READY: "run `flop worker bench --challenge` and see that it ends",
        BenchmarkReason.STAGE_LATE: (
            "the device is slower, or has less memory, than its offer says; offer what "
            "`flop worker bench` measures, with nothing else running"
        ),
        BenchmarkReason.STAGE_OUT_OF_ORDER: "update the worker; its protocol is another one",
        BenchmarkReason.OTHER_CHALLENGE: "answers belong to one challenge; take a new one",
        BenchmarkReason.OPENING_LATE: "keep the results until the opening has been answered",
        BenchmarkReason.OPENING_INCOMPLETE: "open every place that was asked for, in order",
        BenchmarkReason.SHAPE_WRONG: "compute the shape that the challenge names",
        BenchmarkReason.PROOF_INVALID: "the opened leaf is not the one that the root commits to",
        BenchmarkReason.TILE_WRONG: (
            "the device does not compute these bits: run `flop bench golden`, and test its memory"
        ),
        BenchmarkReason.BLOCK_WRONG: "the device's memory does not keep what is written: test it",
        BenchmarkReason.MALFORMED: "update the worker; it sent no document of this protocol",
        BenchmarkReason.READ_WRONG: "the device did not hold the array it claims to have: test it",
    }
)
"""What an owner can do about each."""


@document("flopmarket.benchmark-plan.v1")
class BenchmarkPlan:
    """Sent first, so that the device can build kernels and take memory before time counts.

    ``sampling_commitment`` fixes the places that will be opened before the nonce is known.
    ``ready_us``, ``stage_us`` and ``opening_us`` are how long the device may take to say that it is
    ready, for one stage, and to open.
    """

    challenge_id: Identifier
    account_id: Identifier
    device_key_id: KeyId
    device_id: Identifier
    profile: Annotated[str, MaxLength(64)]
    shapes: Shapes
    opened_tiles: int
    opened_blocks: int
    opened_reads: int
    sampling_commitment: Digest
    ready_us: int
    stage_us: int
    opening_us: int

    def __post_init__(self) -> None:
        opened = self.opened_tiles + self.opened_blocks + self.opened_reads
        memory = self.shapes.memory
        room = (
            self.shapes.product.stages * self.shapes.product.tile_count,
            memory.stages * memory.block_count if memory.stages else 0,
            max(0, memory.stages - 1) * memory.reads,
        )
        asked = (self.opened_tiles, self.opened_blocks, self.opened_reads)
        if opened > MAX_BENCHMARK_OPENED or not self.opened_tiles:
            raise _invalid(f"{opened} opened places, 1 to {MAX_BENCHMARK_OPENED} are allowed")
        if any(count > there for count, there in zip(asked, room, strict=True)):
            raise _invalid(f"a plan opens {asked} places of {room}")
        if not (self.ready_us and self.stage_us and self.opening_us):
            raise _invalid("the deadlines of a plan are above zero")


@document("flopmarket.benchmark-start.v1")
class BenchmarkStart:
    """The nonce: time counts from when this is sent."""

    plan_digest: Digest
    nonce: Digest


@document("flopmarket.stage-claim.v1")
class StageClaim:
    """The root of one stage; ``challenge`` is the digest of the start."""

    challenge: Digest
    stage: int
    root: Digest


@document("flopmarket.opening-request.v1")
class OpeningRequest:
    """Reveals what the plan committed to; the places follow from it."""

    challenge: Digest
    sampling_seed: Digest


@document("flopmarket.opened-leaf.v1")
class OpenedLeaf:
    """One leaf of one stage's tree, with its proof."""

    stage: int
    leaf: Annotated[bytes, MaxLength(MAX_BENCHMARK_LEAF_BYTES)]
    proof: MerkleProof


@document("flopmarket.benchmark-opening.v1")
class BenchmarkOpening:
    """The leaves of all places, in the order of :func:`places`."""

    challenge: Digest
    leaves: Annotated[tuple[OpenedLeaf, ...], MaxLength(MAX_BENCHMARK_OPENED)]


@document("flopmarket.benchmark-report.v1")
class BenchmarkReport:
    """Signed by the coordinator: "this device was challenged, and this came of it".

    Times are of the coordinator's clock. ``opening_digest`` names the opening (zeros where none
    came). Rates are zero unless accepted. With the opening at hand anybody reaches the same verdict
    (``benchmark_verifier.tasks_of``).
    """

    plan: BenchmarkPlan
    nonce: Digest
    sampling_seed: Digest
    sent_at_us: int
    roots: Annotated[tuple[Digest, ...], MaxLength(2 * MAX_BENCHMARK_STAGES)]
    arrived_at_us: Annotated[tuple[int, ...], MaxLength(2 * MAX_BENCHMARK_STAGES)]
    opening_digest: Digest
    reason: BenchmarkReason
    detail: Annotated[str, MaxLength(256)]
    dot_flops_per_second: int
    bandwidth_bytes_per_second: int
    proven_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Rates:
    """What a run came to; integers a second, and bytes."""

    dot_flops_per_second: int
    bandwidth_bytes_per_second: int
    proven_memory_bytes: int


NO_RATES = Rates(0, 0, 0)


@dataclass(frozen=True, slots=True)
class TilePlace:
    """A tile of a product: its stage and where it lies in it."""

    stage: int
    product: int
    row: int
    column: int


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """A block of the array after a memory stage."""

    stage: int
    block: int


@dataclass(frozen=True, slots=True)
class ReadPlace:
    """The ``slot``-th random read of a memory stage, of the array that the stage before left."""

    stage: int
    slot: int


Place = TilePlace | BlockPlace | ReadPlace


def sampling_commitment(sampling_seed: bytes) -> bytes:
    """What a plan says of the seed that draws its places."""
    return tagged_hash(_SEED_DOMAIN, sampling_seed)


def challenge_digest(start: BenchmarkStart) -> bytes:
    """The name of a started challenge, in every answer to it."""
    return digest(start)


def stage_key(start: BenchmarkStart, stage: int, roots: Sequence[bytes]) -> bytes:
    """The 32 bytes that a stage is drawn from. ``roots`` are those of the stages before it.

    The first one follows the plan itself, which names the device and the shapes.
    """
    before = roots[stage - 1] if stage else start.plan_digest
    return tagged_hash(_KEY_DOMAIN, start.nonce, before, stage.to_bytes(8, "big"))


def seed_of(key: bytes) -> int:
    """The 64-bit seed of Philox under a stage's key."""
    return int.from_bytes(key[:8], "little")


def strides_of(key: bytes, shape: MemoryShape) -> tuple[int, ...]:
    """How far each pass of a walk reaches: 1 to elements - 1."""
    return tuple(
        1 + _draw(_STRIDE_DOMAIN, key, turn, shape.elements - 1) for turn in range(shape.passes)
    )


def places(plan: BenchmarkPlan, sampling_seed: bytes) -> tuple[Place, ...]:
    """Every place to open: tiles, then blocks, then reads; no place twice."""
    product, memory = plan.shapes.product, plan.shapes.memory
    found: list[Place] = []
    count = product.stages * product.tile_count
    for number in _distinct(sampling_seed, b"tile", plan.opened_tiles, count):
        stage, tile = divmod(number, product.tile_count)
        at, inside = divmod(tile, product.tiles_across**2)
        found.append(TilePlace(stage, at, *divmod(inside, product.tiles_across)))
    if plan.opened_blocks:
        count = memory.stages * memory.block_count
        for number in _distinct(sampling_seed, b"block", plan.opened_blocks, count):
            stage, block = divmod(number, memory.block_count)
            found.append(BlockPlace(product.stages + stage, block))
    if plan.opened_reads:
        count = (memory.stages - 1) * memory.reads  # the first stage reads zeros
        for number in _distinct(sampling_seed, b"read", plan.opened_reads, count):
            stage, slot = divmod(number, memory.reads)
            found.append(ReadPlace(product.stages + 1 + stage, slot))
    return tuple(found)


def leaf_of(plan: BenchmarkPlan, place: Place) -> tuple[int, int, int]:
    """(leaf index, first byte, bytes) of a place in its stage's tree."""
    memory = plan.shapes.memory
    match place:
        case TilePlace(product=product, row=row, column=column):
            index = product * plan.shapes.product.tiles_across + row
            return index, column * FOLD_BYTES, FOLD_BYTES
        case BlockPlace(block=block):
            index, inside = divmod(block, BLOCKS_PER_LEAF)
            return index, inside * FOLD_BYTES, FOLD_BYTES
        case ReadPlace(slot=slot):
            index, inside = divmod(slot, READS_PER_LEAF)
            return memory.block_leaves + index, inside * READ_BYTES, READ_BYTES


def rates(plan: BenchmarkPlan, sent_at_us: int, arrived_at_us: Sequence[int]) -> Rates:
    """Medians over the stages of each kind, the lower one of two; nothing is subtracted."""
    shapes = plan.shapes
    edges = [sent_at_us, *arrived_at_us]
    spans = [max(1, after - before) for before, after in pairwise(edges)]
    split = shapes.product.stages
    flops = _lower_median([shapes.product.flops * _MICROSECONDS // us for us in spans[:split]])
    if not shapes.memory.stages:
        return Rates(flops, 0, 0)
    moved = shapes.memory.moved_bytes * _MICROSECONDS
    bandwidth = _lower_median([moved // us for us in spans[split:]])
    return Rates(flops, bandwidth, shapes.memory.array_bytes)


def first_element(place: BlockPlace) -> int:
    """Where a block begins in its array."""
    return place.block * BLOCK_ELEMENTS


def _lower_median(values: Sequence[int]) -> int:
    return sorted(values)[(len(values) - 1) // 2]


def _distinct(seed: bytes, kind: bytes, wanted: int, count: int) -> tuple[int, ...]:
    """``wanted`` different numbers below ``count``, in the order they were drawn."""
    drawn: dict[int, None] = {}
    attempt = 0
    while len(drawn) < wanted:
        drawn.setdefault(_draw(_PLACE_DOMAIN, kind + b"\x00" + seed, attempt, count))
        attempt += 1
    return tuple(drawn)


def _draw(domain: str, key: bytes, number: int, count: int) -> int:
    """0 to count - 1; uneven by less than count / 2^64."""
    word = tagged_hash(domain, key, number.to_bytes(8, "big"))[:8]
    return int.from_bytes(word, "big") * count >> 64


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, code="BENCHMARK_PLAN")
