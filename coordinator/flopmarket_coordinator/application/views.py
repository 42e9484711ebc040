"""Rows as callers see them."""

from __future__ import annotations

from collections.abc import Iterable

from flopmarket.jobs.spec import JobSpec
from flopmarket.market.price import PriceTerms
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import Envelope
from flopmarket_coordinator.application.types import JobView, LeaseOffered, SegmentView
from flopmarket_coordinator.core.lifecycle import LIVE_SEGMENT_STATES, SegmentState
from flopmarket_coordinator.store import identity
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, LeaseRow, SegmentRow

_CHECKED = (SegmentState.VERIFIED, SegmentState.SETTLED)


def job_view(job: JobRow, rows: Iterable[SegmentRow], *, with_segments: bool) -> JobView:
    """A job and what its segments add up to. ``rows`` are in order of steps."""
    spec = decode(JobSpec, job.spec)
    segments = list(rows)
    live = [row for row in segments if row.state in LIVE_SEGMENT_STATES]
    state_artifact, root = job.state_artifact, spec.state_root
    for row in live:
        if row.state in _CHECKED and row.checkpoint_artifact:
            state_artifact, root = row.checkpoint_artifact, row.root_after
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
        steps_committed=sum(row.steps for row in live),
        steps_verified=sum(row.steps for row in live if row.state in _CHECKED),
        ceiling_nano=job.ceiling_nano,
        billed_nano=job.billed_nano,
        program_digest=spec.program_digest.hex(),
        state_artifact=state_artifact,
        state_root=root,
        segments=tuple(_segment_view(row) for row in segments) if with_segments else (),
    )


def _segment_view(row: SegmentRow) -> SegmentView:
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
    )


def lease_offer(tx: Transaction, job: JobRow, lease: LeaseRow) -> LeaseOffered:
    """The instruction that offers a lease to its worker."""
    spec = Envelope.from_bytes(job.envelope)
    signer = identity.key(tx, spec.signatures[0].key_id_hint) or identity.key(tx, job.buyer)
    assert signer is not None, "the job was accepted on this signature"
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
    )
