"""kill -9 at every phase of a job, in order and at random: the end is always the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from flopmarket.client.orders import Order
from tests.integration.market.conftest import Expected
from tests.integration.market.processes import (
    LEASE_TTL_SECONDS,
    Market,
    Provider,
    assert_paid_once,
    fences,
    story,
)

RANDOM_KILLS = 10
SEED = 20


def assert_as_if_nothing_happened(
    market: Market, job_id: str, long_job: Expected, *workers: Provider
) -> None:
    """Digest, pay and fences after any number of kills; every step is sold exactly once."""
    market.wait_for_offers(*workers)
    with market.client() as buyer:
        job = buyer.wait(job_id)
        assert job.state.value == "succeeded", story(market.events(job_id))
        tensors = buyer.fetch(job_id)
    assert tensors.receipt is not None
    receipt = tensors.receipt.receipt
    assert (receipt.final_state_root + receipt.outputs_root).hex() == long_job.digest
    assert_paid_once(market, job)
    settled = sorted((s.first_step, s.steps) for s in job.segments if s.state == "settled")
    ends = [first + steps for first, steps in settled]
    assert [first for first, _ in settled] == [0, *ends[:-1]] and ends[-1] == job.steps
    seen = fences(market.events(job_id))
    assert seen == list(range(1, len(seen) + 1))


def kill_and_start(provider: Provider) -> None:
    """The agent dies and is started again by its owner."""
    provider.process.kill()
    provider.process.start()


def test_kills_in_the_order_of_a_jobs_life(market: Market, long_job: Expected) -> None:
    """One kill at each event that opens a phase, all on one job."""
    with market.client() as buyer:
        handle = buyer.submit(long_job.job, "0.01", order=Order(wait=True))
        market.restart_coordinator()  # queued: there is no worker yet
    worker = market.worker("unlucky", wait=False)
    script: list[tuple[str, Callable[[], None]]] = [
        ("leased", lambda: kill_and_start(worker)),  # before it answers
        ("accepted", market.restart_coordinator),  # fetching, loading
        ("progress", worker.process.kill_engine),  # running
        ("committed", lambda: kill_and_start(worker)),  # uploading the next
        ("committed", market.restart_coordinator),  # waiting for the audit
        ("verified", market.coordinator.kill_engine),  # auditing the next
        ("paid", market.restart_coordinator),  # settling
    ]
    at = 0
    with market.client() as buyer:
        for event in buyer.watch(handle.job_id):
            if at < len(script) and event.kind == script[at][0]:
                script[at][1]()
                at += 1
    assert at == len(script), story(market.events(handle.job_id))
    assert_as_if_nothing_happened(market, handle.job_id, long_job, worker)


def test_kills_at_random_moments(market: Market, long_job: Expected) -> None:
    """Anybody may die at any time, also several after each other."""
    chance = random.Random(SEED)
    began = time.monotonic()
    workers = [market.worker(name, wait=False) for name in ("left", "right")]
    market.wait_for_offers(*workers)
    start_seconds = time.monotonic() - began
    victims: list[Callable[[], None]] = [
        market.restart_coordinator,
        market.coordinator.kill_engine,
        *(worker.process.kill_engine for worker in workers),
        *(lambda worker=worker: kill_and_start(worker) for worker in workers),
    ]
    began = time.monotonic()
    with market.client() as buyer:
        handle = buyer.submit(long_job.job)
        for _ in range(RANDOM_KILLS):
            time.sleep(chance.uniform(0.05, 0.6))
            chance.choice(victims)()
    assert_as_if_nothing_happened(market, handle.job_id, long_job, *workers)
    # each kill costs a lease that runs out and a start, as long as that takes on this machine
    assert time.monotonic() - began < RANDOM_KILLS * (LEASE_TTL_SECONDS + start_seconds)
