"""What a coordinator takes and refuses at the door: quotes, submissions, signatures, retries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flopmarket.errors import FlopmarketError
from flopmarket.market.order import MARKET_ORDER
from flopmarket.trust.documents import Deposit, DepositTarget, SessionRequest
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket_coordinator.application.types_buying import QuoteRequest
from flopmarket_coordinator.application.types_market import OfferQuery
from flopmarket_coordinator.parameters import SECOND_US
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer
from tests.unit.coordinator.world_work import DOLLAR, digest_of, program


def refused(world: World, buyer: Buyer, **changes: object) -> FlopmarketError:
    """The error of submitting a changed job; the buyer's money stays where it was."""
    before = buyer.available
    request = buyer.request(buyer.spec("job", **changes))
    with pytest.raises(FlopmarketError) as error:
        world.do(world.application.submit, buyer.session, request)
    assert buyer.available == before
    return error.value


def test_a_quote_names_ceiling_expectation_and_reasons(world: World) -> None:
    buyer = world.buyer()
    world.worker("cheap", ask=100_000_000)
    world.worker("dear", ask=200_000_000)
    world.worker("small", memory=64)
    request = QuoteRequest(program().to_bytes(), "", 12, 3)
    quote = world.see(world.application.quote, request, buyer.account)
    assert 0 < quote.expected_nano <= quote.least_ceiling_nano < quote.ceiling_nano
    assert quote.ineligible == {"MEMORY": 1} and len(quote.offers) == 2
    job = buyer.submit(order=MARKET_ORDER)
    assert job.ceiling_nano == quote.ceiling_nano


def test_an_empty_market_quotes_nothing_and_queues(world: World) -> None:
    buyer = world.buyer()
    request = QuoteRequest(program().to_bytes(), "", 12, 3)
    assert world.see(world.application.quote, request, None).offers == ()
    assert buyer.submit(max_price_nano=5 * DOLLAR).ceiling_nano == 5 * DOLLAR
    assert world.see(world.application.spot).prices == ()


def test_a_retried_submission_gets_the_first_answer(world: World) -> None:
    buyer = world.buyer()
    request = buyer.request(buyer.spec())
    first = world.do(world.application.submit, buyer.session, request)
    assert world.do(world.application.submit, buyer.session, request) == first
    signed_again = replace(request, spec=world.sign(buyer.spec(), buyer.key))
    assert world.do(world.application.submit, buyer.session, signed_again) == first


def test_a_request_id_stands_for_one_job(world: World) -> None:
    buyer = world.buyer()
    world.do(world.application.submit, buyer.session, buyer.request(buyer.spec("one"), "r"))
    with pytest.raises(FlopmarketError) as error:
        world.do(world.application.submit, buyer.session, buyer.request(buyer.spec("two"), "r"))
    assert error.value.code == "REQUEST_ID_REUSED"


def test_a_replayed_envelope_is_refused_also_after_a_restart(world: World) -> None:
    buyer = world.buyer()
    request = buyer.request(buyer.spec())
    world.do(world.application.submit, buyer.session, request)
    world.restart()
    with pytest.raises(FlopmarketError) as error:
        world.do(world.application.submit, buyer.session, replace(request, request_id="other"))
    assert error.value.code == "ENVELOPE_REPLAYED"


def test_the_same_job_is_not_taken_twice(world: World) -> None:
    buyer = world.buyer()
    buyer.submit()
    request = buyer.request(buyer.spec(), "another request")
    with pytest.raises(FlopmarketError) as error:
        world.do(world.application.submit, buyer.session, request)
    assert error.value.code == "JOB_EXISTS"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"max_price_nano": 1, "order": MARKET_ORDER}, "BUDGET_BELOW_QUOTE"),
        ({"max_price_nano": 0}, "BUDGET_BELOW_QUOTE"),
        ({"max_memory_bytes": 1}, "JOB_MEMORY"),
        ({"deadline_us": 1}, "JOB_DEADLINE"),
        ({"profile": "FX0"}, "JOB_PROFILE"),
        ({"program_digest": b"x" * 32}, "JOB_PROGRAM"),
        ({"frozen_root": b"x" * 32}, "ARTIFACT_MISSING"),
        ({"steps": 10**9, "segment_steps": 1}, "JOB_TOO_MANY_SEGMENTS"),
    ],
)
def test_bad_jobs_are_refused_by_name(world: World, changes: dict[str, object], code: str) -> None:
    world.worker("ann")
    assert refused(world, world.buyer(), **changes).code == code


def test_a_balance_too_small_is_refused(world: World) -> None:
    world.worker("ann")
    error = refused(world, world.buyer(money=10))
    assert error.code == "BALANCE_TOO_SMALL" and "10 nano-units" in error.message


