"""Values that the agent checks after every commitment, and openings that it gives."""

from __future__ import annotations

from pathlib import Path

from flopmarket.trust.envelope import keys_by_id, open_envelope
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.sealing import InnerSecret, seal_inner
from flopmarket.v1 import worker_pb2
from flopmarket.wire import envelope_from_proto
from tests.integration.worker.fake_job import COORDINATOR, spec_for
from tests.integration.worker.scenes import (
    DEVICE_ID,
    DEVICE_KEY,
    OWNER_KEY,
    Scene,
    lease_folders,
    play,
)


def test_a_value_that_does_not_lead_to_the_anchor_is_noticed_and_work_goes_on(
    tmp_path: Path,
) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        c.false_values = {1}
        book = c.offer(DEVICE_ID, spec_for(25, 10))
        await c.until(lambda: c.released)
        assert sorted(book.commitments) == [0, 1, 2]
        (told,) = s.agent._notes.state.contradictions
        assert "lease-1" in told
        assert "value 2" in told

    play(tmp_path, act)


def test_terms_that_somebody_else_signed_are_declined(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        book = c.offer("e" * 64, spec_for(25, 10), lease_id="unused")
        forged = worker_pb2.LeaseOffered()
        forged.CopyFrom(book.message)
        forged.device_id = DEVICE_ID
        forged.challenge_terms.CopyFrom(c.terms(book, OWNER_KEY))
        c.send(worker_pb2.SessionResponse(lease_offered=forged))
        await c.until(lambda: len(c.released) == 2)
        assert {item.reason for item in c.released} == {"DECLINED"}

    play(tmp_path, act)


def test_values_are_checked_against_the_stored_lease_after_a_restart(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        c.answers_held = True
        book = c.offer(DEVICE_ID, spec_for(40, 10))
        await c.until(lambda: len(book.commitments) == 4)
        await s.crash_agent()
        c.answers_held = False
        c.false_values = {2}
        s.start_agent()
        await s.connected(2)
        await c.until(lambda: c.released)
        (told,) = s.agent._notes.state.contradictions
        assert "value 3" in told

    play(tmp_path, act)


def test_commitments_are_opened_as_often_as_asked_and_long_after_their_lease(
    tmp_path: Path,
) -> None:
    """The same secret each time, also after a crash, and a refusal for what is not known."""

    async def act(s: Scene) -> None:
        c = s.coordinator
        book = c.offer(DEVICE_ID, spec_for(20, 10))
        await c.until(lambda: c.released)
        assert lease_folders(tmp_path) == []
        for times in (1, 2):
            c.ask_opening("lease-1", 1)
            await c.until(lambda times=times: len(c.opened) == times)
        await s.crash_agent()
        s.start_agent()
        await s.connected(2)
        for index in (1, 0, 2):
            c.ask_opening("lease-1", index)
        c.ask_opening("lease-2", 0)
        await c.until(lambda: len(c.opened) == 6)
        asked = [("lease-1", 1)] * 3 + [("lease-1", 0), ("lease-1", 2), ("lease-2", 0)]
        assert [(item.lease_id, item.segment_index) for item in c.opened] == asked
        first, *again = [c.secret(item) for item in c.opened[:3]]
        assert again == [first, first]
        assert seal_inner(first) == book.commitments[1].sealed_inner
        other = c.secret(c.opened[3])
        assert seal_inner(other) == book.commitments[0].sealed_inner
        assert other.salt != first.salt
        for refusal in c.opened[4:]:
            assert not refusal.HasField("secret")
            assert refusal.code == "OPENING_UNKNOWN"

    play(tmp_path, act)


def test_a_commitment_that_is_sent_again_is_the_same_one(tmp_path: Path) -> None:
    """Also after a crash: another salt would make it another claim."""

    async def act(s: Scene) -> None:
        c = s.coordinator
        c.answers_held = True
        book = c.offer(DEVICE_ID, spec_for(20, 10))
        await c.until(lambda: 0 in book.commitments)
        before = book.commitments[0]
        await s.crash_agent()
        del book.commitments[0]
        c.answers_held = False
        s.start_agent()
        await c.until(lambda: c.released)
        assert book.commitments[0] == before

    play(tmp_path, act)


def test_the_key_that_committed_opens_after_another_took_its_place(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        book = c.offer(DEVICE_ID, spec_for(20, 10))
        await c.until(lambda: c.released)
        s.stop.set()
        await s.task
        s.key = KeyPair.generate()
        for times, former in enumerate(((DEVICE_KEY,), ()), 1):
            s.former = former
            s.start_agent()
            await s.connected(times + 1)
            c.ask_opening("lease-1", 1)
            await c.until(lambda times=times: len(c.opened) == times)
            await s.crash_agent()
        opened, unknown = c.opened
        secret = open_envelope(
            envelope_from_proto(opened.secret),
            InnerSecret,
            keys=keys_by_id(DEVICE_KEY.public),
            audience=COORDINATOR.key_id,
            now_us=None,
            replay=None,
        ).body
        assert seal_inner(secret) == book.commitments[1].sealed_inner
        assert unknown.code == "OPENING_UNKNOWN", "without the former key nobody can sign it"

    play(tmp_path, act)
