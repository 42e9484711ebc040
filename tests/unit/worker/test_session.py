"""The worker's lease machine: tables of what follows what, and the laws that always hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.limits import MAX_LOCAL_STATE_BYTES, MAX_UNANSWERED_COMMITMENTS
from flopmarket_worker.core import events as e
from flopmarket_worker.core.leases import LEGAL, IllegalTransition, Phase
from flopmarket_worker.core.session import SessionMachine

DEVICE = "d" * 64
KEY = e.LeaseKey("lease", 1)
FILES = e.UploadedFiles("a" * 64, "")


def terms(key: e.LeaseKey = KEY, **changes: object) -> e.LeaseTerms:
    base = e.LeaseTerms(
        key=key,
        device_id=DEVICE,
        first_step=0,
        step_count=100,
        first_segment=0,
        segment_steps=10,
        checkpoint_segments=3,
        state_root=root(0),
        stateless=False,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def root(step: int) -> bytes:
    return step.to_bytes(32, "big")


def ran(run: e.Run, steps: int | None = None) -> e.SegmentRan:
    done = run.count if steps is None else steps
    return e.SegmentRan(
        run.key,
        run.first_step,
        done,
        root(run.first_step),
        root(run.first_step + done),
        root(run.segment_index),
        root(7),
    )


def one(instructions: tuple[e.Instruction, ...], kind: type[e.Instruction]) -> e.Instruction:
    found = [item for item in instructions if isinstance(item, kind)]
    assert len(found) == 1, instructions
    return found[0]


def running(state_bytes: int = 10, **changes: object) -> tuple[SessionMachine, e.Run]:
    machine = SessionMachine(frozenset({DEVICE}))
    machine.handle(e.Connected(()))
    machine.handle(e.Offered(terms(**changes)))
    out = machine.handle(e.Prepared(KEY, state_bytes))
    run = one(out, e.Run)
    assert isinstance(run, e.Run)
    return machine, run


def finish_segment(machine: SessionMachine, run: e.Run) -> tuple[e.Instruction, ...]:
    out = machine.handle(ran(run))
    machine.handle(e.Uploaded(KEY, run.segment_index, FILES))
    return out


def test_an_offer_is_prepared_then_accepted_and_run() -> None:
    machine = SessionMachine(frozenset({DEVICE}))
    machine.handle(e.Connected(()))
    out = machine.handle(e.Offered(terms()))
    assert out == (e.Prepare(terms(), e.ResumePoint(None, 0, root(0))),)
    out = machine.handle(e.Prepared(KEY, MAX_LOCAL_STATE_BYTES + 1))
    assert out == (e.Accept(terms()), e.Run(KEY, 0, 0, 10, keep_state=False))
    assert machine.held == (KEY,)


def test_at_most_four_commitments_are_unanswered_and_an_answer_goes_on() -> None:
    machine, run = running()
    for _ in range(MAX_UNANSWERED_COMMITMENTS - 1):
        following = one(finish_segment(machine, run), e.Run)
        assert isinstance(following, e.Run)
        run = following
    assert not [i for i in finish_segment(machine, run) if isinstance(i, e.Run)]
    assert machine.phase(KEY) is Phase.WAITING
    out = machine.handle(e.Answered("lease", 0, True, ""))
    assert out == (e.Run(KEY, 4, 40, 10, keep_state=True),)


def test_checkpoints_are_due_by_count_from_the_jobs_start_and_at_its_end() -> None:
    machine, run = running(
        state_bytes=MAX_LOCAL_STATE_BYTES + 1,
        first_step=70,
        step_count=30,
        first_segment=7,
        state_root=root(70),
    )
    due = []
    while True:
        out = finish_segment(machine, run)
        upload = one(out, e.Upload)
        assert isinstance(upload, e.Upload)
        due.append((upload.segment.index, upload.segment.upload_state))
        runs = [item for item in out if isinstance(item, e.Run)]
        if not runs:
            break
        run = runs[0]
    assert due == [(7, False), (8, True), (9, True)]


def test_a_stateless_program_never_uploads_a_state() -> None:
    machine, run = running(stateless=True)
    assert not run.keep_state
    upload = one(machine.handle(ran(run)), e.Upload)
    assert isinstance(upload, e.Upload)
    assert not upload.segment.upload_state


def test_the_end_is_told_after_the_device_is_free() -> None:
    machine, run = running(step_count=10)
    finish_segment(machine, run)
    assert machine.handle(e.Answered("lease", 0, True, "")) == (e.Close(KEY),)
    out = machine.handle(e.Closed(KEY))
    assert out == (e.Release(KEY, e.ReleaseReason.FINISHED, "all steps done"),)
    assert machine.idle


def test_the_next_lease_may_come_while_the_last_one_is_cleaned_up() -> None:
    machine, run = running(step_count=10)
    finish_segment(machine, run)
    machine.handle(e.Answered("lease", 0, True, ""))
    second = terms(e.LeaseKey("second", 2))
    assert machine.handle(e.Offered(second)) == ()
    assert second.key in machine.held
    out = machine.handle(e.Closed(KEY))
    assert e.Prepare(second, e.ResumePoint(None, 0, root(0))) in out


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        (terms(e.LeaseKey("other", 1)), e.ReleaseReason.DECLINED),  # the device is busy
        (terms(e.LeaseKey("other", 1), device_id="x"), e.ReleaseReason.DECLINED),
    ],
)
def test_what_cannot_be_done_is_given_back(offered: e.LeaseTerms, reason: e.ReleaseReason) -> None:
    machine, _ = running()
    release = one(machine.handle(e.Offered(offered)), e.Release)
    assert isinstance(release, e.Release)
    assert release.reason is reason


def test_a_revoked_lease_stops_at_the_next_step_and_commits_nothing_more() -> None:
    machine, run = running()
    assert machine.handle(e.Revoked(KEY, "SUPERSEDED")) == (e.Interrupt(KEY),)
    assert machine.held == ()
    assert machine.handle(ran(run, 3)) == (e.Close(KEY),)
    assert machine.handle(e.Closed(KEY)) == ()  # the coordinator knows


def test_a_refused_commitment_ends_the_lease() -> None:
    machine, run = running()
    following = one(finish_segment(machine, run), e.Run)
    assert isinstance(following, e.Run)
    assert machine.handle(e.Answered("lease", 0, False, "STALE_FENCE")) == (e.Interrupt(KEY),)
    assert machine.handle(ran(following, 1)) == (e.Close(KEY),)
    release = one(machine.handle(e.Closed(KEY)), e.Release)
    assert isinstance(release, e.Release)
    assert "STALE_FENCE" in release.detail


def test_a_dead_executor_gets_one_more_process_and_repeats_from_the_last_state() -> None:
    machine, run = running()  # a small state: written after every segment
    run = one(finish_segment(machine, run), e.Run)  # type: ignore[assignment]
    out = machine.handle(e.ExecutorDied(KEY, "signal 9"))
    assert out == (e.Prepare(terms(), e.ResumePoint(0, 10, root(10))),)
    assert machine.handle(e.Prepared(KEY, 10)) == (run,)
    assert machine.handle(e.ExecutorDied(KEY, "signal 9")) == ()  # one commitment unanswered
    assert machine.handle(e.Answered("lease", 0, True, "")) == (e.Close(KEY),)
    release = one(machine.handle(e.Closed(KEY)), e.Release)
    assert isinstance(release, e.Release)
    assert release.reason is e.ReleaseReason.EXECUTOR_DIED


def test_segments_that_are_repeated_are_not_committed_again_and_must_agree() -> None:
    machine, run = running(state_bytes=MAX_LOCAL_STATE_BYTES + 1)  # no state until segment 2
    second = one(finish_segment(machine, run), e.Run)
    out = machine.handle(e.ExecutorDied(KEY, "gone"))
    assert out == (e.Prepare(terms(), e.ResumePoint(None, 0, root(0))),)
    assert machine.handle(e.Prepared(KEY, MAX_LOCAL_STATE_BYTES + 1)) == (run,)
    assert machine.handle(ran(run)) == (second,)
    # Once more, with another result: the device cannot be trusted with this job.
    machine, run = running(state_bytes=MAX_LOCAL_STATE_BYTES + 1)
    finish_segment(machine, run)
    machine.handle(e.ExecutorDied(KEY, "gone"))
    machine.handle(e.Prepared(KEY, MAX_LOCAL_STATE_BYTES + 1))
    assert machine.handle(replace(ran(run), state_root_after=root(999))) == (e.Close(KEY),)


def test_a_lost_connection_is_made_good_by_telling_again() -> None:
    machine, run = running()
    machine.handle(e.Disconnected())
    following = one(machine.handle(ran(run)), e.Run)  # work goes on
    assert machine.handle(e.Uploaded(KEY, 0, FILES)) == ()
    out = machine.handle(e.Connected((KEY,)))
    commit = one(out, e.Commit)
    assert isinstance(commit, e.Commit)
    assert commit.segment.index == 0
    assert e.Accept(terms()) in out
    assert isinstance(following, e.Run)


def test_a_lease_that_was_not_kept_is_dropped_without_a_word() -> None:
    machine, run = running()
    machine.handle(e.Disconnected())
    assert machine.handle(e.Connected(())) == (e.Interrupt(KEY),)
    assert machine.handle(ran(run, 1)) == (e.Close(KEY),)
    assert machine.handle(e.Closed(KEY)) == ()


def test_a_drain_commits_the_short_segment_with_its_state_and_gives_back() -> None:
    machine, run = running()
    assert machine.handle(e.DrainRequested()) == (e.Interrupt(KEY),)
    out = machine.handle(ran(run, 4))
    upload = one(out, e.Upload)
    assert isinstance(upload, e.Upload)
    assert (upload.segment.steps, upload.segment.upload_state) == (4, True)
    assert not [item for item in out if isinstance(item, e.Run)]
    machine.handle(e.Uploaded(KEY, 0, FILES))
    assert machine.handle(e.Answered("lease", 0, True, "")) == (e.Close(KEY),)
    release = one(machine.handle(e.Closed(KEY)), e.Release)
    assert isinstance(release, e.Release)
    assert release.reason is e.ReleaseReason.DRAINING
    assert machine.idle
    refused = one(machine.handle(e.Offered(terms(e.LeaseKey("late", 1)))), e.Release)
    assert isinstance(refused, e.Release)
    assert refused.reason is e.ReleaseReason.DRAINING


def recovered() -> e.Recovered:
    first = e.SegmentRecord(0, 0, 10, root(0), root(10), root(0), root(7), True, False)
    second = e.SegmentRecord(1, 10, 10, root(10), root(20), root(1), root(7), True, False)
    return e.Recovered(terms(), (first, second), ((0, FILES),), ())


def test_a_lease_from_disk_goes_on_when_it_is_still_ours() -> None:
    machine = SessionMachine(frozenset({DEVICE}))
    assert machine.handle(recovered()) == ()
    assert machine.held == (KEY,)
    out = machine.handle(e.Connected((KEY,)))
    assert one(out, e.Prepare) == e.Prepare(terms(), e.ResumePoint(1, 20, root(20)))
    upload, commit = one(out, e.Upload), one(out, e.Commit)
    assert isinstance(upload, e.Upload)
    assert isinstance(commit, e.Commit)
    assert (commit.segment.index, upload.segment.index) == (0, 1)
    assert machine.handle(e.Prepared(KEY, 1)) == (e.Run(KEY, 2, 20, 10, keep_state=True),)


def test_a_lease_from_disk_is_dropped_when_it_is_not_ours_any_more() -> None:
    machine = SessionMachine(frozenset({DEVICE}))
    machine.handle(recovered())
    assert machine.handle(e.Connected(())) == (e.Close(KEY),)


@pytest.mark.parametrize(
    "event",
    [
        e.Prepared(KEY, 1),
        e.Closed(KEY),
        e.SegmentRan(KEY, 0, 1, root(0), root(1), root(0), root(7)),
        e.ExecutorDied(KEY, ""),
        e.JobFailed(KEY, e.ReleaseReason.DECLINED, ""),
    ],
)
def test_what_cannot_happen_raises(event: e.Event) -> None:
    with pytest.raises(IllegalTransition, match="unknown here"):
        SessionMachine(frozenset({DEVICE})).handle(event)


def test_an_illegal_transition_tells_the_leases_story() -> None:
    machine, _ = running()
    with pytest.raises(IllegalTransition, match="offered; preparing -> running: prepared"):
        machine.handle(e.Prepared(KEY, 1))


def test_the_table_ends_everywhere() -> None:
    assert set(LEGAL) == set(Phase)
    reachable = {phase for targets in LEGAL.values() for phase in targets}
    assert Phase.RECOVERED not in reachable
    assert all(LEGAL[phase] for phase in Phase if phase is not Phase.ENDED)


# ---------------------------------------------------------------- laws under any order of events


class World:
    """Everything outside the machine, with every outcome drawn. Counts what the laws speak of."""

    def __init__(self, draw: st.DataObject) -> None:
        self.data = draw
        self.machine = SessionMachine(frozenset({DEVICE}))
        self.connected = False
        self.pending: list[e.Instruction] = []
        self.commits: dict[tuple[e.LeaseKey, int], e.SegmentRecord] = {}
        self.prepared: Counter[e.LeaseKey] = Counter()
        self.closed: Counter[e.LeaseKey] = Counter()
        self.unanswered: list[e.Commit] = []
        self.live: dict[e.LeaseKey, e.LeaseTerms] = {}
        self.interrupted: set[e.LeaseKey] = set()
        self.fence = 0

    def tell(self, event: e.Event) -> None:
        for item in self.machine.handle(event):
            self.note(item)

    def note(self, item: e.Instruction) -> None:
        match item:
            case e.Interrupt(key) | e.Abandon(key):
                self.interrupted.add(key)
            case e.Commit(key, segment):
                assert self.connected, "a commitment is sent on a connection"
                assert key.fence == self.live_fence(key), "a commitment carries its lease's fence"
                before = self.commits.setdefault((key, segment.index), segment)
                assert before == segment, "no segment is committed with two results"
                self.unanswered.append(item)
            case e.Release(key):
                assert self.connected
                self.live.pop(key, None)
            case e.Accept():
                assert self.connected
            case _:
                if isinstance(item, e.Prepare):
                    assert not self.closed[item.terms.key], "no lease is run twice"
                    self.prepared[item.terms.key] += 1
                self.pending.append(item)
        computed = Counter(i.key for i in self.pending if isinstance(i, e.Upload))
        assert all(n <= MAX_UNANSWERED_COMMITMENTS for n in computed.values())

    def live_fence(self, key: e.LeaseKey) -> int:
        assert key in self.live
        return key.fence

    def choose(self, *options: str) -> str:
        return self.data.draw(st.sampled_from(options))

    def answer(self, item: e.Instruction) -> None:
        match item:
            case e.Prepare(lease_terms):
                outcome = self.choose("ok", "ok", "ok", "failed", "died")
                if outcome == "ok":
                    size = self.data.draw(st.sampled_from([1, MAX_LOCAL_STATE_BYTES + 1]))
                    self.tell(e.Prepared(lease_terms.key, size))
                elif outcome == "died":
                    self.tell(e.ExecutorDied(lease_terms.key, "died"))
                else:
                    reason = e.ReleaseReason.PROGRAM_REFUSED
                    self.tell(e.JobFailed(lease_terms.key, reason, "refused"))
            case e.Run(key):
                outcome = self.choose("ok", "ok", "ok", "ok", "died")
                steps = item.count
                if key in self.interrupted:
                    steps = self.data.draw(st.integers(1, item.count))
                self.tell(ran(item, steps) if outcome == "ok" else e.ExecutorDied(key, "died"))
            case e.Upload(key, segment):
                self.tell(e.Uploaded(key, segment.index, FILES))
            case e.Close(key):
                self.closed[key] += 1
                self.tell(e.Closed(key))
                self.pending = [
                    i for i in self.pending if not isinstance(i, e.Upload) or i.key != key
                ]

    def offer(self) -> None:
        self.fence += 1
        key = e.LeaseKey(f"lease-{self.fence}", self.fence)
        self.live[key] = terms(key, step_count=self.data.draw(st.sampled_from([10, 35, 100])))
        self.tell(e.Offered(self.live[key]))

    def step(self) -> None:
        action = self.choose("answer", "answer", "answer", "commit", "commit", "offer", "other")
        if action == "answer" and self.pending:
            self.answer(self.pending.pop(self.data.draw(st.integers(0, len(self.pending) - 1))))
        elif action == "commit" and self.connected and self.unanswered:
            self.settle(self.choose("yes", "yes", "yes", "yes", "no") == "yes")
        elif action == "offer" and self.connected:
            self.offer()
        elif action == "other":
            self.other()

    def other(self) -> None:
        what = self.choose("connection", "revoke", "again")
        if what == "connection" and self.connected:
            self.connected = False
            self.unanswered.clear()
            self.tell(e.Disconnected())
        elif what == "connection":
            self.connect()
        elif what == "revoke" and self.connected and self.live:
            key = self.choose_lease()
            self.live.pop(key)
            self.unanswered = [c for c in self.unanswered if c.key != key]
            self.tell(e.Revoked(key, "test"))
        elif what == "again" and self.connected and self.live:
            self.tell(e.Offered(self.live[self.choose_lease()]))

    def choose_lease(self) -> e.LeaseKey:
        return self.data.draw(st.sampled_from(sorted(self.live)))

    def connect(self) -> None:
        self.connected = True
        held = self.machine.held
        kept = [key for key in held if key in self.live and self.choose("y", "y", "n") == "y"]
        self.live = {key: value for key, value in self.live.items() if key in kept}
        self.tell(e.Connected(tuple(kept)))

    def settle(self, accepted: bool) -> None:
        commit = self.unanswered.pop(0)
        self.tell(e.Answered(commit.key.lease_id, commit.segment.index, accepted, "CODE"))

    def calm(self) -> None:
        """No more trouble: everything is answered, the worker drains."""
        if not self.connected:
            self.connect()
        self.tell(e.DrainRequested())
        for _ in range(1000):
            if self.pending:
                self.answer(self.pending.pop(0))
            elif self.unanswered:
                self.settle(True)
            else:
                break


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_laws_hold_whatever_happens(data: st.DataObject) -> None:
    world = World(data)
    world.connect()
    for _ in range(data.draw(st.integers(1, 60))):
        world.step()
    world.calm()
    assert world.machine.idle, world.machine.describe()
    assert set(world.prepared) == set(world.closed), "every lease that is prepared is closed"
    assert all(count == 1 for count in world.closed.values()), "and closed once"
    assert not world.machine.held
