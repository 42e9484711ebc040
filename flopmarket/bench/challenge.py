"""A benchmark challenge on real hardware: stages on a device, tiles on the reference.

:class:`StageRunner` computes what a prover's state machine asks for, through the sessions that jobs
use; :class:`Recomputer` answers the verifier's tasks, on the reference or on any admitted device.
:func:`challenge` plays both sides on one machine, which is ``flop worker bench --challenge``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from flopmarket.bench import challenge_programs as programs
from flopmarket.bench.challenge_programs import FOLDS, READS
from flopmarket.engine.errors import EngineError
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.session import Array, Session, seed_words
from flopmarket.trust.benchmark import (
    BenchmarkPlan,
    BenchmarkReport,
    BlockPlace,
    ReadPlace,
    TilePlace,
    first_element,
    sampling_commitment,
    seed_of,
)
from flopmarket.trust.benchmark_prover import BenchmarkProver, Stage
from flopmarket.trust.benchmark_shape import (
    READ_BYTES,
    READS_PER_LEAF,
    TILE_SIDE,
    Advertised,
    MemoryShape,
    Operands,
    Shapes,
    longest_stage_us,
    plan_memory,
    plan_products,
)
from flopmarket.trust.benchmark_verifier import BenchmarkVerifier, Task, Verdict

Opener = Callable[[Program], Session]
Clock = Callable[[], int]

DEFAULT_TILES = 32
_BLOCKS = 4
_READS = 8
_TILES_AT_ONCE = 8
_WALKS_PER_SECONDS = 6  # three walks of a sixth each
_READY_US = 300 * 1_000_000
_OPENING_US = 10 * 1_000_000


class StageRunner:
    """The stages of one plan on one device.

    :meth:`prepare` builds every kernel, so that no stage waits for a compiler; the products' memory
    is given back before the walks' is taken. Raises what sessions raise (DEVICE_MEMORY).
    """

    def __init__(self, shapes: Shapes, opener: Opener) -> None:
        self._shapes = shapes
        self._opener = opener
        self._session: Session | None = None
        self._is_memory = False

    def prepare(self) -> None:
        """Build, load and run everything once, with a key that no challenge has."""
        if self._shapes.memory.stages:
            shape = self._shapes.memory
            self._ready(memory=True).step({"strides": _words([1] * shape.passes)}, seed=0, step=0)
        self._ready(memory=False).step({}, seed=0, step=0)

    def leaves(self, stage: Stage) -> list[bytes]:
        """Compute one stage."""
        session = self._ready(stage.is_memory)
        seed = seed_of(stage.key)
        if stage.is_memory:
            outputs = session.step({"strides": _words(stage.strides)}, seed=seed, step=0)
            return walk_leaves(outputs, self._shapes.memory)
        found: list[bytes] = []
        for number in range(self._shapes.product.products):
            found.extend(product_leaves(session.step({}, seed=seed, step=number)))
        return found

    def close(self) -> None:
        """Give the device's memory back."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _ready(self, memory: bool) -> Session:
        if self._session is None or self._is_memory != memory:
            self.close()
            shapes = self._shapes
            if memory:
                session = self._opener(programs.walk_program(shapes.memory))
            else:
                session = self._opener(programs.product_program(shapes.product))
            self._session, self._is_memory = session, memory
            zeros = {spec.name: np.zeros(spec.shape, np.uint32) for spec in session.program.state}
            session.load({}, zeros)
        return self._session