def test_a_program_that_fits_no_card_is_refused_with_its_peak(world: World) -> None:
    world.worker("small", memory=10)
    world.worker("larger", memory=100)
    error = refused(world, world.buyer(), order=MARKET_ORDER)
    peak = str(program().cost.peak_memory_bytes)
    assert error.code == "PROGRAM_TOO_LARGE"
    assert peak in error.message and "2 offers" in error.message


def test_a_job_of_somebody_else_does_not_exist(world: World) -> None:
    job = world.buyer().submit()
    other = world.buyer("other")
    with pytest.raises(FlopmarketError) as error:
        world.see(world.application.get_job, other.session, job.job_id)
    assert error.value.code == "JOB_UNKNOWN"


def test_a_job_signed_by_another_account_is_refused(world: World) -> None:
    buyer, thief = world.buyer(), world.buyer("thief")
    request = buyer.request(buyer.spec())
    with pytest.raises(FlopmarketError) as error:
        world.do(world.application.submit, thief.session, request)
    assert error.value.code == "SIGNER_OTHER_ACCOUNT"


def test_deposits_count_once_and_come_from_the_operator(world: World) -> None:
    buyer = world.buyer(money=0)
    for _ in range(2):
        world.deposit(buyer.account, 5, "wire 1")
    assert buyer.available == 5
    with pytest.raises(FlopmarketError) as error:
        world.deposit(buyer.account, 6, "wire 1")
    assert error.value.code == "REQUEST_ID_REUSED"
    body = Deposit(buyer.account, DepositTarget.AVAILABLE, 5, "USD", "forged", "wire 2")
    with pytest.raises(FlopmarketError) as error:
        world.do(world.application.deposit, world.sign(body, buyer.key))
    assert error.value.code == "SIGNER_NOT_ALLOWED"


def test_sessions_expire_and_unknown_keys_get_none(world: World) -> None:
    buyer = world.buyer()
    with pytest.raises(FlopmarketError) as error:
        world.session(KeyPair.generate(), buyer.account, KeyRole.OWNER)
    assert error.value.code == "ENVELOPE_UNKNOWN_KEY"
    with pytest.raises(FlopmarketError) as error:
        world.see(world.application.authenticate, "guess")
    assert error.value.code == "SESSION_UNKNOWN"
    request = world.sign(SessionRequest(buyer.account, KeyRole.OWNER, "test"), buyer.key)
    token = world.do(world.application.open_session, request).token
    with pytest.raises(FlopmarketError) as error:
        world.do(world.application.open_session, request)
    assert error.value.code == "ENVELOPE_REPLAYED"
    world.now_us += world.parameters.session_ttl_us
    with pytest.raises(FlopmarketError) as error:
        world.see(world.application.authenticate, token)
    assert error.value.code == "SESSION_UNKNOWN"


def test_offers_are_filtered_sorted_and_paged(world: World) -> None:
    for number in range(5):
        world.worker(f"w{number}", ask=ASKS[number], memory=1000 * (number + 1))
    seen: list[int] = []
    token = ""
    while True:
        query = OfferQuery(page_size=2, page_token=token, min_memory_bytes=2000)
        page = world.see(world.application.list_offers, query)
        seen += [offer.ask_nano_per_hour for offer in page.offers]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(ASKS[1:])
    first = world.see(world.application.list_offers, OfferQuery(page_size=2))
    other = OfferQuery(page_size=2, page_token=first.next_page_token, order_by="memory")
    with pytest.raises(FlopmarketError) as error:
        world.see(world.application.list_offers, other)
    assert error.value.code == "PAGE_TOKEN_INVALID"
    spot = {item.work_class: item for item in world.see(world.application.spot).prices}
    assert spot["dot-f32"].device_name == "card of w2"


ASKS = (500_000, 400_000, 100_000, 300_000, 200_000)


def test_a_silent_worker_is_not_listed(world: World) -> None:
    worker = world.worker("ann")
    assert world.see(world.application.list_offers, OfferQuery()).offers
    world.do(world.application.worker_gone, worker.session)
    assert not world.see(world.application.list_offers, OfferQuery()).offers
    worker.hello()
    world.now_us += 2 * 3_600 * SECOND_US
    assert not world.see(world.application.list_offers, OfferQuery()).offers


def test_artifacts_are_read_by_their_owner_and_by_who_leases_them(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("ann")
    buyer.submit()
    data = buyer.upload(b"data")
    (lease,) = world.offers()
    assert lease.data_artifact == data
    may_read = world.application.artifact_may_read
    assert world.see(may_read, worker.session, data, lease.lease_id, "").size_bytes == 4
    with pytest.raises(FlopmarketError) as error:
        world.see(may_read, worker.session, data, "", "")
    assert error.value.code == "ARTIFACT_MISSING"
    unknown = digest_of("unknown").hex()
    present = world.see(world.application.artifact_present, buyer.session, [data, unknown])
    assert present == (data,)
