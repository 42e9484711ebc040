"""Market and limit orders from submission to their end, and why one of them waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flopmarket.errors import FlopmarketError, InvalidInput, Unavailable
from flopmarket.market.headline import unit_price_nano
from flopmarket.market.order import MARKET_ORDER, PFLOP, Constraints, OrderTerms, OrderType
from flopmarket.market.price import price
from flopmarket.market.reasons import REASONS, Reason
from flopmarket_coordinator.application.types_buying import QuoteRequest
from flopmarket_coordinator.application.types_orders import JobExplanation
from flopmarket_coordinator.application.types_working import LeaseOffered
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.parameters import SECOND_US
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer
from tests.unit.coordinator.world_work import ASK, digest_of, program

CLASS = "elementwise-f32"
"""The headline class of the test program: it adds and multiplies."""
HOUR_US = 3_600 * SECOND_US


def operations(stateless: bool = False) -> int:
    return program(stateless).cost.flops[CLASS]


def limit(unit_price: int, **asked: object) -> OrderTerms:
    constraints = Constraints(CLASS, unit_price, **asked)  # type: ignore[arg-type]
    return OrderTerms(OrderType.LIMIT, constraints)


def unit_price(world: World, buyer: Buyer, *, stateless: bool = False) -> int:
    """What a PFLOP of the job costs on the cheapest offer of this moment."""
    request = QuoteRequest(program(stateless).to_bytes(), "", 12, 3)
    quote = world.see(world.application.quote, request, buyer.account)
    return unit_price_nano(price(quote.offers[0].terms, 1), operations(stateless))


def explain(world: World, buyer: Buyer, job_id: str) -> JobExplanation:
    return world.see(world.application.explain_job, buyer.session, job_id)


def refused(world: World, buyer: Buyer, **changes: object) -> FlopmarketError:
    before = buyer.available
    request = buyer.request(buyer.spec("refused", **changes))
    with pytest.raises(FlopmarketError) as error:
        world.do(world.application.submit, buyer.session, request)
    assert buyer.available == before
    return error.value


def reserved(world: World, buyer: Buyer) -> int:
    return world.see(world.application.balances, buyer.session).reserved_nano


# --- market orders ----------------------------------------------------------------------------


def test_a_market_order_without_any_offer_is_refused_and_says_how_to_wait(world: World) -> None:
    error = refused(world, world.buyer(), order=MARKET_ORDER)
    assert isinstance(error, Unavailable) and error.exit_code == 7
    assert error.code == "NO_FITTING_OFFER" and not error.retryable
    assert "NO_OFFERS" in error.message and "--wait" in error.hint


def test_a_refusal_counts_reasons_and_names_remedies(world: World) -> None:
    world.worker("near", region="eu-de", milliwatts=100_000)
    world.worker("far", region="us-ca", milliwatts=100_000)
    world.worker("nowhere")
    world.worker("small", memory=10)
    order = OrderTerms(OrderType.MARKET, Constraints(allowed_regions=("jp",)))
    error = refused(world, world.buyer(), order=order)
    assert error.code == "NO_FITTING_OFFER"
    assert "REGION 3" in error.message and "MEMORY 1" in error.message
    assert REASONS[Reason.REGION].remedy in error.hint
    assert error.details["reasons"] == "MEMORY=1,REGION=3"


def test_a_market_order_takes_the_best_ask_that_fits(world: World) -> None:
    world.worker("cheapest", ask=ASK // 4, region="us")
    fits = world.worker("fits", ask=ASK // 2, region="eu-de")
    world.worker("dear", ask=ASK, region="eu-fr")
    buyer = world.buyer()
    order = OrderTerms(OrderType.MARKET, Constraints(allowed_regions=("eu",)))
    buyer.submit(order=order)
    (lease,) = world.offers()
    assert lease.device_key_id == fits.key.key_id


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"denied_regions": ("us",)}, "green"),
        ({"min_memory_bytes": 1 << 31}, "large"),
        ({"work_class": CLASS, "min_flops_per_watt": 10}, "green"),
        ({}, "cheap"),
    ],
)
def test_each_constraint_chooses_its_card(
    world: World, asked: dict[str, object], expected: str
) -> None:
    world.worker("cheap", ask=ASK // 4, region="us", milliwatts=1_000_000)
    world.worker("green", ask=ASK // 2, region="eu", milliwatts=100_000)
    world.worker("large", ask=ASK, memory=1 << 32, milliwatts=1_000_000)
    buyer = world.buyer()
    buyer.submit(order=OrderTerms(OrderType.MARKET, Constraints(**asked)))  # type: ignore[arg-type]
    (lease,) = world.offers()
    assert lease.device_id == digest_of(f"card {expected}").hex()


def test_owners_are_allowed_and_denied_by_account(world: World) -> None:
    cheap = world.worker("cheap", ask=ASK // 2)
    dear = world.worker("dear", ask=ASK)
    buyer = world.buyer()
    only = OrderTerms(OrderType.MARKET, Constraints(allowed_owners=(dear.account,)))
    buyer.submit("only", order=only)
    (lease,) = world.offers()
    assert lease.device_key_id == dear.key.key_id
    without = OrderTerms(OrderType.MARKET, Constraints(denied_owners=(cheap.account,)))
    buyer.submit("without", order=without)
    assert world.offers() == [], "the one that is left is busy"
    own = OrderTerms(constraints=Constraints(allowed_owners=(buyer.account,)))
    with pytest.raises(InvalidInput) as error:
        buyer.spec("own", order=own)
    assert error.value.code == "ORDER_CONTRADICTION"


def test_a_deadline_that_nobody_can_meet_is_refused_and_a_later_one_taken(world: World) -> None:
    buyer = world.buyer()
    world.worker("card")
    request = QuoteRequest(program().to_bytes(), "", 12, 3)
    quote = world.see(world.application.quote, request, buyer.account)
    whole_us = quote.offers[0].terms.step_picoseconds * 12 // 10**6
    early = world.now_us + whole_us // 2
    error = refused(world, buyer, order=MARKET_ORDER, deadline_us=early)
    assert error.code == "NO_FITTING_OFFER" and "DEADLINE 1" in error.message
    assert buyer.submit(order=MARKET_ORDER, deadline_us=early + whole_us).state is JobState.QUEUED


def test_a_deadline_asks_of_a_card_only_the_part_it_gets(world: World) -> None:
    """Independent segments go to several cards, so that one of them need not be fast enough."""
    buyer = world.buyer()
    world.worker("one")
    world.worker("two")
    request = QuoteRequest(program(True).to_bytes(), "", 12, 3)
    quote = world.see(world.application.quote, request, buyer.account)
    whole_us = quote.offers[0].terms.step_picoseconds * 12 // 10**6
    early = world.now_us + whole_us // 2
    job = buyer.submit(order=MARKET_ORDER, deadline_us=early, stateless=True)
    leases = world.offers()
    assert {lease.job_id for lease in leases} == {job.job_id} and len(leases) == 2


# --- limit orders -----------------------------------------------------------------------------


def test_a_limit_order_holds_its_limit_times_its_work_and_rests(world: World) -> None:
    buyer = world.buyer()
    per_pflop = 10**18 + 1
    job = buyer.submit(order=limit(per_pflop))
    assert job.ceiling_nano == -(-per_pflop * operations() * 12 // PFLOP)
    assert reserved(world, buyer) == job.ceiling_nano
    assert buyer.job(job.job_id).order == limit(per_pflop)
    assert world.offers() == []
    small = buyer.submit("small budget", order=limit(per_pflop), max_price_nano=1_000)
    assert small.ceiling_nano == 1_000


def test_it_waits_above_its_limit_and_runs_at_it(world: World) -> None:
    buyer = world.buyer()
    worker = world.worker("card")
    asks = unit_price(world, buyer)
    too_low = buyer.submit("low", order=limit(asks - PFLOP // operations()))
    assert world.offers() == []
    told = explain(world, buyer, too_low.job_id)
    assert [why.reason for why in told.reasons] == [Reason.LIMIT_PRICE]
    assert told.best_ask_nano == asks
    assert "cheapest fitting ask" in told.summary and "your limit is" in told.summary
    buyer.submit("enough", order=limit(asks))
    (lease,) = world.offers()
    assert lease.device_key_id == worker.key.key_id


def test_a_lower_ask_later_fills_it_at_the_ask_and_not_at_the_limit(world: World) -> None:
    buyer = world.buyer()
    worker = world.worker("card")
    asks = unit_price(world, buyer)
    job = buyer.submit(order=limit(asks - PFLOP // operations()))
    assert world.offers() == []
    worker.ask //= 2
    offer = world.sign(worker.terms(), worker.key)
    assert world.do(world.application.offer_changed, worker.session, offer) is None
    (lease,) = world.offers()
    assert lease.price.ask_nano_per_hour == ASK // 2
    worker.run(lease)
    world.audit_all()
    done = buyer.job(job.job_id)
    assert done.state is JobState.SUCCEEDED
    assert done.billed_nano == sum(price(lease.price, 3) for _ in range(4))
    world.check()


def test_a_new_ask_never_touches_running_work(world: World) -> None:
    buyer = world.buyer()
    worker = world.worker("card")
    job = buyer.submit()
    (lease,) = world.offers()
    worker.accept(lease)
    worker.ask *= 1000
    offer = world.sign(worker.terms(), worker.key)
    world.do(world.application.offer_changed, worker.session, offer)
    for _ in range(4):
        assert worker.commit(lease).accepted
    world.audit_all()
    assert buyer.job(job.job_id).billed_nano == 4 * price(lease.price, 3)


def test_independent_segments_are_filled_piecemeal_as_offers_come(world: World) -> None:
    buyer = world.buyer()
    first = world.worker("first")
    job = buyer.submit(order=limit(unit_price(world, buyer, stateless=True)), stateless=True)
    (lease,) = world.offers()
    assert lease.step_count == 3, "one range of segments"
    first.run(lease)
    second = world.worker("second")
    leases = world.offers()
    assert sorted(item.device_key_id for item in leases) == sorted(
        [first.key.key_id, second.key.key_id]
    )
    for item in leases:
        {first.key.key_id: first, second.key.key_id: second}[item.device_key_id].run(item)
    (last,) = world.offers()
    (first if last.device_key_id == first.key.key_id else second).run(last)
    world.audit_all()
    done = buyer.job(job.job_id)
    assert done.state is JobState.SUCCEEDED and done.billed_nano <= done.ceiling_nano
    world.check()


def test_at_its_deadline_an_order_ends_and_its_hold_returns(world: World) -> None:
    buyer = world.buyer()
    before = buyer.available
    job = buyer.submit(deadline_us=world.now_us + HOUR_US)
    world.do(world.application.expire)
    world.now_us += HOUR_US - 1
    world.do(world.application.expire)
    assert buyer.job(job.job_id).state is JobState.QUEUED
    world.now_us += 1
    world.do(world.application.expire)
    ended = buyer.job(job.job_id)
    assert (ended.state, ended.reason) == (JobState.FAILED, "DEADLINE_PASSED")
    assert buyer.available == before and reserved(world, buyer) == 0
    world.worker("late")
    assert world.offers() == []
    world.check()


def test_what_was_done_before_the_deadline_is_paid_and_the_rest_returns(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("card")
    before = buyer.available
    job = buyer.submit(stateless=True, deadline_us=world.now_us + HOUR_US)
    (lease,) = world.offers()
    worker.run(lease)
    world.now_us += HOUR_US
    world.do(world.application.expire)
    world.audit_all()
    ended = buyer.job(job.job_id)
    assert ended.state is JobState.FAILED
    assert ended.billed_nano == price(lease.price, 3)
    assert buyer.available == before - ended.billed_nano
    world.check()


def test_a_resting_order_can_be_cancelled(world: World) -> None:
    buyer = world.buyer()
    before = buyer.available
    job = buyer.submit(order=limit(10**18))
    assert buyer.cancel(job.job_id).state is JobState.CANCELLED
    assert buyer.available == before
    world.worker("late")
    assert world.offers() == []
    told = explain(world, buyer, job.job_id)
    assert told.reasons == () and "cancelled" in told.summary


def test_a_clock_that_steps_back_revives_nothing_and_ends_nothing_early(world: World) -> None:
    buyer = world.buyer()
    start = world.now_us
    ended = buyer.submit("ended", deadline_us=start + HOUR_US)
    rests = buyer.submit("rests", deadline_us=start + 3 * HOUR_US)
    world.now_us = start + 2 * HOUR_US
    world.do(world.application.expire)
    assert buyer.job(ended.job_id).state is JobState.FAILED
    world.now_us = start - HOUR_US  # the clock steps back
    world.do(world.application.expire)
    assert buyer.job(ended.job_id).state is JobState.FAILED, "what has ended stays so"
    assert buyer.job(rests.job_id).state is JobState.QUEUED
    worker = world.worker("card")
    (lease,) = world.offers()
    assert lease.job_id == rests.job_id
    world.now_us = start + HOUR_US
    world.do(world.application.expire)
    worker.heartbeat(lease)
    assert buyer.job(rests.job_id).state in (JobState.QUEUED, JobState.RUNNING)
    world.now_us = start + 3 * HOUR_US
    world.do(world.application.expire)
    assert buyer.job(rests.job_id).state is JobState.FAILED
    world.check()


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"max_price_nano": 0}, "BUDGET_BELOW_QUOTE"),
        ({"max_price_nano": 2**63 - 1}, "BALANCE_TOO_SMALL"),
        ({"deadline_us": 0}, "JOB_DEADLINE"),
        ({"order": OrderTerms(OrderType.LIMIT, Constraints("dot-int", 10**9))}, "ORDER_CLASS"),
        ({"order": OrderTerms(OrderType.LIMIT, Constraints(CLASS, 1))}, "ORDER_PRICE"),
        (
            {
                "order": OrderTerms(OrderType.LIMIT, Constraints(CLASS, 2**63 - 1)),
                "steps": 2**40,
                "segment_steps": 10**6,
                "max_memory_bytes": 2**40,
            },
            "JOB_TOO_MANY_SEGMENTS",
        ),
    ],
)
def test_absurd_orders_are_refused_by_name(
    world: World, changes: dict[str, object], code: str
) -> None:
    world.worker("card")
    assert refused(world, world.buyer(), **changes).code == code


def test_an_order_with_another_body_under_the_same_request_is_a_conflict(world: World) -> None:
    buyer = world.buyer()
    buyer.submit("job")
    request = buyer.request(buyer.spec("job", order=limit(10**18)))
    with pytest.raises(FlopmarketError) as error:
        world.do(world.application.submit, buyer.session, request)
    assert error.value.code == "REQUEST_ID_REUSED" and error.value.exit_code == 5


def test_a_quote_with_a_deadline_in_the_past_is_refused(world: World) -> None:
    request = QuoteRequest(program().to_bytes(), "", 12, 3, deadline_us=1)
    for bad in (request, replace(request, deadline_us=-5)):
        with pytest.raises(InvalidInput) as error:
            world.see(world.application.quote, bad, None)
        assert error.value.code == "JOB_DEADLINE"


def test_one_absurd_ask_inflates_no_ceiling(world: World) -> None:
    """The ceiling is the dearest of the cheapest offers that fit, not of all."""
    buyer = world.buyer()
    for number in range(8):
        world.worker(f"fair {number}", ask=ASK + number)
    request = QuoteRequest(program().to_bytes(), "", 12, 3)
    fair = world.see(world.application.quote, request, buyer.account)
    world.worker("absurd", ask=10**18)
    again = world.see(world.application.quote, request, buyer.account)
    assert again.ceiling_nano == fair.ceiling_nano
    assert len(again.offers) == 8


def test_leases_are_never_given_beyond_the_money(world: World) -> None:
    """Whatever the book holds, what is leased fits the ceiling."""
    buyer = world.buyer()
    for number in range(4):
        world.worker(f"card {number}", ask=ASK * (number + 1))
    job = buyer.submit(order=MARKET_ORDER, stateless=True)
    leases: list[LeaseOffered] = world.offers()
    bound = sum(lease.step_count * price(lease.price, 1) for lease in leases)
    assert len(leases) == 4 and bound <= job.ceiling_nano
    assert reserved(world, buyer) == job.ceiling_nano
