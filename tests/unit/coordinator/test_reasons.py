"""Every reason of the one table, provoked and told: in quotes, of jobs, of devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flopmarket.errors import Forbidden, NotFound
from flopmarket.market.order import MARKET_ORDER, Constraints, OrderTerms, OrderType
from flopmarket.market.reasons import REASONS, Reason, ranked, remedies, tell
from flopmarket.trust.documents import OfferTerms, Rate
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_buying import QuoteRequest
from flopmarket_coordinator.application.types_orders import JobExplanation, OfferExplanation
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.classed import class_of_kind, fast_worker
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import ASK, digest_of, program
from tests.unit.worker.test_why import WORKER_REASONS

CLASS = "elementwise-f32"
QUOTED = QuoteRequest(program().to_bytes(), "", 12, 3)


def quoted(world: World, account: str = "", **asked: Any) -> set[str]:
    """Reasons in a quote."""
    order = OrderTerms(OrderType.MARKET, Constraints(**asked))
    request = replace(QUOTED, order=order)
    return set(world.see(world.application.quote, request, account or None).ineligible)


def listed(world: World, **changes: Any) -> Worker:
    """A worker whose signed terms are changed in something."""
    worker = world.worker("card")
    terms: OfferTerms = replace(worker.terms(), **changes)
    offer = world.sign(terms, worker.key)
    assert world.do(world.application.offer_changed, worker.session, offer) is None
    return worker


def of_job(world: World, buyer: Buyer, job_id: str) -> JobExplanation:
    return world.see(world.application.explain_job, buyer.session, job_id)


def of_device(world: World, worker: Worker) -> OfferExplanation:
    (told,) = world.see(world.application.explain_offers, worker.session)
    return told


def rest(world: World) -> None:
    """Let the book hear of orders that nobody can take yet."""
    assert world.offers() == []


def codes(told: JobExplanation | OfferExplanation) -> set[str]:
    for why in told.reasons:
        meaning = REASONS[why.reason]
        assert why.text in (meaning.for_buyers, meaning.for_owners) and why.count > 0
    return {why.reason.value for why in told.reasons}


# --- of offers, in quotes -----------------------------------------------------------------------


def profile(world: World) -> set[str]:
    listed(world, profile="FX0")
    return quoted(world)


def mode_not_offered(world: World) -> set[str]:
    fast_worker(world, "card", modes=(Mode.TOLERANCE,))
    buyer = world.buyer()
    job = buyer.submit()
    rest(world)
    told = of_job(world, buyer, job.job_id)
    assert codes(told) == quoted(world) == {"MODE_NOT_OFFERED"}
    return codes(told)


def class_differs(world: World) -> set[str]:
    fast_worker(world, "card"), fast_worker(world, "other")
    buyer = world.buyer()
    job = buyer.submit(mode=Mode.CLASS, class_digest=class_of_kind("slow card"))
    rest(world)
    return codes(of_job(world, buyer, job.job_id))


def class_alone(world: World) -> set[str]:
    worker = fast_worker(world, "card")
    buyer = world.buyer()
    job = buyer.submit(mode=Mode.CLASS, class_digest=class_of_kind())
    rest(world)
    request = replace(QUOTED, mode="class")
    told = world.see(world.application.quote, request, None)
    assert told.device_class == "" and set(told.ineligible) == {"CLASS_ALONE"}
    assert codes(of_device(world, worker)) == {"CLASS_ALONE"}
    return codes(of_job(world, buyer, job.job_id))


def memory(world: World) -> set[str]:
    world.worker("card", memory=8)
    return quoted(world)


def no_rate(world: World) -> set[str]:
    listed(world, rates=(Rate("dot-f32", 1000),))
    return quoted(world)


def unpriceable(world: World) -> set[str]:
    listed(world, ask_nano_per_hour=2**63 - 1, rates=(Rate("dot-f32", 1), Rate(CLASS, 1)))
    request = replace(QUOTED, steps=2**40)
    return set(world.see(world.application.quote, request, None).ineligible)


def same_owner(world: World) -> set[str]:
    return quoted(world, world.worker("card").account)


def region(world: World) -> set[str]:
    world.worker("card", region="eu")
    return quoted(world, allowed_regions=("us",))


def owner(world: World) -> set[str]:
    worker = world.worker("card")
    return quoted(world, denied_owners=(worker.account,))


def min_memory(world: World) -> set[str]:
    world.worker("card", memory=1 << 30)
    return quoted(world, min_memory_bytes=1 << 31)


def power_unknown(world: World) -> set[str]:
    world.worker("card")
    return quoted(world, work_class=CLASS, min_flops_per_watt=1)


def efficiency(world: World) -> set[str]:
    world.worker("card", milliwatts=1_000_000)
    return quoted(world, work_class=CLASS, min_flops_per_watt=2)


def deadline(world: World) -> set[str]:
    world.worker("card")
    request = replace(QUOTED, deadline_us=world.now_us + 1)
    return set(world.see(world.application.quote, request, None).ineligible)


def limit_price(world: World) -> set[str]:
    world.worker("card")
    return quoted(world, work_class=CLASS, max_unit_price_nano=10**15)


def offline(world: World) -> set[str]:
    worker = world.worker("card")
    rest(world)
    world.do(world.application.worker_gone, worker.session)
    assert of_device(world, worker).state == "offline"
    assert codes(of_device(world, worker)) == {"OFFLINE"}
    return quoted(world)


def banned(world: World) -> set[str]:
    buyer, worker = world.buyer(), world.worker("cheat")
    worker.lie = lambda step: digest_of("a lie")
    buyer.submit()
    worker.run(world.offers()[0])
    world.audit_all()
    told = of_device(world, worker)
    assert told.state == "banned"
    return codes(told)


# --- of jobs that wait --------------------------------------------------------------------------


def max_price(world: World) -> set[str]:
    buyer = world.buyer()
    world.worker("card")
    job = buyer.submit(max_price_nano=12)
    assert world.offers() == []
    return codes(of_job(world, buyer, job.job_id))


def busy(world: World) -> set[str]:
    buyer, worker = world.buyer(), world.worker("card")
    buyer.submit("first")
    (lease,) = world.offers()
    worker.accept(lease)
    second = buyer.submit("second")
    assert world.offers() == []
    assert of_device(world, worker).state == "busy" and codes(of_device(world, worker)) == {"BUSY"}
    return codes(of_job(world, buyer, second.job_id))


def recently_declined(world: World) -> set[str]:
    buyer, worker = world.buyer(), world.worker("card")
    job = buyer.submit()
    (lease,) = world.offers()
    worker.release(lease, "DECLINED")
    assert world.offers() == []
    assert codes(of_device(world, worker)) == {"RECENTLY_DECLINED"}
    return codes(of_job(world, buyer, job.job_id))


def price_rank(world: World) -> set[str]:
    buyer = world.buyer()
    buyer.submit("first")
    second = buyer.submit("second")
    rest(world)
    dear = world.worker("dear", ask=ASK * 2)
    world.worker("cheap")
    told = of_job(world, buyer, second.job_id)
    assert (told.ahead, told.fitting) == (1, 2)
    device = of_device(world, dear)
    assert "cheaper idle offers: 1 in dot-f32" in device.summary
    assert "2 of 2 waiting orders fit it" in device.summary
    return codes(told) & codes(device)


def no_offers(world: World) -> set[str]:
    buyer = world.buyer()
    job = buyer.submit()
    assert "next round" in of_job(world, buyer, job.job_id).summary
    rest(world)
    return codes(of_job(world, buyer, job.job_id))


def waiting_audit(world: World) -> set[str]:
    buyer, worker = world.buyer(), world.worker("card")
    job = buyer.submit()
    worker.run(world.offers()[0])
    rest(world)
    told = of_job(world, buyer, job.job_id)
    assert "audits" in told.summary
    return codes(told)


def waiting_durable(world: World) -> set[str]:
    buyer, worker = world.buyer(), world.worker("card")
    job = buyer.submit(checkpoint_segments=2)
    lease = worker.accept(world.offers()[0])
    assert worker.commit(lease, keep=False).accepted
    world.audit_all()
    told = of_job(world, buyer, job.job_id)
    assert "runs on 1 device" in told.summary
    return codes(told)


def no_open_orders(world: World) -> set[str]:
    worker = world.worker("card")
    told = of_device(world, worker)
    assert told.state == "idle" and "no order waits" in told.summary
    return codes(told)


def offer_refused(world: World) -> set[str]:
    worker = world.worker("card")
    world.do(world.application.offer_withdrawn, worker.session, worker.device_id)
    told = of_device(world, worker)
    assert told.state == "withdrawn"
    return codes(told)


def quarantined(world: World) -> set[str]:
    worker = world.worker("card")

    def flip(tx: Transaction) -> None:
        world.application._quarantine(tx, worker.key.key_id, "flip", "a soft error")

    world.do(flip)
    told = of_device(world, worker)
    assert told.state == "quarantined" and "60 more minutes: a soft error" in told.summary
    return codes(told)


SCENARIOS: dict[Reason, Callable[[World], set[str]]] = {
    Reason.PROFILE: profile,
    Reason.MODE_NOT_OFFERED: mode_not_offered,
    Reason.CLASS_DIFFERS: class_differs,
    Reason.CLASS_ALONE: class_alone,
    Reason.MEMORY: memory,
    Reason.NO_RATE: no_rate,
    Reason.UNPRICEABLE: unpriceable,
    Reason.SAME_OWNER: same_owner,
    Reason.REGION: region,
    Reason.OWNER: owner,
    Reason.MIN_MEMORY: min_memory,
    Reason.POWER_UNKNOWN: power_unknown,
    Reason.EFFICIENCY: efficiency,
    Reason.DEADLINE: deadline,
    Reason.LIMIT_PRICE: limit_price,
    Reason.MAX_PRICE: max_price,
    Reason.BANNED: banned,
    Reason.QUARANTINED: quarantined,
    Reason.OFFLINE: offline,
    Reason.BUSY: busy,
    Reason.RECENTLY_DECLINED: recently_declined,
    Reason.PRICE_RANK: price_rank,
    Reason.WAITING_AUDIT: waiting_audit,
    Reason.WAITING_DURABLE: waiting_durable,
    Reason.NO_OFFERS: no_offers,
    Reason.NO_OPEN_ORDERS: no_open_orders,
    Reason.OFFER_REFUSED: offer_refused,
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A market in which an offer that gave a job back stays away from it for a while."""
    parameters = Parameters(
        bond_target_nano=0, presence_ttl_us=3_600 * SECOND_US, house_disputes=False
    )
    made = World(tmp_path, parameters)
    yield made
    made.check()
    made.close()


