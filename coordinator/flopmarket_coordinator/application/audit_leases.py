"""Leases of audits: to whom a segment is given to be computed again, and from where.

To its worker such a lease is one like any other: the same message, from the newest durable state to
the end of the job, at its own ask. It ends when the segment in question is committed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from flopmarket.engine.exact import PROFILE
from flopmarket.jobs.spec import JobSpec
from flopmarket.limits import MAX_AUDIT_WAY_SEGMENTS, MAX_CHAIN_VALUES
from flopmarket.market.money import Nano
from flopmarket.market.offer import Offer
from flopmarket.market.order import unmet
from flopmarket.market.predict import PICOSECONDS_PER_MICROSECOND
from flopmarket.market.price import PriceTerms, price
from flopmarket.market.reasons import Reason
from flopmarket.trust.encoding import decode
from flopmarket_coordinator.application.disputing import DisputingUseCases
from flopmarket_coordinator.application.predicting import job_work
from flopmarket_coordinator.core.leasing import StartPoint, restart_point
from flopmarket_coordinator.core.lifecycle import LIVE_LEASE_STATES, LeaseState
from flopmarket_coordinator.core.matching import Demand, could_run
from flopmarket_coordinator.store import audits, identity, jobs, segments, work
from flopmarket_coordinator.store.audits import AuditRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, LeaseRow, SegmentRow


class NoLease(Enum):
    """Why an auditor has no lease."""

    NOT_NOW = "its device is busy, or its connection broke a moment ago"
    NEVER = "it cannot or may not audit this segment"
    NO_MONEY = "nobody can pay it"


@dataclass(frozen=True, slots=True)
class Way:
    """What an auditor computes: segments from a durable state to the audited one, which is last."""

    start: StartPoint
    segments: tuple[SegmentRow, ...]
    step_count: int
    """Steps of the lease, as another lease from here would have them."""


class AuditLeaseUseCases(DisputingUseCases):
    """Giving audits to workers. Nothing here is called from outside the application."""

    def _way(self, tx: Transaction, job: JobRow, row: SegmentRow) -> Way | None:
        """How another worker comes to a segment; None when it cannot end at the same steps.

        A worker that was stopped ends its last segment early; nobody else would.
        """
        spec = decode(JobSpec, job.spec)
        if job.stateless:
            start = StartPoint(
                row.first_step, row.segment_index, job.state_artifact, spec.state_root
            )
            return Way(start, (row,), row.steps)
        newest = segments.newest_checkpoint(tx, job.job_id, row.first_step, checked=True)
        before = [] if newest is None else [newest.part()]
        start, _ = restart_point(spec, job.state_artifact, before)
        step_count = min(job.steps - start.step, MAX_CHAIN_VALUES)
        rows = segments.live_from(tx, job.job_id, start.step, MAX_AUDIT_WAY_SEGMENTS)
        step, way = start.step, []
        for item in rows:
            whole = min(job.segment_steps, start.step + step_count - step)
            if (item.first_step, item.steps) != (step, whole):
                return None
            step += item.steps
            way.append(item)
            if item.segment_id == row.segment_id:
                return Way(start, tuple(way), step_count)
        return None

    def _lease_audit(
        self, tx: Transaction, audit: AuditRow, row: SegmentRow, key_id: str
    ) -> LeaseRow | NoLease:
        """Offer the segment to a drawn key, on one of its devices that is free."""
        job = self._job(tx, row.job_id)
        key = identity.key(tx, key_id)
        way = self._way(tx, job, row)
        if key is None or key.revoked or way is None:
            return NoLease.NEVER
        apart = {row.account_id, job.buyer}
        apart |= {
            other.auditor_account_id
            for other in audits.of_segment(tx, row.segment_id)
            if other.audit_id != audit.audit_id
        }
        if key.account_id in apart:
            return NoLease.NEVER
        found = self._free_offer(tx, job, key_id)
        if isinstance(found, NoLease):
            return found
        offer, terms = found
        bound = sum(price(terms, item.steps) for item in way.segments)
        if not self.can_pay_auditor(tx, bound):
            return NoLease.NO_MONEY
        fence = job.audit_fence + 1
        jobs.update(tx, job.job_id, audit_fence=fence)
        lease = self._add_lease(
            tx,
            job,
            offer,
            terms,
            job_work(job),
            start=way.start,
            step_count=way.step_count,
            fence=fence,
            audit_id=audit.audit_id,
        )
        if bound:  # some ask for nothing
            self._reserve_audit_pay(tx, lease.lease_id, lease.account_id, bound)
        audits.update(
            tx,
            audit.audit_id,
            lease_id=lease.lease_id,
            auditor_key_id=key_id,
            auditor_account_id=lease.account_id,
        )
        return lease

    def _free_offer(
        self, tx: Transaction, job: JobRow, key_id: str
    ) -> tuple[Offer, PriceTerms] | NoLease:
        """The first device of a key that can run the job and is free now."""
        spec = decode(JobSpec, job.spec)
        demand = Demand(
            job.buyer,
            PROFILE,
            job.peak_memory_bytes,
            job_work(job),
            spec.order.constraints,
            job.mode,
            job.device_class,
        )
        left = NoLease.NEVER
        for listed in work.listed_offers(tx, key_id):
            listing = self._book.listing(listed.offer_id)
            if listing is None or unmet(demand.constraints, listing.offer) is not None:
                continue
            if listing.proof is None and self._parameters.benchmark_required:
                continue
            terms = could_run(demand, listing.offer)
            recently = tx.now_us - self._parameters.presence_ttl_us
            if isinstance(terms, Reason) or listing.banned or listing.seen_us < recently:
                continue
            busy = listing.busy or work.offer_is_leased(tx, listed.offer_id)
            if listing.connected and not busy:
                return listing.offer, terms
            left = NoLease.NOT_NOW
        return left

    def _expected_us(self, tx: Transaction, lease: LeaseRow, row: SegmentRow) -> int:
        """Twice what the auditor's device is expected to need to the end of the segment."""
        steps = row.first_step + row.steps - lease.first_step
        run_us = steps * lease.step_picoseconds // PICOSECONDS_PER_MICROSECOND
        return 2 * (run_us + lease.setup_predicted_us)

    def _earned(self, tx: Transaction, lease_id: str) -> Nano:
        """The price of what an auditor committed."""
        return sum(item.price_nano for item in audits.commitments(tx, lease_id))

    def _pay_audit(self, tx: Transaction, audit: AuditRow) -> None:
        """The auditor in charge did its part: it is paid by its ask, like anybody."""
        earned = self._earned(tx, audit.lease_id) if audit.lease_id else 0
        if earned:
            self._pay_auditor(tx, audit.lease_id, earned)

    def _dismiss(self, tx: Transaction, audit: AuditRow, reason: str) -> None:
        """The auditor in charge is not in charge any more: its lease ends, it gets nothing."""
        if not audit.lease_id:
            return
        audits.update(tx, audit.audit_id, lease_id="", auditor_key_id="", auditor_account_id="")
        self._end_audit_lease(tx, audit.lease_id, reason)
        self._free_audit_pay(tx, audit.lease_id)

    def _end_audit_lease(self, tx: Transaction, lease_id: str, reason: str) -> None:
        """Revoke the lease of an audit, if it runs."""
        lease = work.lease(tx, lease_id)
        if lease is not None and lease.state in LIVE_LEASE_STATES:
            work.move_lease(
                tx,
                lease,
                LeaseState.REVOKED,
                reason=reason,
                detail="",
                told=False,
                ended_at_us=tx.now_us,
            )
