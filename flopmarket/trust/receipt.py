"""Receipts: a signed, portable proof of what ran and what was paid, checked without the market.

A receipt file is a DSSE envelope (JSON) around an in-toto Statement v1 whose subjects are the final
state root and the outputs root of the job. The coordinator signs it when a job ends; ``flop receipt
verify`` and anybody else checks it offline with :func:`verify_receipt`.

The statement is canonical JSON: members sorted, no white space, ASCII, every integer a decimal
string (so that no reader rounds it), every digest lower-case hex. Amounts are nano-units of
``currency``. Reading rebuilds the canonical bytes and compares them with the signed ones, so
nothing can hide in a receipt that this module does not show.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flopmarket.errors import FlopmarketError
from flopmarket.limits import MAX_RECEIPT_BYTES, MAX_RECEIPT_SEGMENTS
from flopmarket.trust.envelope import read_json_envelope, sign_payload, verify_signature
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError, ReceiptError
from flopmarket.trust.json_fields import digest_of, integer_of, text_of
from flopmarket.trust.keys import KeyPair, PublicKey
from flopmarket.trust.merkle import sequence_root

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://flopmarket.dev/receipt/v1"
STATE_ROOT_ALGORITHM = "flopmarketStateRootV1"
SEQUENCE_ROOT_ALGORITHM = "flopmarketSequenceRootV1"

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,38}")


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
class ReceiptSegment:
    """One paid segment: who ran which steps, from which state to which, for how much."""

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
    price_nano: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a coordinator swears to about one job.

    ``job_spec`` is the buyer's encoded job specification, from which ``job_id`` can be recomputed.
    ``steps`` is what the job asked for; a completed job's segments cover exactly that.
    ``fee_nano`` is the market's part of ``invoice_nano``, which is the sum of the segments' prices.
    """

    job_id: bytes
    job_spec: bytes
    buyer_account_id: str
    program_digest: bytes
    profile: str
    data_root: bytes
    seed: int
    steps: int
    outcome: Outcome
    initial_state_root: bytes
    final_state_root: bytes
    segments: tuple[ReceiptSegment, ...]
    currency: str
    ceiling_nano: int
    invoice_nano: int
    fee_nano: int
    coordinator_key: PublicKey
    submitted_at_us: int
    ended_at_us: int

    @property
    def outputs_root(self) -> bytes:
        """Sequence root over the outputs roots of the segments, in order."""
        return sequence_root(segment.outputs_root for segment in self.segments)


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
    data_root: bytes,
    seed: int,
    steps: int,
    outcome: Outcome,
    initial_state_root: bytes,
    segments: Sequence[ReceiptSegment],
    currency: str,
    ceiling_nano: int,
    fee_nano: int,
    coordinator_key: PublicKey,
    submitted_at_us: int,
    ended_at_us: int,
) -> Receipt:
    """A consistent receipt; :class:`ReceiptError` when the facts contradict each other.

    The final state and the invoice follow from the segments.
    """
    receipt = Receipt(
        job_id=job_id,
        job_spec=job_spec,
        buyer_account_id=buyer_account_id,
        program_digest=program_digest,
        profile=profile,
        data_root=data_root,
        seed=seed,
        steps=steps,
        outcome=outcome,
        initial_state_root=initial_state_root,
        final_state_root=segments[-1].state_root_after if segments else initial_state_root,
        segments=tuple(segments),
        currency=currency,
        ceiling_nano=ceiling_nano,
        invoice_nano=sum(segment.price_nano for segment in segments),
        fee_nano=fee_nano,
        coordinator_key=coordinator_key,
        submitted_at_us=submitted_at_us,
        ended_at_us=ended_at_us,
    )
    check_consistency(receipt)
    return receipt


