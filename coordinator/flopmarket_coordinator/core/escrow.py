"""What escrow does with money: the transfers of a hold, a settlement, a slash.

Everything goes through the clearing account ``escrow``. Each group of transfers returned here nets
to zero there, except for the fee of a settlement, which is collected once a batch. Ids derive from
what they are for, so a repeated group is the same group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flopmarket.market.money import Nano, part_of_nano
from flopmarket.market.price import Split
from flopmarket_coordinator.core.ledger import (
    AUDIT,
    ESCROW,
    EXTERNAL,
    FEE,
    ISSUE,
    RESERVE,
    Balance,
    LedgerConflict,
    Purpose,
    Transfer,
    TransferKind,
    account_of,
    transfer_id,
)


@dataclass(frozen=True, slots=True)
class Hold:
    """The money of a job that is reserved now: one pending transfer, renewed at each settlement."""

    transfer_id: str
    number: int
    amount_nano: Nano


@dataclass(frozen=True, slots=True)
class Settlement:
    """Transfers that pay one segment, what is held afterwards, and where the pay went."""

    transfers: tuple[Transfer, ...]
    hold: Hold | None
    to_bond_nano: Nano
    to_held_nano: Nano


@dataclass(frozen=True, slots=True)
class Claim:
    """Pay that an honest worker lost because it built on somebody else's wrong state."""

    segment_id: int
    account_id: str
    amount_nano: Nano


@dataclass(frozen=True, slots=True)
class Slash:
    """Transfers of a slash and their sums. ``unpaid_nano`` is what even the reserve lacked."""

    transfers: tuple[Transfer, ...]
    forfeited_nano: Nano
    refund_nano: Nano
    compensated_nano: Nano
    unpaid_nano: Nano


def open_hold(job_id: str, buyer: str, amount_nano: Nano, number: int = 0) -> tuple[Transfer, Hold]:
    """Reserve money of the buyer for a job."""
    identity = transfer_id("hold", job_id, number)
    transfer = Transfer(
        identity,
        TransferKind.PENDING,
        account_of(buyer, Balance.AVAILABLE),
        ESCROW,
        amount_nano,
        Purpose.HOLD,
        job_id,
        f"hold {number}",
    )
    return transfer, Hold(identity, number, amount_nano)


def close_hold(job_id: str, buyer: str, hold: Hold) -> Transfer:
    """Give the rest of a hold back."""
    return Transfer(
        transfer_id("void", job_id, hold.number),
        TransferKind.VOID,
        account_of(buyer, Balance.AVAILABLE),
        ESCROW,
        hold.amount_nano,
        Purpose.HOLD,
        job_id,
        f"hold {hold.number}",
        hold.transfer_id,
    )


def settle_segment(
    *,
    job_id: str,
    segment_id: int,
    buyer: str,
    worker: str,
    hold: Hold,
    price_nano: Nano,
    split: Split,
    bond_room_nano: Nano,
) -> Settlement:
    """Pay one verified segment out of the hold and reserve the rest again.

    The worker's part fills its bond up to ``bond_room_nano`` and is held for the rest. The fee
    stays in escrow until the end of the batch: :func:`collect_fees`.
    """
    if price_nano > hold.amount_nano:
        raise LedgerConflict(
            f"segment {segment_id} of job {job_id} costs {price_nano}, the hold has "
            f"{hold.amount_nano}",
            code="HOLD_TOO_SMALL",
        )
    reference = f"segment {segment_id}"
    to_bond = min(split.worker_nano, max(bond_room_nano, 0))
    to_held = split.worker_nano - to_bond
    post = Transfer(
        transfer_id("post", job_id, hold.number),
        TransferKind.POST,
        account_of(buyer, Balance.AVAILABLE),
        ESCROW,
        price_nano,
        Purpose.PAY,
        job_id,
        reference,
        hold.transfer_id,
    )
    legs = (
        (Purpose.BOND, account_of(worker, Balance.BOND), to_bond),
        (Purpose.PAY, account_of(worker, Balance.HELD), to_held),
    )
    transfers = [post]
    transfers += [
        _direct(purpose, (job_id, segment_id), ESCROW, credit, amount, job_id, reference)
        for purpose, credit, amount in legs
        if amount
    ]
    rest = hold.amount_nano - price_nano
    renewed = None
    if rest:
        pending, renewed = open_hold(job_id, buyer, rest, hold.number + 1)
        transfers.append(pending)
    return Settlement(tuple(transfers), renewed, to_bond, to_held)


def collect_fees(batch_number: int, amount_nano: Nano) -> Transfer:
    """Everything that a batch's settlements left in escrow: their fees, in one transfer."""
    return _direct(
        Purpose.FEE, (batch_number,), ESCROW, FEE, amount_nano, "", f"batch {batch_number}"
    )


def release_pay(job_id: str, worker: str, amount_nano: Nano) -> Transfer:
    """Pay that was held until the job ended becomes the worker's to spend."""
    return _direct(
        Purpose.RELEASE,
        (job_id, worker),
        account_of(worker, Balance.HELD),
        account_of(worker, Balance.AVAILABLE),
        amount_nano,
        job_id,
        "job ended",
    )


