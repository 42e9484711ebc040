"""Targets: the file of a dispute, what a referee is sent, and what a party is asked."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import DecodeError

from flopmarket.errors import InvalidInput
from flopmarket.jobs.dispute_replay import replay_file
from flopmarket.jobs.operations import Part
from flopmarket.trust.dispute import Answered, Ask, Dispute
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    PAYLOADS,
    Claim,
    DisputeMove,
    DisputeOpening,
    DisputeVerdict,
    Level,
    OpRoots,
    Outcome,
    Party,
    Payload,
    Reason,
    StepRoots,
)
from flopmarket.trust.encoding import decode, digest, encode
from flopmarket.trust.envelope import seal
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.transcript import (
    Move,
    Record,
    RecordKind,
    Transcript,
    event_of,
    payload_digest,
)
from flopmarket.v1 import worker_pb2
from flopmarket_worker.disputing import read_question
from tests.fuzz.target import Target, check_same
from tests.integration.worker.fake_job import COORDINATOR as COORDINATOR_OF_WORK
from tests.integration.worker.fake_job import spec_for
from tests.integration.worker.fakes import FakeCoordinator
from tests.unit.jobs.disputes import Case, Flip, case_of, send, sign_move
from tests.unit.jobs.jobs import small_job

PRODUCER, AUDITOR, COORDINATOR = (KeyPair.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
OPENING = DisputeOpening(
    audience=COORDINATOR.key_id,
    job_id=bytes(32),
    segment_index=0,
    first_step=0,
    steps=2,
    state_root_before=bytes(32),
    producer=Claim(PRODUCER.public.raw, b"p" * 32, b"o" * 32, b"i" * 32),
    auditor=Claim(AUDITOR.public.raw, b"a" * 32, b"o" * 32, b"j" * 32),
    opened_at_us=1_000,
    answer_us=500,
)
STEPS = StepRoots(states=(bytes(32),) * 3, outputs=(bytes(32),) * 2, stacked=())
VERDICT = DisputeVerdict(
    dispute_id=digest(OPENING), outcome=Outcome.PRODUCER_WRONG, reason=Reason.SILENT, step=NOWHERE,
    operation=NOWHERE, tile=NOWHERE, tiles=0, differing_tiles=0, producer_wrong_bits=0,
    auditor_wrong_bits=0, seen="", remedy="",
)  # fmt: skip


def _at(opening: DisputeOpening, level: Level) -> Any:
    """All that a move is held against: whose dispute it is, and how far it has come."""
    return SimpleNamespace(opening=opening, dispute_id=digest(opening), level=level)


def read_transcript(data: bytes) -> object:
    """A file, and its messages with their signatures, whatever they then lead to."""
    transcript = Transcript.from_bytes(data)
    check_same(transcript.to_bytes(), data)
    return [event_of(_at(transcript.opening, Level.STEPS), move) for move in transcript.moves]


def read_list(data: bytes) -> object:
    """A list that a party has signed: one byte for the level, then anything."""
    level = list(Level)[(data[:1] or b"\0")[0] % len(Level)]
    body = DisputeMove(digest(OPENING), level, payload_digest(data[1:]))
    envelope = seal(
        body, PRODUCER, audience=OPENING.audience, nonce=bytes(16), issued_at_us=1, expires_at_us=2
    )
    record = Record(RecordKind.MOVE, Party.PRODUCER, 1_001, envelope.to_bytes())
    return event_of(_at(OPENING, level), Move(record, data[1:]))


def transcript_seeds() -> dict[str, bytes]:
    envelope, data = sign_move(OPENING, Level.STEPS, STEPS, AUDITOR, bytes(16), 1_001)
    answered = Move(Record(RecordKind.MOVE, Party.AUDITOR, 1_001, envelope.to_bytes()), data)
    silent = Move(Record(RecordKind.CLOCK, Party.PRODUCER, 1_500, b""), b"")
    return {
        "silent": Transcript(OPENING, b"s", b"p", (answered, silent), VERDICT).to_bytes(),
        "nothing": Transcript(OPENING, b"", b"", (), VERDICT).to_bytes(),
    }


def list_seeds() -> dict[str, bytes]:
    assert list(PAYLOADS) == list(Level)
    return {
        "steps": b"\0" + encode(STEPS),
        "operations": b"\1" + encode(OpRoots(1, (bytes(32),) * 3)),
    }


@cache
def disputed() -> Case:
    """A segment of a tiny job, in which the producer has one bit of one operation wrong."""
    plan = case_of(small_job()).problem.plan
    at = next(op.sources[0] for op in plan.operations if op.part is Part.STATE)
    return case_of(small_job(), Flip(1, at, 1, 3))


@cache
def asked() -> dict[Level, tuple[Ask, ...]]:
    """What both parties are asked at each level when all answers are right."""
    found: dict[Level, tuple[Ask, ...]] = {}
    dispute = Dispute(disputed().opening, disputed().problem)
    instructions, at_us = dispute.begin(), disputed().opening.opened_at_us
    while dispute.verdict is None:
        asks = tuple(item for item in instructions if isinstance(item, Ask))
        found[asks[0].level] = asks
        for ask in asks:
            instructions = dispute.handle(Answered(ask.party, answered(ask), at_us))
    return found


@cache
def answered(ask: Ask) -> Payload:
    """A party's honest word about its own replay."""
    return disputed().traces[ask.party].answer(ask)


