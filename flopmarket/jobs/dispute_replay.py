"""The verdict of a transcript file, reached again offline, and its story for a person.

Needs the file alone: it carries the signed specification's bytes (whose digest is the job's id) and
the program (whose digest the specification names). ``flop dispute`` is the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flopmarket.engine.errors import EngineError
from flopmarket.engine.program import Program
from flopmarket.errors import InvalidInput
from flopmarket.jobs.dispute_problem import JobProblem
from flopmarket.jobs.spec import JobSpec
from flopmarket.trust.dispute import Dispute
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    DisputeMove,
    DisputeOpening,
    DisputeVerdict,
    Level,
    OpRoots,
    Party,
    StepRoots,
    TileInputs,
)
from flopmarket.trust.dispute_port import Agreed
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import unverified_body
from flopmarket.trust.transcript import Move, RecordKind, Transcript, replay

_SHOWN_ELEMENTS = 8
_REFEREE_SAYS = {
    RecordKind.CLOCK: "the time is over",
    RecordKind.AGAIN: "asked again: the referee was away",
}


@dataclass(frozen=True, slots=True)
class ElementShown:
    """One element of the disputed tile, as both say and as it is; ``element`` is its position in
    the whole value, row-major."""

    element: int
    producer: str
    auditor: str
    recomputed: str


@dataclass(frozen=True, slots=True)
class MoveShown:
    """One record: who said what (empty for the referee's own words) and when, in microseconds
    after the opening."""

    after_us: int
    party: str
    what: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Explained:
    """A replayed dispute: the question, what was said, the verdict, the place in words, and
    elements that differ."""

    opening: DisputeOpening
    moves: tuple[MoveShown, ...]
    verdict: DisputeVerdict
    place: str
    elements: tuple[ElementShown, ...]


def replay_file(data: bytes) -> Explained:
    """Replay a transcript; raises InvalidInput, LimitExceeded, Conflict or EnvelopeError."""
    transcript = Transcript.from_bytes(data)
    spec = decode(JobSpec, transcript.spec)
    try:
        program = Program.from_bytes(transcript.program)
    except EngineError as error:
        raise InvalidInput(error.message, code=error.code) from None
    problem = JobProblem(transcript.opening, spec, program)
    dispute = replay(transcript, problem)
    assert dispute.verdict is not None
    return Explained(
        transcript.opening,
        tuple(_shown(transcript, move) for move in transcript.moves),
        dispute.verdict,
        problem.name(dispute.place),
        _elements(dispute, problem),
    )


def _shown(transcript: Transcript, move: Move) -> MoveShown:
    """A record whose signature was verified in the replay."""
    record = move.record
    after_us = record.at_us - transcript.opening.opened_at_us
    if record.kind is not RecordKind.MOVE:
        return MoveShown(after_us, "", _REFEREE_SAYS[record.kind], 0)
    level = unverified_body(record.envelope, DisputeMove).level
    return MoveShown(after_us, record.party.value, level.value, len(move.payload))


def _elements(dispute: Dispute, problem: JobProblem) -> tuple[ElementShown, ...]:
    """The first differing elements; none where the dispute ended before its last level."""
    producer = dispute.answer(Level.INPUTS, Party.PRODUCER)
    auditor = dispute.answer(Level.INPUTS, Party.AUDITOR)
    if not isinstance(producer, TileInputs) or not isinstance(auditor, TileInputs):
        return ()
    place = dispute.place
    right = problem.recompute(place, agreed_of(dispute), producer)
    op = problem.operation(place)
    at = op.layout.elements(place.tile)
    rows = [
        np.frombuffer(data, dtype=op.dtype.numpy) if len(data) == len(right) else None
        for data in (producer.value, auditor.value, right)
    ]
    size = op.dtype.size_bytes
    found = [
        n
        for n in range(len(at))
        if len({data[n * size : (n + 1) * size] for data in (producer.value, auditor.value, right)})
        > 1
    ]
    return tuple(
        ElementShown(int(at[n]), *(_text(row, n) for row in rows)) for n in found[:_SHOWN_ELEMENTS]
    )


def _text(row: np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None, n: int) -> str:
    if row is None:
        return "another length"
    return f"{row[n]!s} (0x{row[n : n + 1].tobytes()[::-1].hex()})"


def agreed_of(dispute: Dispute) -> Agreed:
    """What both parties signed alike before the tile that decided."""
    place = dispute.place
    steps = dispute.answer(Level.STEPS, Party.PRODUCER)
    assert isinstance(steps, StepRoots)
    if place.step == NOWHERE:
        return Agreed(b"", (), steps.outputs)
    operations = dispute.answer(Level.OPERATIONS, Party.PRODUCER)
    assert isinstance(operations, OpRoots)
    return Agreed(steps.states[place.step], operations.roots[: place.operation], ())