def slash(
    *,
    job_id: str,
    segment_id: int,
    cheat: str,
    buyer: str,
    held_nano: Nano,
    bond_nano: Nano,
    reserve_nano: Nano,
    claims: Sequence[Claim],
) -> Slash:
    """Forfeit a cheat's held pay of the job and its bond.

    Claims of honest workers come first, out of the forfeited money and then out of the reserve; of
    what is left, 50 % goes to the buyer, 25 % to auditing and 25 % to the reserve.
    """
    reference = f"segment {segment_id}"
    key = (job_id, segment_id)
    transfers = [
        _direct(Purpose.SLASH, (*key, source), account, ESCROW, amount, job_id, reference)
        for source, account, amount in (
            ("held", account_of(cheat, Balance.HELD), held_nano),
            ("bond", account_of(cheat, Balance.BOND), bond_nano),
        )
        if amount
    ]
    forfeited = left = held_nano + bond_nano
    reserve = reserve_nano
    compensated = unpaid = 0
    for claim in claims:
        credit = account_of(claim.account_id, Balance.AVAILABLE)
        from_cheat = min(claim.amount_nano, left)
        from_reserve = min(claim.amount_nano - from_cheat, reserve)
        left -= from_cheat
        reserve -= from_reserve
        compensated += from_cheat + from_reserve
        unpaid += claim.amount_nano - from_cheat - from_reserve
        transfers += [
            _direct(
                Purpose.COMPENSATION, (*key, claim.segment_id, source), source, credit, amount,
                job_id, f"segment {claim.segment_id}",
            )
            for source, amount in ((ESCROW, from_cheat), (RESERVE, from_reserve))
            if amount
        ]  # fmt: skip
    refund = part_of_nano(left, 50, 100, "refund")
    audit = min(part_of_nano(left, 25, 100, "audit share"), left - refund)
    shares = (
        (Purpose.REFUND, account_of(buyer, Balance.AVAILABLE), refund),
        (Purpose.SLASH, AUDIT, audit),
        (Purpose.SLASH, RESERVE, left - refund - audit),
    )
    transfers += [
        _direct(purpose, (*key, credit), ESCROW, credit, amount, job_id, reference)
        for purpose, credit, amount in shares
        if amount
    ]
    return Slash(tuple(transfers), forfeited, refund, compensated, unpaid)


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
                _direct(Purpose.COMPENSATION, key, RESERVE, credit, amount, job_id, reference)
            )
    return Slash(tuple(transfers), 0, 0, reserve_nano - left, unpaid)


def deposit(
    origin: str, request_id: str, account_id: str, target: Balance, amount: Nano, reference: str
) -> Transfer:
    """Money from outside, as ``origin`` (an operator's key, a rail) states under ``request_id``."""
    return Transfer(
        transfer_id("deposit", origin, request_id),
        TransferKind.DIRECT,
        EXTERNAL,
        account_of(account_id, target),
        amount,
        Purpose.DEPOSIT,
        "",
        reference,
    )


def grant(
    signer: str, request_id: str, account_id: str, target: Balance, amount: Nano, reference: str
) -> Transfer:
    """Coins of the house, as the operator's key ``signer`` states under ``request_id``."""
    return Transfer(
        transfer_id("grant", signer, request_id),
        TransferKind.DIRECT,
        ISSUE,
        account_of(account_id, target),
        amount,
        Purpose.GRANT,
        "",
        reference,
    )


def refund(job_id: str, buyer: str, amount_nano: Nano, request_id: str, reference: str) -> Transfer:
    """Money of the reserve for a buyer, as an operator decides under ``request_id``."""
    return Transfer(
        transfer_id("refund", job_id, request_id),
        TransferKind.DIRECT,
        RESERVE,
        account_of(buyer, Balance.AVAILABLE),
        amount_nano,
        Purpose.REFUND,
        job_id,
        reference,
    )


def open_withdrawal(
    account_id: str, request_id: str, amount_nano: Nano, destination: str, expires_at_us: int
) -> Transfer:
    """Reserve what an owner wants paid out; its id is the withdrawal's."""
    return Transfer(
        transfer_id("withdrawal", account_id, request_id),
        TransferKind.PENDING,
        account_of(account_id, Balance.AVAILABLE),
        EXTERNAL,
        amount_nano,
        Purpose.WITHDRAWAL,
        "",
        destination,
        expires_at_us=expires_at_us,
    )


def close_pending(pending: Transfer, *, paid: bool, reference: str) -> Transfer:
    """Resolve a pending transfer: all of it moves, or all of it is free again."""
    kind = TransferKind.POST if paid else TransferKind.VOID
    return Transfer(
        transfer_id(kind, pending.transfer_id),
        kind,
        pending.debit,
        pending.credit,
        pending.amount_nano,
        pending.purpose,
        pending.job_id,
        reference,
        pending.transfer_id,
    )


def _direct(
    purpose: Purpose,
    key: tuple[str | int, ...],
    debit: str,
    credit: str,
    amount_nano: Nano,
    job_id: str,
    reference: str,
) -> Transfer:
    identity = transfer_id(purpose, *key)
    return Transfer(
        identity, TransferKind.DIRECT, debit, credit, amount_nano, purpose, job_id, reference
    )
