"""What a fault does with money: who has it back, who is paid for it, where the stake goes.

Like :mod:`core.escrow`: each group of transfers nets to zero in the clearing account, and their ids
derive from what they are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flopmarket.market.money import Nano, part_of_nano
from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust.audit_policy import AuditRules, split_slash
from flopmarket_coordinator.core.escrow import direct
from flopmarket_coordinator.core.ledger import (
    AUDIT,
    ESCROW,
    FEE,
    RESERVE,
    Balance,
    Purpose,
    Transfer,
    account_of,
)


@dataclass(frozen=True, slots=True)
class Claim:
    """Pay that an honest worker lost because it built on somebody else's wrong state."""

    segment_id: int
    account_id: str
    amount_nano: Nano


@dataclass(frozen=True, slots=True)
class Owed:
    """What a fault leaves owed, in the order in which it is paid.

    ``bills_nano`` was paid for settled segments that are void now; ``fees_nano`` and
    ``surcharges_nano`` of it went to the platform. ``checked`` is pay of others for void segments
    that were verified, ``unchecked`` for those that nobody had looked at. ``wrong_nano`` is the
    price of what was found wrong: the most that its buyer is paid beyond its own money.
    """

    bills_nano: Nano = 0
    fees_nano: Nano = 0
    surcharges_nano: Nano = 0
    checked: tuple[Claim, ...] = ()
    unchecked: tuple[Claim, ...] = ()
    wrong_nano: Nano = 0


@dataclass(frozen=True, slots=True)
class Funds:
    """What may be spent on a fault: the cheat's own, then the platform's."""

    held_nano: Nano = 0
    bond_nano: Nano = 0
    fee_nano: Nano = 0
    audit_nano: Nano = 0
    reserve_nano: Nano = 0


@dataclass(frozen=True, slots=True)
class Slash:
    """Transfers of a fault and their sums.

    ``returned_nano`` is what the buyer had paid and has again, ``unreturned_nano`` and
    ``unpaid_nano`` what even the reserve lacked for it and for honest workers; ``refund_nano`` is
    what the buyer gets on top.
    """

    transfers: tuple[Transfer, ...]
    forfeited_nano: Nano = 0
    returned_nano: Nano = 0
    unreturned_nano: Nano = 0
    refund_nano: Nano = 0
    compensated_nano: Nano = 0
    unpaid_nano: Nano = 0
    auditor_nano: Nano = 0


