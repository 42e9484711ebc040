"""Escrow without a store: every group of transfers nets to zero in the clearing account."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.market.price import Split, split_fee
from flopmarket.trust.audit_policy import RULES, PayDivision, divide_pay
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.escrow import Settlement
from flopmarket_coordinator.core.leasing import Part
from flopmarket_coordinator.core.ledger import (
    AUDIT,
    ESCROW,
    EXTERNAL,
    FEE,
    ISSUE,
    RESERVE,
    UNBOUNDED_ACCOUNTS,
    AccountState,
    Balance,
    LedgerConflict,
    Purpose,
    Transfer,
    TransferKind,
    apply,
)
from flopmarket_coordinator.core.lifecycle import (
    FINAL_JOB_STATES,
    JOB_TRANSITIONS,
    LEASE_TRANSITIONS,
    LIVE_LEASE_STATES,
    LIVE_SEGMENT_STATES,
    SEGMENT_TRANSITIONS,
    IllegalTransition,
    SegmentState,
    check_transition,
)
from flopmarket_coordinator.core.verification import (
    Claimed,
    Recomputed,
    VerdictCode,
    built_upon,
    judge,
)

NANO = st.integers(1, 10**12)


class Books:
    """Accounts in memory, under the ledger's own rules."""

    def __init__(self, **balances: int) -> None:
        self.accounts = {
            name.replace("__", "/"): AccountState(amount) for name, amount in balances.items()
        }
        self.pending: dict[str, Transfer] = {}

    def post(self, transfers: Iterable[Transfer], now_us: int = 0) -> None:
        for item in transfers:
            for name in (item.debit, item.credit):
                unbounded = None if name in UNBOUNDED_ACCOUNTS else 0
                self.accounts.setdefault(name, AccountState(0, 0, unbounded))
            apply(self.accounts, item, self.pending.get(item.pending_id), now_us)
            if item.kind is TransferKind.PENDING:
                self.pending[item.transfer_id] = item
            self.pending.pop(item.pending_id, None)

    def balance(self, name: str) -> int:
        return self.accounts.get(name, AccountState()).balance_nano


def settle(hold: escrow.Hold, price: int, split: Split, pay: PayDivision) -> Settlement:
    return escrow.settle_segment(
        job_id="j", segment_id=7, buyer="b", worker="w", hold=hold, price_nano=price, split=split,
        pay=pay,
    )  # fmt: skip


@given(
    st.integers(0, 10**9),
    st.lists(NANO, min_size=1, max_size=6),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
    st.booleans(),
)
def test_a_job_pays_segment_by_segment_and_gives_the_rest_back(
    spare: int, prices: list[int], target: int, debt: int, forfeited: bool
) -> None:
    books = Books(b__available=sum(prices) + spare)
    opened, first = escrow.open_hold("j", "b", sum(prices) + spare)
    books.post([opened])
    hold: escrow.Hold | None = first
    fees = bonded = paid = owed = lost = 0
    for price in prices:
        assert hold is not None
        split = split_fee(price, 30_000)
        pay = divide_pay(RULES, split.worker_nano, debt - owed, bonded, target)
        if forfeited:
            pay, lost = PayDivision(0, 0, 0), lost + split.worker_nano
        settled = settle(hold, price, split, pay)
        books.post(settled.transfers)
        hold = settled.hold
        fees, bonded = fees + split.fee_nano, bonded + pay.to_bond_nano
        paid, owed = paid + pay.to_held_nano, owed + pay.to_audits_nano
    assert books.balance(ESCROW) == fees, "the fee alone waits for the end of the batch"
    if hold is None:
        assert spare == 0
    else:
        assert hold.amount_nano == spare
        books.post([escrow.close_hold("j", "b", hold)])
    assert not books.pending and books.balance("b/available") == spare
    if fees:
        books.post([escrow.collect_fees(1, fees)])
    assert books.balance(ESCROW) == 0 and books.balance(FEE) == fees
    assert (books.balance("w/bond"), books.balance("w/held")) == (bonded, paid)
    assert (books.balance(AUDIT), books.balance(RESERVE)) == (owed, lost)
    assert bonded <= target and owed <= debt
    if paid:
        books.post([escrow.release_pay("j", "w", paid, 7)])
        assert (books.balance("w/held"), books.balance("w/available")) == (0, paid)


def test_a_segment_dearer_than_the_hold_is_not_settled() -> None:
    _, hold = escrow.open_hold("j", "b", 10)
    with pytest.raises(LedgerConflict) as caught:
        settle(hold, 11, Split(11, 0), PayDivision(0, 0, 11))
    assert caught.value.code == "HOLD_TOO_SMALL"


def test_a_repeated_group_is_the_same_group() -> None:
    _, hold = escrow.open_hold("j", "b", 10)
    again = [settle(hold, 4, Split(3, 1), PayDivision(0, 2, 1)) for _ in range(2)]
    assert again[0] == again[1]
    ids = [item.transfer_id for item in again[0].transfers]
    assert len(set(ids)) == len(ids) == 4  # post, bond, pay, the renewed hold