@pytest.mark.parametrize("reason", SCENARIOS, ids=str)
def test_each_reason_is_provoked_and_told_alone(world: World, reason: Reason) -> None:
    assert SCENARIOS[reason](world) == {reason.value}


def test_every_reason_of_the_table_has_a_scenario_and_a_meaning() -> None:
    elsewhere = {Reason.UNPROVED}  # test_benchmarks.py provokes it
    assert set(SCENARIOS) | set(WORKER_REASONS) | elsewhere == set(Reason) == set(REASONS)
    for meaning in REASONS.values():
        texts = (meaning.for_buyers, meaning.for_owners, meaning.remedy)
        assert all(text and not text.endswith(".") for text in texts)


def test_reasons_are_told_most_frequent_first() -> None:
    counts = {Reason.MEMORY: 2, Reason.BANNED: 5, Reason.REGION: 2}
    order = [Reason.BANNED, Reason.MEMORY, Reason.REGION]
    assert [reason for reason, _ in ranked(counts)] == order
    assert tell(counts).startswith(f"BANNED 5 ({REASONS[Reason.BANNED].for_buyers})")
    assert remedies(counts).split(": ")[0] == "BANNED"


def test_only_the_owner_of_a_job_or_a_device_may_ask(world: World) -> None:
    buyer, other, worker = world.buyer(), world.buyer("other"), world.worker("card")
    job = buyer.submit()
    with pytest.raises(NotFound):
        of_job(world, other, job.job_id)
    assert world.see(world.application.explain_offers, other.session) == ()
    offer_id = of_device(world, worker).offer_id
    assert len(world.see(world.application.explain_offers, worker.session, offer_id)) == 1
    with pytest.raises(NotFound) as error:
        world.see(world.application.explain_offers, other.session, offer_id)
    assert error.value.code == "OFFER_UNKNOWN"
    operator = Session("", world.operator.key_id, KeyRole.OPERATOR, 2**62)
    with pytest.raises(Forbidden):
        world.see(world.application.explain_offers, operator)


def test_a_device_names_the_orders_that_it_does_not_fit(world: World) -> None:
    buyer = world.buyer()
    worker = world.worker("card", region="eu")
    far = OrderTerms(OrderType.LIMIT, Constraints(allowed_regions=("us",)))
    cheap = OrderTerms(OrderType.LIMIT, Constraints(CLASS, 10**15))
    for name, order in (("far", far), ("far too", far), ("cheap", cheap)):
        buyer.submit(name, order=order)
    rest(world)
    told = of_device(world, worker)
    assert [(why.reason, why.count) for why in told.reasons] == [
        (Reason.REGION, 2),
        (Reason.LIMIT_PRICE, 1),
    ]
    assert "none of 3 waiting orders fits it" in told.summary


def test_a_running_and_an_ended_job_say_so(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("card")
    job = buyer.submit(order=MARKET_ORDER)
    (lease,) = world.offers()
    assert "runs on 1 device" in of_job(world, buyer, job.job_id).summary
    worker.run(lease)
    world.audit_all()
    told = of_job(world, buyer, job.job_id)
    assert told.reasons == () and "has ended: succeeded" in told.summary
