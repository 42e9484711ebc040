"""What a buyer checks before believing a result: receipt against job, tensors against roots.

Pure functions; the client fetches, these decide. ``flop receipt verify`` uses the first half
offline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flopmarket.client.failures import AnswerRefused
from flopmarket.client.results import Array, JobInfo, SegmentInfo
from flopmarket.jobs import bundle
from flopmarket.jobs.spec import JobSpec, class_hex, job_id
from flopmarket.trust.encoding import decode
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.receipt import (
    Outcome,
    Receipt,
    ReceiptSegment,
    VerifiedReceipt,
    verify_receipt,
)

GOOD_SEGMENT_STATES = frozenset({"verified", "settled"})


@dataclass(frozen=True, slots=True)
class CheckedReceipt:
    """A receipt that agrees with the job specification inside it."""

    verified: VerifiedReceipt
    spec: JobSpec

    @property
    def receipt(self) -> Receipt:
        """What the coordinator swears to."""
        return self.verified.receipt


def check_receipt(file: bytes, coordinator_key: PublicKey | None) -> CheckedReceipt:
    """Signature, arithmetic, job id, and that the receipt tells of the job it names.

    ``coordinator_key`` None trusts the key inside the file (``verified.trusted`` is then False).
    Raises EnvelopeError, ReceiptError or AnswerRefused RECEIPT_CONTRADICTS_JOB.
    """
    verified = verify_receipt(file, coordinator_key, recompute_job_id=_job_id_of)
    receipt = verified.receipt
    spec = decode(JobSpec, receipt.job_spec)
    pairs = (
        ("buyer", receipt.buyer_account_id, spec.buyer),
        ("program", receipt.program_digest, spec.program_digest),
        ("profile", receipt.profile, spec.profile),
        ("mode", receipt.mode, spec.mode),
        ("class of devices", receipt.device_class, class_hex(spec)),
        ("level of verification", receipt.verification, spec.verification),
        ("data root", receipt.data_root, spec.data_root),
        ("initial state", receipt.initial_state_root, spec.state_root),
        ("seed", receipt.seed, spec.seed),
        ("steps", receipt.steps, spec.steps),
    )
    for name, stated, signed in pairs:
        if stated != signed:
            raise AnswerRefused(
                f"the receipt's {name} is not that of the job its buyer signed",
                code="RECEIPT_CONTRADICTS_JOB",
            )
    if receipt.ceiling_nano > spec.max_price_nano:
        raise AnswerRefused(
            f"the receipt's ceiling of {receipt.ceiling_nano} nano-units is above the "
            f"{spec.max_price_nano} its buyer signed",
            code="RECEIPT_CONTRADICTS_JOB",
        )
    return CheckedReceipt(verified, spec)


def check_receipt_names(checked: CheckedReceipt, expected_job_id: str) -> None:
    """Raise AnswerRefused RECEIPT_OTHER_JOB unless the receipt is of this job (hex id)."""
    if checked.receipt.job_id.hex() != expected_job_id:
        raise AnswerRefused(
            f"the receipt is for job {checked.receipt.job_id.hex()}, not {expected_job_id}",
            code="RECEIPT_OTHER_JOB",
        )


def check_finished(checked: CheckedReceipt) -> None:
    """Raise AnswerRefused unless the receipt says that all steps were done."""
    if checked.receipt.outcome is not Outcome.COMPLETED:
        raise AnswerRefused(
            f"the job is shown as succeeded, but its receipt says {checked.receipt.outcome}",
            code="RECEIPT_NOT_COMPLETED",
        )


def check_root(tensors: Mapping[str, Array], root: bytes, what: str, code: str) -> None:
    """Raise AnswerRefused unless ``tensors`` have this root."""
    found = bundle.root(tensors)
    if found != root:
        raise AnswerRefused(
            f"{what} that was sent has root {found.hex()}, {root.hex()} is stated", code=code
        )


def verified_segments(
    job: JobInfo, receipt: Receipt | None
) -> list[tuple[SegmentInfo, ReceiptSegment | None]]:
    """Segments that were found right, in order of their steps, each with its line of the receipt.

    Raises AnswerRefused SEGMENT_MISSING when the receipt pays for a segment that is not listed.
    """
    listed = {s.first_step: s for s in job.segments if s.state in GOOD_SEGMENT_STATES}
    if receipt is None:
        return [(listed[step], None) for step in sorted(listed)]
    pairs: list[tuple[SegmentInfo, ReceiptSegment | None]] = []
    for paid in receipt.segments:
        found = listed.get(paid.first_step)
        if found is None or found.steps != paid.steps:
            raise AnswerRefused(
                f"the receipt has a segment from step {paid.first_step} that the job does not list",
                code="SEGMENT_MISSING",
            )
        pairs.append((found, paid))
    return pairs


def stack_outputs(segments: list[dict[str, Array]]) -> dict[str, Array]:
    """Outputs of consecutive segments along the axis of steps; refused when they do not fit."""
    if not segments:
        return {}
    names = set(segments[0])
    for outputs in segments:
        if set(outputs) != names:
            raise AnswerRefused("segments have outputs of different names", code="OUTPUTS_DIFFER")
    try:
        return {name: np.concatenate([s[name] for s in segments]) for name in sorted(names)}
    except ValueError:
        raise AnswerRefused(
            "outputs of segments have different shapes", code="OUTPUTS_DIFFER"
        ) from None


def _job_id_of(spec: bytes) -> bytes:
    return job_id(decode(JobSpec, spec))