def sign_receipt(receipt: Receipt, key: KeyPair) -> bytes:
    """The receipt file: DSSE JSON, signed by the coordinator key that the receipt names."""
    if key.public != receipt.coordinator_key:
        raise ReceiptError("the receipt names another coordinator key", code="RECEIPT_WRONG_KEY")
    check_consistency(receipt)
    payload = statement_bytes(receipt)
    if _parse(payload) != receipt:
        raise _malformed("a field has a value that cannot be read back")
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
        key = _parse(envelope.payload).coordinator_key
    else:
        key = coordinator_key
    verify_signature(envelope, lambda _hint: key)
    receipt = _parse(envelope.payload)
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


def check_consistency(receipt: Receipt) -> None:
    """:class:`ReceiptError` ``RECEIPT_INCONSISTENT`` unless the facts of a receipt agree.

    Segments follow each other without a gap in index, step and state; a completed job has all its
    steps; prices add up to the invoice, which covers the fee and stays under the ceiling.
    """
    if len(receipt.segments) > MAX_RECEIPT_SEGMENTS:
        raise _inconsistent(f"{len(receipt.segments)} segments, at most {MAX_RECEIPT_SEGMENTS}")
    next_step, state_root = 0, receipt.initial_state_root
    for position, segment in enumerate(receipt.segments):
        if segment.index != position or segment.first_step != next_step or segment.steps < 1:
            raise _inconsistent(
                f"segment {segment.index} from step {segment.first_step} ({segment.steps} steps) "
                f"where segment {position} from step {next_step} is due"
            )
        if segment.state_root_before != state_root:
            raise _inconsistent(f"segment {position} starts from a state that was not reached")
        next_step += segment.steps
        state_root = segment.state_root_after
    if state_root != receipt.final_state_root:
        raise _inconsistent("the final state is not the one the last segment ended in")
    done = receipt.outcome is Outcome.COMPLETED
    if next_step > receipt.steps or (done and next_step != receipt.steps):
        raise _inconsistent(f"{next_step} steps were run of a job of {receipt.steps}")
    paid = sum(segment.price_nano for segment in receipt.segments)
    if paid != receipt.invoice_nano:
        raise _inconsistent(f"prices add up to {paid}, the invoice is {receipt.invoice_nano}")
    if not receipt.fee_nano <= receipt.invoice_nano <= receipt.ceiling_nano:
        raise _inconsistent(
            f"fee {receipt.fee_nano}, invoice {receipt.invoice_nano} and ceiling "
            f"{receipt.ceiling_nano} are not in this order"
        )
    if receipt.ended_at_us < receipt.submitted_at_us:
        raise _inconsistent("the job ended before it was submitted")


def statement_bytes(receipt: Receipt) -> bytes:
    """The canonical JSON of the in-toto statement: what is signed."""
    return _canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {
                    "name": "final-state",
                    "digest": {STATE_ROOT_ALGORITHM: receipt.final_state_root.hex()},
                },
                {
                    "name": "outputs",
                    "digest": {SEQUENCE_ROOT_ALGORITHM: receipt.outputs_root.hex()},
                },
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "job": {
                    "id": receipt.job_id.hex(),
                    "spec": base64.b64encode(receipt.job_spec).decode("ascii"),
                    "buyer_account_id": receipt.buyer_account_id,
                    "program_digest": receipt.program_digest.hex(),
                    "profile": receipt.profile,
                    "data_root": receipt.data_root.hex(),
                    "seed": _decimal(receipt.seed),
                    "steps": _decimal(receipt.steps),
                    "initial_state_root": receipt.initial_state_root.hex(),
                },
                "outcome": receipt.outcome.value,
                "segments": [_segment_members(segment) for segment in receipt.segments],
                "totals": {
                    "currency": receipt.currency,
                    "ceiling_nano": _decimal(receipt.ceiling_nano),
                    "invoice_nano": _decimal(receipt.invoice_nano),
                    "fee_nano": _decimal(receipt.fee_nano),
                },
                "coordinator": {
                    "key_id": receipt.coordinator_key.key_id,
                    "public_key": receipt.coordinator_key.raw.hex(),
                },
                "submitted_at_us": _decimal(receipt.submitted_at_us),
                "ended_at_us": _decimal(receipt.ended_at_us),
            },
        }
    )


