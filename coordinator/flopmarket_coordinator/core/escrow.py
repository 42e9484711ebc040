"""What escrow does with money: the transfers of a hold, a settlement, a deposit, a withdrawal.

Everything goes through the clearing account ``escrow``. Each group of transfers returned here nets
to zero there, except for the fee of a settlement, which is collected once a batch. Ids derive from
what they are for, so a repeated group is the same group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flopmarket.market.money import Nano
from flopmarket.market.price import Split
from flopmarket.trust.audit_policy import PayDivision
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
    """Transfers that pay one segment, and what is held afterwards."""

    transfers: tuple[Transfer, ...]
    hold: Hold | None


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
    pay: PayDivision,
    surcharge_nano: Nano = 0,
) -> Settlement:
    """Pay one verified segment out of the hold and reserve the rest again.

    ``pay`` divides the worker's part; what it leaves out was forfeited and goes to the reserve. The
    fee stays in escrow until the end of the batch: :func:`collect_fees`. The surcharge of the job's
    level of verification, billed on top of the price, goes to the account that pays for audits.
    """
    billed = price_nano + surcharge_nano
    if billed > hold.amount_nano:
        raise LedgerConflict(
            f"segment {segment_id} of job {job_id} costs {billed}, the hold has {hold.amount_nano}",
            code="HOLD_TOO_SMALL",
        )
    reference = f"segment {segment_id}"
    divided = pay.to_audits_nano + pay.to_bond_nano + pay.to_held_nano
    post = Transfer(
        transfer_id("post", job_id, hold.number),
        TransferKind.POST,
        account_of(buyer, Balance.AVAILABLE),
        ESCROW,
        billed,
        Purpose.PAY,
        job_id,
        reference,
        hold.transfer_id,
    )
    legs = (
        (Purpose.AUDIT, AUDIT, pay.to_audits_nano),
        (Purpose.BOND, account_of(worker, Balance.BOND), pay.to_bond_nano),
        (Purpose.PAY, account_of(worker, Balance.HELD), pay.to_held_nano),
        (Purpose.FORFEIT, RESERVE, split.worker_nano - divided),
        (Purpose.SURCHARGE, AUDIT, surcharge_nano),
    )
    transfers = [post]
    transfers += [
        direct(purpose, (job_id, segment_id), ESCROW, credit, amount, job_id, reference)
        for purpose, credit, amount in legs
        if amount
    ]
    rest = hold.amount_nano - billed
    renewed = None
    if rest:
        pending, renewed = open_hold(job_id, buyer, rest, hold.number + 1)
        transfers.append(pending)
    return Settlement(tuple(transfers), renewed)


def collect_fees(batch_number: int, amount_nano: Nano) -> Transfer:
    """Everything that a batch's settlements left in escrow: their fees, in one transfer."""
    return direct(
        Purpose.FEE, (batch_number,), ESCROW, FEE, amount_nano, "", f"batch {batch_number}"
    )


def release_pay(job_id: str, worker: str, amount_nano: Nano, last_segment: int) -> Transfer:
    """Pay of an ended job becomes the worker's to spend; ``last_segment`` is the newest of it."""
    return direct(
        Purpose.RELEASE,
        (job_id, worker, last_segment),
        account_of(worker, Balance.HELD),
        account_of(worker, Balance.AVAILABLE),
        amount_nano,
        job_id,
        f"pay up to segment {last_segment}",
    )


def renew_hold(
    job_id: str, buyer: str, hold: Hold | None, number: int, more_nano: Nano
) -> tuple[tuple[Transfer, ...], Hold]:
    """Reserve money that came back to a job beside what is held of it, as hold ``number``."""
    closed = () if hold is None else (close_hold(job_id, buyer, hold),)
    amount = more_nano + (hold.amount_nano if hold else 0)
    pending, renewed = open_hold(job_id, buyer, amount, number)
    return (*closed, pending), renewed


def reserve_audit_pay(
    lease_id: str, auditor: str, from_audit_nano: Nano, from_fee_nano: Nano
) -> tuple[Transfer, ...]:
    """Promise an auditor's pay, so that no other audit can be promised the same money."""
    parts = ((AUDIT, from_audit_nano), (FEE, from_fee_nano))
    return tuple(
        Transfer(
            transfer_id("audit pay", lease_id, source),
            TransferKind.PENDING,
            source,
            account_of(auditor, Balance.AVAILABLE),
            amount,
            Purpose.AUDIT,
            "",
            f"audit lease {lease_id}",
        )
        for source, amount in parts
        if amount
    )


def pay_auditor(reserved: Sequence[Transfer], amount_nano: Nano) -> tuple[Transfer, ...]:
    """Pay out of the promised money, in its order; what is not needed is free again."""
    transfers = []
    for pending in reserved:
        paid = min(amount_nano, pending.amount_nano)
        amount_nano -= paid
        kind = TransferKind.POST if paid else TransferKind.VOID
        transfers.append(
            Transfer(
                transfer_id(kind, pending.transfer_id),
                kind,
                pending.debit,
                pending.credit,
                paid or pending.amount_nano,
                pending.purpose,
                "",
                pending.reference,
                pending.transfer_id,
            )
        )
    return tuple(transfers)


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
    account_id: str,
    request_id: str,
    amount_nano: Nano,
    destination: str,
    expires_at_us: int,
    source: Balance = Balance.AVAILABLE,
) -> Transfer:
    """Reserve what an owner wants paid out; its id is the withdrawal's."""
    return Transfer(
        transfer_id("withdrawal", account_id, request_id),
        TransferKind.PENDING,
        account_of(account_id, source),
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


def direct(
    purpose: Purpose,
    key: tuple[str | int, ...],
    debit: str,
    credit: str,
    amount_nano: Nano,
    job_id: str,
    reference: str,
) -> Transfer:
    """One transfer at once, whose id follows from its purpose and ``key``."""
    identity = transfer_id(purpose, *key)
    return Transfer(
        identity, TransferKind.DIRECT, debit, credit, amount_nano, purpose, job_id, reference
    )
