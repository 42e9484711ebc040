"""The job behind a dispute, as the referee knows it: from the signed specification and the program.

Implements the port :class:`flopmarket.trust.dispute.Problem`. Nothing here believes a party: counts
and shapes come from the program, values from tiles that are proven against agreed roots.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from flopmarket.engine.dtypes import DType, bool_
from flopmarket.engine.graph import Op
from flopmarket.engine.program import Program
from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.jobs.operations import (
    Array,
    Elements,
    Layout,
    Operation,
    Outside,
    Part,
    StepPlan,
    leaves,
    words_of,
)
from flopmarket.jobs.referee import StepFacts, recompute
from flopmarket.jobs.spec import JobSpec
from flopmarket.trust import merkle
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    DisputeOpening,
    Leaves,
    OpenedTile,
    Reason,
    TileInputs,
)
from flopmarket.trust.dispute_port import Agreed, Effort, InputsRefused, Place
from flopmarket.trust.encoding import digest


@dataclass(frozen=True, slots=True)
class Source:
    """Where elements come from: an earlier operation, or a tensor of an agreed bundle."""

    dtype: DType
    layout: Layout
    operation: Operation | None
    outside: Outside | None


class _Enough(Exception):
    """Every read is known; the arithmetic is not asked for."""


class JobProblem:
    """One segment's job. Raises InvalidInput (DISPUTE_JOB) unless the three belong together."""

    def __init__(self, opening: DisputeOpening, spec: JobSpec, program: Program) -> None:
        if digest(spec) != opening.job_id:
            raise InvalidInput("the specification is of another job", code="DISPUTE_JOB")
        if program.digest != spec.program_digest:
            raise InvalidInput("the program is not the job's", code="DISPUTE_JOB")
        if opening.first_step + opening.steps > spec.steps:
            raise InvalidInput("the segment leaves the job", code="DISPUTE_JOB")
        self.question = opening
        self.spec = spec
        self.program = program
        self.plan = StepPlan(program)

    @property
    def operations(self) -> int:
        """Values of one step."""
        return len(self.plan.operations)

    @property
    def outputs(self) -> int:
        """Output tensors of one step."""
        return len(self.program.outputs)

    def stacked_root(self, steps: int, stacked: Sequence[Leaves]) -> bytes | None:
        """See the port."""
        if len(stacked) != self.outputs:
            return None
        roots = {}
        for tensor, sent in zip(self.program.outputs, stacked, strict=True):
            shape = (steps, *tensor.shape)
            if len(sent.hashes) != leaves(tensor.dtype, shape).count:
                return None
            size = prod(shape) * tensor.dtype.size_bytes
            roots[tensor.name] = merkle.tensor_root_of_leaves(
                tensor.dtype.name, shape, size, sent.hashes
            )
        return merkle.state_root(roots)

    def step_roots(self, roots: Sequence[bytes]) -> tuple[bytes, bytes]:
        """See the port."""
        state = self.plan.named(Part.STATE, roots)
        outputs = self.plan.named(Part.OUTPUT, roots)
        return merkle.state_root(state), merkle.state_root(outputs)

    def tiles(self, operation: int) -> int:
        """See the port."""
        return self.plan.operations[operation].layout.count

    def operation_root(self, operation: int, tiles: Sequence[bytes]) -> bytes:
        """See the port."""
        return self.plan.operations[operation].root(tiles)

    def effort(self, place: Place) -> Effort:
        """See the port. Exact, but for reads that a computed index decides: these are bounded."""
        op, sources = self.operation(place), self.sources(place)
        at = op.layout.elements(place.tile)
        what = op.node.op if op.node is not None else None
        touched: list[set[int]] = [set() for _ in sources]

        def fetch(source: int, where: Elements) -> Array:
            tiles, _ = sources[source].layout.tiles_of(where)
            touched[source].update(np.unique(tiles).tolist())
            if what in (Op.DOT, Op.REDUCE) and source == len(sources) - 1:
                raise _Enough
            return np.zeros(where.shape, dtype=sources[source].dtype.numpy)

        with contextlib.suppress(_Enough):
            recompute(op, at, fetch, self.facts(place))
        counts = [len(tiles) for tiles in touched]
        if what is Op.GATHER:
            counts[0] = min(len(at), sources[0].layout.count)
        elif what is Op.SCATTER:
            counts[2] = sources[2].layout.count
        sizes = (
            count * s.layout.tile_rows * s.layout.tile_columns * s.dtype.size_bytes
            for count, s in zip(counts, sources, strict=True)
        )
        return Effort(sum(counts), sum(sizes), _rounds(op))

    def name(self, place: Place) -> str:
        """See the port."""
        if place.step == NOWHERE and place.operation == NOWHERE:
            return "the segment"
        if place.step == NOWHERE:
            return f"stacked output {self.program.outputs[place.operation].name!r}"
        step = f"step {self.question.first_step + place.step}"
        if place.operation == NOWHERE:
            return step
        operation = self.plan.operations[place.operation].describe()
        tile = "" if place.tile == NOWHERE else f", tile {place.tile}"
        return f"{step}, operation {place.operation} ({operation}){tile}"

    # ------------------------------------------------------------ one tile

    def operation(self, place: Place) -> Operation:
        """The operation at a place; stacking a segment's outputs is one too."""
        if place.step != NOWHERE:
            return self.plan.operations[place.operation]
        tensor, steps = self.program.outputs[place.operation], self.question.steps
        shape = (steps, *tensor.shape)
        sources = tuple(range(steps))
        layout = leaves(tensor.dtype, shape)
        return Operation(Part.STACK, None, tensor.dtype, shape, sources, layout)

    def sources(self, place: Place) -> tuple[Source, ...]:
        """What the operation at a place reads, by position."""
        op = self.operation(place)
        if place.step == NOWHERE:
            tensor = self.program.outputs[place.operation]
            outside = [
                Outside("outputs", tensor.name, tensor.dtype, tensor.shape, step)
                for step in range(self.question.steps)
            ]
            return tuple(Source(o.dtype, o.layout, None, o) for o in outside)
        if op.node is not None and op.node.op is Op.INPUT:
            kind, name = op.node.arg
            if kind in ("seed", "step"):
                return ()
            shape = op.shape
            if kind == "input":
                shape = (self.spec.data_order.rows, *shape[1:])
            found = Outside(kind, name, op.dtype, shape)
            return (Source(op.dtype, found.layout, None, found),)
        earlier = (self.plan.operations[at] for at in op.sources)
        return tuple(Source(o.dtype, o.layout, o, None) for o in earlier)

    def facts(self, place: Place) -> StepFacts:
        """What the step at a place knows beside tensors."""
        step = 0 if place.step == NOWHERE else self.question.first_step + place.step
        return StepFacts(self.spec.seed, step, self.spec.data_order)

    def recompute(self, place: Place, agreed: Agreed, inputs: TileInputs) -> bytes:
        """See the port."""
        op = self.operation(place)
        proven = self._proven(place, op, agreed, inputs)

        def fetch(source: int, at: Elements) -> Array:
            return proven[source].read(at)

        value = recompute(op, op.layout.elements(place.tile), fetch, self.facts(place))
        return words_of(value, op.dtype).tobytes()

    def _proven(
        self, place: Place, op: Operation, agreed: Agreed, inputs: TileInputs
    ) -> list[_Proven]:
        """Every opened tile, checked against its agreed root."""
        sources = self.sources(place)
        roots: dict[int, bytes] = {}
        for opened in inputs.tensors:
            source = sources[opened.source] if opened.source < len(sources) else None
            if source is None or source.outside is None or opened.source in roots:
                raise InputsRefused(Reason.INPUT_FORGED, f"no tensor at source {opened.source}")
            bundle = self._bundle_root(source.outside, agreed)
            try:
                merkle.verify_state_tensor(bundle, source.outside.name, opened.root, opened.proof)
            except FlopmarketError as error:
                raise InputsRefused(Reason.INPUT_FORGED, error.message) from None
            roots[opened.source] = opened.root
        found: list[dict[int, OpenedTile]] = [{} for _ in sources]
        for tile in inputs.tiles:
            if tile.source >= len(sources) or tile.proof.leaf_index in found[tile.source]:
                raise InputsRefused(Reason.INPUT_FORGED, f"no tile at source {tile.source}")
            source = sources[tile.source]
            if source.operation is not None:
                root = agreed.roots[op.sources[tile.source]]
            elif tile.source in roots:
                root = roots[tile.source]
            else:
                raise InputsRefused(Reason.INPUT_MISSING, "a tile of a tensor without its root")
            _verify(source, root, tile)
            found[tile.source][tile.proof.leaf_index] = tile
        return [_Proven(k, source, found[k]) for k, source in enumerate(sources)]

    def _bundle_root(self, outside: Outside, agreed: Agreed) -> bytes:
        if outside.kind == "outputs":
            return agreed.outputs[outside.step]
        if outside.kind == "state":
            return agreed.state_root
        return self.spec.frozen_root if outside.kind == "frozen" else self.spec.data_root


