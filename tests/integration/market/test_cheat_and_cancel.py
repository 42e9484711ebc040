"""A cheat among honest workers, and a buyer who changes its mind."""

from __future__ import annotations

from flopmarket.jobs import bundle
from flopmarket.jobs.prepared import run_local
from tests.integration.market.conftest import Expected
from tests.integration.market.processes import (
    Market,
    assert_paid_once,
    digest,
    eventually,
    fences,
    story,
    wait_for_steps,
)
from tests.one_digest import ONE_DIGEST, one_digest_job

BOND = "0.05"
BOND_NANO = 50_000_000


def test_a_cheat_is_caught_slashed_and_banned(market: Market) -> None:
    """The cheapest worker returns weights that are off by one bit."""
    cheat = market.worker("mallory", ask="0.05", fault="wrong-weights", bond=BOND, wait=False)
    honest = [market.worker(name, wait=False) for name in ("ada", "grace")]
    market.wait_for_offers(cheat, *honest)
    with market.client() as buyer:
        before = buyer.account().available.nano
        quote = buyer.quote(one_digest_job())
        result = buyer.run(one_digest_job())
        after = buyer.account().available.nano
    events = market.events(result.job_id)
    assert digest(result) == ONE_DIGEST
    rejected = {s.worker_key_id for s in result.job.segments if s.state == "rejected"}
    assert rejected == {cheat.device_key_id}
    paid = {s.worker_key_id for s in result.job.segments if s.state == "settled"}
    assert paid <= {worker.device_key_id for worker in honest}
    assert len(fences(events)) >= 2, story(events)
    # Of the forfeited bond the buyer gets the price of the lie, which was not paid for.
    settled = [s for s in result.job.segments if s.state == "settled"]
    assert sum(s.steps for s in settled) == result.job.steps
    assert result.billed.nano == sum(s.price.nano for s in settled) <= quote.ceiling.nano
    lies = sum(s.price.nano for s in result.job.segments if s.state == "rejected")
    assert 0 < lies <= BOND_NANO // 2
    assert after == before - result.billed.nano + lies
    with market.client(cheat.owner) as client:
        account = client.account()
        assert (account.bond.nano, account.held.nano, account.available.nano) == (0, 0, 0)
        assert cheat.owner.key_id not in {offer.account_id for offer in client.offers()}
    # The agent ends by itself and tells its owner why.
    eventually(lambda: not cheat.process.runs, "the cheat's agent ends")
    assert "KEY_BANNED" in cheat.process.log and "STATE_DIFFERS" in cheat.process.log
    # Starting it again with the same keys does not help.
    cheat.process.start()
    eventually(lambda: not cheat.process.runs, "the banned agent ends again")


def test_a_cancelled_job_pays_what_is_finished(market: Market, long_job: Expected) -> None:
    """The rest of the money returns, and the worker is free for the next job."""
    worker = market.worker("flexible")
    engines = worker.process.engines()
    with market.client() as buyer:
        before = buyer.account()
        handle = buyer.submit(long_job.job)
        wait_for_steps(buyer, handle.job_id, 60)
        handle.cancel()
        job = handle.watch()
        after = buyer.account()
        assert job.state.value == "cancelled"
        settled = [s for s in job.segments if s.state == "settled"]
        assert 60 <= sum(s.steps for s in settled) < job.steps
        assert after.available.nano == before.available.nano - job.billed.nano
        assert after.reserved.nano == 0
        assert_paid_once(market, job)
        # What was paid for can be fetched, and is what the local run has at that step.
        partial = buyer.fetch(handle.job_id)
        steps = sum(segment.steps for segment in settled)
        assert bundle.root(partial.state) == run_local(long_job.job, steps=steps).state_root
        result = buyer.run(one_digest_job())
    assert digest(result) == ONE_DIGEST
    assert {s.worker_key_id for s in result.job.segments} == {worker.device_key_id}
    # The same engine process went on, and nothing of either job is left on the worker's disk.
    assert worker.process.engines() == engines
    leases = market.folder / "flexible-work" / "leases"
    eventually(
        lambda: not any(path.is_dir() for path in leases.iterdir()), "lease folders are deleted"
    )
