"""What a fault does with money: who has it back, who is paid for it, where the stake goes.

Like :mod:`core.escrow`: each group of transfers nets to zero in the clearing account, and their ids
derive from what they are for.

Buyer, worker, follower and auditor may be four accounts of one person. So money is told apart by
whose it was. What a buyer paid for void work and the platform or the cheat's balances still have is
the buyer's own and goes back. Of the rest of the stake at most a share leaves the platform, and the
reserve pays nothing of its own: what is lacking then for honest followers, the buyer pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flopmarket.market.money import Nano
from flopmarket.trust.audit_policy import AuditRules, split_slash
from flopmarket_coordinator.core.escrow import close_pending, direct
from flopmarket_coordinator.core.ledger import (
    AUDIT,
    ESCROW,
    FEE,
    RESERVE,
    Balance,
    Purpose,
    Transfer,
    TransferKind,
    account_of,
    transfer_id,
)


@dataclass(frozen=True, slots=True)
class Claim:
    """Pay that a worker lost because it built on somebody else's wrong state.

    ``checked``: somebody recomputed the work. Otherwise its pay is promised until the house has;
    ``checkable`` says whether it can. Work that nobody can check is paid out of the stake alone.
    """

    segment_id: int
    account_id: str
    amount_nano: Nano
    checked: bool = True
    checkable: bool = True


@dataclass(frozen=True, slots=True)
class Covered:
    """A claim and who pays it: what the stake does not cover, the buyer's hold does."""

    claim: Claim
    from_stake_nano: Nano
    from_buyer_nano: Nano

    @property
    def promised(self) -> bool:
        """Whether it waits for the house."""
        return self.claim.checkable and not self.claim.checked


@dataclass(frozen=True, slots=True)
class Owed:
    """What a fault leaves owed.

    The first five are what a buyer was billed for settled segments that are void now, by where it
    went: fees; the account of audits (surcharges, debts for a cheat's audits); the reserve (pay
    that was forfeited before); the cheat's stake; out of reach (paid to others, or spent).
    ``wrong_nano`` is the price of what was found wrong: the most that its buyer is paid beyond.
    """

    fees_nano: Nano = 0
    audits_nano: Nano = 0
    reserve_nano: Nano = 0
    own_nano: Nano = 0
    gone_nano: Nano = 0
    claims: tuple[Claim, ...] = ()
    wrong_nano: Nano = 0

    @property
    def bills_nano(self) -> Nano:
        """All that was billed."""
        platform = self.fees_nano + self.audits_nano + self.reserve_nano
        return platform + self.own_nano + self.gone_nano


@dataclass(frozen=True, slots=True)
class Funds:
    """What may be spent on a fault: the cheat's own, then the platform's.

    ``unsure_nano`` of the cheat's is pay for segments that the house is still to look at: it may be
    other buyers' own money, and waits for them in the reserve. ``buyer_nano`` is what the job's
    hold can give to followers.
    """

    held_nano: Nano = 0
    bond_nano: Nano = 0
    unsure_nano: Nano = 0
    fee_nano: Nano = 0
    audit_nano: Nano = 0
    reserve_nano: Nano = 0
    buyer_nano: Nano = 0

    @property
    def forfeited_nano(self) -> Nano:
        """What the cheat loses."""
        return self.held_nano + self.bond_nano


