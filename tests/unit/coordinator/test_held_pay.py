"""Pay that waits its day, pay of newcomers and auditors, bonds: through the application."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.errors import FlopmarketError
from flopmarket.trust.audit_policy import RULES
from flopmarket.trust.documents import BondWithdrawal, Withdrawal, WithdrawalDecision
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.core.ledger import AUDIT, FEE
from flopmarket_coordinator.store import penalties, withdrawals
from flopmarket_coordinator.store.withdrawals import WithdrawalRow
from tests.unit.coordinator.judged import (
    DAY_US,
    NOT_DRAWN,
    STAKE,
    balance,
    made,
    reject,
    rows,
    settle_one,
    staked,
)
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import DOLLAR, digest_of


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made_world = made(tmp_path)
    yield made_world
    made_world.check()
    made_world.close()


def test_pay_is_spendable_after_a_day_or_after_further_work(tmp_path: Path) -> None:
    world = made(tmp_path, replace(NOT_DRAWN, held_units=3), held_us=DAY_US)
    buyer, worker = world.buyer(), staked(world, "ann")
    pays = [settle_one(world, buyer, worker, f"job {number}").to_held_nano for number in range(4)]
    assert worker.balances.available_nano == pays[0], "three more units were delivered"
    world.now_us += DAY_US - 1
    assert world.do(world.application.release_pay) == 0
    world.now_us += 1
    assert world.do(world.application.release_pay) == sum(pays[1:])
    assert worker.balances.held_nano == 0
    world.check()
    world.close()


def test_pay_of_a_running_job_is_never_free(tmp_path: Path) -> None:
    world = made(tmp_path, replace(NOT_DRAWN, held_units=0), held_us=0)
    buyer, worker = world.buyer(), staked(world, "ann")
    job = buyer.submit()
    lease = worker.accept(world.offers()[0])
    assert worker.commit(lease).accepted
    world.audit_all()
    world.now_us += 2 * DAY_US
    world.do(world.application.release_pay)
    assert worker.balances.available_nano == 0 < worker.balances.held_nano
    buyer.cancel(job.job_id)
    assert worker.balances.available_nano > 0 == worker.balances.held_nano
    world.check()
    world.close()


# --- newcomers and auditors' pay ------------------------------------------------------------------


def test_a_newcomer_pays_for_its_audits_with_half_its_pay_and_builds_its_bond(
    tmp_path: Path,
) -> None:
    world = made(tmp_path, RULES, bond_target_nano=10 * DOLLAR)
    buyer, worker = world.buyer(), world.worker("ann")
    job = buyer.submit()
    worker.run(world.offers()[0])
    world.audit_all()
    paid = rows(world, job.job_id)
    for row in paid:
        pay = row.price_nano - row.fee_nano
        assert row.to_audit_nano == -(-pay // 2)
        assert row.to_bond_nano == pay - row.to_audit_nano and row.to_held_nano == 0
    assert balance(world, AUDIT) == sum(row.to_audit_nano for row in paid)
    owed = sum(row.price_nano for row in paid) - balance(world, AUDIT)
    assert world.see(penalties.debt, worker.account) == owed
    assert worker.balances.bond_nano <= RULES.bond_units * paid[0].price_nano
    world.check()
    world.close()


def test_an_auditors_pay_is_promised_once_and_paid_from_audits_then_fees(world: World) -> None:
    buyer, worker = world.buyer(), staked(world, "ann")
    auditor = world.worker("auditor", ask=10**12)
    row = settle_one(world, buyer, worker, "first")
    fee = row.fee_nano
    application = world.application
    assert world.see(application.can_pay_auditor, fee)
    assert not world.see(application.can_pay_auditor, fee + 1)
    assert world.do(application._reserve_audit_pay, "l1", auditor.account, fee - 1)
    assert not world.do(application._reserve_audit_pay, "l2", auditor.account, 2)
    assert world.findings() == ()
    world.do(application._pay_auditor, "l1", 5)
    assert auditor.balances.available_nano == 5 and balance(world, FEE) == fee - 5
    assert world.do(application._reserve_audit_pay, "l3", auditor.account, fee - 5)
    for _ in range(2):
        world.do(application._free_audit_pay, "l3")
    assert world.see(application.can_pay_auditor, fee - 5)
    with pytest.raises(FlopmarketError) as error:
        world.do(application._pay_auditor, "l3", 1)
    assert error.value.code == "AUDIT_PAY"


# --- bonds ----------------------------------------------------------------------------------------


def test_a_bond_leaves_only_when_nothing_can_turn_out_wrong_any_more(tmp_path: Path) -> None:
    world = made(tmp_path, held_us=DAY_US, bond_cooling_us=3 * DAY_US)
    buyer, worker = world.buyer(), staked(world, "ann")
    owner = KeyPair.from_seed(digest_of("owner owner of ann"))

    def ask(request_id: str) -> WithdrawalRow:
        body = BondWithdrawal(worker.account, STAKE, "USD", "DE00 1234", request_id)
        return world.do(world.application.withdraw, world.sign(body, owner))

    def refused(request_id: str) -> str:
        with pytest.raises(FlopmarketError) as error:
            ask(request_id)
        assert error.value.code == "BOND_AT_STAKE"
        return error.value.message

    buyer.submit(steps=3)
    (lease,) = world.offers()
    assert "1 leases run" in refused("a")
    worker.run(lease)
    assert "1 segments" in refused("b")
    world.audit_all()
    assert "held" in refused("c")
    world.now_us += DAY_US
    world.do(world.application.release_pay)
    assert "recent" in refused("d")
    world.now_us += 2 * DAY_US
    asked = ask("e")
    assert (asked.amount_nano, worker.balances.bond_nano) == (STAKE, STAKE)
    assert ask("e") == asked, "the same request again"
    decision = WithdrawalDecision(asked.withdrawal_id, True, "wire 9")
    world.do(world.application.decide_withdrawal, world.sign(decision, world.operator))
    assert worker.balances.bond_nano == 0
    world.check()
    world.close()


def test_a_bond_that_is_about_to_leave_is_at_stake_until_it_has_left(world: World) -> None:
    buyer, cheat = world.buyer(), staked(world, "cheat")
    owner = KeyPair.from_seed(digest_of("owner owner of cheat"))
    body = BondWithdrawal(cheat.account, STAKE, "USD", "DE00 1234", "r")
    asked = world.do(world.application.withdraw, world.sign(body, owner))
    row = settle_one(world, buyer, cheat, "first")
    reject(world, row, None)
    assert cheat.balances.bond_nano == 0
    (page,) = world.see(
        lambda tx: withdrawals.page(tx, cheat.account, pending_only=False, after=None, limit=2)
    )
    assert (page.withdrawal_id, page.reference) == (asked.withdrawal_id, "SLASHED")


def test_an_ordinary_withdrawal_never_touches_the_bond(world: World) -> None:
    worker = staked(world, "ann")
    owner = KeyPair.from_seed(digest_of("owner owner of ann"))
    body = Withdrawal(worker.account, 1, "USD", "DE00 1234", "r")
    with pytest.raises(FlopmarketError) as error:
        world.do(world.application.withdraw, world.sign(body, owner))
    assert error.value.code == "BALANCE_TOO_SMALL" and worker.balances.bond_nano == STAKE