def _segment_members(segment: ReceiptSegment) -> dict[str, str]:
    return {
        "index": _decimal(segment.index),
        "first_step": _decimal(segment.first_step),
        "steps": _decimal(segment.steps),
        "device_key_id": segment.device_key_id,
        "device_id": segment.device_id,
        "state_root_before": segment.state_root_before.hex(),
        "state_root_after": segment.state_root_after.hex(),
        "outputs_root": segment.outputs_root.hex(),
        "commitment_digest": segment.commitment_digest.hex(),
        "audit": segment.audit.value,
        "price_nano": _decimal(segment.price_nano),
    }


def _parse(payload: bytes) -> Receipt:
    """The receipt whose canonical statement is ``payload``, and no other spelling of it."""
    try:
        receipt = _read_statement(json.loads(payload))
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise _malformed(f"{type(error).__name__}: {error}"[:200]) from None
    except FlopmarketError as error:
        raise _malformed(error.message) from error
    if statement_bytes(receipt) != payload:
        raise _malformed("the statement is not in canonical form, or says more than a receipt does")
    return receipt


def _read_statement(statement: Mapping[str, Any]) -> Receipt:
    predicate = statement["predicate"]
    job, totals = predicate["job"], predicate["totals"]
    return Receipt(
        job_id=digest_of(job["id"]),
        job_spec=_read_base64(job["spec"]),
        buyer_account_id=text_of(job["buyer_account_id"]),
        program_digest=digest_of(job["program_digest"]),
        profile=text_of(job["profile"]),
        data_root=digest_of(job["data_root"]),
        seed=integer_of(job["seed"]),
        steps=integer_of(job["steps"]),
        outcome=Outcome(predicate["outcome"]),
        initial_state_root=digest_of(job["initial_state_root"]),
        final_state_root=digest_of(statement["subject"][0]["digest"][STATE_ROOT_ALGORITHM]),
        segments=tuple(_read_segment(members) for members in predicate["segments"]),
        currency=text_of(totals["currency"]),
        ceiling_nano=integer_of(totals["ceiling_nano"]),
        invoice_nano=integer_of(totals["invoice_nano"]),
        fee_nano=integer_of(totals["fee_nano"]),
        coordinator_key=PublicKey(digest_of(predicate["coordinator"]["public_key"])),
        submitted_at_us=integer_of(predicate["submitted_at_us"]),
        ended_at_us=integer_of(predicate["ended_at_us"]),
    )


def _read_segment(members: Mapping[str, Any]) -> ReceiptSegment:
    return ReceiptSegment(
        index=integer_of(members["index"]),
        first_step=integer_of(members["first_step"]),
        steps=integer_of(members["steps"]),
        device_key_id=text_of(members["device_key_id"]),
        device_id=text_of(members["device_id"]),
        state_root_before=digest_of(members["state_root_before"]),
        state_root_after=digest_of(members["state_root_after"]),
        outputs_root=digest_of(members["outputs_root"]),
        commitment_digest=digest_of(members["commitment_digest"]),
        audit=AuditOutcome(members["audit"]),
        price_nano=integer_of(members["price_nano"]),
    )


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _decimal(value: int) -> str:
    if type(value) is not int or not _DECIMAL.fullmatch(str(value)):
        raise _malformed(f"{value!r} is not a whole number from zero up of at most 39 digits")
    return str(value)


def _read_base64(text: object) -> bytes:
    try:
        return base64.b64decode(text_of(text), validate=True)
    except binascii.Error:
        raise ValueError("spec is not base64") from None


def _inconsistent(message: str) -> ReceiptError:
    return ReceiptError(message, code="RECEIPT_INCONSISTENT")


def _malformed(message: str) -> ReceiptError:
    return ReceiptError(f"not a receipt statement: {message}", code="RECEIPT_MALFORMED")
