"""Money across the market's border, the two currencies, and the proofs of a statement."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.errors import Conflict, FlopmarketError
from flopmarket.market.coin import DEFAULT_OVERDRAFT_NANO, suggested_ask_nano_per_hour
from flopmarket.market.money import FLOPCOIN, NANO_PER_UNIT
from flopmarket.trust.documents import (
    CoinGrant,
    Deposit,
    DepositTarget,
    LedgerHead,
    Withdrawal,
    WithdrawalDecision,
)
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.keys import KeyPair, PublicKey
from flopmarket.trust.statement import (
    LedgerRewritten,
    Statement,
    StatementBatch,
    StatementTransfer,
    open_head,
    statement_from_json,
    statement_to_json,
    verify_statement,
)
from flopmarket_coordinator.application import currency
from flopmarket_coordinator.application.money import HEAD_INTERVAL_US
from flopmarket_coordinator.core.ledger import (
    ESCROW,
    FEE,
    ISSUE,
    Purpose,
    Transfer,
    TransferKind,
)
from flopmarket_coordinator.core.payments import WithdrawalState
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import engine, ledger, ledger_log
from flopmarket_coordinator.store import settings as stored
from flopmarket_coordinator.store.withdrawals import WithdrawalRow
from tests.unit.coordinator.tampering import rewrite
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer
from tests.unit.coordinator.world_work import digest_of


def refused(code: str):  # type: ignore[no-untyped-def]
    return pytest.raises(FlopmarketError, match=rf"\[{code}\]")


@pytest.fixture
def coins(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A market in flopcoin."""
    made = World(
        tmp_path,
        Parameters(
            currency=FLOPCOIN,
            overdraft_nano=DEFAULT_OVERDRAFT_NANO,
            bond_target_nano=0,
            decline_pause_us=0,
            presence_ttl_us=3_600 * SECOND_US,
        ),
    )
    made.do(currency.choose, FLOPCOIN)
    yield made
    made.check()
    made.close()


# --- deposits -------------------------------------------------------------------------------------


def test_a_deposit_is_in_the_market_s_currency(world: World) -> None:
    account = world.buyer(money=0).account
    body = Deposit(account, DepositTarget.AVAILABLE, 5, FLOPCOIN, "cash", "r")
    with refused("CURRENCY_MISMATCH"):
        world.do(world.application.deposit, world.sign(body, world.operator))


def test_a_deposit_happens_once_whatever_is_sent_again(world: World) -> None:
    buyer = world.buyer(money=0)
    body = Deposit(buyer.account, DepositTarget.AVAILABLE, 5, "USD", "cash", "r")
    first = world.do(world.application.deposit, world.sign(body, world.operator))
    again = world.do(world.application.deposit, world.sign(body, world.operator))
    assert first == again and buyer.available == 5
    with refused("REQUEST_ID_REUSED"):
        other = replace(body, amount_nano=6)
        world.do(world.application.deposit, world.sign(other, world.operator))
    nobody = replace(body, account_id="nobody", request_id="other")
    with refused("ACCOUNT_UNKNOWN"):
        world.do(world.application.deposit, world.sign(nobody, world.operator))
    with refused("SIGNER_NOT_ALLOWED"):
        world.do(world.application.deposit, world.sign(body, buyer.key))
    with refused("REQUEST_ID"):
        unnamed = replace(body, request_id="")
        world.do(world.application.deposit, world.sign(unnamed, world.operator))


def test_deposits_that_do_not_fit_64_bits_are_refused(world: World) -> None:
    buyer = world.buyer(money=0)
    world.deposit(buyer.account, 2**63 - 1, "all there is")
    with refused("MONEY_OUT_OF_RANGE"):
        world.deposit(buyer.account, 1, "one more")
    assert buyer.available == 2**63 - 1


