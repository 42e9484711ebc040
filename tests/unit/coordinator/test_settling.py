"""Settling: what a commitment and a verdict cost does not depend on how long the job is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flopmarket.limits import SEGMENTS_READ_AT_ONCE
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.store.records import JobRow, SegmentRow
from flopmarket_coordinator.store.rows import Rows
from tests.unit.coordinator.world import World

SEGMENTS = 40


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """Every row of a job or segment that the store reads from now on."""
    read: list[type] = []
    original: Callable[..., Any] = Rows.record

    def counting(self: Rows[Any], row: object) -> object:
        record = original(self, row)
        if isinstance(record, (JobRow, SegmentRow)):
            read.append(type(record))
        return record

    monkeypatch.setattr(Rows, "record", counting)
    return read


@pytest.mark.parametrize("stateless", [False, True])
def test_work_of_a_commitment_and_a_verdict_is_the_same_at_every_length(
    world: World, rows_read: list[type], stateless: bool
) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    job = buyer.submit(steps=SEGMENTS, segment_steps=1, stateless=stateless)
    counts: list[int] = []
    while buyer.job(job.job_id).state is not JobState.SUCCEEDED:
        del rows_read[:]
        (lease,) = world.offers()
        worker.accept(lease)
        for _ in range(lease.step_count):
            worker.commit(lease, 1)
            world.audit()
            counts.append(len(rows_read))
            del rows_read[:]
    assert len(counts) == SEGMENTS
    settled = counts[5 : SEGMENTS - 1]  # the last one ends the job, with a receipt of all
    assert max(settled) == settled[0], "what is not drawn takes less, and nothing ever more"


@pytest.mark.parametrize("stateless", [False, True])
def test_a_backlog_of_audits_is_not_read_again_and_again(
    world: World, rows_read: list[type], stateless: bool
) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    job = buyer.submit(steps=SEGMENTS, segment_steps=1, stateless=stateless)
    most = 0
    while buyer.job(job.job_id).state is not JobState.VERIFYING:
        (lease,) = world.offers()
        worker.accept(lease)
        for _ in range(lease.step_count):
            del rows_read[:]
            worker.commit(lease, 1)
            most = max(most, len(rows_read))
    assert most < 2 * SEGMENTS_READ_AT_ONCE
    world.audit_all()
    assert buyer.job(job.job_id).state is JobState.SUCCEEDED
