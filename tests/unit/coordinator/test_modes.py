"""Modes in the market: who is given what, what a quote says of classes, what a spec must say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.errors import InvalidInput, QuotaExceeded, Unavailable
from flopmarket.jobs.spec import NO_CLASS, Mode
from flopmarket.limits import MAX_TOLERANCE_SEGMENT_STEPS
from flopmarket.market.order import MARKET_ORDER
from flopmarket.trust.audit_policy import RULES
from flopmarket.trust.class_odds import at_worst
from flopmarket.trust.receipt import verify_receipt
from flopmarket_coordinator.application.types_buying import JobView, QuoteRequest
from flopmarket_coordinator.application.types_market import OfferQuery
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.store import challenges
from tests.unit.coordinator.classed import FAST_ONLY, class_of_kind, fast_worker
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer
from tests.unit.coordinator.world_work import ASK, program

IN_CLASS = {"mode": Mode.CLASS, "class_digest": class_of_kind()}
QUOTED = QuoteRequest(program().to_bytes(), "", 12, 3, mode="class")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.check()
    made.close()


def submitted(buyer: Buyer, name: str = "job", **changes: object) -> JobView:
    return buyer.submit(name, **(IN_CLASS | changes))


def leased_to(world: World) -> list[str]:
    """Devices that got a lease in this round."""
    return [lease.device_id for lease in world.offers()]


def test_an_exact_job_never_goes_to_a_fast_only_device(world: World) -> None:
    fast_worker(world, "fast", ask=ASK // 10)
    world.buyer().submit()
    assert leased_to(world) == []
    exact = world.worker("exact")
    assert leased_to(world) == [exact.device_id]


def test_a_class_job_stays_inside_its_class(world: World) -> None:
    fast_worker(world, "other kind", "slow card", ask=ASK // 10)
    fast_worker(world, "other kind too", "slow card", ask=ASK // 10)
    world.worker("exact", ask=ASK // 10)
    buyer = world.buyer()
    job = submitted(buyer)
    assert leased_to(world) == []
    own = fast_worker(world, "own kind", ask=ASK)
    fast_worker(world, "own kind too", ask=ASK * 2)
    assert leased_to(world) == [own.device_id]
    told = buyer.job(job.job_id)
    assert (told.mode, told.device_class) == (Mode.CLASS, class_of_kind().hex())


def test_a_class_job_waits_until_somebody_else_of_its_class_is_there(world: World) -> None:
    first = fast_worker(world, "first")
    fast_worker(world, "of the same owner", owner="owner of first", ask=ASK * 2)
    submitted(world.buyer())
    assert leased_to(world) == []
    # Too small to run it, and there to audit others: the order that sleeps must hear of it.
    fast_worker(world, "second", memory=1)
    assert leased_to(world) == [first.device_id]


def test_a_buyers_own_device_audits_none_of_its_jobs(world: World) -> None:
    fast_worker(world, "one")
    buyer = world.buyer("buyer")
    fast_worker(world, "mine", owner="buyer")
    submitted(buyer)
    assert leased_to(world) == []
    fast_worker(world, "another")
    assert len(leased_to(world)) == 1


def test_a_banned_key_is_nobodys_fellow(world: World) -> None:
    fast_worker(world, "one")
    gone = fast_worker(world, "gone")
    submitted(world.buyer())
    world.application.keeper.book.set_banned(gone.key.key_id, banned=True)
    assert leased_to(world) == []
    world.application.keeper.book.set_banned(gone.key.key_id, banned=False)
    assert len(leased_to(world)) == 1


def test_a_tolerance_job_goes_to_whoever_offers_the_mode(world: World) -> None:
    world.worker("exact", ask=1)
    both = fast_worker(world, "both", modes=(Mode.EXACT, Mode.TOLERANCE), ask=ASK)
    world.buyer().submit(mode=Mode.TOLERANCE)
    assert leased_to(world) == [both.device_id]


def test_fast_only_devices_are_drawn_for_their_class_alone(world: World) -> None:
    exact = world.worker("exact")
    fast, other = fast_worker(world, "fast"), fast_worker(world, "other", "slow card")
    named = class_of_kind().hex()

    def drawn(device_class: str = "") -> set[str]:
        rows = world.see(lambda tx: challenges.auditors(tx, 0, 0, 99, device_class))
        return {row.device_key_id for row in rows}

    assert drawn() == {exact.key.key_id}
    assert drawn(named) == {fast.key.key_id}
    assert drawn(class_of_kind("slow card").hex()) == {other.key.key_id}


# --- quotes -------------------------------------------------------------------------------------


def test_a_quote_lists_classes_and_takes_the_cheapest_that_can_be_audited(world: World) -> None:
    fast_worker(world, "lonely", "rare card", ask=ASK // 4)
    fast_worker(world, "one", "dear card", ask=ASK * 4)
    fast_worker(world, "two", "dear card", ask=ASK * 5)
    fast_worker(world, "three", "cheap card", ask=ASK)
    fast_worker(world, "four", "cheap card", ask=ASK * 2)
    fast_worker(world, "five", "cheap card", ask=ASK * 3, owner="owner of four")
    found = world.see(world.application.quote, QUOTED, None)
    listed = [(item.device_name, item.devices, item.other_accounts) for item in found.classes]
    assert listed == [("rare card", 1, 0), ("cheap card", 3, 1), ("dear card", 2, 1)]
    assert found.device_class == class_of_kind("cheap card").hex()
    cheap = found.classes[1]
    assert (found.expected_nano, found.ceiling_nano) == (cheap.expected_nano, cheap.ceiling_nano)
    assert {offer.device_name for offer in found.offers} == {"cheap card"}
    named = replace(QUOTED, device_class=class_of_kind("dear card").hex())
    dear = world.see(world.application.quote, named, None)
    assert dear.expected_nano == dear.classes[2].expected_nano > found.expected_nano
    assert dear.classes == found.classes
    lonely = replace(QUOTED, device_class=class_of_kind("rare card").hex())
    none = world.see(world.application.quote, lonely, None)
    assert none.offers == () and none.ineligible["CLASS_ALONE"] == 1


def test_a_quote_says_how_well_a_class_judges_itself(world: World) -> None:
    for number in range(11):
        fast_worker(world, f"one of eleven, {number}")
    (found,) = world.see(world.application.quote, QUOTED, None).classes
    assert found.other_accounts == 10
    assert (found.convicted_ppm, found.outvoted_ppm) == at_worst(RULES, 10)
    buyer = world.buyer("buyer")
    fast_worker(world, "the buyer's own", owner="buyer")
    (mine,) = world.see(world.application.quote, QUOTED, buyer.account).classes
    assert (mine.devices, mine.other_accounts, mine.convicted_ppm) == (11, 10, found.convicted_ppm)


def test_a_quote_in_class_mode_without_classes_says_why(world: World) -> None:
    world.worker("exact")
    found = world.see(world.application.quote, QUOTED, None)
    assert (found.device_class, found.classes, found.offers) == ("", (), ())
    assert found.ineligible == {"MODE_NOT_OFFERED": 1}


def test_a_market_order_of_a_lonely_class_is_refused(world: World) -> None:
    fast_worker(world, "lonely")
    with pytest.raises(Unavailable) as refused:
        submitted(world.buyer(), order=MARKET_ORDER)
    assert refused.value.code == "NO_FITTING_OFFER"
    assert "CLASS_ALONE=1" in refused.value.details["reasons"]
    with pytest.raises(Unavailable, match="CLASS_ALONE"):  # as a quote without offers makes it
        submitted(world.buyer(), "free", order=MARKET_ORDER, max_price_nano=0)
    with pytest.raises(QuotaExceeded, match="above zero"):
        submitted(world.buyer(), "resting", max_price_nano=0)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"mode": "swift"}, "MODE_UNKNOWN"),
        ({"mode": "exact", "device_class": "ab" * 32}, "JOB_CLASS"),
        ({"mode": "class", "device_class": "00" * 32}, "JOB_CLASS"),
        ({"mode": "tolerance", "segment_steps": 51}, "JOB_SEGMENT_STEPS"),
    ],
)
def test_a_quote_asks_for_a_mode_that_there_is(
    world: World, changes: dict[str, object], code: str
) -> None:
    request = replace(QUOTED, **({"steps": 100, "segment_steps": 50} | changes))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput) as refused:
        world.see(world.application.quote, request, None)
    assert refused.value.code == code


def test_tolerance_mode_is_quoted_without_dual_which_compares_for_equality(world: World) -> None:
    fast_worker(world, "card")
    found = world.see(world.application.quote, replace(QUOTED, mode="tolerance"), None)
    assert [item.assurance.level for item in found.levels] == ["deter", "check"]
    assert {offer.device_name for offer in found.offers} == {"fast card"}


# --- what is signed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"mode": Mode.CLASS}, "JOB_CLASS"),
        ({"class_digest": b"c" * 32}, "JOB_CLASS"),
        ({"mode": Mode.TOLERANCE, "class_digest": b"c" * 32}, "JOB_CLASS"),
        (
            {
                "mode": Mode.TOLERANCE,
                "steps": 100,
                "segment_steps": MAX_TOLERANCE_SEGMENT_STEPS + 1,
            },
            "JOB_SEGMENT_STEPS",
        ),
    ],
)
def test_a_specification_says_what_its_mode_needs(
    world: World, changes: dict[str, object], code: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        world.buyer().spec(**changes)
    assert refused.value.code == code


def test_an_exact_job_is_bound_to_no_class_and_its_receipt_says_so(world: World) -> None:
    buyer, worker = world.buyer(), world.worker("card")
    job = buyer.submit()
    worker.run(world.offers()[0])
    world.audit_all()
    told = buyer.job(job.job_id)
    assert (told.state, told.mode, told.device_class) == (JobState.SUCCEEDED, Mode.EXACT, "")
    file = world.see(world.application.get_receipt, buyer.session, job.job_id)
    receipt = verify_receipt(file, None).receipt
    assert (receipt.mode, receipt.device_class) == (Mode.EXACT, "")
    assert buyer.spec().class_digest == NO_CLASS


def test_offers_are_listed_with_their_modes(world: World) -> None:
    fast_worker(world, "fast")
    world.worker("exact")
    found = world.see(world.application.list_offers, OfferQuery())
    assert {(item.modes, item.device_class) for item in found.offers} == {
        (FAST_ONLY, class_of_kind().hex()),
        ((Mode.EXACT,), ""),
    }