@pytest.mark.parametrize("amount", [0, -1, 2**63, 1.0, True])
def test_no_transfer_moves_nothing_or_less_or_too_much(amount: int) -> None:
    with pytest.raises(FlopmarketError):
        Transfer("t", TransferKind.DIRECT, "a", "b", amount, Purpose.PAY)


@pytest.mark.parametrize(
    "changes",
    [
        {"credit": "a"},
        {"kind": TransferKind.POST},
        {"pending_id": "p"},
        {"expires_at_us": 5},
        {"kind": TransferKind.PENDING, "expires_at_us": -1},
        {"kind": TransferKind.PENDING, "expires_at_us": 2**63},
    ],
)
def test_transfers_that_contradict_themselves_do_not_exist(changes: dict[str, Any]) -> None:
    good = Transfer("t", TransferKind.DIRECT, "a", "b", 1, Purpose.PAY)
    with pytest.raises(FlopmarketError):
        replace(good, **changes)


# --- withdrawals ----------------------------------------------------------------------------------


def ask(buyer: Buyer, amount: int, name: str = "w", to: str = "DE00") -> WithdrawalRow:
    body = Withdrawal(buyer.account, amount, "USD", to, name)
    return buyer.world.do(buyer.world.application.withdraw, buyer.world.sign(body, buyer.key))


def decide(world: World, row: WithdrawalRow, paid: bool, reference: str = "wire 9"):  # type: ignore[no-untyped-def]
    body = WithdrawalDecision(row.withdrawal_id, paid, reference)
    return world.do(world.application.decide_withdrawal, world.sign(body, world.operator))


def test_a_withdrawal_is_reserved_until_it_is_paid(world: World) -> None:
    buyer = world.buyer(money=100)
    row = ask(buyer, 60)
    assert row.state is WithdrawalState.PENDING and ask(buyer, 60) == row
    assert buyer.available == 40
    with refused("REQUEST_ID_REUSED"):
        ask(buyer, 61)
    with refused("BALANCE_TOO_SMALL"):
        ask(buyer, 41, "second")
    paid = decide(world, row, paid=True)
    assert (paid.state, paid.reference) == (WithdrawalState.PAID, "wire 9")
    assert decide(world, row, paid=True) == paid  # a retry
    for other in ((False, "wire 9"), (True, "wire 10")):
        with refused("WITHDRAWAL_DECIDED"):
            decide(world, row, *other)
    balances = world.see(world.application.balances, buyer.session)
    assert (balances.available_nano, balances.reserved_nano) == (40, 0)
    page = world.see(
        lambda tx: world.application.list_withdrawals(tx, buyer.session, 0, "", pending_only=False)
    )
    assert page.withdrawals == (paid,)


def test_a_rejected_withdrawal_returns(world: World) -> None:
    buyer = world.buyer(money=100)
    row = ask(buyer, 60)
    assert decide(world, row, False, "no such account").state is WithdrawalState.REJECTED
    assert buyer.available == 100


def test_an_undecided_withdrawal_expires(world: World) -> None:
    buyer = world.buyer(money=100)
    row = ask(buyer, 60)
    world.now_us = row.expires_at_us - 1
    assert world.do(world.application.tend_ledger) == 0
    world.now_us = row.expires_at_us
    with refused("PENDING_EXPIRED"):
        decide(world, row, paid=True)
    assert world.do(world.application.tend_ledger) == 1
    assert world.do(world.application.tend_ledger) == 0
    assert buyer.available == 100
    with refused("WITHDRAWAL_DECIDED"):
        decide(world, row, paid=True)


def test_only_the_owner_withdraws_and_only_the_operator_decides(world: World) -> None:
    buyer, other = world.buyer(money=100), world.buyer("other", money=5)
    row = ask(buyer, 60)
    stolen = Withdrawal(buyer.account, 1, "USD", "mine", "x")
    with refused("NOT_THE_OWNER"):
        world.do(world.application.withdraw, world.sign(stolen, other.key))
    body = WithdrawalDecision(row.withdrawal_id, True, "me")
    with refused("SIGNER_NOT_ALLOWED"):
        world.do(world.application.decide_withdrawal, world.sign(body, buyer.key))
    unknown = WithdrawalDecision("nothing", True, "wire")
    with refused("WITHDRAWAL_UNKNOWN"):
        world.do(world.application.decide_withdrawal, world.sign(unknown, world.operator))
    for at in range(19):
        ask(buyer, 1, f"more {at}")
    with refused("TOO_MANY_WITHDRAWALS"):
        ask(buyer, 1, "one too many")


