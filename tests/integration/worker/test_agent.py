"""The agent against a coordinator on loopback: what a lease comes to, whatever goes wrong."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from pathlib import Path

import pytest

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.errors import Unauthenticated
from flopmarket.jobs import bundle
from flopmarket_worker.asking import parse_ask
from flopmarket_worker.offers import OwnerTerms
from flopmarket_worker.tariff import Tariff, parse_tariff
from flopmarket_worker.telemetry.ports import DeclaredPower
from flopmarket_worker.week import Hour
from tests.integration.worker.fake_job import spec_for, state_after
from tests.integration.worker.scenes import (
    DEVICE_ID,
    DEVICE_KEY,
    OWNER_KEY,
    Scene,
    lease_folders,
    offered,
    play,
)


def test_a_lease_runs_to_its_end_and_is_given_back(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        book = c.offer(DEVICE_ID, spec_for(25, 10))
        await c.until(lambda: c.released)
        assert [(k.first_step, k.steps_done) for k in book.commitments.values()] == [
            (0, 10),
            (10, 10),
            (20, 5),
        ]
        last = book.commitments[2]
        assert last.state_root_after == bundle.root(state_after(25))
        assert last.state_root_before == book.commitments[1].state_root_after
        assert sorted(book.checkpoints) == [1, 2]  # every second segment, and the job's end
        saved = bundle.load(c.artifacts[book.checkpoints[2]])
        assert bundle.root(saved) == last.state_root_after
        assert c.released[0].reason == "FINISHED"
        assert c.accepted[0].step_count == 25
        assert s.engine.closed_jobs == 1
        assert lease_folders(tmp_path) == []
        assert s.engine.ran == list(range(25))

    play(tmp_path, act)


def test_the_offer_is_signed_and_the_device_key_enrolled(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        offer = s.coordinator.offers[0]
        assert offer.device_id == DEVICE_ID
        assert offer.device_key_id == DEVICE_KEY.key_id
        assert offer.account_id == OWNER_KEY.key_id
        assert [rate.work_class for rate in offer.rates] == sorted(WORK_CLASSES)
        assert (offer.watts_milli, str(offer.watts_source)) == (65_000, "declared")
        assert s.coordinator.registered == {OWNER_KEY.key_id}
        assert s.coordinator.granted == {DEVICE_KEY.key_id}

    play(tmp_path, act)


def test_a_new_hour_makes_a_new_signed_offer_and_leases_keep_their_terms(tmp_path: Path) -> None:
    tariff = parse_tariff(b"default = 0.30\n[[window]]\nfrom = 22\nto = 6\nprice = 0.10")

    async def act(s: Scene) -> None:
        c = s.coordinator
        c.hang_up()  # the agent started with an amount: come again with the formula
        await s.crash_agent()
        s.terms = OwnerTerms(1, 0, DeclaredPower(100_000), "", parse_ask("electricity", tariff))
        s.start_agent()
        await c.until(lambda: [offer.ask_nano_per_hour for offer in c.offers] == [30_000_000])
        s.engine.step_seconds = 0.02
        c.offer(DEVICE_ID, spec_for(10_000, 100))
        await c.until(lambda: any(p.step > 1 for b in c.heartbeats for p in b.progress))
        s.hour = Hour(0, 22)
        await c.until(lambda: len(c.offers) == 2)
        assert c.offers[1].ask_nano_per_hour == 10_000_000
        seen = len(c.heartbeats)
        await c.until(lambda: len(c.heartbeats) > seen + 3)
        assert len(c.offers) == 2, "an hour is told once"
        s.hour = Hour(0, 21)  # the clock steps back
        await c.until(lambda: len(c.offers) == 3)
        assert c.offers[2].ask_nano_per_hour == 30_000_000
        assert not c.released, "the lease that runs is not touched"

    play(tmp_path, act)


def test_an_hour_without_a_value_takes_the_offer_off_the_market(tmp_path: Path) -> None:
    formula = parse_ask("tariff - hour / 100", Tariff(Fraction("0.20")))

    async def act(s: Scene) -> None:
        c = s.coordinator
        c.hang_up()
        await s.crash_agent()
        s.terms = OwnerTerms(1, 0, DeclaredPower(100_000), "", formula)
        s.start_agent()
        await c.until(lambda: [offer.ask_nano_per_hour for offer in c.offers] == [80_000_000])
        s.hour = Hour(0, 20)
        await c.until(lambda: c.withdrawn == [DEVICE_ID])
        s.hour = Hour(0, 21)
        seen = len(c.heartbeats)
        await c.until(lambda: len(c.heartbeats) > seen + 3)
        assert c.withdrawn == [DEVICE_ID], "it is told once"
        s.hour = Hour(1, 0)
        await c.until(lambda: len(c.offers) == 2)
        assert c.offers[1].ask_nano_per_hour == 200_000_000

    play(tmp_path, act)


def test_without_an_owner_key_an_unknown_device_is_an_error(tmp_path: Path) -> None:
    async def run() -> None:
        built = Scene(tmp_path)
        built.owner = None
        await built.coordinator.start()
        built.start_agent()
        with pytest.raises(Unauthenticated, match="account-key"):
            async with asyncio.timeout(5):
                await built.task
        await built.coordinator.stop()

    asyncio.run(run())


def test_progress_travels_in_heartbeats(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        s.engine.step_seconds = 0.02
        c.offer(DEVICE_ID, spec_for(10_000, 100))
        await c.until(lambda: any(p.step > 3 for b in c.heartbeats for p in b.progress))
        beat = next(b for b in c.heartbeats if b.progress)
        assert beat.held[0].lease_id == "lease-1"
        assert beat.progress[0].scalars["loss"] > 0

    play(tmp_path, act)


def test_a_connection_lost_in_the_middle_of_a_segment_loses_no_step(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        s.engine.step_seconds = 0.01
        book = c.offer(DEVICE_ID, spec_for(60, 20))
        await c.until(lambda: len(s.engine.ran) > 5)
        c.hang_up()
        await s.connected(2)
        await c.until(lambda: c.released)
        assert sorted(book.commitments) == [0, 1, 2]
        assert s.engine.ran == list(range(60))
        assert c.hellos[1].held[0].lease_id == "lease-1"

    play(tmp_path, act)


def test_work_goes_on_while_the_coordinator_is_away(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        s.engine.step_seconds = 0.004
        book = c.offer(DEVICE_ID, spec_for(200, 20))
        await c.until(lambda: len(s.engine.ran) > 5)
        await c.stop()
        before = len(book.commitments)
        await c.until(lambda: len(s.engine.ran) == (before + 4) * 20)
        await asyncio.sleep(0.2)
        assert len(s.engine.ran) == (before + 4) * 20  # four ahead, and no further
        await c.start()
        await c.until(lambda: c.released, seconds=15)
        assert sorted(book.commitments) == list(range(10))
        assert s.engine.ran == list(range(200))

    play(tmp_path, act)


def test_a_revoked_lease_stops_and_its_folder_goes(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        s.engine.step_seconds = 0.01
        book = c.offer(DEVICE_ID, spec_for(1000, 500))
        await c.until(lambda: len(s.engine.ran) > 5)
        c.revoke("lease-1")
        await c.until(lambda: s.engine.closed_jobs == 1)
        await c.until(lambda: not lease_folders(tmp_path))
        assert not book.commitments
        assert len(s.engine.ran) < 100
        # The device is free again, in the same process.
        c.offer(DEVICE_ID, spec_for(5, 5), lease_id="lease-2", fence=2)
        await c.until(lambda: c.released)
        assert (c.released[0].lease_id, c.released[0].reason) == ("lease-2", "FINISHED")
        assert s.engine.starts == 1

    play(tmp_path, act)


def test_a_refused_commitment_gives_the_lease_back(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        s.engine.step_seconds = 0.002
        c.refuse_commit = lambda body: "STATE_MISMATCH" if body.segment_index == 1 else ""
        book = c.offer(DEVICE_ID, spec_for(10_000, 10))
        await c.until(lambda: c.released)
        assert sorted(book.commitments)[0] == 0
        assert "STATE_MISMATCH" in c.released[0].detail
        assert s.agent.machine.idle

    play(tmp_path, act)


def test_a_job_that_the_engine_refuses_is_given_back(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        s.engine.refuse = "JOB_PROGRAM"
        c.offer(DEVICE_ID, spec_for(10, 10))
        await c.until(lambda: c.released)
        assert c.released[0].reason == "PROGRAM_REFUSED"
        assert "JOB_PROGRAM" in c.released[0].detail

    play(tmp_path, act)


def test_a_spec_of_another_job_is_declined(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        book = c.offer(DEVICE_ID, spec_for(10, 10))
        forged = type(book.message)()
        forged.CopyFrom(book.message)
        forged.lease_id, forged.job_id = "forged", "0" * 64
        c.send(offered(forged))
        await c.until(lambda: any(r.lease_id == "forged" for r in c.released))
        released = next(r for r in c.released if r.lease_id == "forged")
        assert "LEASE_JOB_MISMATCH" in released.detail

    play(tmp_path, act)


def test_a_dead_engine_is_replaced_once_and_nothing_is_committed_twice(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        s.engine.die_at = {33}
        book = c.offer(DEVICE_ID, spec_for(60, 10))
        await c.until(lambda: c.released)
        assert c.released[0].reason == "FINISHED"
        assert sorted(book.commitments) == list(range(6))
        assert s.engine.starts == 2
        assert s.engine.ran == [*range(33), *range(30, 60)]  # from the last state on disk

    play(tmp_path, act)


def test_an_engine_that_dies_again_gives_the_lease_back(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        s.engine.die_at = {33, 34}
        book = c.offer(DEVICE_ID, spec_for(60, 10))
        await c.until(lambda: c.released)
        assert c.released[0].reason == "EXECUTOR_DIED"
        assert sorted(book.commitments) == [0, 1, 2]  # what was finished is reported
        assert lease_folders(tmp_path) == []

    play(tmp_path, act)


def test_stopping_commits_the_short_segment_and_releases(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        s.engine.step_seconds = 0.01
        book = c.offer(DEVICE_ID, spec_for(1000, 500))
        await c.until(lambda: len(s.engine.ran) > 5)
        s.stop.set()
        async with asyncio.timeout(3):
            await s.task
        await c.until(lambda: c.released)
        assert c.released[0].reason == "DRAINING"
        commitment = book.commitments[0]
        assert 5 < commitment.steps_done < 500
        assert commitment.state_root_after == bundle.root(state_after(commitment.steps_done))
        assert book.checkpoints[0]  # a small state is made durable, so that the steps can be paid
        assert s.engine.dead
        assert lease_folders(tmp_path) == []

    play(tmp_path, act)


def test_after_a_crash_the_lease_goes_on_from_disk(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        s.engine.step_seconds = 0.005
        book = c.offer(DEVICE_ID, spec_for(60, 20))
        await c.until(lambda: len(s.engine.ran) > 25 and 0 in book.commitments)
        await s.crash_agent()
        ran = len(s.engine.ran)
        s.start_agent()
        await s.connected(2)
        await c.until(lambda: c.released)
        assert c.released[0].reason == "FINISHED"
        assert sorted(book.commitments) == [0, 1, 2]
        assert s.engine.ran[ran] in (20, 40)  # a segment's start, not the job's

    play(tmp_path, act)


def test_after_a_crash_a_lost_lease_is_dropped(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        s.engine.step_seconds = 0.005
        c.offer(DEVICE_ID, spec_for(60, 20))
        await c.until(lambda: len(s.engine.ran) > 5)
        await s.crash_agent()
        assert lease_folders(tmp_path)
        c.leases["lease-1"].state = "revoked"
        s.start_agent()
        await s.connected(2)
        await c.until(lambda: not lease_folders(tmp_path))
        assert s.agent.machine.idle

    play(tmp_path, act)


def test_a_forgotten_token_is_replaced(tmp_path: Path) -> None:
    async def act(s: Scene) -> None:
        c = s.coordinator
        tokens = len(c.tokens)
        c.tokens.clear()
        c.hang_up()
        await s.connected(2)
        assert 0 < len(c.tokens) <= tokens
        c.offer(DEVICE_ID, spec_for(5, 5))
        await c.until(lambda: c.released)

    play(tmp_path, act)
