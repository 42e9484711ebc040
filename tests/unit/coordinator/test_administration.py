"""Orders of operators: what each does, who may give it, and the trail it leaves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.exc import DBAPIError

from flopmarket.errors import (
    Conflict,
    FlopmarketError,
    Forbidden,
    InvalidInput,
    NotFound,
    Unavailable,
)
from flopmarket.trust.administration import AdminAction, AdminOrder
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.errors import DocumentError
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket_coordinator.application.administration import OrdersInForce
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_working import LeaseRevoked
from flopmarket_coordinator.core.changes import ParametersChanged
from flopmarket_coordinator.store import engine
from flopmarket_coordinator.store.decisions import Decision
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import DOLLAR, digest_of


class Operator:
    """Signs orders with one key and has them done, with the observer that a process has."""

    def __init__(self, world: World, key: KeyPair | None = None) -> None:
        self.world = world
        self.key = key or world.operator
        self.orders = 0

    def order(
        self,
        order: AdminOrder,
        subject: str = "",
        value: str = "",
        reason: str = "a test",
        request_id: str = "",
    ) -> Decision:
        self.orders += 1
        action = AdminAction(
            order, subject, value, reason, request_id or f"{self.key.key_id[:8]} {self.orders}"
        )
        world = self.world
        with engine.write(world.store, world.now_us) as tx:
            decision = world.application.administer(tx, world.sign(action, self.key))
            OrdersInForce(world.application).applied(tx, tx.changes)
        return decision

    def session(self) -> Session:
        return self.world.session(self.key, "", KeyRole.OPERATOR)

    def trail(self, kind: str = "", subject: str = "") -> list[str]:
        application, session = self.world.application, self.session()
        page = self.world.see(application.list_decisions, session, kind, subject, 100, "")
        return [item.kind for item in page.decisions]


@pytest.fixture
def operator(world: World) -> Iterator[Operator]:
    return Operator(world)


def restart(world: World) -> None:
    world.restart()
    with engine.read(world.store, world.now_us) as tx:
        OrdersInForce(world.application).reset(tx)


class TestWhoMayOrder:
    def test_only_operators_keys(self, world: World) -> None:
        key, _ = world.account("ann")
        with pytest.raises(Forbidden):
            Operator(world, key).order(AdminOrder.DRAIN)
        with pytest.raises(FlopmarketError):
            Operator(world, KeyPair.generate()).order(AdminOrder.DRAIN)

    def test_only_operators_sessions_look(self, world: World) -> None:
        key, account = world.account("ann")
        session = world.session(key, account, KeyRole.OWNER)
        application = world.application
        with pytest.raises(Forbidden):
            world.see(application.status, session)
        with pytest.raises(Forbidden):
            world.see(application.list_decisions, session, "", "", 10, "")

    def test_a_second_operator_comes_and_goes(self, world: World, operator: Operator) -> None:
        key = KeyPair.generate()
        second = Operator(world, key)
        operator.order(AdminOrder.ADD_OPERATOR, value=key.public.raw.hex())
        second.order(AdminOrder.DRAIN)
        second.order(AdminOrder.RESUME)
        session = second.session()
        restart(world)
        second.order(AdminOrder.DRAIN, reason="it is still known")
        second.order(AdminOrder.RESUME)
        with pytest.raises(Forbidden):
            second.order(AdminOrder.REMOVE_OPERATOR, subject=key.key_id)
        operator.order(AdminOrder.REMOVE_OPERATOR, subject=key.key_id)
        with pytest.raises(FlopmarketError):
            second.order(AdminOrder.DRAIN)
        with pytest.raises(Conflict):
            operator.order(AdminOrder.ADD_OPERATOR, value=key.public.raw.hex())
        assert session.key_id == key.key_id

    def test_a_key_of_an_account_is_no_operator(self, world: World, operator: Operator) -> None:
        key, _ = world.account("ann")
        with pytest.raises(Conflict):
            operator.order(AdminOrder.ADD_OPERATOR, value=key.public.raw.hex())
        with pytest.raises(InvalidInput):
            operator.order(AdminOrder.ADD_OPERATOR, value="not hex")


class TestOrders:
    def test_a_repeated_request_does_nothing_more(self, world: World, operator: Operator) -> None:
        first = operator.order(AdminOrder.DRAIN, request_id="r")
        assert operator.order(AdminOrder.DRAIN, request_id="r") == first
        with pytest.raises(Conflict) as refused:
            operator.order(AdminOrder.RESUME, request_id="r")
        assert refused.value.code == "REQUEST_ID_REUSED"
        assert operator.trail() == ["drain"]

    def test_a_drain_grants_nothing_and_survives_a_restart(
        self, world: World, operator: Operator
    ) -> None:
        buyer, worker = world.buyer(), world.worker("one")
        buyer.submit()
        operator.order(AdminOrder.DRAIN)
        with pytest.raises(Conflict):
            operator.order(AdminOrder.DRAIN)
        assert world.offers() == []
        with pytest.raises(Unavailable) as refused:
            buyer.submit("another")
        assert refused.value.code == "COORDINATOR_DRAINING"
        restart(world)
        assert world.see(world.application.status, operator.session()).draining
        operator.order(AdminOrder.RESUME)
        worker.hello()
        assert len(world.offers()) == 1

    def test_a_ban_ends_leases_and_sessions_until_it_is_lifted(
        self, world: World, operator: Operator
    ) -> None:
        buyer, worker = world.buyer(), world.worker("one")
        buyer.submit()
        [lease] = world.offers()
        worker.accept(lease)
        operator.order(AdminOrder.BAN, worker.account, reason="ABUSE")
        told = [item.lease_id for item in world.match() if isinstance(item, LeaseRevoked)]
        assert told == [lease.lease_id]
        with pytest.raises(FlopmarketError):
            world.session(worker.key, worker.account, KeyRole.DEVICE)
        operator.order(AdminOrder.UNBAN, worker.account)
        with pytest.raises(Conflict):
            operator.order(AdminOrder.UNBAN, worker.account)
        worker.session = world.session(worker.key, worker.account, KeyRole.DEVICE)
        worker.hello()
        assert len(world.offers()) == 1
        assert operator.trail(subject=worker.account) == ["unban", "ban"]

    def test_who_is_not_there_is_not_banned(self, operator: Operator) -> None:
        for order, reason in ((AdminOrder.BAN, "FRAUD"), (AdminOrder.UNBAN, "x")):
            with pytest.raises(NotFound):
                operator.order(order, "nobody", reason=reason)

    def test_refunds_come_from_the_reserve_and_stay_within_the_bill(
        self, world: World, operator: Operator
    ) -> None:
        buyer, worker = world.buyer(), world.worker("one")
        submitted = buyer.submit()
        worker.run(world.offers()[0])
        world.audit_all()
        job = buyer.job(submitted.job_id)
        before = buyer.available
        with pytest.raises(FlopmarketError):  # the reserve is empty
            operator.order(AdminOrder.REFUND, job.job_id, "1")
        cheat = world.worker("cheat", ask=1)
        cheat.lie = lambda step: digest_of("a lie")
        world.deposit(cheat.account, 100 * DOLLAR, "bond", DepositTarget.BOND)
        buyer.submit("for a cheat")
        cheat.run(world.offers()[0])
        world.audit_all()  # a quarter of the bond goes to the reserve
        before = buyer.available
        with pytest.raises(InvalidInput) as refused:
            operator.order(AdminOrder.REFUND, job.job_id, str(job.billed_nano + 1))
        assert refused.value.code == "REFUND_TOO_LARGE"
        operator.order(AdminOrder.REFUND, job.job_id, str(job.billed_nano - 1))
        assert buyer.available == before + job.billed_nano - 1
        with pytest.raises(InvalidInput):
            operator.order(AdminOrder.REFUND, job.job_id, "2")
        operator.order(AdminOrder.REFUND, job.job_id, "1")

    def test_parameters(self, world: World, operator: Operator) -> None:
        application = world.application
        operator.order(AdminOrder.SET, "lease_ttl_us", "600000000")
        status = world.see(application.status, operator.session())
        assert status.parameters.lease_ttl_us == 600_000_000
        assert status.overridden == {"lease_ttl_us"}
        restart(world)
        status = world.see(world.application.status, operator.session())
        assert status.parameters.lease_ttl_us == 600_000_000
        operator.order(AdminOrder.UNSET, "lease_ttl_us")
        status = world.see(world.application.status, operator.session())
        assert status.parameters == world.parameters
        with pytest.raises(Conflict):
            operator.order(AdminOrder.UNSET, "lease_ttl_us")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("lease_ttl_us", "0"),
            ("lease_ttl_us", "1"),  # shorter than two heartbeats
            ("lease_ttl_us", "-5"),
            ("lease_ttl_us", "ten"),
            ("lease_ttl_us", "9" * 30),
            ("lease_ttl_us", "١٢"),  # digits, and not those of ASCII
            ("currency", "USD"),
            ("fee_ppm", "1"),
            ("no such thing", "1"),
        ],
    )
    def test_parameters_that_cannot_be(
        self, world: World, operator: Operator, name: str, value: str
    ) -> None:
        with pytest.raises(InvalidInput):
            operator.order(AdminOrder.SET, name, value)
        assert operator.trail() == []


@pytest.mark.parametrize(
    ("order", "subject", "value", "reason"),
    [
        (AdminOrder.DRAIN, "x", "", "why"),
        (AdminOrder.DRAIN, "", "", " "),
        (AdminOrder.BAN, "", "", "FRAUD"),
        (AdminOrder.BAN, "x", "", "because"),
        (AdminOrder.REFUND, "x", "", "why"),
        (AdminOrder.REFUND, "x", "0", "why"),
        (AdminOrder.REFUND, "x", "1.5", "why"),
        (AdminOrder.REFUND, "x", "-1", "why"),
        (AdminOrder.REFUND, "x", str(2**63), "why"),
        (AdminOrder.REFUND, "x", "1".zfill(20) + "5" * 20, "why"),
        (AdminOrder.SET, "x", "", "why"),
        (AdminOrder.UNSET, "x", "1", "why"),
    ],
)
def test_orders_that_say_too_little_or_too_much(
    order: AdminOrder, subject: str, value: str, reason: str
) -> None:
    with pytest.raises(DocumentError):
        AdminAction(order, subject, value, reason, "r")


def test_the_trail_is_paged_and_cannot_be_changed(world: World, operator: Operator) -> None:
    for _ in range(3):
        operator.order(AdminOrder.DRAIN)
        operator.order(AdminOrder.RESUME)
    application, session = world.application, operator.session()
    page = world.see(application.list_decisions, session, "drain", "", 2, "")
    assert len(page.decisions) == 2
    rest = world.see(application.list_decisions, session, "drain", "", 2, page.next_page_token)
    assert [item.kind for item in rest.decisions] == ["drain"]
    assert rest.next_page_token == ""
    with pytest.raises(InvalidInput):
        world.see(application.list_decisions, session, "resume", "", 2, page.next_page_token)
    for statement in ("UPDATE decision SET reason = 'x'", "DELETE FROM decision"):
        with (
            pytest.raises(DBAPIError),
            engine.write(world.store, world.now_us) as tx,
        ):
            tx.connection.exec_driver_sql(statement)


def test_a_change_of_parameters_is_followed_only_when_it_was_noted(world: World) -> None:
    seen = OrdersInForce(world.application)
    with engine.write(world.store, world.now_us) as tx:
        seen.applied(tx, ())
        seen.applied(tx, (ParametersChanged(),))
    assert world.see(world.application.figures).overridden == frozenset()


def test_slashes_and_bans_of_the_coordinator_are_on_the_trail(
    world: World, operator: Operator
) -> None:
    buyer, cheat = world.buyer(), world.worker("cheat")
    cheat.lie = lambda step: digest_of("a lie")
    buyer.submit()
    cheat.run(world.offers()[0])
    world.audit_all()
    assert operator.trail(subject=cheat.key.key_id) == ["ban"]
    assert operator.trail(subject=cheat.account) == ["slash"]