def _rounds(op: Operation) -> int:
    """Rounds of the interpreter for one tile that cannot be done side by side."""
    if op.node is None or op.node.op not in (Op.DOT, Op.SCATTER):
        return 1
    is_product = op.node.op is Op.DOT
    return op.node.src[0].shape[2] if is_product else op.node.src[1].elements


class _Proven:
    """The opened tiles of one source, read by element."""

    def __init__(self, number: int, source: Source, tiles: dict[int, OpenedTile]) -> None:
        self._number, self._source = number, source
        numbers = sorted(tiles)
        arrays = [_array(tiles[n].data, source.dtype) for n in numbers]
        self._tiles = np.array(numbers, dtype=np.int64)
        self._starts = np.cumsum([0, *(len(a) for a in arrays)], dtype=np.int64)
        empty = np.zeros(0, dtype=source.dtype.numpy)
        self._values = np.concatenate([empty, *arrays])

    def read(self, at: Elements) -> Array:
        tile, inside = self._source.layout.tiles_of(at)
        found = np.searchsorted(self._tiles, tile)
        known = found < len(self._tiles)
        known[known] = self._tiles[found[known]] == tile[known]
        if not known.all():
            missing = int(tile[~known][0])
            raise InputsRefused(
                Reason.INPUT_MISSING, f"tile {missing} of source {self._number} is not opened"
            )
        return np.asarray(self._values[self._starts[found] + inside])


