"""Hostile parties and hostile files: every trick loses, or is refused as nobody's word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.errors import Conflict, FlopmarketError, InvalidInput, LimitExceeded
from flopmarket.jobs.dispute_replay import replay_file
from flopmarket.jobs.operations import Part
from flopmarket.trust.dispute import REMEDIES, Answered, Ask, Clock, Conclude, Dispute
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    DisputeMove,
    DisputeOpening,
    Level,
    Outcome,
    Party,
    Payload,
    Reason,
    TileInputs,
)
from flopmarket.trust.encoding import encode
from flopmarket.trust.envelope import seal
from flopmarket.trust.errors import DocumentError, EnvelopeError
from flopmarket.trust.transcript import MAGIC, Recorder, Transcript, payload_digest
from tests.unit.jobs.disputes import (
    ANSWER_US,
    KEYS,
    Case,
    Flip,
    case_of,
    inference_job,
    play,
    send,
    sign_move,
)

Tamper = Callable[[Any], Payload]
JUNK = b"\x07" * 32


@cache
def disputed() -> Case:
    """The producer has one bit of a product wrong in step 1 of an inference."""
    job = inference_job()
    plan = case_of(job).problem.plan
    at = next(op.sources[0] for op in plan.operations if op.part is Part.OUTPUT)
    return case_of(job, Flip(1, at, 5, 4))


@cache
def honest_file() -> bytes:
    return play(disputed()).to_bytes()


def until(level: Level) -> tuple[Recorder, int]:
    """A dispute that has come to ``level`` with nobody's answer yet."""
    case = disputed()
    recorder, at_us = case.recorder(), case.opening.opened_at_us
    while recorder.dispute.level is not level:
        for ask in [i for i in recorder.instructions if isinstance(i, Ask)]:
            at_us += 10
            send(recorder, ask, case.traces[ask.party].answer(ask), at_us)
    return recorder, at_us


def changed(items: tuple[bytes, ...], at: int) -> tuple[bytes, ...]:
    listed = list(items)
    listed[at] = JUNK
    return tuple(listed)


def swap_tile(sent: TileInputs, **change: Any) -> TileInputs:
    return replace(sent, tiles=(replace(sent.tiles[0], **change), *sent.tiles[1:]))


def edit_proof(sent: TileInputs, **change: Any) -> TileInputs:
    return swap_tile(sent, proof=replace(sent.tiles[0].proof, **change))


