"""Where a forfeited stake goes: conserved to the nano, buyers first, no door back to the cheat."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flopmarket.trust.audit_policy import RULES
from flopmarket_coordinator.core import faults
from flopmarket_coordinator.core.faults import Claim, Funds, Owed, Slash
from flopmarket_coordinator.core.ledger import AUDIT, ESCROW, FEE, RESERVE, changes

NANO = st.integers(0, 10**12)
CLAIMS = st.lists(st.integers(1, 10**12), max_size=4)


@st.composite
def owed(draw: st.DrawFn) -> Owed:
    bills = draw(NANO)
    fees = draw(st.integers(0, bills))
    surcharges = draw(st.integers(0, bills - fees))
    checked = tuple(Claim(at, f"v{at}", one) for at, one in enumerate(draw(CLAIMS)))
    unchecked = tuple(Claim(10 + at, f"u{at}", one) for at, one in enumerate(draw(CLAIMS)))
    return Owed(bills, fees, surcharges, checked, unchecked, draw(NANO))


funds = st.builds(Funds, NANO, NANO, NANO, NANO, NANO)


def slash(money: Funds, debts: Owed, auditor: str = "") -> tuple[Slash, Counter[str]]:
    """A slash and what it does to each account."""
    found = faults.slash(
        RULES, cause="fault", job_id="j", segment_id=1, cheat="c", buyer="b", auditor=auditor,
        funds=money, owed=debts,
    )  # fmt: skip
    moved: Counter[str] = Counter()
    ids = [item.transfer_id for item in found.transfers]
    assert len(set(ids)) == len(ids)
    for transfer in found.transfers:
        for change in changes(transfer, None):
            moved[change.account] += change.balance_nano
    return found, moved


@given(funds, owed(), st.sampled_from(["", "a"]))
def test_a_slash_moves_what_there_is_and_makes_nothing(
    money: Funds, debts: Owed, auditor: str
) -> None:
    found, moved = slash(money, debts, auditor)
    assert moved[ESCROW] == 0 and sum(moved.values()) == 0
    assert (moved["c/held"], moved["c/bond"]) == (-money.held_nano, -money.bond_nano)
    assert moved[FEE] >= -min(money.fee_nano, debts.fees_nano)
    if auditor:
        assert moved[AUDIT] >= -min(money.audit_nano, debts.surcharges_nano)
        assert moved["a/available"] == found.auditor_nano
    assert moved[RESERVE] >= -money.reserve_nano
    assert moved["b/available"] == found.returned_nano + found.refund_nano
    assert found.returned_nano + found.unreturned_nano == debts.bills_nano
    assert found.refund_nano <= debts.wrong_nano, "no more than the price of what was wrong"
    claims = sum(one.amount_nano for one in (*debts.checked, *debts.unchecked))
    assert found.compensated_nano + found.unpaid_nano == claims


@given(funds, owed())
def test_buyers_and_verified_work_lack_only_what_the_reserve_lacks(
    money: Funds, debts: Owed
) -> None:
    found, moved = slash(money, debts)
    verified = sum(one.amount_nano for one in debts.checked)
    paid = sum(moved[f"{one.account_id}/available"] for one in debts.checked)
    if found.unreturned_nano or paid < verified:
        assert moved[RESERVE] == -money.reserve_nano, "the reserve is empty"
        assert found.refund_nano == found.auditor_nano == 0, "and so is the stake"
    if found.unreturned_nano:
        assert paid == 0, "the buyer's own money comes first"


@given(funds, owed())
def test_work_that_nobody_verified_never_costs_the_reserve_and_half_the_stake_at_most(
    money: Funds, debts: Owed
) -> None:
    found, moved = slash(money, debts)
    hopeful = {f"{one.account_id}/available" for one in debts.unchecked}
    assert {item.debit for item in found.transfers if item.credit in hopeful} <= {ESCROW}
    paid = sum(moved[name] for name in hopeful)
    assert 2 * paid <= money.held_nano + money.bond_nano + 1


@given(
    stake=st.integers(1, 10**12),
    unit=st.integers(1, 10**10),
    settled=st.integers(0, 50),
    friends=st.integers(0, 1_000),
)
def test_slashing_oneself_in_a_job_of_ones_own_loses(
    stake: int, unit: int, settled: int, friends: int
) -> None:
    """Buyer, cheat and the workers of later segments are one: what they have together afterwards.

    The stake is 300 units of honest work elsewhere; the own job adds its pay to it.
    """
    fee = -(-unit * 3 // 100)
    bills, fees = settled * unit, settled * fee
    money = Funds(held_nano=stake + bills - fees, fee_nano=fees, reserve_nano=10**15)
    made_up = tuple(Claim(at, f"u{at}", unit - fee) for at in range(friends))
    _, moved = slash(money, Owed(bills, fees, 0, (), made_up, unit))
    ours = sum(amount for name, amount in moved.items() if not name.startswith("platform/"))
    result = ours - fees  # what the own job had cost before
    assert result <= -stake + unit + (-(-stake // 2) if friends else 0)
    assert moved[RESERVE] >= 0, "nobody else pays for it"
    if not friends:
        assert result <= unit - stake, "the stake is gone but for one unit"
