"""A party's side of a dispute: the segment again, looked at as closely as is asked.

:class:`SegmentTrace` replays from the agreed state. Steps run on a session (the device that did the
work) or un-fused; the values of one step always come from the canonical operations one by one,
which under FX1 have the bits of any fusion (docs/numerics.md). Values are dropped after their last
use; one step is replayed for each question rather than kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flopmarket.engine import dtypes, graph, reference
from flopmarket.engine.graph import Op
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.runtime.session import Session, seed_words
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.dispute_problem import JobProblem, Source
from flopmarket.jobs.operations import (
    Elements,
    Operation,
    Part,
    leaves,
    tile_bytes,
    tile_hashes,
    words_of,
)
from flopmarket.jobs.order import rows_of_step
from flopmarket.jobs.referee import recompute
from flopmarket.limits import MAX_DISPUTE_SESSIONS
from flopmarket.trust import merkle
from flopmarket.trust.dispute import Ask
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    Claim,
    Leaves,
    Level,
    OpenedTensor,
    OpenedTile,
    OpRoots,
    Payload,
    StepRoots,
    TileInputs,
    TileRoots,
)
from flopmarket.trust.dispute_port import Place

Evaluate = Callable[[int, int, Operation, Sequence[Array]], Array]
"""(step of the segment, position, operation, values of its sources) -> its value. An INPUT has its
tensor as its only source."""


def by_reference(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
    """The operation's value by the reference interpreter."""
    moved = _moved(op, sources)
    if moved is not None:
        return moved
    node = op.node
    assert node is not None
    leaves_given = {
        graph.input_("buffer", str(k), s.dtype, s.shape): value
        for k, (s, value) in enumerate(zip(node.src, sources, strict=True))
    }
    alone = graph.make(node.op, tuple(leaves_given), node.arg, node.dtype, node.shape)
    return reference.evaluate([alone], leaves_given)[0]