ROWS: dict[str, tuple[Level, Tamper, Reason]] = {
    "steps from another start": (
        Level.STEPS,
        lambda s: replace(s, states=changed(s.states, 0)),
        Reason.WRONG_START,
    ),
    "steps to another end": (
        Level.STEPS,
        lambda s: replace(s, states=changed(s.states, -1)),
        Reason.WRONG_END,
    ),
    "too few states": (
        Level.STEPS,
        lambda s: replace(s, states=s.states[:-1]),
        Reason.WRONG_LENGTH,
    ),
    "too many outputs": (
        Level.STEPS,
        lambda s: replace(s, outputs=(*s.outputs, JUNK)),
        Reason.WRONG_LENGTH,
    ),
    "no stacked outputs": (Level.STEPS, lambda s: replace(s, stacked=()), Reason.WRONG_LENGTH),
    "stacked leaves of another number": (
        Level.STEPS,
        lambda s: replace(s, stacked=(replace(s.stacked[0], hashes=(JUNK, JUNK)),)),
        Reason.WRONG_LENGTH,
    ),
    "stacked leaves of other outputs": (
        Level.STEPS,
        lambda s: replace(s, stacked=(replace(s.stacked[0], hashes=(JUNK,)),)),
        Reason.WRONG_END,
    ),
    "operations of another step": (
        Level.OPERATIONS,
        lambda s: replace(s, step=0),
        Reason.WRONG_PLACE,
    ),
    "too few operations": (
        Level.OPERATIONS,
        lambda s: replace(s, roots=s.roots[:-1]),
        Reason.WRONG_LENGTH,
    ),
    "no operations": (Level.OPERATIONS, lambda s: replace(s, roots=()), Reason.WRONG_LENGTH),
    "operations that end elsewhere": (
        Level.OPERATIONS,
        lambda s: replace(s, roots=changed(s.roots, -1)),
        Reason.STEP_NOT_REPRODUCED,
    ),
    "tiles of another operation": (
        Level.TILES,
        lambda s: replace(s, operation=0),
        Reason.WRONG_PLACE,
    ),
    "too many tiles": (
        Level.TILES,
        lambda s: replace(s, tiles=(*s.tiles, JUNK)),
        Reason.WRONG_LENGTH,
    ),
    "tiles of another value": (
        Level.TILES,
        lambda s: replace(s, tiles=changed(s.tiles, 0)),
        Reason.OPERATION_NOT_REPRODUCED,
    ),
    "inputs of another tile": (
        Level.INPUTS,
        lambda s: replace(s, tile=9),
        Reason.WRONG_PLACE,
    ),
    "a value that was not listed": (
        Level.INPUTS,
        lambda s: replace(s, value=bytes(len(s.value))),
        Reason.VALUE_NOT_OWN,
    ),
    "no inputs": (Level.INPUTS, lambda s: replace(s, tiles=()), Reason.INPUT_MISSING),
    "one input withheld": (
        Level.INPUTS,
        lambda s: replace(s, tiles=s.tiles[1:]),
        Reason.INPUT_MISSING,
    ),
    "an input forged": (
        Level.INPUTS,
        lambda s: swap_tile(s, data=bytes(len(s.tiles[0].data))),
        Reason.INPUT_FORGED,
    ),
    "an input cut short": (
        Level.INPUTS,
        lambda s: swap_tile(s, data=s.tiles[0].data[:-4]),
        Reason.INPUT_FORGED,
    ),
    "an input of no source": (
        Level.INPUTS,
        lambda s: swap_tile(s, source=7),
        Reason.INPUT_FORGED,
    ),
    "an input twice": (
        Level.INPUTS,
        lambda s: replace(s, tiles=(*s.tiles, s.tiles[0])),
        Reason.INPUT_FORGED,
    ),
    "a proof of another leaf": (
        Level.INPUTS,
        lambda s: edit_proof(s, leaf_index=1000),
        Reason.INPUT_FORGED,
    ),
    "a proof of another tree": (
        Level.INPUTS,
        lambda s: edit_proof(s, leaf_count=2),
        Reason.INPUT_FORGED,
    ),
    "a proof that is too long": (
        Level.INPUTS,
        lambda s: edit_proof(s, siblings=(*s.tiles[0].proof.siblings, JUNK)),
        Reason.INPUT_FORGED,
    ),
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("party", Party)
def test_a_wrong_list_loses_at_once(row: str, party: Party) -> None:
    level, tamper, reason = ROWS[row]
    recorder, at_us = until(level)
    ask = next(i for i in recorder.instructions if isinstance(i, Ask) and i.party is party)
    payload = tamper(disputed().traces[party].answer(ask))
    send(recorder, ask, payload, at_us + 1)
    verdict = recorder.dispute.verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.reason) == (f"{party}-wrong", reason)
    assert verdict.seen.startswith(f"the {party}") and verdict.remedy == REMEDIES[reason]
    assert replay_file(recorder.transcript().to_bytes()).verdict == verdict


@pytest.mark.parametrize("level", Level)
def test_silence_loses(level: Level) -> None:
    recorder, at_us = until(level)
    ask = next(i for i in recorder.instructions if isinstance(i, Ask))
    send(recorder, ask, disputed().traces[ask.party].answer(ask), at_us + 1)
    recorder.tick(ask.deadline_us)
    assert recorder.dispute.verdict is None, "the deadline itself is in time"
    recorder.tick(ask.deadline_us + 1)
    verdict = recorder.dispute.verdict
    assert verdict is not None and verdict.reason is Reason.SILENT
    assert verdict.outcome == f"{ask.party.other}-wrong"
    assert replay_file(recorder.transcript().to_bytes()).verdict == verdict


def test_both_silent_both_pay() -> None:
    recorder = disputed().recorder()
    recorder.tick(disputed().opening.opened_at_us + ANSWER_US + 1)
    verdict = recorder.dispute.verdict
    assert verdict is not None and verdict.outcome is Outcome.BOTH_WRONG


