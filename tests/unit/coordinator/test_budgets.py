"""Limits of spending: of an account by month, of a CI key by month and in all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import FlopmarketError
from flopmarket.trust.documents import NO_LIMIT_NANO, BudgetChange, DeviceGrant
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import Envelope, Header
from flopmarket.trust.grants import check_job_within, open_ci_grant
from flopmarket.trust.keys import KeyPair, KeyRole, PublicKey
from flopmarket_coordinator.application.budgets import month_bounds_us
from flopmarket_coordinator.application.types_accounts import BudgetReport, Session
from flopmarket_coordinator.application.types_buying import JobView
from flopmarket_coordinator.parameters import SECOND_US
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer
from tests.unit.coordinator.world_work import DOLLAR, digest_of

DAY_US = 86_400 * SECOND_US


@dataclass
class CiKey:
    """A script's key and what it can do."""

    world: World
    owner: Buyer
    key: KeyPair

    def grant(
        self, cap: int, monthly: int = NO_LIMIT_NANO, *, days: int = 30, label: str = "nightly"
    ) -> Envelope:
        """The owner's signed grant, handed in."""
        expires_us = self.world.now_us + days * DAY_US
        body = DeviceGrant(
            self.owner.account,
            self.key.public.raw,
            label,
            KeyRole.CI,
            cap_nano=cap,
            monthly_nano=monthly,
            expires_at_us=expires_us,
        )
        envelope = self.world.sign(body, self.owner.key, lifetime_s=days * 86_400)
        self.hand_in(envelope)
        return envelope

    def hand_in(self, envelope: Envelope) -> None:
        assert self.world.do(self.world.application.grant_device, envelope) == self.key.key_id

    @property
    def session(self) -> Session:
        return self.world.session(self.key, self.owner.account, KeyRole.CI)

    def submit(self, name: str, **changes: object) -> JobView:
        values = {"max_price_nano": 2 * DOLLAR, "deadline_us": self.world.now_us + DAY_US}
        acting = replace(self.owner, key=self.key, session=self.session)
        return acting.submit(name, **(values | changes))

    def report(self) -> BudgetReport:
        return self.world.see(self.world.application.budget, self.session)


@pytest.fixture
def ci(world: World) -> CiKey:
    return CiKey(world, world.buyer(), KeyPair.from_seed(digest_of("ci")))


def code_of(run: object, *arguments: object, **options: object) -> str:
    with pytest.raises(FlopmarketError) as caught:
        run(*arguments, **options)  # type: ignore[operator]
    return caught.value.code


def test_a_key_buys_within_its_cap_and_no_further(world: World, ci: CiKey) -> None:
    ci.grant(5 * DOLLAR)
    ci.submit("one")
    ci.submit("two")
    assert code_of(ci.submit, "three") == "KEY_CAP"
    ci.submit("three", max_price_nano=1 * DOLLAR)
    assert code_of(ci.submit, "four", max_price_nano=1) == "KEY_CAP"
    (key,) = ci.report().keys
    assert (key.total.limit_nano, key.total.used_nano) == (5 * DOLLAR, 5 * DOLLAR)
    ci.owner.submit("the owner is not bound by it")
    world.check()


def test_what_a_job_gave_back_can_be_spent_again(world: World, ci: CiKey) -> None:
    ci.grant(2 * DOLLAR)
    job = ci.submit("one")
    assert code_of(ci.submit, "two") == "KEY_CAP"
    ci.owner.cancel(job.job_id)
    ci.submit("two")
    assert ci.report().keys[0].total.used_nano == 2 * DOLLAR


def test_what_was_billed_counts_for_good(world: World, ci: CiKey) -> None:
    ci.grant(2 * DOLLAR)
    job = ci.submit("one")
    worker = world.worker("ann")
    (lease,) = world.offers()
    worker.run(lease)
    world.audit_all()
    billed = ci.owner.job(job.job_id).billed_nano
    assert 0 < billed < 2 * DOLLAR
    assert ci.report().keys[0].total.used_nano == billed
    assert code_of(ci.submit, "two", max_price_nano=2 * DOLLAR) in ("KEY_CAP", "GRANT_CAP")


def test_a_month_has_its_own_limit_and_ends(world: World, ci: CiKey) -> None:
    ci.grant(100 * DOLLAR, 3 * DOLLAR, days=300)
    ci.submit("one")
    assert code_of(ci.submit, "two") == "KEY_MONTH"
    _, next_month_us = month_bounds_us(world.now_us)
    world.now_us = next_month_us
    ci.submit("two")
    (key,) = ci.report().keys
    assert key.month.used_nano == 2 * DOLLAR  # the older job counts in its own month
    assert key.total.used_nano == 4 * DOLLAR


def test_the_accounts_month_binds_everybody(world: World, ci: CiKey) -> None:
    ci.grant(100 * DOLLAR)
    change = BudgetChange(ci.owner.account, 3 * DOLLAR)
    month = world.do(world.application.set_budget, world.sign(change, ci.owner.key))
    assert (month.limit_nano, month.used_nano) == (3 * DOLLAR, 0)
    ci.submit("one")
    assert code_of(ci.owner.submit, "two", max_price_nano=2 * DOLLAR) == "BUDGET_MONTH"
    assert code_of(ci.submit, "three") == "BUDGET_MONTH"
    ci.owner.submit("four", max_price_nano=1 * DOLLAR)
    lifted = BudgetChange(ci.owner.account, NO_LIMIT_NANO)
    world.do(world.application.set_budget, world.sign(lifted, ci.owner.key))
    ci.owner.submit("two", max_price_nano=2 * DOLLAR)
    assert not world.see(world.application.budget, ci.owner.session).month.limited