@dataclass(frozen=True, slots=True)
class Slash:
    """Transfers of a fault and their sums.

    ``returned_nano`` is what the buyer had paid and has again, ``unreturned_nano`` what is lacking
    of it; ``refund_nano`` is what the buyer gets on top. ``stake_nano`` is what was forfeited
    beyond the buyer's own money and what may be other buyers'. ``covered`` are the claims: their
    part of the stake is in the reserve, and :func:`claim_transfers` pays them.
    """

    transfers: tuple[Transfer, ...] = ()
    forfeited_nano: Nano = 0
    stake_nano: Nano = 0
    returned_nano: Nano = 0
    unreturned_nano: Nano = 0
    refund_nano: Nano = 0
    auditor_nano: Nano = 0
    covered: tuple[Covered, ...] = ()
    unpaid_nano: Nano = 0

    @property
    def charged_nano(self) -> Nano:
        """What the buyer pays for honest work on the wrong state."""
        return sum(item.from_buyer_nano for item in self.covered)


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

    The buyer's own money goes back from where it is. Of the cheat's stake beyond it followers'
    claims, money of the buyer's that is out of reach, damages and the finder's reward are paid as
    far as :func:`split_slash` lets it leave; without an ``auditor`` (an account) its part goes to
    auditing. The reserve keeps the rest. ``cause`` tells apart what may happen twice to a segment.
    """
    reference = f"segment {segment_id}" if segment_id else cause
    key = (cause, job_id, segment_id)
    available = account_of(buyer, Balance.AVAILABLE)
    transfers: list[Transfer] = []

    def move(purpose: Purpose, debit: str, credit: str, amount: Nano, name: str = "") -> None:
        if amount:
            legs = (*key, name, debit, credit)
            transfers.append(direct(purpose, legs, debit, credit, amount, job_id, reference))

    move(Purpose.SLASH, account_of(cheat, Balance.HELD), ESCROW, funds.held_nano)
    move(Purpose.SLASH, account_of(cheat, Balance.BOND), ESCROW, funds.bond_nano)
    fees = min(owed.fees_nano, funds.fee_nano)
    audits = min(owed.audits_nano, funds.audit_nano)
    platform = owed.fees_nano + owed.audits_nano + owed.reserve_nano
    reserve = min(platform - fees - audits, funds.reserve_nano)
    own = min(owed.own_nano, funds.forfeited_nano)
    stake = max(funds.forfeited_nano - own - funds.unsure_nano, 0)
    lacking = owed.bills_nano - fees - audits - reserve - own
    claimed = sum(claim.amount_nano for claim in owed.claims)
    shares = split_slash(rules, stake, owed.wrong_nano, claimed + lacking)
    for_claims = min(claimed, shares.owed_nano)
    more = shares.owed_nano - for_claims
    move(Purpose.RETURN, FEE, available, fees)
    move(Purpose.RETURN, AUDIT, available, audits)
    move(Purpose.RETURN, RESERVE, available, reserve)
    move(Purpose.RETURN, ESCROW, available, own + more)
    move(Purpose.REFUND, ESCROW, available, shares.refund_nano, "refund")
    finder = account_of(auditor, Balance.AVAILABLE) if auditor else AUDIT
    move(Purpose.SLASH, ESCROW, finder, shares.auditor_nano, "auditor")
    kept = funds.forfeited_nano - own - more - shares.refund_nano - shares.auditor_nano
    move(Purpose.SLASH, ESCROW, RESERVE, kept, "reserve")
    covered = cover(owed.claims, for_claims, funds.buyer_nano)
    return Slash(
        tuple(transfers),
        forfeited_nano=funds.forfeited_nano,
        stake_nano=stake,
        returned_nano=owed.bills_nano - lacking + more,
        unreturned_nano=lacking - more,
        refund_nano=shares.refund_nano,
        auditor_nano=shares.auditor_nano,
        covered=covered,
        unpaid_nano=claimed - sum(it.from_stake_nano + it.from_buyer_nano for it in covered),
    )


# --- followers ------------------------------------------------------------------------------------


def cover(claims: Sequence[Claim], stake_nano: Nano, buyer_nano: Nano) -> tuple[Covered, ...]:
    """Who pays each claim: the stake in the order of the claims, then the buyer."""
    covered = []
    for claim in claims:
        from_stake = min(claim.amount_nano, stake_nano)
        rest = claim.amount_nano - from_stake
        known = claim.checked or claim.checkable
        from_buyer = min(rest, buyer_nano) if known else 0
        stake_nano -= from_stake
        buyer_nano -= from_buyer
        covered.append(Covered(claim, from_stake, from_buyer))
    return tuple(covered)


def claim_transfers(job_id: str, buyer: str, covered: Sequence[Covered]) -> tuple[Transfer, ...]:
    """Pay claims, or promise them by pending transfers."""
    transfers = []
    for item in covered:
        claim = item.claim
        kind = TransferKind.PENDING if item.promised else TransferKind.DIRECT
        sources = (
            (RESERVE, item.from_stake_nano),
            (account_of(buyer, Balance.AVAILABLE), item.from_buyer_nano),
        )
        transfers += [
            Transfer(
                claim_id(claim.segment_id, source),
                kind,
                source,
                account_of(claim.account_id, Balance.AVAILABLE),
                amount,
                Purpose.COMPENSATION,
                job_id,
                f"segment {claim.segment_id}",
            )
            for source, amount in sources
            if amount
        ]
    return tuple(transfers)


def claim_id(segment_id: int, source: str) -> str:
    """Id of the transfer that pays, or promises, a claim out of ``source``."""
    return transfer_id("claim", segment_id, source)


def claim_ids(segment_id: int, buyer: str) -> tuple[str, str]:
    """Ids of what may be promised for a segment: out of the reserve, and out of the hold."""
    available = account_of(buyer, Balance.AVAILABLE)
    return claim_id(segment_id, RESERVE), claim_id(segment_id, available)


def end_promise(promised: Sequence[Transfer], *, stake: bool, buyer: bool) -> tuple[Transfer, ...]:
    """Pay or free what was promised: the part of the ``stake``, and that of the ``buyer``."""
    return tuple(
        close_pending(
            item,
            paid=stake if item.debit == RESERVE else buyer,
            reference=item.reference,
        )
        for item in promised
    )