class Recomputer:
    """Places recomputed from their keys; sessions are opened when first needed."""

    def __init__(self, shapes: Shapes, opener: Opener) -> None:
        self._shapes = shapes
        self._opener = opener
        self._sessions: dict[str, Session] = {}

    def values(self, tasks: Sequence[Task]) -> list[bytes]:
        """What every task comes to, in their order."""
        found: dict[int, bytes] = {}
        tiles = [(at, task) for at, task in enumerate(tasks) if isinstance(task.place, TilePlace)]
        for start in range(0, len(tiles), _TILES_AT_ONCE):
            batch = tiles[start : start + _TILES_AT_ONCE]
            for (at, _), value in zip(batch, self._tiles([t for _, t in batch]), strict=True):
                found[at] = value
        for at, task in enumerate(tasks):
            if isinstance(task.place, BlockPlace):
                found[at] = self._block(task, task.place)
            elif isinstance(task.place, ReadPlace):
                found[at] = self._read(task, task.place)
        return [found[at] for at in range(len(tasks))]

    def close(self) -> None:
        """Close every session."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    def _tiles(self, tasks: Sequence[Task]) -> list[bytes]:
        places = [task.place for task in tasks if isinstance(task.place, TilePlace)]
        inputs = {
            "key": np.stack([seed_words(seed_of(task.key)) for task in tasks]),
            "number": _words([place.product for place in places]),
            "row": _words([place.row * TILE_SIDE for place in places]),
            "column": _words([place.column * TILE_SIDE for place in places]),
        }
        shape, count = self._shapes.product, len(tasks)
        outputs = self._run(
            f"tiles{count}",
            lambda: programs.tile_program(count, shape.terms, shape.operands),
            inputs,
        )
        return [_bytes(fold) for fold in outputs[FOLDS]]

    def _block(self, task: Task, place: BlockPlace) -> bytes:
        inputs = _walk_inputs(task, first_element(place))
        program = self._run("block", lambda: programs.block_program(self._shapes.memory), inputs)
        return _bytes(program[FOLDS])

    def _read(self, task: Task, place: ReadPlace) -> bytes:
        shape = self._shapes.memory
        key = {"key": seed_words(seed_of(task.key))}
        drawn = self._run("positions", lambda: programs.position_program(shape), key)
        inputs = _walk_inputs(task, int(drawn[READS][place.slot]))
        value = self._run("element", lambda: programs.element_program(shape), inputs)
        return _bytes(value[READS])

    def _run(
        self, name: str, program: Callable[[], Program], inputs: dict[str, Array]
    ) -> dict[str, Array]:
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = self._opener(program())
            session.load({}, {})
        return session.step(inputs, seed=0, step=0)


@dataclass(frozen=True, slots=True)
class LocalRun:
    """A challenge of a device by its own machine. Seconds; ``stage_seconds`` in the chain's order.

    ``opening_bytes`` is what the device sent at the end.
    """

    report: BenchmarkReport
    verdict: Verdict
    stage_seconds: tuple[float, ...]
    preparing_seconds: float
    opening_seconds: float
    verifying_seconds: float
    opening_bytes: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        shapes, found = self.report.plan.shapes, self.verdict.rates
        return {
            "accepted": self.verdict.accepted,
            "reason": str(self.verdict.reason),
            "detail": self.verdict.detail,
            "remedy": self.verdict.remedy,
            "dot_flops_per_second": found.dot_flops_per_second,
            "bandwidth_bytes_per_second": found.bandwidth_bytes_per_second,
            "proven_memory_bytes": found.proven_memory_bytes,
            "product": {
                "stages": shapes.product.stages,
                "products": shapes.product.products,
                "side": shapes.product.side,
                "terms": shapes.product.terms,
                "operands": str(shapes.product.operands),
            },
            "memory": {
                "stages": shapes.memory.stages,
                "elements": shapes.memory.elements,
                "passes": shapes.memory.passes,
            },
            "opened_tiles": self.report.plan.opened_tiles,
            "stage_seconds": [round(seconds, 4) for seconds in self.stage_seconds],
            "preparing_seconds": round(self.preparing_seconds, 3),
            "opening_seconds": round(self.opening_seconds, 4),
            "verifying_seconds": round(self.verifying_seconds, 3),
            "opening_bytes": self.opening_bytes,
        }


def plan_for(
    advertised: Advertised,
    *,
    device_id: str,
    sampling_seed: bytes,
    max_allocation_bytes: int,
    seconds: int = 24,
    tiles: int = DEFAULT_TILES,
    account_id: str = "",
    device_key_id: str = "",
    challenge_id: str = "",
    at_once: int = 1,
    operands: Operands = Operands.FRACTIONS,
) -> BenchmarkPlan:
    """The challenge that suits a device as it is advertised.

    ``seconds`` is about how long the products take at that rate; walks take half of it at the most.
    ``operands`` are INTEGERS for a device without the exact profile.
    Of ``at_once`` devices that are challenged at the same moment each may be that many times as
    slow, so that what shares a card is measured and not just late.
    """
    shapes = Shapes(
        plan_products(advertised, total_us=seconds * 1_000_000, operands=operands),
        plan_memory(
            advertised,
            most_elements=max_allocation_bytes // 4,
            stage_us=seconds * 1_000_000 // _WALKS_PER_SECONDS,
        ),
    )
    memory = bool(shapes.memory.stages)
    return BenchmarkPlan(
        challenge_id=challenge_id,
        account_id=account_id,
        device_key_id=device_key_id,
        device_id=device_id,
        profile=PROFILE,
        shapes=shapes,
        opened_tiles=tiles,
        opened_blocks=_BLOCKS if memory else 0,
        opened_reads=_READS if memory else 0,
        sampling_commitment=sampling_commitment(sampling_seed),
        ready_us=_READY_US,
        stage_us=at_once * longest_stage_us(shapes, advertised),
        opening_us=_OPENING_US,
    )


def challenge(
    device: str,
    advertised: Advertised,
    *,
    max_allocation_bytes: int,
    cache_dir: Path | None = None,
    seconds: int = 24,
    tiles: int = DEFAULT_TILES,
    verifier: str = "reference",
    operands: Operands = Operands.FRACTIONS,
) -> LocalRun:
    """Challenge ``device`` of this machine, and recompute on ``verifier`` (both as
    ``devices.find`` takes them, or "reference"). EngineError when there is no such device."""
    from flopmarket.engine.runtime.open import open_session
    from flopmarket.engine.runtime.resident import CompileOptions

    def opener(name: str) -> Opener:
        return lambda program: open_session(program, name, CompileOptions(cache_dir=cache_dir))

    seed = secrets.token_bytes(32)
    plan = plan_for(
        advertised,
        device_id=device,
        sampling_seed=seed,
        max_allocation_bytes=max_allocation_bytes,
        seconds=seconds,
        tiles=tiles,
        operands=operands,
    )
    return play(
        plan,
        runner=StageRunner(plan.shapes, opener(device)),
        recomputer=Recomputer(plan.shapes, opener(verifier)),
        nonce=secrets.token_bytes(32),
        sampling_seed=seed,
        now_us=lambda: time.monotonic_ns() // 1000,
    )


def play(
    plan: BenchmarkPlan,
    *,
    runner: StageRunner,
    recomputer: Recomputer,
    nonce: bytes,
    sampling_seed: bytes,
    now_us: Clock,
) -> LocalRun:
    """Both sides in turn, messages handed over at once. Closes ``runner`` and ``recomputer``."""
    began = now_us()
    verifier = BenchmarkVerifier(
        plan, nonce=nonce, sampling_seed=sampling_seed, offered_at_us=began
    )
    prover = BenchmarkProver(plan)
    stamps: list[int] = []
    opened = verified = 0
    opening_bytes = 0
    try:
        runner.prepare()
        start = verifier.ready(now_us())
        stamps.append(now_us())
        request = None
        if start is not None:
            prover.start(start)
        while verifier.verdict is None and (stage := prover.stage) is not None:
            claim = prover.finished(runner.leaves(stage))
            stamps.append(now_us())
            request = verifier.claim(claim, stamps[-1])
        if request is not None:
            opening = prover.open(request)
            opening_bytes = sum(
                len(leaf.leaf) + 32 * len(leaf.proof.siblings) for leaf in opening.leaves
            )
            opened = now_us()
            tasks = verifier.open(opening, opened)
            if verifier.verdict is None:
                verifier.conclude(recomputer.values(tasks))
            verified = now_us()
    finally:
        runner.close()
        recomputer.close()
    verdict = verifier.verdict
    if verdict is None:
        raise EngineError("the challenge ended without a verdict", code="BENCHMARK_ORDER")
    spans = [after - before for before, after in pairwise(stamps)]
    return LocalRun(
        report=verifier.report(),
        verdict=verdict,
        stage_seconds=tuple(span / 1e6 for span in spans),
        preparing_seconds=(stamps[0] - began) / 1e6,
        opening_seconds=max(0, opened - stamps[-1]) / 1e6,
        verifying_seconds=(verified - opened) / 1e6,
        opening_bytes=opening_bytes,
    )


def product_leaves(outputs: dict[str, Array]) -> list[bytes]:
    """A leaf for every row of tiles of one product."""
    return [_bytes(row) for row in outputs[FOLDS]]


def walk_leaves(outputs: dict[str, Array], shape: MemoryShape) -> list[bytes]:
    """The leaves of a memory stage: folds of blocks, then words that were read."""
    folds, reads = _bytes(outputs[FOLDS]), _bytes(outputs[READS])
    assert (
        len(reads) == shape.reads * READ_BYTES and shape.leaf_bytes == READS_PER_LEAF * READ_BYTES
    )
    return [
        part[start : start + shape.leaf_bytes]
        for part in (folds, reads)
        for start in range(0, len(part), shape.leaf_bytes)
    ]


def _walk_inputs(task: Task, first: int) -> dict[str, Array]:
    return {
        "key": seed_words(seed_of(task.walk_key)),
        "first": np.asarray(first, np.uint32),
        "strides": _words(task.strides),
    }


def _words(values: Sequence[int]) -> Array:
    return np.asarray(values, dtype=np.uint32)


def _bytes(words: Array) -> bytes:
    return np.ascontiguousarray(words, dtype="<u4").tobytes()
