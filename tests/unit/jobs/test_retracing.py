"""The engine's side of a dispute: opened from an earlier state, stopped when nobody waits."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from flopmarket.engine.graph import Op
from flopmarket.errors import Conflict, InvalidInput
from flopmarket.jobs import bundle
from flopmarket.jobs.process import DATA_FILE, FROZEN_FILE, PROGRAM_FILE, EngineServer
from flopmarket.jobs.questions import (
    TraceQuestion,
    TraceStart,
    trace_answer_command,
    trace_end_command,
    trace_open_command,
)
from flopmarket.trust.dispute import AskedAgain, Clock, Dispute
from flopmarket.trust.dispute_documents import NOWHERE, Level, Outcome, Party, Reason, StepRoots
from flopmarket.trust.dispute_port import Place
from flopmarket.trust.encoding import decode
from flopmarket.trust.transcript import Transcript, replay
from tests.unit.jobs.disputes import ANSWER_US, Case, Flip, case_of, mlp_job, play, send


def files(case: Case, folder: Path) -> Path:
    """The job's files as an engine finds them; the path of the initial state."""
    (folder / PROGRAM_FILE).write_bytes(case.job.program.to_bytes())
    (folder / FROZEN_FILE).write_bytes(bundle.save(case.job.frozen))
    (folder / DATA_FILE).write_bytes(bundle.save(case.job.data))
    (folder / "state").write_bytes(bundle.save(case.job.state))
    return folder / "state"


def opened(case: Case, folder: Path, stop: threading.Event | None = None) -> EngineServer:
    server = EngineServer("reference", None, lambda _: None, stop or threading.Event())
    start = TraceStart(case.opening, files(case, folder), 0)
    server.handle(trace_open_command(folder, case.spec, start))
    return server


def flipped() -> Case:
    """The producer has one bit of the second product of the second step wrong."""
    operations = case_of(mlp_job()).problem.plan.operations
    products = [n for n, op in enumerate(operations) if op.node and op.node.op is Op.DOT]
    return case_of(mlp_job(), producer=Flip(1, products[1], 3, 20))


def test_a_segment_is_traced_from_the_state_before_an_earlier_one(tmp_path: Path) -> None:
    """The engine runs on from step 0 to the segment by itself and gives the parties' own list."""
    case = case_of(mlp_job(), first_step=2)
    server = opened(case, tmp_path)
    path = tmp_path / "list"
    server.handle(trace_answer_command(TraceQuestion(Level.STEPS, Place()), path))
    sent = decode(StepRoots, path.read_bytes())
    assert sent == case.traces[Party.AUDITOR].step_roots()
    assert sent.states[0] == case.opening.state_root_before


def test_honest_work_after_a_flipped_bit_comes_to_the_committed_end(tmp_path: Path) -> None:
    case = flipped()
    verdict = play(case).verdict
    place = Place(verdict.step, verdict.operation, verdict.tile)
    wrong = case.traces[Party.PRODUCER].tile_inputs(place).value
    (tmp_path / "tile").write_bytes(wrong)
    server = opened(case, tmp_path)
    ends = server.handle(trace_end_command(place, tmp_path / "tile"))
    claim = case.opening.producer
    assert ends["state_root"] == claim.state_root_after.hex()
    assert ends["outputs_root"] == claim.outputs_root.hex()
    with pytest.raises(InvalidInput, match="nothing follows"):
        server.handle(trace_end_command(Place(NOWHERE, 0, 0), tmp_path / "tile"))


def test_a_trace_ends_when_nobody_waits(tmp_path: Path) -> None:
    stop = threading.Event()
    case = case_of(mlp_job())
    server = opened(case, tmp_path, stop)
    stop.set()
    with pytest.raises(Conflict) as caught:
        server.handle(
            trace_answer_command(TraceQuestion(Level.OPERATIONS, Place(0)), tmp_path / "list")
        )
    assert caught.value.code == "TRACE_ABORTED"
    assert not (tmp_path / "list").exists()


def test_questions_are_read_or_refused() -> None:
    question = TraceQuestion(Level.TILES, Place(1, 2, NOWHERE))
    assert TraceQuestion.of_fields(question.to_fields()) == question
    with pytest.raises(InvalidInput):
        TraceQuestion.of_fields({"level": "nothing", "step": 0, "operation": 0, "tile": 0})


def test_a_referee_that_was_away_gives_the_level_its_time_anew() -> None:
    """What arrived before stays; the transcript with the record replays to the same verdict."""
    case = flipped()
    recorder = case.recorder()
    first, second = recorder.instructions
    send(recorder, first, case.traces[first.party].answer(first), 2_000)
    late_us = case.opening.opened_at_us + 5 * ANSWER_US
    recorder.ask_again(late_us)
    assert [ask.party for ask in recorder.instructions] == [second.party]
    assert recorder.dispute.deadline_us == late_us + ANSWER_US
    recorder.tick(late_us + ANSWER_US)
    assert recorder.dispute.verdict is None
    recorder.tick(late_us + ANSWER_US + 1)
    transcript = recorder.transcript()
    assert transcript.verdict.outcome is Outcome.AUDITOR_WRONG
    assert transcript.verdict.reason is Reason.SILENT
    again = Transcript.from_bytes(transcript.to_bytes())
    assert replay(again, case.problem).verdict == transcript.verdict
    silent = Dispute(case.opening, case.problem)
    silent.begin()
    silent.handle(Clock(late_us))
    with pytest.raises(Conflict):
        silent.handle(AskedAgain(late_us + 1))


def test_the_end_of_a_right_tile_is_the_right_end() -> None:
    case = case_of(mlp_job())
    trace = case.traces[Party.AUDITOR]
    place = Place(1, len(case.problem.plan.operations) // 2, 0)
    right = trace.tile_inputs(place).value
    claim = case.opening.auditor
    assert trace.end_after(place, right) == (claim.state_root_after, claim.outputs_root)