def read_answer(data: bytes) -> object:
    """One byte for the level, then the list that the producer signs there: a referee that comes to
    this level decodes it, holds it to the lists before, and recomputes the tile."""
    level = list(Level)[(data[:1] or b"\0")[0] % len(Level)]
    payload = decode(PAYLOADS[level], data[1:])
    dispute = Dispute(disputed().opening, disputed().problem)
    dispute.begin()
    at_us = disputed().opening.opened_at_us
    for earlier, asks in asked().items():
        producer, auditor = asks
        if earlier is level:
            dispute.handle(Answered(Party.AUDITOR, answered(auditor), at_us))
            dispute.handle(Answered(Party.PRODUCER, payload, at_us))
            return dispute.verdict
        for ask in (producer, auditor):
            dispute.handle(Answered(ask.party, answered(ask), at_us))
    return None


def answer_seeds() -> dict[str, bytes]:
    return {
        level.value: bytes([list(Level).index(level)]) + encode(answered(asks[0]))
        for level, asks in asked().items()
    }


def replay_seeds() -> dict[str, bytes]:
    """Disputes that end early: whole ones are longer than a seed may be."""
    recorder = disputed().recorder()
    late_us = disputed().opening.opened_at_us + disputed().opening.answer_us + 1
    producer, _ = asked()[Level.STEPS]
    send(recorder, producer, answered(producer), disputed().opening.opened_at_us)
    recorder.ask_again(disputed().opening.opened_at_us + 5)
    recorder.tick(late_us + 5)
    silent = disputed().recorder()
    silent.tick(late_us)
    return {
        "one-silent": recorder.transcript().to_bytes(),
        "both-silent": silent.transcript().to_bytes(),
    }


def read_asked(data: bytes) -> object:
    """A question of the coordinator, as a worker reads it."""
    try:
        message = worker_pb2.DisputeAsked.FromString(data)
    except DecodeError as error:
        raise InvalidInput(str(error), code="NO_MESSAGE") from None
    return read_question(message, COORDINATOR_OF_WORK.key_id, PRODUCER)


def asked_seeds() -> dict[str, bytes]:
    coordinator = FakeCoordinator()
    offered = coordinator.offer("d" * 64, spec_for(4, 2), lease_id="x").message
    opening = replace(
        OPENING,
        audience=COORDINATOR_OF_WORK.key_id,
        job_id=bytes.fromhex(offered.job_id),
        state_root_before=offered.state_root,
    )
    message = worker_pb2.DisputeAsked(
        dispute_id=digest(opening).hex(),
        opening=encode(opening),
        party="producer",
        level="steps",
        step=NOWHERE,
        operation=NOWHERE,
        tile=NOWHERE,
        deadline_us=2_000,
        work=offered,
    )
    return {"question": message.SerializeToString()}


TARGETS = (
    Target("transcript", read_transcript, transcript_seeds),
    Target("dispute-list", read_list, list_seeds),
    Target("dispute-replay", replay_file, replay_seeds),
    Target("dispute-answer", read_answer, answer_seeds),
    Target("dispute-question", read_asked, asked_seeds),
)
