"""What the collector frees, and what it must keep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.errors import QuotaExceeded
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import work
from tests.unit.coordinator.world import World

DAY_US = 24 * 3_600 * SECOND_US


def collected(world: World) -> set[str]:
    plan = world.see(world.application.plan_collection)
    return set(world.do(world.application.collect, plan))


def stored(world: World) -> set[str]:
    return {digest for digest in world.artifacts.stored if world.see(work.artifact_size, digest)}


def test_unused_uploads_go_after_their_time(world: World) -> None:
    buyer = world.buyer()
    old = buyer.upload(b"never used")
    world.now_us += 6 * DAY_US
    young = buyer.upload(b"used by nobody yet")
    assert collected(world) == set()
    world.now_us += 2 * DAY_US
    assert collected(world) == {old}
    assert young in stored(world)
    assert old not in stored(world)


def test_an_upload_again_renews(world: World) -> None:
    buyer = world.buyer()
    digest = buyer.upload(b"bytes")
    world.now_us += 6 * DAY_US
    buyer.upload(b"bytes")
    world.now_us += 6 * DAY_US
    assert collected(world) == set()
    assert digest in stored(world)


def test_a_job_keeps_its_files_while_it_runs_and_a_month_longer(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("one")
    job = buyer.submit(deadline_us=world.now_us + 365 * DAY_US)
    world.now_us += 40 * DAY_US
    assert collected(world) == set()
    worker.session = world.session(worker.key, worker.account, worker.session.role)
    worker.hello()
    worker.run(world.offers()[0])
    world.audit_all()
    buyer.session = world.session(buyer.key, buyer.account, buyer.session.role)
    everything = stored(world)
    assert len(everything) > 4  # program, state, data, outputs, checkpoints
    world.now_us += 29 * DAY_US
    assert collected(world) == set()
    assert stored(world) == everything
    world.now_us += 2 * DAY_US
    assert collected(world) == everything
    buyer.session = world.session(buyer.key, buyer.account, buyer.session.role)
    assert buyer.job(job.job_id).state == "succeeded"


def test_what_a_new_job_needs_is_kept_though_the_plan_named_it(world: World) -> None:
    buyer = world.buyer()
    spare = buyer.upload(b"spare")
    request = buyer.request(buyer.spec(deadline_us=world.now_us + 90 * DAY_US))
    world.now_us += 8 * DAY_US
    plan = world.see(world.application.plan_collection)
    assert len(plan.digests) == 4
    buyer.session = world.session(buyer.key, buyer.account, buyer.session.role)
    spec = buyer.spec("later")
    again = replace(request, request_id="later", spec=world.sign(spec, buyer.key))
    world.do(world.application.submit, buyer.session, again)
    assert world.do(world.application.collect, plan) == [spare]


def test_what_was_uploaded_again_is_kept_though_the_plan_named_it(world: World) -> None:
    buyer = world.buyer()
    first, second = buyer.upload(b"first"), buyer.upload(b"second")
    world.now_us += 8 * DAY_US
    plan = world.see(world.application.plan_collection)
    assert set(plan.digests) == {first, second}
    buyer.session = world.session(buyer.key, buyer.account, buyer.session.role)
    buyer.upload(b"second")
    assert world.do(world.application.collect, plan) == [first]


def test_the_quota_counts_what_is_stored_and_on_its_way(tmp_path: Path) -> None:
    world = World(tmp_path, Parameters(max_stored_bytes_per_account=100))
    buyer, other = world.buyer(), world.buyer("other")
    buyer.upload(b"x" * 60)
    buyer.upload(b"x" * 60)  # the same bytes again cost nothing
    with pytest.raises(QuotaExceeded) as refused:
        buyer.upload(b"y" * 41)
    assert refused.value.code == "ARTIFACT_STORAGE_QUOTA"
    buyer.upload(b"y" * 40)
    other.upload(b"x" * 100)
    with pytest.raises(QuotaExceeded):
        world.see(world.application.artifact_may_put, other.session, 1, "")
    world.store.dispose()


def test_collections_are_on_the_trail(world: World) -> None:
    digest = world.buyer().upload(b"never used")
    world.now_us += 8 * DAY_US
    assert collected(world) == {digest}
    with world.store.connect() as connection:
        query = "SELECT detail FROM decision WHERE kind = 'artifacts-collected'"
        assert connection.exec_driver_sql(query).scalars().all() == [digest]
