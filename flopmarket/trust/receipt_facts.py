"""What a receipt says, and when its facts agree; how it is written is in ``receipt_statement``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from flopmarket.limits import MAX_RECEIPT_SEGMENTS
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.errors import ReceiptError
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.merkle import sequence_root, state_root
from flopmarket.trust.modes import Mode

HOUSE = "house"
"""Auditor of what the operator recomputed itself."""

EMPTY_ROOT = state_root({})
"""Root of the state of a program that has none."""


class Outcome(StrEnum):
    """How the job ended."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class AuditOutcome(StrEnum):
    """What checking a paid segment came to; a refuted segment is not paid and not listed."""

    NOT_SAMPLED = "not_sampled"
    CONFIRMED = "confirmed"
    DISPUTE_WON = "dispute_won"


@dataclass(frozen=True, slots=True)
class ReceiptDevice:
    """A device that ran some of the job, as its owner offered it.

    ``proved_rates``: operations per second by class of work that a benchmark proved, ascending by
    class; empty when none was asked for.
    """

    key_id: str
    device_id: str
    name: str
    driver: str
    proved_rates: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ReceiptSegment:
    """One paid segment: who ran which steps, from which state to which, for how much.

    ``auditor`` is :data:`HOUSE`, a key id, or "" when nobody audited it; ``verdict_digest`` is that
    of the signed verdict. ``challenge_digest`` is that of the record of the draw that decided
    whether it is audited. Digests have 32 bytes; verdict and draw may be absent: ``b""``.
    """

    index: int
    first_step: int
    steps: int
    device_key_id: str
    device_id: str
    state_root_before: bytes
    state_root_after: bytes
    outputs_root: bytes
    commitment_digest: bytes
    audit: AuditOutcome
    auditor: str
    verdict_digest: bytes
    challenge_digest: bytes
    price_nano: int
    surcharge_nano: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a coordinator swears to about one job.

    ``job_spec`` is the buyer's encoded job specification, from which ``job_id`` can be recomputed.
    ``steps`` is what the job asked for; a completed job's segments cover exactly that.
    ``fee_nano`` is the market's part of ``invoice_nano``, which is the sum of the segments' prices
    and of ``surcharge_nano``, what the level of ``verification`` added to them. ``replaces`` is the
    sha256 digest of the receipt file that this one corrects, ``b""`` when it is the first.
    ``mode`` says what equality of roots, or nearness, was asked for; ``device_class`` is the class
    (hex) that all devices and auditors of a job in class mode are of, and empty otherwise.
    """

    job_id: bytes
    job_spec: bytes
    buyer_account_id: str
    program_digest: bytes
    profile: str
    mode: Mode
    device_class: str
    verification: Level
    data_root: bytes
    seed: int
    steps: int
    outcome: Outcome
    initial_state_root: bytes
    final_state_root: bytes
    devices: tuple[ReceiptDevice, ...]
    segments: tuple[ReceiptSegment, ...]
    currency: str
    ceiling_nano: int
    invoice_nano: int
    fee_nano: int
    surcharge_nano: int
    coordinator_key: PublicKey
    submitted_at_us: int
    ended_at_us: int
    replaces: bytes = b""

    @property
    def outputs_root(self) -> bytes:
        """Sequence root over the outputs roots of the segments, in order."""
        return sequence_root(segment.outputs_root for segment in self.segments)


def check_consistency(receipt: Receipt) -> None:
    """:class:`ReceiptError` ``RECEIPT_INCONSISTENT`` unless the facts of a receipt agree.

    Segments follow each other without a gap in index, step and state; where there is no state,
    steps may be missing between them. A completed job has all its steps; prices and surcharges add
    up to the invoice, which covers the fee and stays under the ceiling. Audits have an auditor and
    a verdict, and the devices are those of the segments.
    """
    if len(receipt.segments) > MAX_RECEIPT_SEGMENTS:
        raise _inconsistent(f"{len(receipt.segments)} segments, at most {MAX_RECEIPT_SEGMENTS}")
    next_step, state_root, steps_done = 0, receipt.initial_state_root, 0
    stateless = state_root == EMPTY_ROOT
    for position, segment in enumerate(receipt.segments):
        follows = segment.first_step >= next_step if stateless else segment.first_step == next_step
        if segment.index != position or not follows or segment.steps < 1:
            raise _inconsistent(
                f"segment {segment.index} from step {segment.first_step} ({segment.steps} steps) "
                f"where segment {position} from step {next_step} is due"
            )
        if segment.state_root_before != state_root:
            raise _inconsistent(f"segment {position} starts from a state that was not reached")
        next_step = segment.first_step + segment.steps
        steps_done += segment.steps
        state_root = segment.state_root_after
        _check_audit(segment)
    if state_root != receipt.final_state_root:
        raise _inconsistent("the final state is not the one the last segment ended in")
    done = receipt.outcome is Outcome.COMPLETED
    if next_step > receipt.steps or (done and steps_done != receipt.steps):
        raise _inconsistent(f"{steps_done} steps were run of a job of {receipt.steps}")
    _check_devices(receipt)
    if (receipt.mode is Mode.CLASS) != bool(receipt.device_class):
        raise _inconsistent("a class of devices is named in class mode, and only then")
    paid = sum(segment.price_nano for segment in receipt.segments)
    extra = sum(segment.surcharge_nano for segment in receipt.segments)
    if (paid + extra, extra) != (receipt.invoice_nano, receipt.surcharge_nano):
        raise _inconsistent(
            f"prices add up to {paid} and surcharges to {extra}, the invoice is "
            f"{receipt.invoice_nano} with surcharges of {receipt.surcharge_nano}"
        )
    if not receipt.fee_nano <= paid <= receipt.invoice_nano <= receipt.ceiling_nano:
        raise _inconsistent(
            f"fee {receipt.fee_nano}, invoice {receipt.invoice_nano} and ceiling "
            f"{receipt.ceiling_nano} are not in this order"
        )
    if receipt.ended_at_us < receipt.submitted_at_us:
        raise _inconsistent("the job ended before it was submitted")


def _check_audit(segment: ReceiptSegment) -> None:
    audited = segment.audit is not AuditOutcome.NOT_SAMPLED
    if audited != bool(segment.auditor) or audited != bool(segment.verdict_digest):
        raise _inconsistent(
            f"segment {segment.index} is {segment.audit}, with auditor {segment.auditor[:64]!r} "
            f"and {'a' if segment.verdict_digest else 'no'} verdict"
        )


def _check_devices(receipt: Receipt) -> None:
    listed = [(device.key_id, device.device_id) for device in receipt.devices]
    used = {(segment.device_key_id, segment.device_id) for segment in receipt.segments}
    if listed != sorted(used):
        raise _inconsistent(f"{len(listed)} devices are listed, segments have {len(used)}")


def _inconsistent(message: str) -> ReceiptError:
    return ReceiptError(message, code="RECEIPT_INCONSISTENT")
