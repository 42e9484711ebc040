"""The same job, one digest, whatever is killed in the middle; and nobody pays twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flopmarket.client import Client
from flopmarket.client.results import JobResult
from tests.integration.market.conftest import Expected
from tests.integration.market.processes import (
    Market,
    assert_paid_once,
    digest,
    fences,
    prices_of,
    story,
    wait_for_steps,
)
from tests.one_digest import ONE_DIGEST, one_digest_job


@dataclass(frozen=True, slots=True)
class Run:
    """A submitted job whose end is still to come."""

    buyer: Client
    job_id: str

    def in_the_middle(self) -> None:
        """Return once a third is committed: another segment is under way then."""
        whole = self.buyer.job(self.job_id).steps
        found = wait_for_steps(self.buyer, self.job_id, whole // 3)
        assert found.steps_committed < whole, "too late: this machine wants a longer job"

    def when_all_is_committed(self) -> None:
        """Return when nothing is left to compute, and something to audit."""
        whole = self.buyer.job(self.job_id).steps
        assert wait_for_steps(self.buyer, self.job_id, whole).steps_verified < whole


@contextmanager
def submitted(market: Market, expected: Expected, *, most_leases: int) -> Iterator[Run]:
    """Submit; after the block the job must end as if nothing had happened in it."""
    prices = prices_of(market, expected.job)
    with market.client() as buyer:
        handle = buyer.submit(expected.job)
        yield Run(buyer, handle.job_id)
        result = handle.wait()
    assert_undisturbed(market, result, expected, prices)
    seen = fences(market.events(result.job_id))
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) <= most_leases, story(market.events(result.job_id))


def assert_undisturbed(
    market: Market, result: JobResult, expected: Expected, prices: frozenset[int]
) -> None:
    """Digest, price and pay are those of a run in which nothing was killed.

    A second lease has a price of its own, since what was delivered under the first one corrects
    it, but never one that brings the job above its ceiling.
    """
    assert digest(result) == expected.digest
    if len(fences(market.events(result.job_id))) == 1:
        assert result.billed.nano in prices, story(market.events(result.job_id))
    assert result.billed.nano <= result.job.ceiling.nano
    assert_paid_once(market, result.job)
    assert not [s for s in result.job.segments if s.state == "rejected"]


def test_one_worker(market: Market) -> None:
    market.worker("solo")
    job = one_digest_job()
    with submitted(market, Expected(job, ONE_DIGEST), most_leases=1):
        pass


def test_a_killed_worker_is_replaced(market: Market, long_job: Expected) -> None:
    first = market.worker("first")
    with submitted(market, long_job, most_leases=2) as run:
        run.in_the_middle()
        first.process.kill()
        second = market.worker("second")
    with market.client() as buyer:
        job = buyer.job(run.job_id)
    paid = {s.worker_key_id for s in job.segments if s.state == "settled"}
    assert paid == {first.device_key_id, second.device_key_id}
    assert fences(market.events(run.job_id)) == [1, 2]


def test_the_executor_is_killed(market: Market, long_job: Expected) -> None:
    """The agent lives on, starts another engine and keeps its lease."""
    worker = market.worker("phoenix")
    agent = worker.process.pid
    with submitted(market, long_job, most_leases=1) as run:
        run.in_the_middle()
        worker.process.kill_engine()
    assert worker.process.runs and worker.process.pid == agent
    assert "ENGINE_PROCESS_DIED" in worker.process.log


def test_the_agent_is_killed_and_starts_again(market: Market, long_job: Expected) -> None:
    """It goes on from its own disk, with the lease it had."""
    worker = market.worker("comeback")
    with submitted(market, long_job, most_leases=2) as run:
        run.in_the_middle()
        worker.process.kill()
        worker.process.start()
    assert "found on disk" in worker.process.log


def test_the_coordinator_is_killed_in_the_middle_of_a_segment(
    market: Market, long_job: Expected
) -> None:
    """The worker computes on and reports afterwards; its lease is not held against it."""
    market.worker("patient")
    with submitted(market, long_job, most_leases=1) as run:
        run.in_the_middle()
        market.restart_coordinator()


def test_the_coordinator_is_killed_in_the_middle_of_an_audit(
    market: Market, long_job: Expected
) -> None:
    """All work is done, verification is not: the audit is taken up where the books say."""
    market.worker("done")
    with submitted(market, long_job, most_leases=1) as run:
        run.when_all_is_committed()
        market.restart_coordinator()


def test_the_auditors_engine_is_killed(market: Market, long_job: Expected) -> None:
    """A fault of the house, held against nobody."""
    market.worker("watched")
    with submitted(market, long_job, most_leases=1) as run:
        run.in_the_middle()
        market.coordinator.kill_engine()
