"""The receipt of a job: what its rows say, for a reader who believes nobody but a signature."""

from __future__ import annotations

import hashlib

from flopmarket.jobs.spec import JobSpec, class_hex
from flopmarket.market.proof import PROVED_CLASS
from flopmarket.trust.documents import OfferTerms
from flopmarket.trust.encoding import decode, digest
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.receipt import (
    HOUSE,
    AuditOutcome,
    Outcome,
    ReceiptDevice,
    ReceiptSegment,
    build_receipt,
    sign_receipt,
)
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.store import audits, benchmarks, disputes, segments, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, SegmentRow


def signed_receipt(
    tx: Transaction,
    job: JobRow,
    outcome: Outcome,
    *,
    currency: str,
    key: KeyPair,
    replaces: bytes = b"",
) -> bytes:
    """The receipt file of a job that has ended, over the segments that are settled now.

    ``replaces``: digest of the file that this one corrects (``trust.receipt.file_digest``).
    """
    spec = decode(JobSpec, job.spec)
    settled = segments.of_job(tx, job.job_id, {SegmentState.SETTLED})
    house = {"", HOUSE, key.key_id, *audits.house_keys(tx)}
    won = disputes.won_by_producer(tx, job.job_id)
    receipt = build_receipt(
        job_id=digest(spec),
        job_spec=job.spec,
        buyer_account_id=job.buyer,
        program_digest=spec.program_digest,
        profile=spec.profile,
        mode=spec.mode,
        device_class=class_hex(spec),
        verification=spec.verification,
        data_root=spec.data_root,
        seed=spec.seed,
        steps=spec.steps,
        outcome=outcome,
        initial_state_root=spec.state_root,
        devices=_devices(tx, settled),
        segments=[
            _segment(row, position, house, won=row.segment_id in won)
            for position, row in enumerate(settled)
        ],
        currency=currency,
        ceiling_nano=job.ceiling_nano,
        fee_nano=sum(row.fee_nano for row in settled),
        coordinator_key=key.public,
        submitted_at_us=job.created_at_us,
        ended_at_us=job.ended_at_us or tx.now_us,
        replaces=replaces,
    )
    return sign_receipt(receipt, key)


def _segment(row: SegmentRow, position: int, house: set[str], *, won: bool) -> ReceiptSegment:
    audited = row.verdict is not None
    right = AuditOutcome.DISPUTE_WON if won else AuditOutcome.CONFIRMED
    auditor = HOUSE if row.auditor in house else row.auditor
    return ReceiptSegment(
        index=position,
        first_step=row.first_step,
        steps=row.steps,
        device_key_id=row.device_key_id,
        device_id=row.device_id,
        state_root_before=row.root_before,
        state_root_after=row.root_after,
        outputs_root=row.outputs_root,
        commitment_digest=row.commitment_digest,
        audit=right if audited else AuditOutcome.NOT_SAMPLED,
        auditor=auditor if audited else "",
        verdict_digest=hashlib.sha256(row.verdict).digest() if row.verdict else b"",
        challenge_digest=row.challenge_digest or b"",
        price_nano=row.price_nano,
        surcharge_nano=row.surcharge_nano,
    )


def _devices(tx: Transaction, settled: list[SegmentRow]) -> list[ReceiptDevice]:
    """One record a device, as its owner offers it now."""
    found: dict[tuple[str, str], ReceiptDevice] = {}
    for row in settled:
        place = (row.device_key_id, row.device_id)
        if place in found:
            continue
        offer = work.offer(tx, row.offer_id)
        standing = benchmarks.standing(tx, row.offer_id)
        rate = standing.worth_flops_per_second if standing and standing.proved_at_us else 0
        found[place] = ReceiptDevice(
            key_id=row.device_key_id,
            device_id=row.device_id,
            name=row.device_name,
            driver=decode(OfferTerms, offer.terms).driver if offer else "",
            proved_rates=((PROVED_CLASS, rate),) if rate else (),
        )
    return list(found.values())