# --- flopcoin -------------------------------------------------------------------------------------


def total(world: World) -> int:
    """Of all people's accounts and the platform's own, without the issuing one."""
    query = "SELECT ledger_account_id, balance_nano FROM ledger_account"
    with engine.read(world.store, 0) as tx:
        rows = tx.connection.exec_driver_sql(query).all()
    return sum(balance for _, balance in rows)


def test_coins_are_earned_spent_and_never_made(coins: World) -> None:
    """A newcomer without any coin runs a job on its overdraft; all accounts add up to zero."""
    buyer = coins.buyer(money=0)
    worker = coins.worker("ann")
    job = buyer.submit(max_price_nano=9 * NANO_PER_UNIT)
    assert total(coins) == 0
    (lease,) = coins.offers()
    worker.run(lease)
    coins.audit_all()
    assert buyer.job(job.job_id).billed_nano > 0
    assert buyer.available == -buyer.job(job.job_id).billed_nano
    assert total(coins) == 0
    assert coins.see(ledger.balance, ISSUE) == (0, 0)
    with refused("BALANCE_TOO_SMALL"):
        buyer.submit("too dear", max_price_nano=10 * NANO_PER_UNIT)


def test_coins_come_from_the_operator_s_grant_alone(coins: World) -> None:
    buyer = coins.buyer(money=0)
    body = CoinGrant(buyer.account, DepositTarget.AVAILABLE, 7, "welcome", "g")
    first = coins.do(coins.application.grant_coins, coins.sign(body, coins.operator))
    assert coins.do(coins.application.grant_coins, coins.sign(body, coins.operator)) == first
    assert buyer.available == 7 and total(coins) == 0
    assert coins.see(ledger.balance, ISSUE) == (-7, 0)
    with refused("CURRENCY_INTERNAL"):
        coins.deposit(buyer.account, 5, "cash")
    with refused("CURRENCY_INTERNAL"):
        ask(buyer, 5)
    with refused("SIGNER_NOT_ALLOWED"):
        coins.do(coins.application.grant_coins, coins.sign(body, buyer.key))


def test_no_coins_in_a_market_that_counts_in_money(world: World) -> None:
    buyer = world.buyer(money=0)
    body = CoinGrant(buyer.account, DepositTarget.AVAILABLE, 7, "welcome", "g")
    with refused("CURRENCY_NOT_FLOPCOIN"):
        world.do(world.application.grant_coins, world.sign(body, world.operator))
    with pytest.raises(FlopmarketError, match="overdraft"):
        Parameters(overdraft_nano=1)


def test_a_market_keeps_its_currency(world: World) -> None:
    chosen = world.do(currency.choose, "USD")
    assert (chosen.currency, chosen.overdraft_nano) == ("USD", 0)
    with refused("CURRENCY_FIXED"):
        world.do(currency.choose, FLOPCOIN)
    adopted = world.do(currency.adopt, Parameters(currency=FLOPCOIN, overdraft_nano=3))
    assert (adopted.currency, adopted.overdraft_nano) == ("USD", 0)


def test_a_new_market_takes_the_currency_it_is_started_with(world: World) -> None:
    asked = Parameters(currency=FLOPCOIN, overdraft_nano=3)
    assert world.do(currency.adopt, asked) == asked
    assert world.do(currency.adopt, Parameters()) == replace(Parameters(), currency=FLOPCOIN,
                                                             overdraft_nano=3)  # fmt: skip
    assert world.see(stored.get, currency.CURRENCY) == FLOPCOIN
    with engine.write(world.store, 0) as tx:
        stored.put(tx, currency.CURRENCY, "USD")  # the world's own, for its checker
        stored.put(tx, currency.OVERDRAFT, "0")


