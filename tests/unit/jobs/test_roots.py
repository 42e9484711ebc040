"""Roots kept while a segment runs: those of a replay, or none where they cost more than one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.errors import InvalidInput
from flopmarket.jobs import bundle, roots
from flopmarket.jobs.instrument import instrument
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.questions import StepsQuestion
from flopmarket.jobs.replay import Replay
from flopmarket.jobs.roots import ROOT_BYTES, RootsKeeper, StateRoots, worth_keeping
from flopmarket.jobs.runner import JobRunner, SegmentResult
from flopmarket.jobs.step_values import DeviceValues
from flopmarket.jobs.stepping import ROOTS_FILE, StepReplay
from tests.unit.jobs.jobs import small_job
from tests.unit.jobs.test_runner import spec_of

CERTAIN = 1_000_000


def session_of(job: PreparedJob) -> ReferenceSession:
    return ReferenceSession(instrument(job.program))


def ran(chance_ppm: int, root_seconds: float = 0.0, steps: int = 4) -> SegmentResult:
    """Steps 4 to 7 of the small job; each step takes a second of the clock, a root as told."""

    def readings() -> Iterator[float]:
        now = 0.0
        while True:  # at the beginning of a step, after it, after its root
            yield from (now, now + 1, now + 1 + root_seconds)
            now += 1 + root_seconds

    job, clock = small_job(), readings()
    runner = JobRunner(
        session_of(job), spec_of(job), job.frozen, job.data, clock=lambda: next(clock)
    )
    runner.load(job.state, 0)
    runner.run_segment(0, 4)
    return runner.run_segment(4, steps, roots_ppm=chance_ppm)


def replayed(folder: Path) -> bytes:
    """The roots of the same steps, by a replay from the job's beginning."""
    job = small_job()
    start = folder / "start"
    start.write_bytes(bundle.save(job.state))
    replay = Replay(
        session_of(job), instrument(job.program), spec_of(job), job.frozen, job.data, lambda: False
    )
    values = DeviceValues(job.program, ReferenceSession)
    files = dict(StepReplay(replay, values).answer(StepsQuestion(start, 0, 4, 4, (), False)))
    return files[ROOTS_FILE]


def test_kept_roots_are_those_of_a_replay(tmp_path: Path) -> None:
    result = ran(CERTAIN, 100.0)
    assert result.roots is not None and result.roots_us == 400_000_000
    assert result.roots.first_step == 4
    assert result.roots.data == replayed(tmp_path)
    assert result.roots.data[:ROOT_BYTES] == result.state_root_before
    assert result.roots.data[-ROOT_BYTES:] == result.state_root_after


def test_nothing_else_of_a_segment_changes() -> None:
    kept, not_kept = ran(CERTAIN), ran(0)
    assert not_kept.roots is None and not_kept.roots_us == 0
    for name in ("state_root_after", "outputs_root", "inner", "checksums", "steps_done"):
        assert getattr(kept, name) == getattr(not_kept, name)


def test_roots_that_cost_more_than_they_save_are_let_go_after_one_step() -> None:
    dear = ran(100_000, 0.2)
    assert dear.roots is None and dear.roots_us == 200_000
    cheap = ran(100_000, 0.1)
    assert cheap.roots is not None and cheap.roots_us == 400_000


@given(
    st.integers(0, CERTAIN),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
)
def test_what_is_kept_costs_no_more_than_replays(chance: int, step: int, root: int) -> None:
    """In expectation, and who is certain to be asked keeps always."""
    assert worth_keeping(chance, step, root) == (root * CERTAIN <= chance * (step + root))
    assert worth_keeping(CERTAIN, step, root)


def test_too_many_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "MAX_SEGMENT_ROOTS_BYTES", 3 * ROOT_BYTES)
    keeper = RootsKeeper(0, bytes(32), CERTAIN)
    for step in range(2):
        keeper.add(bytes([step]) * 32, 1.0, 1.0)
    assert keeper.wants_more and keeper.roots() is not None
    keeper.add(b"x" * 32, 1.0, 1.0)
    assert not keeper.wants_more and keeper.roots() is None


@given(st.integers(0, 2**63 - 1), st.integers(2, 5), st.data())
def test_a_file_that_was_not_kept_well_is_none_of_it(
    first_step: int, count: int, data: st.DataObject
) -> None:
    """A rotten root in the middle would be signed, and convict."""
    found = StateRoots(first_step, bytes(range(32)) * count)
    file = bytearray(found.to_bytes())
    assert StateRoots.from_bytes(bytes(file)) == found
    place = data.draw(st.integers(0, len(file) - 1), "byte")
    file[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
    for wrong in (bytes(file), bytes(file[:place])):
        with pytest.raises(InvalidInput) as error:
            StateRoots.from_bytes(wrong)
        assert error.value.code == "STATE_ROOTS"
