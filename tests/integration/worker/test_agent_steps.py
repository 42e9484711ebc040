"""The agent's answers about single steps: both rounds, long after a lease, and what it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from flopmarket.jobs import bundle
from flopmarket.jobs.checksums import ChecksumList
from flopmarket.trust.encoding import digest
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.step_audit import StepAnswer, StepClaim, check_answer, check_claim
from flopmarket.v1 import worker_pb2
from tests.integration.worker.fake_job import checksums_of, spec_for, state_after
from tests.integration.worker.fakes import FakeCoordinator
from tests.integration.worker.scenes import DEVICE_ID, DEVICE_KEY, Scene, play

FIRST, STEPS = 10, 10


async def finished(c: FakeCoordinator) -> None:
    c.offer(DEVICE_ID, spec_for(20, 10))
    await c.until(lambda: c.released)


def data_of(c: FakeCoordinator, name: bytes) -> bytes:
    return c.artifacts[name.hex()]


def test_both_rounds_are_answered_after_the_lease_and_over_a_restart(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        await finished(c)
        body = c.leases["lease-1"].commitments[1]
        c.ask_steps("lease-1", 1, DEVICE_KEY)
        await c.until(lambda: c.stepped)
        claim: StepClaim = c._open(c.stepped[0].claim, StepClaim)
        check_claim(claim, body)
        sums = ChecksumList.from_bytes(data_of(c, claim.checksums))
        assert sums == checksums_of(FIRST, STEPS) and sums.inner() == claim.inner
        roots = data_of(c, claim.roots)
        right = [bundle.root(state_after(n)) for n in range(FIRST, FIRST + STEPS + 1)]
        assert roots == b"".join(right)
        assert (roots[:32], roots[-32:]) == (body.state_root_before, body.state_root_after)
        await s.crash_agent()
        s.start_agent()
        await s.connected(2)
        c.ask_steps("lease-1", 1, DEVICE_KEY, (12, 17))
        await c.until(lambda: len(c.stepped) == 2)
        answer: StepAnswer = c._open(c.stepped[1].answer, StepAnswer)
        check_answer(answer, claim, (12, 17), with_values=False)
        for state, step in zip(answer.states, (12, 17), strict=True):
            found = bundle.load(data_of(c, state.state))
            assert bundle.root(found) == bundle.root(state_after(step))

    play(tmp_path, act)


async def drawn_and_finished(c: FakeCoordinator) -> None:
    """A lease whose terms say that steps are drawn; the device is a newcomer."""
    c.audit_steps = 2
    await finished(c)


def check_roots_of(c: FakeCoordinator) -> None:
    """That the newest claim names the roots of all states of segment 1."""
    claim: StepClaim = c._open(c.stepped[-1].claim, StepClaim)
    check_claim(claim, c.leases["lease-1"].commitments[1])
    right = [bundle.root(state_after(n)) for n in range(FIRST, FIRST + STEPS + 1)]
    assert data_of(c, claim.roots) == b"".join(right)
    assert ChecksumList.from_bytes(data_of(c, claim.checksums)) == checksums_of(FIRST, STEPS)


def test_who_kept_its_roots_runs_nothing_again_for_them(tmp_path: Path) -> None:
    """Over a restart, too; the states before drawn steps take a replay as ever."""

    async def act(s: Scene) -> None:
        c = s.coordinator
        await drawn_and_finished(c)
        assert sorted(s.engine.ran) == list(range(20)) and not s.engine.replayed
        await s.crash_agent()
        s.start_agent()
        await s.connected(2)
        c.ask_steps("lease-1", 1, DEVICE_KEY)
        await c.until(lambda: c.stepped)
        check_roots_of(c)
        assert sorted(s.engine.ran) == list(range(20)) and not s.engine.replayed
        c.ask_steps("lease-1", 1, DEVICE_KEY, (12, 17))
        await c.until(lambda: len(c.stepped) == 2)
        claim: StepClaim = c._open(c.stepped[0].claim, StepClaim)
        answer: StepAnswer = c._open(c.stepped[1].answer, StepAnswer)
        check_answer(answer, claim, (12, 17), with_values=False)
        assert [asked.drawn for asked in s.engine.replayed] == [(12, 17)]

    play(tmp_path, act)


@pytest.mark.parametrize("how", ["lost", "torn", "rotten", "of another segment", "without a list"])
def test_without_kept_roots_a_replay_makes_them_again(tmp_path: Path, how: str) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        await drawn_and_finished(c)
        (folder,) = (tmp_path / "leases-checksums").iterdir()
        path = folder / "1.roots"
        file = bytearray(path.read_bytes())
        file[100] ^= how == "rotten"
        if how == "of another segment":
            file = bytearray((folder / "0.roots").read_bytes())
        if how == "without a list":
            (folder / "1.checksums").unlink()
        path.unlink()
        if how != "lost":
            path.write_bytes(bytes(file[: -1 if how == "torn" else None]))
        c.ask_steps("lease-1", 1, DEVICE_KEY)
        await c.until(lambda: c.stepped)
        check_roots_of(c)
        assert [asked.drawn for asked in s.engine.replayed] == [()]

    play(tmp_path, act)


def test_kept_roots_do_not_lead_to_an_answer_that_convicts(tmp_path: Path) -> None:
    """A bit flipped when the segment ran: the second round shows it, before anything is signed."""

    async def act(s: Scene) -> None:
        c = s.coordinator
        await drawn_and_finished(c)
        c.ask_steps("lease-1", 1, DEVICE_KEY)
        await c.until(lambda: c.stepped)
        s.engine.flipped = True
        c.ask_steps("lease-1", 1, DEVICE_KEY, (12, 17))
        await c.until(lambda: len(c.stepped) == 2)
        assert c.stepped[1].code == "REPLAY_DIFFERS" and not c.stepped[1].HasField("answer")

    play(tmp_path, act)


def test_where_no_steps_are_drawn_no_roots_are_kept(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        await finished(s.coordinator)
        kept = {path.suffix for path in (tmp_path / "leases-checksums").glob("*/*")}
        assert kept == {".checksums", ""}

    play(tmp_path, act)


def test_the_same_question_has_the_same_answer_and_one_replay(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        await finished(c)
        for times in (1, 2):
            c.ask_steps("lease-1", 0, DEVICE_KEY)
            await c.until(lambda times=times: len(c.stepped) == times)
        assert c.stepped[0] == c.stepped[1]
        assert len(s.engine.replayed) == 1

    play(tmp_path, act)


def test_a_second_audit_of_a_segment_is_answered_for_itself(tmp_path: Path) -> None:
    """The files of the first one are gone at the coordinator, and other steps are drawn."""

    async def act(s: Scene) -> None:
        c = s.coordinator
        await finished(c)
        for number, audit_id in enumerate(("audit-1", "audit-2")):
            for name in [it for answer in c.stepped for it in named_by(c, answer)]:
                c.artifacts.pop(name.hex(), None)
            c.ask_steps("lease-1", 1, DEVICE_KEY, audit_id=audit_id)
            await c.until(lambda count=2 * number + 1: len(c.stepped) == count)
            drawn = ((12, 17), (11, 13))[number]
            c.ask_steps("lease-1", 1, DEVICE_KEY, drawn, audit_id=audit_id)
            await c.until(lambda count=2 * number + 2: len(c.stepped) == count)
            claimed, answered = c.stepped[-2:]
            claim: StepClaim = c._open(claimed.claim, StepClaim)
            check_answer(c._open(answered.answer, StepAnswer), claim, drawn, with_values=False)
            assert {name.hex() for said in c.stepped[-2:] for name in named_by(c, said)} <= {
                *c.artifacts
            }

    play(tmp_path, act)


def named_by(c: FakeCoordinator, said: worker_pb2.StepsAnswered) -> list[bytes]:
    """The files that an answer names."""
    if said.HasField("claim"):
        claim: StepClaim = c._open(said.claim, StepClaim)
        return [claim.checksums, claim.roots]
    answer: StepAnswer = c._open(said.answer, StepAnswer)
    return [state.state for state in answer.states]


def test_another_list_than_was_kept_is_not_signed(tmp_path: Path) -> None:
    """A bit flipped, when the segment ran or when it was run again: the worker says so."""

    async def act(s: Scene) -> None:
        c = s.coordinator
        await finished(c)
        s.engine.flipped = True
        c.ask_steps("lease-1", 1, DEVICE_KEY)
        await c.until(lambda: c.stepped)
        (said,) = c.stepped
        assert (said.lease_id, said.segment_index, said.code) == ("lease-1", 1, "REPLAY_DIFFERS")
        assert not said.HasField("claim") and not said.HasField("answer")

    play(tmp_path, act)


@pytest.mark.parametrize("how", ["lost", "torn", "rotten"])
def test_without_the_kept_list_a_replay_makes_it_again(tmp_path: Path, how: str) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        await finished(c)
        for path in (tmp_path / "leases-checksums").glob("*/*.checksums"):
            data = bytearray(path.read_bytes())
            data[-9] ^= how == "rotten"
            path.unlink()
            if how != "lost":
                path.write_bytes(bytes(data[: -1 if how == "torn" else None]))
        c.ask_steps("lease-1", 1, DEVICE_KEY)
        await c.until(lambda: c.stepped)
        claim: StepClaim = c._open(c.stepped[0].claim, StepClaim)
        check_claim(claim, c.leases["lease-1"].commitments[1])

    play(tmp_path, act)


def test_without_its_secret_nothing_is_claimed(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        await finished(c)
        s.agent._openings._leases.clear()
        c.ask_steps("lease-1", 1, DEVICE_KEY)
        await c.until(lambda: c.stepped)
        assert c.stepped[0].code == "OPENING_UNKNOWN"

    play(tmp_path, act)


def test_what_it_never_signed_is_not_answered(tmp_path: Path) -> None:
    """A commitment of another key, steps outside the segment, steps without a claim."""

    async def act(s: Scene) -> None:
        c = s.coordinator
        await finished(c)
        c.ask_steps("lease-1", 1, KeyPair.from_seed(b"x" * 32))
        c.ask_steps("lease-1", 1, DEVICE_KEY)
        await c.until(lambda: c.stepped)
        c.ask_steps("lease-1", 1, DEVICE_KEY, (9,))
        c.ask_steps("lease-1", 1, DEVICE_KEY, (12, 11))
        c.ask_steps("lease-1", 0, DEVICE_KEY, (1,))  # with the claim of another segment
        c.ask_steps("lease-1", 1, DEVICE_KEY, (19,))
        await c.until(lambda: len(c.stepped) == 2)
        answer: StepAnswer = c._open(c.stepped[1].answer, StepAnswer)
        claim: StepClaim = c._open(c.stepped[0].claim, StepClaim)
        assert [state.step for state in answer.states] == [19]
        assert answer.claim == digest(claim)
        right = hashlib.sha256(bundle.save(state_after(19))).digest()
        assert answer.states[0].state == right

    play(tmp_path, act)
