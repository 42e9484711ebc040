"""Devices that answer a benchmark challenge, honest and not, over work that costs nothing.

The "work" of a place is a hash of its stage's key and its position, so thousands of challenges fit
into a test; the protocol around it is the real one. A bot is a subclass with one changed habit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from flopmarket.trust.benchmark import (
    BenchmarkOpening,
    BenchmarkPlan,
    BenchmarkStart,
    BlockPlace,
    OpeningRequest,
    Place,
    ReadPlace,
    TilePlace,
    sampling_commitment,
)
from flopmarket.trust.benchmark_prover import BenchmarkProver, Stage
from flopmarket.trust.benchmark_shape import (
    BLOCKS_PER_LEAF,
    ELEMENT_GRAIN,
    NO_MEMORY,
    READS_PER_LEAF,
    MemoryShape,
    ProductShape,
    Shapes,
)
from flopmarket.trust.benchmark_verifier import BenchmarkVerifier, Task, Verdict

SEED = b"s" * 32
NONCE = b"n" * 32
STAGE_US = 2_000_000
PRODUCTS = ProductShape(stages=8, products=2, side=512, terms=1024)
MEMORY = MemoryShape(stages=3, elements=ELEMENT_GRAIN, passes=4, reads=READS_PER_LEAF)


def plan_of(
    *, tiles: int = 32, memory: MemoryShape = NO_MEMORY, seed: bytes = SEED, device: str = "card"
) -> BenchmarkPlan:
    """A plan over the small shapes of this module."""
    return BenchmarkPlan(
        challenge_id="c1",
        account_id="a1",
        device_key_id="k" * 64,
        device_id=device,
        profile="FX1",
        shapes=Shapes(PRODUCTS, memory),
        opened_tiles=tiles,
        opened_blocks=4 if memory.stages else 0,
        opened_reads=8 if memory.stages else 0,
        sampling_commitment=sampling_commitment(seed),
        ready_us=60_000_000,
        stage_us=4 * STAGE_US,
        opening_us=10_000_000,
    )


def true_value(place: Place, key: bytes, walk_key: bytes) -> bytes:
    """What stands at a place: 16 bytes of a tile or block, 4 of a read."""
    match place:
        case TilePlace(product=product, row=row, column=column):
            text = f"tile {product} {row} {column}".encode()
            return hashlib.sha256(key + text).digest()[:16]
        case BlockPlace(block=block):
            return hashlib.sha256(walk_key + f"block {block}".encode()).digest()[:16]
        case ReadPlace(slot=slot):
            return hashlib.sha256(key + walk_key + f"read {slot}".encode()).digest()[:4]


def recompute(tasks: Sequence[Task]) -> list[bytes]:
    """The verifier's own answers."""
    return [true_value(task.place, task.key, task.walk_key) for task in tasks]


class Device:
    """An honest device. ``stage_us`` is what a stage takes it."""

    def __init__(self, *, stage_us: int = STAGE_US) -> None:
        self.stage_us = stage_us
        self._last_key = b""

    def stage_seconds_us(self, stage: Stage) -> int:
        """Virtual time of one stage."""
        return self.stage_us

    def key(self, stage: Stage, start: BenchmarkStart) -> bytes:
        """The key it works under."""
        return stage.key

    def tile(self, stage: Stage, key: bytes, place: TilePlace) -> bytes:
        """One tile's fold."""
        return true_value(place, key, b"")

    def read(self, stage: Stage, place: ReadPlace) -> bytes:
        """One word of the array of the stage before."""
        return true_value(place, stage.key, self._last_key)

    def leaves(self, plan: BenchmarkPlan, stage: Stage, start: BenchmarkStart) -> list[bytes]:
        """Every leaf of one stage."""
        number = stage.number
        if stage.is_memory:
            memory = plan.shapes.memory
            blocks = [
                true_value(BlockPlace(number, block), stage.key, stage.key)
                for block in range(memory.block_count)
            ]
            reads = [self.read(stage, ReadPlace(number, slot)) for slot in range(memory.reads)]
            self._last_key = stage.key
            return [*_joined(blocks, BLOCKS_PER_LEAF), *_joined(reads, READS_PER_LEAF)]
        key, across = self.key(stage, start), plan.shapes.product.tiles_across
        return [
            b"".join(
                self.tile(stage, key, TilePlace(number, product, row, column))
                for column in range(across)
            )
            for product in range(plan.shapes.product.products)
            for row in range(across)
        ]

    def opened(self, prover: BenchmarkProver, request: OpeningRequest) -> BenchmarkOpening:
        """Its answer to the request."""
        return prover.open(request)