@given(st.integers(1, 10**17))
def test_the_suggested_ask_is_one_coin_a_pflop(rate: int) -> None:
    ask_nano = suggested_ask_nano_per_hour({"dot-f32": rate, "dot-f16": 9 * rate})
    assert ask_nano is not None
    pflop_nano = rate * 3_600 * NANO_PER_UNIT  # times 1e15
    assert ask_nano * 10**15 - 10**15 < pflop_nano <= ask_nano * 10**15
    assert suggested_ask_nano_per_hour({"dot-f16": rate}) is None


# --- batches --------------------------------------------------------------------------------------


def run_a_job(world: World) -> Buyer:
    buyer = world.buyer()
    worker = world.worker("ann")
    buyer.submit()
    (lease,) = world.offers()
    worker.run(lease)
    world.audit_all()
    return buyer


def test_the_fees_of_a_batch_are_one_transfer(world: World) -> None:
    buyer = world.buyer()
    worker = world.worker("ann")
    job = buyer.submit()
    (lease,) = world.offers()
    worker.run(lease)
    before = world.see(ledger_log.position)

    def audit_everything(tx):  # type: ignore[no-untyped-def]
        while (task := world.application.next_audit(tx)) is not None:
            result = world.recomputed(task)
            world.application.audit_finished(tx, task, result)

    world.do(audit_everything)
    after = world.see(ledger_log.position)
    assert after.batch_count == before.batch_count + 1
    with engine.read(world.store, 0) as tx:
        rows = tx.connection.exec_driver_sql(
            f"SELECT purpose, amount_nano FROM transfer WHERE number > {before.transfer_count}"
        ).all()
    fees = [amount for purpose, amount in rows if purpose == Purpose.FEE]
    paid = [amount for purpose, amount in rows if purpose == Purpose.PAY]
    assert len(fees) == 1 and len(paid) == 8  # 4 segments: one post and one pay each
    assert world.see(ledger.balance, FEE)[0] == fees[0] > 0
    assert world.see(ledger.balance, ESCROW) == (0, 0)
    billed = buyer.job(job.job_id).billed_nano
    assert sum(paid) == billed + billed - fees[0]  # posts, and what the worker got of them


def statement(world: World, buyer: Buyer, since: int = 0, size: int = 3) -> Statement:
    head = world.see(world.application.ledger_head, since)
    count = open_head(head.envelope, world.key.public).batch_count
    transfers: list[StatementTransfer] = []
    batches: dict[int, StatementBatch] = {}
    token = ""
    while True:
        page = world.see(world.application.prove_transfers, buyer.session, count, size, token)
        transfers += [
            StatementTransfer(item.transfer, item.batch_number, item.proof)
            for item in page.transfers
        ]
        batches |= {
            item.batch.number: StatementBatch(item.batch, item.proof) for item in page.batches
        }
        token = page.next_page_token
        if not token:
            break
    return Statement(
        buyer.account, world.key.public, head.envelope, since, head.consistency,
        tuple(transfers), batches,
    )  # fmt: skip


def test_a_statement_proves_itself_offline(world: World) -> None:
    buyer = run_a_job(world)
    made = statement(world, buyer)
    read = statement_from_json(statement_to_json(made))
    assert read == made
    verified = verify_statement(read, world.key.public)
    balances = world.see(world.application.balances, buyer.session)
    available = verified.sums["available"]
    assert available.reserved_nano == balances.reserved_nano == 0
    assert available.balance_nano == balances.available_nano
    assert len(verified.transfers) > 5


