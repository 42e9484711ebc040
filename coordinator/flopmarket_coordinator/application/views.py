"""Rows as callers see them."""

from __future__ import annotations

from flopmarket.jobs.spec import JobSpec
from flopmarket.limits import MAX_INLINE_SEGMENTS
from flopmarket.market.price import PriceTerms
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import Envelope
from flopmarket_coordinator.application.proofs import signer_proof
from flopmarket_coordinator.application.types_buying import JobView, SegmentView
from flopmarket_coordinator.application.types_working import LeaseOffered
from flopmarket_coordinator.store import buyers, challenges, identity, segments
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, LeaseRow, SegmentRow

FIRST_SEGMENT = (-1, 0)
"""The position before a job's first segment."""


def job_view(tx: Transaction, job: JobRow, *, with_segments: bool) -> JobView:
    """A job and what its segments add up to; the first of them where they are asked for."""
    spec = decode(JobSpec, job.spec)
    sums = segments.progress(tx, job.job_id)
    durable = bool(sums.checkpoint_artifact)
    rows = (
        segments.page(tx, job.job_id, FIRST_SEGMENT, MAX_INLINE_SEGMENTS) if with_segments else ()
    )
    return JobView(
        job_id=job.job_id,
        title=job.title,
        kind=job.kind,
        state=job.state,
        reason=job.reason,
        created_at_us=job.created_at_us,
        ended_at_us=job.ended_at_us,
        steps=job.steps,
        segment_steps=job.segment_steps,
        steps_committed=sums.steps_committed,
        steps_verified=sums.steps_verified,
        ceiling_nano=job.ceiling_nano,
        billed_nano=job.billed_nano,
        program_digest=spec.program_digest.hex(),
        state_artifact=sums.checkpoint_artifact if durable else job.state_artifact,
        state_root=sums.checkpoint_root if durable else spec.state_root,
        segments=tuple(segment_view(row) for row in rows),
        segment_count=sums.segments,
        order=spec.order,
        deadline_us=job.deadline_us,
        verification=job.verification,
        mode=job.mode,
        device_class=job.device_class,
        surcharge_ppm=job.surcharge_ppm,
        surcharge_nano=job.surcharge_nano,
    )


def segment_view(row: SegmentRow) -> SegmentView:
    """A segment as its buyer sees it."""
    return SegmentView(
        index=row.segment_index,
        first_step=row.first_step,
        steps=row.steps,
        state=row.state,
        device_id=row.device_id,
        device_name=row.device_name,
        device_key_id=row.device_key_id,
        price_nano=row.price_nano,
        state_root=row.root_after,
        outputs_root=row.outputs_root,
        outputs_artifact=row.outputs_artifact,
        checkpoint_artifact=row.checkpoint_artifact,
        reason=row.reason,
        surcharge_nano=row.surcharge_nano,
    )


def lease_offer(tx: Transaction, job: JobRow, lease: LeaseRow) -> LeaseOffered:
    """The instruction that offers a lease to its worker."""
    spec = Envelope.from_bytes(job.envelope)
    signer = identity.key(tx, spec.signatures[0].key_id_hint) or identity.key(tx, job.buyer)
    assert signer is not None, "the job was accepted on this signature"
    granted = buyers.grant_of_job(tx, job.job_id)
    grant = None if granted is None else Envelope.from_bytes(granted.envelope)
    proof = signer_proof(tx, job.buyer, signer.key_id, grant)
    terms = challenges.get(tx, lease.lease_id)
    return LeaseOffered(
        device_key_id=lease.device_key_id,
        lease_id=lease.lease_id,
        fence=lease.fence,
        device_id=lease.device_id,
        job_id=lease.job_id,
        spec=spec,
        spec_public_key=signer.public_key,
        program_artifact=job.program_artifact,
        frozen_artifact=job.frozen_artifact,
        data_artifact=job.data_artifact,
        state_artifact=lease.state_artifact,
        state_root=lease.state_root,
        first_step=lease.first_step,
        step_count=lease.step_count,
        first_segment=lease.first_segment,
        price=PriceTerms(lease.ask_nano_per_hour, lease.step_picoseconds),
        expires_at_us=lease.expires_at_us,
        grant=grant,
        buyer_public_key=proof.first_key,
        owner_links=proof.links,
        signer_rotations=proof.rotations,
        challenge_terms=None if terms is None else Envelope.from_bytes(terms.envelope),
    )