def test_only_the_owner_sets_limits(world: World, ci: CiKey) -> None:
    ci.grant(DOLLAR)
    change = BudgetChange(ci.owner.account, 5)
    assert code_of(world.do, world.application.set_budget, world.sign(change, ci.key)) == (
        "SIGNER_NOT_ALLOWED"
    )
    stranger = world.buyer("stranger")
    assert code_of(world.do, world.application.set_budget, world.sign(change, stranger.key)) == (
        "BUDGET_OTHER_ACCOUNT"
    )
    world.now_us += SECOND_US
    old = world.sign(change, ci.owner.key)
    world.now_us += SECOND_US
    new = world.sign(BudgetChange(ci.owner.account, 7), ci.owner.key)
    world.do(world.application.set_budget, new)
    world.do(world.application.set_budget, new)
    assert code_of(world.do, world.application.set_budget, old) == "BUDGET_REPLACED"


def test_a_later_grant_replaces_and_an_earlier_one_cannot_come_back(
    world: World, ci: CiKey
) -> None:
    generous = ci.grant(100 * DOLLAR)
    ci.hand_in(generous)  # again: no change
    world.now_us += SECOND_US
    ci.grant(1 * DOLLAR, label="less")
    assert code_of(ci.hand_in, generous) == "GRANT_REPLACED"
    (key,) = ci.report().keys
    assert (key.total.limit_nano, key.label) == (1 * DOLLAR, "less")
    assert code_of(ci.submit, "two dollars") == "GRANT_CAP"
    world.now_us += SECOND_US
    ci.grant(0)
    assert code_of(ci.submit, "nothing", max_price_nano=1) == "GRANT_CAP"


def test_a_key_is_nobody_before_its_grant_and_after_its_end(world: World, ci: CiKey) -> None:
    assert code_of(lambda: ci.session) == "ENVELOPE_UNKNOWN_KEY"
    ci.grant(10 * DOLLAR, days=2)
    session = ci.session
    assert code_of(ci.submit, "too long", deadline_us=world.now_us + 3 * DAY_US) == (
        "GRANT_OUTLIVED"
    )
    ci.submit("one")
    assert session.expires_at_us <= world.now_us + 2 * DAY_US
    world.now_us += 2 * DAY_US
    assert code_of(lambda: ci.session) == "GRANT_EXPIRED"
    world.now_us += SECOND_US
    ci.grant(10 * DOLLAR, days=1)
    ci.submit("two", deadline_us=world.now_us + 1)


def test_a_ci_key_sees_its_own_limits_and_manages_nothing(world: World, ci: CiKey) -> None:
    ci.grant(DOLLAR)
    other = CiKey(world, ci.owner, KeyPair.from_seed(digest_of("other ci")))
    other.grant(2 * DOLLAR, label="other")
    assert [key.label for key in ci.report().keys] == ["nightly"]
    everything = world.see(world.application.budget, ci.owner.session)
    assert {key.label for key in everything.keys} == {"nightly", "other"}
    url = "https://example.org/hook"
    assert code_of(world.do, world.application.add_webhook, ci.session, url, ()) == (
        "OWNER_KEY_NEEDED"
    )


def test_a_lease_carries_the_chain_for_the_worker(world: World, ci: CiKey) -> None:
    ci.grant(5 * DOLLAR)
    job = ci.submit("one")
    world.now_us += SECOND_US
    ci.grant(0)  # what comes later does not touch a job that was bought before
    world.worker("ann")
    (lease,) = world.offers()
    assert lease.job_id == job.job_id
    assert lease.grant is not None
    owner, signer = PublicKey(lease.buyer_public_key), PublicKey(lease.spec_public_key)
    assert (owner.key_id, signer.key_id) == (ci.owner.account, ci.key.key_id)
    grant = open_ci_grant(lease.grant, owner, signer, audience=world.key.key_id)
    spec_header = decode(Header, lease.spec.payload)
    assert spec_header.issued_at_us < grant.expires_at_us
    check_job_within(
        grant,
        max_price_nano=2 * DOLLAR,
        deadline_us=world.now_us,
        now_us=world.now_us,
    )


def test_an_owners_lease_carries_no_grant(world: World) -> None:
    world.buyer().submit()
    world.worker("ann")
    (lease,) = world.offers()
    assert lease.grant is None and lease.buyer_public_key == b""


@given(st.integers(0, 4_000_000_000))
def test_a_month_is_a_calendar_month_in_utc(seconds: int) -> None:
    start_us, end_us = month_bounds_us(seconds * SECOND_US)
    assert start_us <= seconds * SECOND_US < end_us
    start = datetime.fromtimestamp(start_us / 1e6, UTC)
    end = datetime.fromtimestamp(end_us / 1e6, UTC)
    assert (start.day, start.hour, start.minute, start.second) == (1, 0, 0, 0)
    assert (end.year * 12 + end.month) - (start.year * 12 + start.month) == 1
    assert month_bounds_us(end_us - 1) == (start_us, end_us)
    assert month_bounds_us(end_us)[0] == end_us
