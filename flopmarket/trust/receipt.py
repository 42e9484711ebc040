"""Receipts: a signed, portable proof of what ran and what was paid, checked without the market.

A receipt file is a DSSE envelope (JSON) around an in-toto Statement v1 whose subjects are the final
state root and the outputs root of the job (:mod:`flopmarket.trust.receipt_statement`). The
coordinator signs it when a job ends, and again, naming the file it replaces, when a segment turns
out wrong later; ``flop receipt verify`` and anybody else checks it offline with
:func:`verify_receipt`. Amounts are nano-units of ``currency``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flopmarket.limits import MAX_RECEIPT_BYTES
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.envelope import read_json_envelope, sign_payload, verify_signature
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError, ReceiptError
from flopmarket.trust.keys import KeyPair, PublicKey
from flopmarket.trust.modes import Mode
from flopmarket.trust.receipt_facts import (
    HOUSE,
    AuditOutcome,
    Outcome,
    Receipt,
    ReceiptDevice,
    ReceiptSegment,
    check_consistency,
)
from flopmarket.trust.receipt_statement import (
    PREDICATE_TYPE,
    SEQUENCE_ROOT_ALGORITHM,
    STATE_ROOT_ALGORITHM,
    STATEMENT_TYPE,
    malformed,
    parse,
    statement_bytes,
)

__all__ = [
    "HOUSE",
    "PAYLOAD_TYPE",
    "PREDICATE_TYPE",
    "SEQUENCE_ROOT_ALGORITHM",
    "STATEMENT_TYPE",
    "STATE_ROOT_ALGORITHM",
    "AuditOutcome",
    "Outcome",
    "Receipt",
    "ReceiptDevice",
    "ReceiptSegment",
    "VerifiedReceipt",
    "build_receipt",
    "check_consistency",
    "file_digest",
    "sign_receipt",
    "statement_bytes",
    "verify_receipt",
]

PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """A receipt whose signature and arithmetic hold.

    ``trusted`` is False when the only key known was the one inside the file: then the receipt is
    whole, and anybody could have made it. ``job_id_checked`` says whether the job id was recomputed
    from the job specification.
    """

    receipt: Receipt
    trusted: bool
    job_id_checked: bool


def build_receipt(
    *,
    job_id: bytes,
    job_spec: bytes,
    buyer_account_id: str,
    program_digest: bytes,
    profile: str,
    mode: Mode,
    device_class: str,
    verification: Level,
    data_root: bytes,
    seed: int,
    steps: int,
    outcome: Outcome,
    initial_state_root: bytes,
    devices: Iterable[ReceiptDevice],
    segments: Sequence[ReceiptSegment],
    currency: str,
    ceiling_nano: int,
    fee_nano: int,
    coordinator_key: PublicKey,
    submitted_at_us: int,
    ended_at_us: int,
    replaces: bytes = b"",
) -> Receipt:
    """A consistent receipt; :class:`ReceiptError` when the facts contradict each other.

    The final state, the surcharge and the invoice follow from the segments; ``devices`` may come in
    any order.
    """
    receipt = Receipt(
        job_id=job_id,
        job_spec=job_spec,
        buyer_account_id=buyer_account_id,
        program_digest=program_digest,
        profile=profile,
        mode=mode,
        device_class=device_class,
        verification=verification,
        data_root=data_root,
        seed=seed,
        steps=steps,
        outcome=outcome,
        initial_state_root=initial_state_root,
        final_state_root=segments[-1].state_root_after if segments else initial_state_root,
        devices=tuple(sorted(devices, key=lambda item: (item.key_id, item.device_id))),
        segments=tuple(segments),
        currency=currency,
        ceiling_nano=ceiling_nano,
        invoice_nano=sum(item.price_nano + item.surcharge_nano for item in segments),
        fee_nano=fee_nano,
        surcharge_nano=sum(item.surcharge_nano for item in segments),
        coordinator_key=coordinator_key,
        submitted_at_us=submitted_at_us,
        ended_at_us=ended_at_us,
        replaces=replaces,
    )
    check_consistency(receipt)
    return receipt


def sign_receipt(receipt: Receipt, key: KeyPair) -> bytes:
    """The receipt file: DSSE JSON, signed by the coordinator key that the receipt names."""
    if key.public != receipt.coordinator_key:
        raise ReceiptError("the receipt names another coordinator key", code="RECEIPT_WRONG_KEY")
    check_consistency(receipt)
    payload = statement_bytes(receipt)
    if parse(payload) != receipt:
        raise malformed("a field has a value that cannot be read back")
    return sign_payload(PAYLOAD_TYPE, payload, key).to_json()


def verify_receipt(
    file: bytes,
    coordinator_key: PublicKey | None,
    *,
    recompute_job_id: Callable[[bytes], bytes] | None = None,
) -> VerifiedReceipt:
    """Check a receipt file offline.

    ``coordinator_key`` is the key the caller trusts; with None the key inside the file is used and
    the result says ``trusted=False``. ``recompute_job_id`` maps job specification bytes to the job
    id. Raises :class:`EnvelopeError` for the signature, :class:`ReceiptError` for the content.
    """
    envelope = read_json_envelope(file, max_bytes=MAX_RECEIPT_BYTES)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise EnvelopeError(
            f"a receipt has payload type {PAYLOAD_TYPE}", code=EnvelopeCode.WRONG_TYPE
        )
    if coordinator_key is None:
        # Only to learn whom the file claims to be from; nothing else is believed before the check.
        key = parse(envelope.payload).coordinator_key
    else:
        key = coordinator_key
    verify_signature(envelope, lambda _hint: key)
    receipt = parse(envelope.payload)
    if receipt.coordinator_key != key:
        raise ReceiptError(
            f"signed by {key.key_id}, but it names coordinator {receipt.coordinator_key.key_id}",
            code="RECEIPT_WRONG_KEY",
        )
    check_consistency(receipt)
    if recompute_job_id is not None and recompute_job_id(receipt.job_spec) != receipt.job_id:
        raise ReceiptError(
            f"job id {receipt.job_id.hex()} is not that of the job specification inside",
            code="RECEIPT_WRONG_JOB",
        )
    return VerifiedReceipt(receipt, coordinator_key is not None, recompute_job_id is not None)


def file_digest(file: bytes) -> bytes:
    """How a correction names the receipt file that it replaces: its sha256, 32 bytes."""
    return hashlib.sha256(file).digest()