def _array(data: bytes, dtype: DType) -> Array:
    if dtype is bool_:
        return np.asarray(np.frombuffer(data, dtype=np.uint8) != 0)
    return np.frombuffer(data, dtype=dtype.numpy)


def _verify(source: Source, root: bytes, tile: OpenedTile) -> None:
    """INPUT_FORGED unless this is that tile of the value with this root."""
    layout, proof = source.layout, tile.proof
    if proof.leaf_count != layout.count or proof.leaf_index >= layout.count:
        raise InputsRefused(Reason.INPUT_FORGED, "the proof is for a value of other tiles")
    _, rows, columns = layout.bounds(proof.leaf_index)
    size = (rows.stop - rows.start) * (columns.stop - columns.start) * source.dtype.size_bytes
    if len(tile.data) != size:
        raise InputsRefused(Reason.INPUT_FORGED, f"a tile of {len(tile.data)} bytes, not {size}")
    try:
        if source.outside is not None:
            found = source.outside
            whole = prod(found.shape) * found.dtype.size_bytes
            merkle.verify_tensor_leaf(root, found.dtype.name, found.shape, whole, tile.data, proof)
            return
        tree = merkle.root_from_proof(merkle.leaf_hash(tile.data), proof)
    except FlopmarketError as error:
        raise InputsRefused(Reason.INPUT_FORGED, error.message) from None
    assert source.operation is not None
    if source.operation.root_of_tree(tree) != root:
        raise InputsRefused(Reason.INPUT_FORGED, "the tile is not part of the agreed value")