class OnDevice:
    """Operations one by one on a device, each a program of its own: the un-fused replay of a step
    that is too large for the reference. Sessions are kept by program, so equal kernels build once;
    the longest unused one is closed when there are too many. Close it after use.
    """

    def __init__(self, open_session: Callable[[Program], Session]) -> None:
        self._open = open_session
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __call__(self, step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
        """See :data:`Evaluate`."""
        moved = _moved(op, sources)
        if moved is not None:
            return moved
        node = op.node
        assert node is not None
        # A literal stays one: a compiler that rounds in its own way treats it as in the whole step.
        nodes = tuple(
            s if s.op is Op.CONST else graph.input_("input", f"s{k}", s.dtype, s.shape)
            for k, s in enumerate(node.src)
        )
        specs = [TensorSpec(n.arg[1], n.dtype, n.shape) for n in nodes if n.op is Op.INPUT]
        alone = graph.make(node.op, nodes, node.arg, node.dtype, node.shape)
        program = Program.build(
            frozen=(), state=(), inputs=specs, next_state=(), outputs=[("value", alone)]
        )
        given = {s.name: sources[int(s.name[1:])] for s in specs}
        return self._session(program).step(given, seed=0, step=0)["value"]

    def close(self) -> None:
        """Close every session."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    def _session(self, program: Program) -> Session:
        found = self._sessions.pop(program.digest, None)
        if found is None:
            while len(self._sessions) >= MAX_DISPUTE_SESSIONS:
                self._sessions.popitem(last=False)[1].close()
            found = self._open(program)
            found.load({}, {})
        self._sessions[program.digest] = found
        return found


def _moved(op: Operation, sources: Sequence[Array]) -> Array | None:
    """The value of an operation that only moves elements, None for the others."""
    if op.part is Part.ITEM:
        return np.ascontiguousarray(sources[0][op.at])
    if op.part is Part.STACK:
        empty = np.zeros(op.shape, dtype=op.dtype.numpy)
        return np.stack(sources) if sources else empty
    if op.committed or (op.node is not None and op.node.op is Op.INPUT):
        return dtypes.canonical(np.asarray(sources[0]))
    return None


def _with_tile(evaluate: Evaluate, place: Place, tile: bytes) -> Evaluate:
    """``evaluate``, with another value in one tile of one operation."""

    def patched(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
        value = evaluate(step, at, op, sources)
        if (step, at) != (place.step, place.operation):
            return value
        words = words_of(value, op.dtype).copy().reshape(-1)
        words[op.layout.elements(place.tile)] = np.frombuffer(tile, dtype=words.dtype)
        return words.view(op.dtype.numpy).reshape(op.shape)

    return patched


@dataclass(frozen=True, slots=True)
class SegmentData:
    """The tensors of a job that a replay of one segment starts from."""

    frozen: Tensors
    data: Tensors
    state: Tensors


class SegmentTrace:
    """Answers to every question of a dispute about one segment."""

    def __init__(
        self,
        problem: JobProblem,
        tensors: SegmentData,
        evaluate: Evaluate = by_reference,
        session: Session | None = None,
    ) -> None:
        self._problem = problem
        self._tensors = tensors
        self._evaluate = evaluate
        self._session = session

    def answer(self, ask: Ask) -> Payload:
        """The list that is asked for."""
        if ask.level is Level.STEPS:
            return self.step_roots()
        if ask.level is Level.OPERATIONS:
            return self.operation_roots(ask.place.step)
        if ask.level is Level.TILES:
            return self.tile_roots(ask.place.step, ask.place.operation)
        return self.tile_inputs(ask.place)

    def run(self) -> tuple[Tensors, Tensors]:
        """State after the segment, and its stacked outputs."""
        collected, state = [], self._tensors.state
        self._load(state)
        for step in range(self._problem.question.steps):
            state, made = self._advance(step, state)
            collected.append(made)
        names = [tensor.name for tensor in self._problem.program.outputs]
        return state, {name: np.stack([made[name] for made in collected]) for name in names}

    def claim(self, key: bytes, inner: bytes) -> Claim:
        """The end that this replay comes to, as a commitment would state it."""
        sent = self.step_roots()
        outputs = self._problem.stacked_root(self._problem.question.steps, sent.stacked)
        assert outputs is not None
        return Claim(key, sent.states[-1], outputs, inner)

    def step_roots(self) -> StepRoots:
        """Level 1: every step of the segment."""
        states, outputs = [bundle.root(self._tensors.state)], []
        collected: list[Tensors] = []
        state = self._tensors.state
        self._load(state)
        for step in range(self._problem.question.steps):
            state, made = self._advance(step, state)
            states.append(bundle.root(state))
            outputs.append(bundle.root(made))
            collected.append(made)
        return StepRoots(tuple(states), tuple(outputs), self._stacked(collected))

    def end_after(self, place: Place, tile: bytes) -> tuple[bytes, bytes]:
        """State root and outputs root of the segment if the tile at ``place`` had this value and
        everything after it were right: whether a wrong tile was followed by honest work."""
        state, collected = self._tensors.state, []
        self._load(state)
        for step in range(self._problem.question.steps):
            if step == place.step:
                state, made = self._unfused(step, state, _with_tile(self._evaluate, place, tile))
                self._load(state)
            else:
                state, made = self._advance(step, state)
            collected.append(made)
        outputs = self._problem.stacked_root(len(collected), self._stacked(collected))
        assert outputs is not None
        return bundle.root(state), outputs

    def _stacked(self, collected: Sequence[Tensors]) -> tuple[Leaves, ...]:
        """Leaf hashes of the outputs of all steps."""
        return tuple(
            Leaves(
                tile_hashes(
                    np.stack([made[tensor.name] for made in collected]),
                    tensor.dtype,
                    leaves(tensor.dtype, (len(collected), *tensor.shape)),
                )
            )
            for tensor in self._problem.program.outputs
        )

    def operation_roots(self, step: int) -> OpRoots:
        """Level 2: every value of one step."""
        roots: list[bytes] = []

        def note(at: int, op: Operation, value: Array) -> None:
            roots.append(op.root(tile_hashes(value, op.dtype, op.layout)))

        self._values(step, self._state_before(step), note)
        return OpRoots(step, tuple(roots))

    def tile_roots(self, step: int, operation: int) -> TileRoots:
        """Level 3: every tile of one value."""
        op = self._problem.plan.operations[operation]
        value, _ = self._value(step, operation, self._state_before(step))
        return TileRoots(step, operation, tile_hashes(value, op.dtype, op.layout))

    def tile_inputs(self, place: Place) -> TileInputs:
        """Level 4: our value of one tile, and what it is computed from, opened."""
        problem = self._problem
        op, sources = problem.operation(place), problem.sources(place)
        bundles: list[Tensors] = []
        if place.step == NOWHERE:
            name = problem.program.outputs[place.operation].name
            bundles = self._outputs_of_steps()
            values = [made[name] for made in bundles]
            value = np.stack(values)
        else:
            state = self._state_before(place.step)
            value, values = self._value(place.step, place.operation, state)
            bundles = [self._bundle(s.outside.kind, state) for s in sources if s.outside]
        touched: list[set[int]] = [set() for _ in sources]

        def fetch(source: int, at: Elements) -> Array:
            tiles, _ = sources[source].layout.tiles_of(at)
            touched[source].update(np.unique(tiles).tolist())
            return np.asarray(values[source].reshape(-1)[at])

        recompute(op, op.layout.elements(place.tile), fetch, problem.facts(place))
        tiles: list[OpenedTile] = []
        tensors: list[OpenedTensor] = []
        for k, source in enumerate(sources):
            if not touched[k]:
                continue
            tiles += _opened(k, source, values[k], sorted(touched[k]))
            if source.outside is not None:
                tensors.append(_opened_tensor(k, bundles[k], source.outside.name))
        own = tile_bytes(words_of(value, op.dtype), op.layout, place.tile)
        return TileInputs(
            place.step, place.operation, place.tile, own, tuple(tensors), tuple(tiles)
        )

    # ------------------------------------------------------------ replay

    def _load(self, state: Tensors) -> None:
        if self._session is not None:
            self._session.load(self._tensors.frozen, state)

    def _advance(self, step: int, state: Tensors) -> tuple[Tensors, Tensors]:
        """Next state and outputs of one step."""
        program = self._problem.program
        if self._session is not None:
            spec, number = self._problem.spec, self._problem.question.first_step + step
            rows = rows_of_step(spec.data_order, spec.seed, number)
            inputs = {s.name: self._tensors.data[s.name][rows] for s in program.inputs}
            outputs = self._session.step(inputs, seed=spec.seed, step=number)
            return self._session.read_state(), outputs
        return self._unfused(step, state, self._evaluate)

    def _unfused(self, step: int, state: Tensors, evaluate: Evaluate) -> tuple[Tensors, Tensors]:
        """The same, operation by operation."""
        found: dict[Part, Tensors] = {Part.STATE: {}, Part.OUTPUT: {}}

        def note(at: int, op: Operation, value: Array) -> None:
            if op.committed:
                found[op.part][op.name] = value

        self._values(step, state, note, evaluate=evaluate)
        return found[Part.STATE], found[Part.OUTPUT]

    def _state_before(self, step: int) -> Tensors:
        state = self._tensors.state
        self._load(state)
        for earlier in range(step):
            state, _ = self._advance(earlier, state)
        return state

    def _outputs_of_steps(self) -> list[Tensors]:
        state, found = self._tensors.state, []
        self._load(state)
        for step in range(self._problem.question.steps):
            state, made = self._advance(step, state)
            found.append(made)
        return found

    def _values(
        self,
        step: int,
        state: Tensors,
        note: Callable[[int, Operation, Array], None],
        until: int | None = None,
        evaluate: Evaluate | None = None,
    ) -> dict[int, Array]:
        """Evaluate a step operation by operation, up to ``until``; what is still alive then."""
        plan, evaluate = self._problem.plan, evaluate or self._evaluate
        values: dict[int, Array] = {}
        for at, op in enumerate(plan.operations):
            if op.node is not None and op.node.op is Op.INPUT:
                sources = [self._leaf(step, state, op)]
            else:
                sources = [values[source] for source in op.sources]
            values[at] = evaluate(step, at, op, sources)
            note(at, op, values[at])
            if at == until:
                break
            for used in {at, *op.sources}:
                if plan.last_use[used] <= at:
                    values.pop(used, None)
        return values

    def _value(self, step: int, operation: int, state: Tensors) -> tuple[Array, list[Array]]:
        """One value of a step, and whole values of its sources (tensors for an INPUT)."""
        values = self._values(step, state, lambda *_: None, until=operation)
        op = self._problem.plan.operations[operation]
        if op.node is not None and op.node.op is Op.INPUT:
            kind, name = op.node.arg
            given = self._bundle(kind, state)
            return values[operation], [given[name]] if given else []
        return values[operation], [values[source] for source in op.sources]

    def _leaf(self, step: int, state: Tensors, op: Operation) -> Array:
        assert op.node is not None
        kind, name = op.node.arg
        spec, number = self._problem.spec, self._problem.question.first_step + step
        if kind == "seed":
            return seed_words(spec.seed)
        if kind == "step":
            return np.asarray(number, dtype=np.uint32)
        tensor = self._bundle(kind, state)[name]
        if kind != "input":
            return tensor
        return tensor[rows_of_step(spec.data_order, spec.seed, number)]

    def _bundle(self, kind: str, state: Tensors) -> Tensors:
        bundles = {
            "state": state,
            "frozen": self._tensors.frozen,
            "input": self._tensors.data,
        }
        return bundles.get(kind, {})

    # ------------------------------------------------------------ proofs


def _opened(number: int, source: Source, value: Array, numbers: Sequence[int]) -> list[OpenedTile]:
    """Tiles of a source with their proofs."""
    layout = source.layout
    hashes = tile_hashes(value, source.dtype, layout)
    words = words_of(value, source.dtype)
    proofs = merkle.proofs_of_leaves(hashes, numbers)
    return [
        OpenedTile(number, tile_bytes(words, layout, tile), proof)
        for tile, proof in zip(numbers, proofs, strict=True)
    ]


def _opened_tensor(number: int, tensors: Tensors, name: str) -> OpenedTensor:
    """A tensor's root with its proof against the root of its bundle."""
    roots = {
        other: merkle.tensor_root(str(array.dtype), array.shape, _words(array))
        for other, array in tensors.items()
    }
    return OpenedTensor(number, roots[name], merkle.state_proof(roots, name))


def _words(array: Array) -> Array:
    return words_of(array, dtypes.from_numpy(array.dtype))