def test_a_statement_continues_the_head_that_was_kept(world: World) -> None:
    buyer = run_a_job(world)
    older = head_of(world, statement(world, buyer).head)
    world.deposit(buyer.account, 5, "more")
    again = statement(world, buyer, since=older.batch_count)
    verified = verify_statement(again, world.key.public, older)
    assert verified.head.batch_count == older.batch_count + 1


def head_of(world: World, envelope: Envelope) -> LedgerHead:
    return open_head(envelope, world.key.public)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE transfer SET amount_nano = amount_nano - 1 WHERE number = 1",
        "DELETE FROM transfer WHERE number = (SELECT max(number) FROM transfer)",
    ],
)
def test_rewritten_books_do_not_continue_an_older_head(world: World, change: str) -> None:
    """Every hash was computed anew, every signature is good: only the kept head tells."""
    buyer = run_a_job(world)
    older = head_of(world, statement(world, buyer).head)
    rewrite(world, change)
    try:
        made = statement(world, buyer, since=older.batch_count)
    except Conflict as error:  # there are fewer batches now: that says it as well
        assert error.code == "LEDGER_HEAD_UNKNOWN"
        made = statement(world, buyer)
    verify_statement(made, world.key.public)  # by itself it looks right
    with pytest.raises(LedgerRewritten):
        verify_statement(made, world.key.public, older)
    assert "signed-head" not in {item.rule for item in world.findings()}  # none was kept
    world.expect_damage()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_damaged_statement_is_refused(
    statement_file: bytes, key: PublicKey, data: st.DataObject
) -> None:
    """One changed byte anywhere: no statement, or no proof."""
    at = data.draw(st.integers(0, len(statement_file) - 1))
    new = data.draw(st.sampled_from(b'0123456789abcdefx"'))
    damaged = statement_file[:at] + bytes([new]) + statement_file[at + 1 :]
    if damaged == statement_file:
        return
    right = verify_statement(statement_from_json(statement_file), key)
    with contextlib.suppress(FlopmarketError):
        assert verify_statement(statement_from_json(damaged), key) == right


@pytest.fixture(scope="module")
def key() -> PublicKey:
    return KeyPair.from_seed(digest_of("coordinator")).public


@pytest.fixture(scope="module")
def statement_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    made = World(tmp_path_factory.mktemp("statement"))
    buyer = made.buyer(money=7)
    for at in range(5):
        made.deposit(buyer.account, 3, f"more {at}")
    ask(buyer, 2)
    file = statement_to_json(statement(made, buyer))
    made.close()
    return file


def test_heads_are_kept_while_the_ledger_grows(world: World) -> None:
    buyer = world.buyer()
    world.do(world.application.tend_ledger)
    first = world.see(ledger_log.last_head)
    assert first is not None
    world.do(world.application.tend_ledger)
    world.now_us += HEAD_INTERVAL_US
    world.do(world.application.tend_ledger)
    assert world.see(ledger_log.last_head) == first  # nothing happened
    world.deposit(buyer.account, 1, "more")
    world.do(world.application.tend_ledger)
    assert world.see(ledger_log.last_head) == (first[0] + 1, world.now_us)


def test_old_heads_of_nowhere_are_refused(world: World) -> None:
    buyer = world.buyer()
    for count in (2, 2**63):
        with refused("LEDGER_HEAD_UNKNOWN"):
            world.see(world.application.ledger_head, count)
        with refused("LEDGER_HEAD_UNKNOWN"):
            world.see(world.application.prove_transfers, buyer.session, count, 0, "")


def test_a_statement_from_an_instant_on(world: World) -> None:
    buyer = world.buyer()
    world.now_us += 10
    world.deposit(buyer.account, 1, "later")
    since = world.now_us
    page = world.see(world.application.transfers, buyer.session, 0, "", since)
    assert [item.amount_nano for item in page.transfers] == [1]
    with refused("PAGE_TOKEN_INVALID"):
        everything = world.see(world.application.transfers, buyer.session, 1, "")
        world.see(world.application.transfers, buyer.session, 1, everything.next_page_token, since)
