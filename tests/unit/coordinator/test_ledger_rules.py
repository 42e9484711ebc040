"""The ledger's rules without a store: what a transfer may be, what it does, what is refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import FlopmarketError
from flopmarket.market.money import MAX_NANO, MoneyError
from flopmarket_coordinator.core.ledger import (
    ESCROW,
    EXTERNAL,
    AccountState,
    Balance,
    BalanceTooSmall,
    Change,
    LedgerConflict,
    Purpose,
    Transfer,
    TransferKind,
    account_of,
    apply,
    changes,
    owner_of,
    transfer_id,
)

NOW_US = 1_000
PENDING = Transfer("p", TransferKind.PENDING, "a/available", ESCROW, 10, Purpose.HOLD)
POST = Transfer("q", TransferKind.POST, "a/available", ESCROW, 10, Purpose.PAY, pending_id="p")
VOID = replace(POST, kind=TransferKind.VOID)
DIRECT = replace(PENDING, kind=TransferKind.DIRECT)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amount_nano": 0}, "TRANSFER_ZERO"),
        ({"credit": "a/available"}, "TRANSFER_SAME_ACCOUNT"),
        ({"pending_id": "p"}, "TRANSFER_PENDING_ID"),
        ({"kind": TransferKind.POST}, "TRANSFER_PENDING_ID"),
        ({"kind": TransferKind.VOID}, "TRANSFER_PENDING_ID"),
        ({"kind": TransferKind.DIRECT, "expires_at_us": 5}, "TRANSFER_EXPIRY"),
        ({"expires_at_us": -1}, "TRANSFER_EXPIRY"),
        ({"expires_at_us": 2**63}, "TRANSFER_EXPIRY"),
    ],
    ids=str,
)
def test_a_transfer_that_makes_no_sense_cannot_be_written(
    change: dict[str, Any], code: str
) -> None:
    with pytest.raises(LedgerConflict) as caught:
        replace(PENDING, **change)
    assert caught.value.code == code


@pytest.mark.parametrize("transfer", [PENDING, POST, VOID, DIRECT])
def test_a_row_is_the_transfer_that_was_stored(transfer: Transfer) -> None:
    row = asdict(transfer) | {"pending_id": transfer.pending_id or None}
    assert Transfer.of_row(row) == transfer
    with pytest.raises(LedgerConflict, match="more than nothing"):
        Transfer.of_row(row | {"amount_nano": 0})


def test_amounts_are_whole_and_not_negative() -> None:
    for amount in (-1, 2**63, 1.5):
        with pytest.raises(MoneyError):
            replace(PENDING, amount_nano=amount)  # type: ignore[arg-type]


def test_what_each_kind_does() -> None:
    assert changes(DIRECT, None) == (Change("a/available", -10, 0), Change(ESCROW, 10, 0))
    assert changes(PENDING, None) == (Change("a/available", 0, 10),)
    assert changes(VOID, PENDING) == (Change("a/available", 0, -10),)
    part = replace(POST, amount_nano=4)
    assert changes(part, PENDING) == (Change("a/available", -4, -10), Change(ESCROW, 4, 0))


@pytest.mark.parametrize(
    ("transfer", "pending", "code"),
    [
        (POST, None, "PENDING_UNKNOWN"),
        (VOID, DIRECT, "PENDING_UNKNOWN"),
        (POST, replace(PENDING, credit="b/held"), "PENDING_ACCOUNTS"),
        (replace(VOID, amount_nano=9), PENDING, "PENDING_AMOUNT"),
        (replace(POST, amount_nano=11), PENDING, "PENDING_AMOUNT"),
    ],
)
def test_a_resolution_fits_its_pending_transfer(
    transfer: Transfer, pending: Transfer | None, code: str
) -> None:
    with pytest.raises(LedgerConflict) as caught:
        changes(transfer, pending)
    assert caught.value.code == code


def books(balance: int = 10, reserved: int = 0, overdraft: int | None = 0) -> Any:
    return {
        "a/available": AccountState(balance, reserved, overdraft),
        ESCROW: AccountState(),
    }


@pytest.mark.parametrize(
    ("accounts", "transfer", "pending", "code"),
    [
        ({}, DIRECT, None, "ACCOUNT_UNKNOWN"),
        ({"a/available": AccountState(10)}, DIRECT, None, "ACCOUNT_UNKNOWN"),
        (books(), replace(PENDING, expires_at_us=NOW_US), None, "TRANSFER_EXPIRY"),
        (books(10, 10), POST, replace(PENDING, expires_at_us=NOW_US), "PENDING_EXPIRED"),
        (books(9), DIRECT, None, "BALANCE_TOO_SMALL"),
        (books(10, 1), PENDING, None, "BALANCE_TOO_SMALL"),
        (books(0, 0, 9), DIRECT, None, "BALANCE_TOO_SMALL"),
        (
            books() | {ESCROW: AccountState(MAX_NANO, 0, None)},
            DIRECT,
            None,
            "MONEY_OUT_OF_RANGE",
        ),
    ],
)
def test_what_is_refused_changes_nothing(
    accounts: dict[str, AccountState], transfer: Transfer, pending: Transfer | None, code: str
) -> None:
    before = dict(accounts)
    with pytest.raises(FlopmarketError) as caught:
        apply(accounts, transfer, pending, NOW_US)
    assert caught.value.code == code and accounts == before
    if isinstance(caught.value, BalanceTooSmall):
        assert caught.value.details["needed_nano"] == "10"


def test_an_expired_hold_can_still_be_given_back() -> None:
    accounts = books(10, 10)
    apply(accounts, VOID, replace(PENDING, expires_at_us=NOW_US), NOW_US)
    assert accounts["a/available"] == AccountState(10, 0)


def test_overdrafts_end_where_they_end() -> None:
    accounts = books(0, 0, 10)
    apply(accounts, DIRECT, None, NOW_US)
    assert accounts["a/available"].free_nano == 0
    outside = {EXTERNAL: AccountState(0, 0, None), ESCROW: AccountState()}
    apply(outside, replace(DIRECT, debit=EXTERNAL), None, NOW_US)
    assert outside[EXTERNAL] == AccountState(-10, 0, None)
    assert outside[EXTERNAL].free_nano is None


def test_money_may_come_to_an_account_that_owes_more_than_it_may() -> None:
    """A lowered overdraft leaves an account below its bound; deposits must still reach it."""
    accounts = books(-100, 0, 0) | {EXTERNAL: AccountState(0, 0, None)}
    apply(accounts, replace(DIRECT, debit=EXTERNAL, credit="a/available"), None, NOW_US)
    assert accounts["a/available"].balance_nano == -90
    with pytest.raises(BalanceTooSmall):
        apply(accounts, DIRECT, None, NOW_US)


def test_names_are_taken_apart_as_they_were_put_together() -> None:
    for owner in ("a", "key/with/slashes"):
        for balance in Balance:
            assert owner_of(account_of(owner, balance)) == (owner, balance)


@given(st.lists(st.text("a\0", max_size=3), max_size=3), st.lists(st.text("a", max_size=3)))
def test_ids_are_the_same_for_the_same_thing_only(left: list[str], right: list[str]) -> None:
    """Parts without a zero byte; no caller's part has one."""
    plain = [part.replace("\0", "") for part in left]
    assert (transfer_id("x", *plain) == transfer_id("x", *right)) == (plain == right)
    assert transfer_id("x", *plain) != transfer_id("y", *plain)