def run(
    device: Device,
    plan: BenchmarkPlan,
    *,
    nonce: bytes = NONCE,
    seed: bytes = SEED,
    journey_us: int = 0,
) -> tuple[Verdict, BenchmarkVerifier, BenchmarkOpening | None]:
    """One whole challenge on a virtual clock; every message travels ``journey_us``."""
    now = 1_000_000
    verifier = BenchmarkVerifier(plan, nonce=nonce, sampling_seed=seed, offered_at_us=now)
    prover = BenchmarkProver(plan)
    start = verifier.ready(now)
    assert start is not None
    prover.start(start)
    now += journey_us
    request: OpeningRequest | None = None
    while verifier.verdict is None and (stage := prover.stage) is not None:
        now += device.stage_seconds_us(stage)
        claim = prover.finished(device.leaves(plan, stage, start))
        request = verifier.claim(claim, now + journey_us)
    opening = None
    if request is not None:
        opening = device.opened(prover, request)
        tasks = verifier.open(opening, now + 3 * journey_us)
        if verifier.verdict is None:
            verifier.conclude(recompute(tasks))
    assert verifier.verdict is not None
    return verifier.verdict, verifier, opening


class Skipper(Device):
    """Leaves out the tiles whose number, scattered, falls below a share of all."""

    def __init__(self, share: float, salt: bytes) -> None:
        super().__init__()
        self._bound, self._salt = int(share * 2**32), salt

    def tile(self, stage: Stage, key: bytes, place: TilePlace) -> bytes:
        drawn = hashlib.blake2b(self._salt + repr(place).encode(), digest_size=4).digest()
        skipped = int.from_bytes(drawn, "big") < self._bound
        return bytes(16) if skipped else super().tile(stage, key, place)


class Precomputer(Device):
    """Answers with what it computed for another nonce."""

    def key(self, stage: Stage, start: BenchmarkStart) -> bytes:
        return hashlib.sha256(b"last week" + stage.key).digest()


class Cluster(Device):
    """Works on every stage at once, on many cards, with roots it cannot know yet left out."""

    def key(self, stage: Stage, start: BenchmarkStart) -> bytes:
        if stage.number == 0:
            return stage.key
        return hashlib.sha256(start.nonce + bytes([stage.number])).digest()

    def stage_seconds_us(self, stage: Stage) -> int:
        return self.stage_us if stage.number == 0 else 1000


class Truncater(Device):
    """Leaves the last sibling out of every proof."""

    def opened(self, prover: BenchmarkProver, request: OpeningRequest) -> BenchmarkOpening:
        opening = prover.open(request)
        leaves = [
            replace(leaf, proof=replace(leaf.proof, siblings=leaf.proof.siblings[:-1]))
            for leaf in opening.leaves
        ]
        return replace(opening, leaves=tuple(leaves))


class SmallMemory(Device):
    """Keeps only a share of the array it claims; what is missing reads as zero."""

    def __init__(self, kept: float) -> None:
        super().__init__()
        self._kept = kept

    def read(self, stage: Stage, place: ReadPlace) -> bytes:
        position = hashlib.sha256(stage.key + repr(place).encode()).digest()[0] / 256
        return super().read(stage, place) if position < self._kept else bytes(4)


class Swapper(Device):
    """Has half of the memory, and fetches the rest over a link ten times slower."""

    def stage_seconds_us(self, stage: Stage) -> int:
        return self.stage_us * 6 if stage.is_memory else self.stage_us


def _joined(values: Sequence[bytes], count: int) -> list[bytes]:
    return [b"".join(values[at : at + count]) for at in range(0, len(values), count)]