def test_a_late_answer_is_silence() -> None:
    recorder, _ = until(Level.STEPS)
    first, second = [i for i in recorder.instructions if isinstance(i, Ask)]
    send(recorder, first, disputed().traces[first.party].answer(first), first.deadline_us)
    late = disputed().traces[second.party].answer(second)
    send(recorder, second, late, second.deadline_us + 1)
    verdict = recorder.dispute.verdict
    assert verdict is not None and verdict.reason is Reason.SILENT
    assert verdict.outcome == f"{second.party}-wrong"


def test_signed_rubbish_loses() -> None:
    recorder, at_us = until(Level.OPERATIONS)
    opening = disputed().opening
    move = DisputeMove(recorder.dispute.dispute_id, Level.OPERATIONS, payload_digest(b"rubbish"))
    envelope = seal(
        move,
        KEYS[Party.AUDITOR],
        audience=opening.audience,
        nonce=bytes(16),
        issued_at_us=at_us,
        expires_at_us=at_us + 9,
    )
    recorder.receive(Party.AUDITOR, envelope, b"rubbish", at_us + 1)
    verdict = recorder.dispute.verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.reason) == (Outcome.AUDITOR_WRONG, Reason.MALFORMED)


def test_nobody_can_speak_for_a_party() -> None:
    """Another key, another list, another dispute, another level: refused, and nobody loses."""
    recorder, at_us = until(Level.STEPS)
    case = disputed()
    ask = next(i for i in recorder.instructions if isinstance(i, Ask))
    payload = case.traces[ask.party].answer(ask)
    other = replace(case.opening, segment_index=5)

    def try_it(opening: DisputeOpening, level: Level, key: Party, data: bytes | None) -> None:
        envelope, right = sign_move(opening, level, payload, KEYS[key], bytes(16), at_us)
        recorder.receive(ask.party, envelope, right if data is None else data, at_us + 1)

    with pytest.raises(EnvelopeError):
        try_it(case.opening, ask.level, ask.party.other, None)
    with pytest.raises(InvalidInput, match="not the one that was signed"):
        try_it(case.opening, ask.level, ask.party, b"other bytes")
    with pytest.raises(InvalidInput, match="of this one"):
        try_it(other, ask.level, ask.party, None)
    with pytest.raises(InvalidInput, match="not the level"):
        try_it(case.opening, Level.TILES, ask.party, None)
    assert recorder.dispute.verdict is None
    try_it(case.opening, ask.level, ask.party, None)
    with pytest.raises(Conflict, match="has answered"):
        try_it(case.opening, ask.level, ask.party, None)


def test_equal_ends_with_other_checksums_slash_nobody() -> None:
    case = case_of(inference_job())
    dispute = Dispute(case.opening, case.problem)
    (end,) = dispute.begin()
    assert isinstance(end, Conclude)
    assert end.verdict.outcome is Outcome.THIRD_RUN
    assert end.verdict.reason is Reason.INNER_DIFFERS and end.verdict.step == NOWHERE
    transcript = case.recorder().transcript()
    assert replay_file(transcript.to_bytes()).verdict == end.verdict
    same = replace(case.opening, auditor=replace(case.opening.producer, key=JUNK))
    with pytest.raises(Conflict, match="same end"):
        Dispute(same, case.problem)