def slash(
    rules: AuditRules,
    *,
    cause: str,
    job_id: str,
    segment_id: int,
    cheat: str,
    buyer: str,
    auditor: str,
    funds: Funds,
    owed: Owed,
) -> Slash:
    """Spend what a fault forfeits on what it leaves owed.

    First the buyer gets its own money back, then others are paid for verified work that became
    void: from the platform's parts of that money, the cheat, the reserve, in this order. Work that
    nobody had verified is paid out of the forfeited money alone and with no more than the buyer's
    share of it: with a friend's made-up segments a cheat could empty the reserve, or save its
    stake. What is left is split as the rules say; without an ``auditor`` (an account) its part goes
    to auditing. ``cause`` tells apart what may happen twice to one segment.
    """
    reference = f"segment {segment_id}" if segment_id else cause
    key = (cause, job_id, segment_id)
    available = account_of(buyer, Balance.AVAILABLE)
    transfers: list[Transfer] = []
    left = _Purse(funds)

    def move(
        purpose: Purpose, debit: str, credit: str, amount: Nano, name: str, about: str
    ) -> None:
        if amount:
            legs = (*key, name, debit, credit)
            transfers.append(direct(purpose, legs, debit, credit, amount, job_id, about))

    move(Purpose.SLASH, account_of(cheat, Balance.HELD), ESCROW, funds.held_nano, "", reference)
    move(Purpose.SLASH, account_of(cheat, Balance.BOND), ESCROW, funds.bond_nano, "", reference)
    fees = min(owed.fees_nano, funds.fee_nano)
    surcharges = min(owed.surcharges_nano, funds.audit_nano)
    move(Purpose.RETURN, FEE, available, fees, "", reference)
    move(Purpose.RETURN, AUDIT, available, surcharges, "", reference)
    from_cheat, from_reserve = left.take(owed.bills_nano - fees - surcharges)
    move(Purpose.RETURN, ESCROW, available, from_cheat, "", reference)
    move(Purpose.RETURN, RESERVE, available, from_reserve, "", reference)
    returned = fees + surcharges + from_cheat + from_reserve
    compensated = 0
    for number, claim in enumerate((*owed.checked, *owed.unchecked)):
        if number == len(owed.checked):
            left.keep_share(rules.refund_ppm)
        credit = account_of(claim.account_id, Balance.AVAILABLE)
        about = f"segment {claim.segment_id}"
        from_cheat, from_reserve = left.take(claim.amount_nano)
        move(Purpose.COMPENSATION, ESCROW, credit, from_cheat, about, about)
        move(Purpose.COMPENSATION, RESERVE, credit, from_reserve, about, about)
        compensated += from_cheat + from_reserve
    shares = split_slash(rules, left.rest_nano, owed.wrong_nano)
    finder = account_of(auditor, Balance.AVAILABLE) if auditor else AUDIT
    move(Purpose.REFUND, ESCROW, available, shares.refund_nano, "refund", reference)
    move(Purpose.SLASH, ESCROW, finder, shares.auditor_nano, "auditor", reference)
    move(Purpose.SLASH, ESCROW, RESERVE, shares.reserve_nano, "reserve", reference)
    claimed = sum(claim.amount_nano for claim in (*owed.checked, *owed.unchecked))
    return Slash(
        tuple(transfers),
        forfeited_nano=funds.held_nano + funds.bond_nano,
        returned_nano=returned,
        unreturned_nano=owed.bills_nano - returned,
        refund_nano=shares.refund_nano,
        compensated_nano=compensated,
        unpaid_nano=claimed - compensated,
        auditor_nano=shares.auditor_nano,
    )


class _Purse:
    """Forfeited money and the reserve, while they are spent."""

    def __init__(self, funds: Funds) -> None:
        self._cheat = funds.held_nano + funds.bond_nano
        self._reserve = funds.reserve_nano
        self._kept = 0

    @property
    def rest_nano(self) -> Nano:
        """Forfeited money that nothing took."""
        return self._cheat + self._kept

    def take(self, amount_nano: Nano) -> tuple[Nano, Nano]:
        """``(forfeited, reserve)`` for an amount; less than it when both lack."""
        from_cheat = min(amount_nano, self._cheat)
        from_reserve = min(amount_nano - from_cheat, self._reserve)
        self._cheat -= from_cheat
        self._reserve -= from_reserve
        return from_cheat, from_reserve

    def keep_share(self, share_ppm: int) -> None:
        """From now on only this share of the forfeited money may go, and nothing of the reserve."""
        share = part_of_nano(self._cheat, share_ppm, PARTS_PER_MILLION, "share")
        self._kept = self._cheat - share
        self._cheat, self._reserve = share, 0


def compensate(job_id: str, reserve_nano: Nano, claims: Sequence[Claim]) -> Slash:
    """Pay honest workers out of the reserve alone, as far as it goes."""
    transfers: list[Transfer] = []
    left, unpaid = reserve_nano, 0
    for claim in claims:
        amount = min(claim.amount_nano, left)
        left -= amount
        unpaid += claim.amount_nano - amount
        if amount:
            credit = account_of(claim.account_id, Balance.AVAILABLE)
            key = (job_id, claim.segment_id)
            reference = f"segment {claim.segment_id}"
            transfers.append(
                direct(Purpose.COMPENSATION, key, RESERVE, credit, amount, job_id, reference)
            )
    return Slash(tuple(transfers), compensated_nano=reserve_nano - left, unpaid_nano=unpaid)