def test_money_comes_from_and_goes_to_where_it_says() -> None:
    books = Books(platform__reserve=3)
    books.post(
        [
            escrow.deposit("op", "r1", "a", Balance.AVAILABLE, 50, "wire"),
            escrow.grant("op", "r1", "a", Balance.BOND, 7, "welcome"),
            escrow.refund("j", "a", 3, "r1", "sorry"),
        ]
    )
    assert books.balance("a/available") == 53 and books.balance("a/bond") == 7
    assert (books.balance(EXTERNAL), books.balance(ISSUE)) == (-50, -7)
    assert books.balance(RESERVE) == 0


@pytest.mark.parametrize(("paid", "left"), [(True, 20), (False, 50)])
def test_a_withdrawal_is_reserved_and_then_gone_or_free_again(paid: bool, left: int) -> None:
    books = Books(a__available=50)
    asked = escrow.open_withdrawal("a", "r1", 30, "IBAN", 1_000)
    books.post([asked])
    assert books.accounts["a/available"] == AccountState(50, 30)
    done = escrow.close_pending(asked, paid=paid, reference="wire 9")
    assert (done.purpose, done.reference) == (Purpose.WITHDRAWAL, "wire 9")
    books.post([done], now_us=999)
    assert books.accounts["a/available"] == AccountState(left, 0)


# --- lifecycle and verdicts -----------------------------------------------------------------------


@pytest.mark.parametrize("table", [JOB_TRANSITIONS, SEGMENT_TRANSITIONS, LEASE_TRANSITIONS])
def test_only_the_listed_steps_exist(table: dict[str, frozenset[str]]) -> None:
    for current in table:
        for target in table:
            if target in table[current]:
                assert check_transition(table, current, target, name="x") is target  # type: ignore[type-var]
                continue
            with pytest.raises(IllegalTransition) as caught:
                check_transition(table, current, target, name="x")  # type: ignore[type-var]
            assert "nothing recorded" in caught.value.message
            assert caught.value.details == {"object": "x", "from": current, "to": target}


def test_what_has_ended_never_lives_again_and_everything_can_end() -> None:
    assert all(not JOB_TRANSITIONS[state] for state in FINAL_JOB_STATES)
    for table, live in (
        (LEASE_TRANSITIONS, LIVE_LEASE_STATES),
        (SEGMENT_TRANSITIONS, LIVE_SEGMENT_STATES),
        (JOB_TRANSITIONS, frozenset(JOB_TRANSITIONS) - FINAL_JOB_STATES),
    ):
        for state, targets in table.items():
            # What fell with somebody else's segment may turn out wrong by itself.
            assert bool(targets) == (state in live or state is SegmentState.VOID)
            reached, edge = {state}, {state}
            while edge:
                edge = {target for at in edge for target in table[at]} - reached
                reached |= edge
            assert any(not table[at] for at in reached)


def test_files_are_compared_only_where_there_are_files() -> None:
    found = Recomputed(b"s", b"o", None, None)
    assert judge(Claimed(b"s", b"o", "", ""), found) is VerdictCode.EQUAL
    assert judge(Claimed(b"s", b"o", "f", ""), found) is VerdictCode.OUTPUTS_FILE_DIFFERS
    assert judge(Claimed(b"s", b"o", "", "f"), found) is VerdictCode.CHECKPOINT_FILE_DIFFERS


def test_with_a_wrong_segment_fall_the_later_ones_of_a_chain() -> None:
    parts = [
        Part(at, at, 3 * at, 3, state, b"r", "")
        for at, state in enumerate(
            (SegmentState.SETTLED, SegmentState.COMMITTED, SegmentState.VERIFIED,
             SegmentState.SETTLED, SegmentState.COMMITTED)
        )
    ]  # fmt: skip
    fallen = built_upon(parts[1], parts, stateless=False)
    assert [part.index for part in fallen] == [2, 3, 4], "paid or not"
    assert built_upon(parts[1], parts, stateless=True) == ()


@given(NANO, NANO, st.booleans())
def test_what_comes_back_to_a_job_is_held_beside_what_is_held(
    held: int, more: int, ended: bool
) -> None:
    """``ended``: the last hold was spent to the end."""
    books = Books(b__available=held + more)
    opened, before = escrow.open_hold("j", "b", held)
    books.post([opened])
    if ended:
        books.post([escrow.close_hold("j", "b", before)])
    transfers, hold = escrow.renew_hold("j", "b", None if ended else before, 1, more)
    books.post(transfers)
    assert hold.amount_nano == (more if ended else held + more)
    assert books.accounts["b/available"].reserved_nano == hold.amount_nano
    assert books.balance("b/available") == held + more, "held is not spent"


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.data())
def test_an_auditor_gets_what_it_earned_and_the_rest_is_free_again(
    from_audit: int, from_fee: int, data: st.DataObject
) -> None:
    books = Books(platform__audit=from_audit, platform__fee=from_fee)
    promised = escrow.reserve_audit_pay("l", "a", from_audit, from_fee)
    books.post(promised)
    assert sum(item.amount_nano for item in promised) == from_audit + from_fee
    earned = data.draw(st.integers(0, from_audit + from_fee), label="earned")
    books.post(escrow.pay_auditor(promised, earned))
    assert books.balance("a/available") == earned
    assert books.balance(AUDIT) == max(from_audit - earned, 0), "the account of audits pays first"
    assert books.balance(AUDIT) + books.balance(FEE) == from_audit + from_fee - earned
    assert not books.pending