@pytest.mark.parametrize("limit", ["OPENED_BYTES", "OPENED_TILES", "ROUNDS"])
def test_a_tile_that_reads_too_much_is_decided_by_a_third_run(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(f"flopmarket.trust.dispute_port.MAX_DISPUTE_{limit}", 0)
    verdict = play(disputed()).verdict
    assert (verdict.outcome, verdict.reason) == (Outcome.THIRD_RUN, Reason.TILE_TOO_LARGE)


def test_events_that_do_not_fit_change_nothing() -> None:
    case = disputed()
    dispute = Dispute(case.opening, case.problem)
    dispute.begin()
    dispute.handle(Clock(case.opening.opened_at_us + 5))
    with pytest.raises(Conflict, match="order of time"):
        dispute.handle(Clock(case.opening.opened_at_us + 4))
    payload = case.traces[Party.AUDITOR].operation_roots(0)
    (end,) = dispute.handle(Answered(Party.AUDITOR, payload, case.opening.opened_at_us + 6))
    assert isinstance(end, Conclude) and end.verdict.reason is Reason.MALFORMED
    with pytest.raises(Conflict, match="has its verdict"):
        dispute.handle(Clock(case.opening.opened_at_us + 7))
    with pytest.raises(InvalidInput, match="no verdict yet"):
        case.recorder().transcript()


def test_openings_that_make_no_sense_are_refused() -> None:
    opening = disputed().opening
    for change in (
        {"steps": 0},
        {"steps": 2**30},
        {"auditor": opening.producer},
        {"answer_us": 0},
    ):
        with pytest.raises(DocumentError):
            replace(opening, **change)


# ---------------------------------------------------------------- files


def test_the_file_is_canonical() -> None:
    data = honest_file()
    assert Transcript.from_bytes(data).to_bytes() == data
    assert replay_file(data).verdict.outcome is Outcome.PRODUCER_WRONG


def lying(**change: Any) -> bytes:
    transcript = Transcript.from_bytes(honest_file())
    return replace(transcript, **change).to_bytes()


def test_files_that_lie_are_caught() -> None:
    transcript = Transcript.from_bytes(honest_file())
    moves, verdict = transcript.moves, transcript.verdict
    mirrored = replace(verdict, outcome=Outcome.AUDITOR_WRONG)
    swapped = tuple(replace(m, record=replace(m.record, party=m.record.party.other)) for m in moves)
    backwards = (replace(moves[0], record=replace(moves[0].record, at_us=0)), *moves[1:])
    other_job = replace(transcript.opening, job_id=JUNK)
    rows: dict[str, bytes] = {
        "another verdict": lying(verdict=mirrored),
        "a move left out": lying(moves=moves[1:]),
        "the end left out": lying(moves=moves[:-1]),
        "a move repeated": lying(moves=(moves[0], *moves)),
        "moves after the verdict": lying(moves=(*moves, moves[-1])),
        "words in another mouth": lying(moves=swapped),
        "time runs backwards": lying(moves=backwards),
        "another job": lying(opening=other_job),
        "another program": lying(program=transcript.program[:-1]),
        "no specification": lying(spec=b""),
    }
    for name, data in rows.items():
        with pytest.raises(FlopmarketError):
            replay_file(data)
            raise AssertionError(name)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        MAGIC + b"\x00" * 7,
        MAGIC + b"\xff" * 8,
        MAGIC + (2**40).to_bytes(8, "big") + b"x",
        MAGIC + b"\x00" * 8 * 6,
        MAGIC + b"\x00" * 8 * 1_000_000,
        b"FLOPDISP\x02",
    ],
    ids=["empty", "magic", "half", "endless", "huge", "hollow", "many", "version"],
)
def test_files_that_are_no_transcripts_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        Transcript.from_bytes(data)


def test_an_oversize_file_or_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    transcript = Transcript.from_bytes(honest_file())
    wide = replace(transcript, spec=bytes(2 << 20)).to_bytes()
    with pytest.raises(LimitExceeded, match="frame"):
        Transcript.from_bytes(wide)
    monkeypatch.setattr("flopmarket.trust.transcript.MAX_DISPUTE_TRANSCRIPT_BYTES", 100)
    with pytest.raises(LimitExceeded):
        Transcript.from_bytes(honest_file())
    with pytest.raises(LimitExceeded):
        transcript.to_bytes()


@given(st.integers(0, 10**9), st.integers(1, 255), st.booleans())
@settings(max_examples=80, deadline=None)
def test_any_changed_or_cut_file_is_refused_or_says_the_same(at: int, mask: int, cut: bool) -> None:
    """Nothing but our errors comes out, and no change of a byte changes who is wrong."""
    data = honest_file()
    at %= len(data)
    changed_data = data[:at] if cut else data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
    try:
        found = replay_file(changed_data)
    except FlopmarketError:
        return
    assert found.verdict.outcome is Outcome.PRODUCER_WRONG
    assert encode(found.verdict)