ACCOUNTS = ("a/available", "b/available", ESCROW, EXTERNAL)
STEPS = st.tuples(
    st.sampled_from(list(TransferKind)),
    st.sampled_from(ACCOUNTS),
    st.sampled_from(ACCOUNTS),
    st.integers(1, 12),
    st.integers(0, 9),
    st.sampled_from((0, 5, 15)),
)


@given(st.lists(STEPS, max_size=40))
def test_whatever_happens_nothing_is_lost_made_or_spent_twice(
    steps: list[tuple[TransferKind, str, str, int, int, int]],
) -> None:
    accounts = {name: AccountState(0, 0, None if name == EXTERNAL else 0) for name in ACCOUNTS}
    apply(
        accounts, Transfer("0", TransferKind.DIRECT, EXTERNAL, "a/available", 30, Purpose.DEPOSIT),
        None, 0,
    )  # fmt: skip
    open_holds: dict[str, Transfer] = {}
    for now_us, (kind, debit, credit, amount, pick, expires) in enumerate(steps):
        resolves = kind in (TransferKind.POST, TransferKind.VOID)
        pending = open_holds[sorted(open_holds)[pick % len(open_holds)]] if open_holds else None
        if resolves and pending is None:
            continue
        try:
            if resolves and pending is not None:
                amount = pending.amount_nano if kind is TransferKind.VOID else amount
                debit, credit = pending.debit, pending.credit
            transfer = Transfer(
                f"t{now_us}", kind, debit, credit, amount, Purpose.PAY,
                pending_id=pending.transfer_id if resolves and pending is not None else "",
                expires_at_us=expires if kind is TransferKind.PENDING else 0,
            )  # fmt: skip
            apply(accounts, transfer, pending if resolves else None, now_us)
        except (LedgerConflict, BalanceTooSmall):
            continue
        if kind is TransferKind.PENDING:
            open_holds[transfer.transfer_id] = transfer
        elif resolves and pending is not None:
            del open_holds[pending.transfer_id]
    assert sum(state.balance_nano for state in accounts.values()) == 0
    for name, state in accounts.items():
        held = sum(item.amount_nano for item in open_holds.values() if item.debit == name)
        assert state.reserved_nano == held
        assert state.free_nano is None or state.free_nano >= 0
