"""Where a forfeited stake goes: conserved to the nano, honest people first, no door back to the
cheat, whoever its friends are."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flopmarket.trust.audit_policy import RULES
from flopmarket_coordinator.core import faults
from flopmarket_coordinator.core.faults import Claim, Funds, Owed, Slash
from flopmarket_coordinator.core.ledger import (
    AUDIT,
    ESCROW,
    FEE,
    RESERVE,
    TransferKind,
    changes,
)

NANO = st.integers(0, 10**12)


@st.composite
def claims(draw: st.DrawFn) -> tuple[Claim, ...]:
    found = draw(st.lists(st.tuples(st.integers(1, 10**12), st.booleans(), st.booleans())))
    return tuple(
        Claim(at, f"f{at}", amount, checked, checkable)
        for at, (amount, checked, checkable) in enumerate(found)
    )


owed = st.builds(Owed, NANO, NANO, NANO, NANO, NANO, claims(), NANO)
funds = st.builds(Funds, NANO, NANO, NANO, NANO, NANO, NANO, NANO)


def slash(money: Funds, debts: Owed, auditor: str = "") -> tuple[Slash, Counter[str]]:
    """A slash with all claims found right, and what it does to each account."""
    found = faults.slash(
        RULES, cause="fault", job_id="j", segment_id=1, cheat="c", buyer="b", auditor=auditor,
        funds=money, owed=debts,
    )  # fmt: skip
    paying = faults.claim_transfers("j", "b", found.covered)
    promised = [item for item in paying if item.kind is TransferKind.PENDING]
    names = {name for claim in debts.claims for name in faults.claim_ids(claim.segment_id, "b")}
    assert {item.transfer_id for item in paying} <= names, "or nobody would find them again"
    posts = faults.end_promise(promised, stake=True, buyer=True)
    every = (*found.transfers, *paying, *posts)
    by_id = {item.transfer_id: item for item in every}
    assert len(by_id) == len(every)
    moved: Counter[str] = Counter()
    for transfer in every:
        for change in changes(transfer, by_id.get(transfer.pending_id)):
            moved[change.account] += change.balance_nano
    return found, moved


def back_from_platform(money: Funds, debts: Owed) -> int:
    """What of the buyer's own money the platform had and gave back."""
    fees, audits = min(debts.fees_nano, money.fee_nano), min(debts.audits_nano, money.audit_nano)
    had = debts.fees_nano + debts.audits_nano + debts.reserve_nano
    return fees + audits + min(had - fees - audits, money.reserve_nano)


@given(funds, owed, st.sampled_from(["", "a"]))
def test_a_slash_moves_what_there_is_and_makes_nothing(
    money: Funds, debts: Owed, auditor: str
) -> None:
    found, moved = slash(money, debts, auditor)
    assert moved[ESCROW] == 0 and sum(moved.values()) == 0
    assert (moved["c/held"], moved["c/bond"]) == (-money.held_nano, -money.bond_nano)
    assert moved[FEE] >= -money.fee_nano
    assert moved[AUDIT] >= -money.audit_nano
    assert moved[RESERVE] >= -money.reserve_nano
    if auditor:
        assert moved["a/available"] == found.auditor_nano
    assert 0 <= found.charged_nano <= money.buyer_nano
    got = found.returned_nano + found.refund_nano - found.charged_nano
    assert moved["b/available"] == got
    assert found.returned_nano + found.unreturned_nano == debts.bills_nano
    assert found.refund_nano <= debts.wrong_nano, "no more than the price of what was wrong"
    claimed = sum(claim.amount_nano for claim in debts.claims)
    paid = sum(moved[claim.account_id + "/available"] for claim in debts.claims)
    assert paid + found.unpaid_nano == claimed


@given(funds, owed, st.sampled_from(["", "a"]))
def test_a_cheat_and_all_its_friends_lose_half_of_the_stake_at_least(
    money: Funds, debts: Owed, auditor: str
) -> None:
    """Buyer, followers and auditor are the cheat's own: what they have together, less what the
    platform still had of their own money."""
    found, moved = slash(money, debts, auditor)
    stake = max(money.forfeited_nano - debts.own_nano - money.unsure_nano, 0)
    assert found.stake_nano == stake
    ours = sum(amount for name, amount in moved.items() if not name.startswith("platform/"))
    assert ours - back_from_platform(money, debts) <= -(stake - stake // 2) - min(
        money.unsure_nano, max(money.forfeited_nano - debts.own_nano, 0)
    )
    assert moved[RESERVE] + back_from_platform(money, debts) >= stake - stake // 2


@given(funds, owed)
def test_followers_are_whole_out_of_the_stake_and_then_by_their_buyer(
    money: Funds, debts: Owed
) -> None:
    found, _ = slash(money, debts)
    for item in found.covered:
        claim, paid = item.claim, item.from_stake_nano + item.from_buyer_nano
        if not (claim.checked or claim.checkable):
            assert item.from_buyer_nano == 0, "a buyer pays for nothing that nobody looked at"
        elif paid < claim.amount_nano:
            assert found.charged_nano == money.buyer_nano, "the hold has no more"
    if found.charged_nano or found.unreturned_nano or found.unpaid_nano:
        assert found.refund_nano == found.auditor_nano == 0, "those who lost something come first"


@given(
    bond=NANO,
    held=st.lists(st.tuples(st.integers(1, 10**11), st.booleans(), st.booleans()), max_size=8),
    wrong_nano=NANO,
    friends=claims(),
)
def test_no_pay_for_work_bought_from_oneself_comes_back_twice(
    bond: int, held: list[tuple[int, bool, bool]], wrong_nano: int, friends: tuple[Claim, ...]
) -> None:
    """The stake is a bond and pay that friends paid for other work, some of it recomputed by the
    house, some of the rest wrong: looking back gives those friends their money again."""
    sure = sum(amount for amount, known, _ in held if known)
    unsure = sum(amount for amount, known, _ in held if not known)
    money = Funds(held_nano=sure + unsure, bond_nano=bond, unsure_nano=unsure)
    found, moved = slash(money, Owed(claims=friends, wrong_nano=wrong_nano), "a")
    reserve = moved[RESERVE]
    ours = sum(amount for name, amount in moved.items() if not name.startswith("platform/"))
    for amount, known, wrong in held:
        if wrong and not known:
            _, moved = slash(Funds(reserve_nano=reserve), Owed(reserve_nano=amount))
            assert moved["b/available"] == amount, "honest buyers have all of theirs"
            reserve += moved[RESERVE]
            ours += amount
    right = sum(amount for amount, known, wrong in held if not known and not wrong)
    assert found.stake_nano == bond + sure
    assert ours <= -(bond + sure - (bond + sure) // 2) - right
    assert reserve >= 0


def test_who_found_it_has_a_quarter_where_nobody_lost_more() -> None:
    found, moved = slash(Funds(bond_nano=300), Owed(wrong_nano=1), "a")
    assert (found.refund_nano, found.auditor_nano, moved[RESERVE]) == (1, 75, 224)
    found, _ = slash(Funds(bond_nano=300), Owed(wrong_nano=1, gone_nano=100), "a")
    assert (found.returned_nano, found.refund_nano, found.auditor_nano) == (100, 1, 49)
