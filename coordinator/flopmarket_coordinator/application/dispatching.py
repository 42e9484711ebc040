"""Use cases of time and matching: lease out open work, end what is overdue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flopmarket.engine.exact import PROFILE
from flopmarket.jobs.spec import JobSpec
from flopmarket.limits import (
    MAX_CHAIN_VALUES,
    MAX_LEASES_PER_TICK,
    MAX_ORDER_PIECES,
    MAX_SEARCHES_PER_TICK,
)
from flopmarket.market.offer import Offer
from flopmarket.market.order import OrderType, step_time_cap
from flopmarket.market.price import PriceTerms, most_work
from flopmarket.market.reasons import Reason
from flopmarket.market.work import JobWork
from flopmarket.trust.encoding import decode
from flopmarket_coordinator.application.offers import OfferUseCases
from flopmarket_coordinator.application.predicting import job_work, lease_forecast
from flopmarket_coordinator.application.sampling import SamplingUseCases
from flopmarket_coordinator.application.types_working import ExpireReport, Instruction, LeaseRevoked
from flopmarket_coordinator.application.views import lease_offer
from flopmarket_coordinator.core.book.clearing import Match
from flopmarket_coordinator.core.book.orders import OpenOrder, Piece
from flopmarket_coordinator.core.changes import RoundMatched
from flopmarket_coordinator.core.events import EventKind, who
from flopmarket_coordinator.core.leasing import RevokeReason, StartPoint, open_ranges
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES, JobState, LeaseState
from flopmarket_coordinator.core.matching import Demand, OpenWork, money_cap, priority
from flopmarket_coordinator.core.verification import GOES_ELSEWHERE
from flopmarket_coordinator.store import identity, jobs, prediction, segments, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, LeaseRow

_LAST_ALIVE = "last_alive_us"


class DispatchingUseCases(OfferUseCases, SamplingUseCases):
    """Matching and expiry. Called by loops, again and again; each call is complete in itself."""

    def match(self, tx: Transaction) -> tuple[Instruction, ...]:
        """Lease open work to the cheapest eligible offers, and tell of revocations.

        Each instruction is returned once; a worker that missed one hears of it in its next
        :class:`Welcome` or heartbeat answer.
        """
        told: list[Instruction] = []
        for lease in work.untold_revocations(tx):
            work.update_lease(tx, lease.lease_id, told=True)
            told.append(revocation(lease))
        if self._draining:
            return tuple(told)
        changed = self.keeper.changed_jobs(tx.now_us)
        for job_id in changed:
            self._read_order(tx, job_id)
        self._book.set_presence_ttl(self._parameters.presence_ttl_us)
        cleared = self._book.match(tx.now_us, MAX_LEASES_PER_TICK, MAX_SEARCHES_PER_TICK)
        told += [self._lease(tx, match) for match in cleared.matches]
        if changed or cleared.news:
            self.keeper.matched(cleared, changed, tx.now_us)
            tx.note(RoundMatched())
        return tuple(told)

    def expire(self, tx: Transaction, *, resumed: bool = False) -> ExpireReport:
        """End leases whose worker is silent and jobs whose deadline is over.

        A gap since the last call means the coordinator was down: leases are extended by it first.
        ``resumed``: this is the first call of a process, so that even a short gap was downtime, and
        whoever was connected to the process before must come back first to get work.
        """
        if resumed:
            work.forget_connections(tx)
        downtime_us = self._downtime(tx, resumed)
        identity.forget_expired(tx)
        expired = work.expired_leases(tx)
        for lease in expired:
            detail = f"no sign of life until {lease.expires_at_us}"
            self._end_lease(tx, lease, LeaseState.EXPIRED, RevokeReason.EXPIRED, detail)
            self._after_lease(tx, lease)
        overdue = jobs.overdue_ids(tx)
        for job_id in overdue:
            self._begin_end(tx, job_id, JobState.FAILED, "DEADLINE_PASSED")
        return ExpireReport(len(expired), len(overdue), downtime_us)

    def _downtime(self, tx: Transaction, resumed: bool) -> int:
        last = work.get_meta(tx, _LAST_ALIVE)
        work.set_meta(tx, _LAST_ALIVE, tx.now_us)
        gap = 0 if last is None else tx.now_us - last
        if gap <= (0 if resumed else self._parameters.stall_us):
            return 0
        work.extend_everything(tx, gap)
        return gap

    def _after_lease(self, tx: Transaction, lease: LeaseRow) -> None:
        """A lease ended unfinished: drop what is not durable, put the job back in the queue."""
        job = self._job(tx, lease.job_id)
        if job.state in FINAL_JOB_STATES:
            return
        if not job.stateless and not job.ending:
            self._restart(tx, job)
        self._refresh(tx, lease.job_id)

    def _read_order(self, tx: Transaction, job_id: str) -> None:
        """Bring the order of a job in the book up to date with its leases and segments."""
        job = jobs.get(tx, job_id)
        order = None if job is None else self._open_order(tx, job)
        if order is None:
            self._book.remove_order(job_id)
        else:
            self._book.put_order(order)

    def _open_order(self, tx: Transaction, job: JobRow) -> OpenOrder | None:
        """What a job still wants; None when nothing of it may be leased."""
        if job.ending or job.state in FINAL_JOB_STATES:
            return None
        leases = work.live_leases_of_job(tx, job.job_id)
        if leases and not job.stateless:
            return None
        spec = decode(JobSpec, job.spec)
        if job.stateless:
            live = segments.taken(tx, job.job_id, job.settled_steps)
            taken = [(0, job.settled_steps), *((first, steps) for first, steps, _ in live)]
            taken += [(lease.next_step, lease.end_step - lease.next_step) for lease in leases]
            empty = (job.state_artifact, spec.state_root)
            pieces = [
                Piece(StartPoint(item.first_step, item.index, *empty), item.step_count)
                for item in open_ranges(job.steps, job.segment_steps, taken, MAX_ORDER_PIECES)
            ]
            left = job.steps - job.live_steps
            left -= sum(lease.end_step - lease.next_step for lease in leases)
        else:
            start = self._restart(tx, job)
            if start.step and segments.unread_before(tx, job.job_id, start.step):
                return None  # until the house has read the file; that changes the job again
            live = segments.taken(tx, job.job_id, job.settled_steps)
            left = job.steps - start.step
            pieces = [Piece(start, left)] if left else []
        if not pieces:
            return None
        return OpenOrder(
            job_id=job.job_id,
            number=job.number,
            demand=Demand(
                job.buyer,
                PROFILE,
                job.peak_memory_bytes,
                replace(job_work(job), promised=prediction.promises(tx, job.job_id)),
                spec.order.constraints,
                job.mode,
                job.device_class,
            ),
            pieces=tuple(pieces),
            money_nano=most_work(
                self._money_left(job, sum(owed for _, _, owed in live), leases),
                left,
                job.surcharge_ppm,
            ),
            money_steps=left,
            deadline_us=job.deadline_us,
            held=len(leases),
            avoid=self._avoided(tx, job.job_id),
            rests=spec.order.kind is OrderType.LIMIT,
        )

    def _avoided(self, tx: Transaction, job_id: str) -> frozenset[str]:
        """Offers that gave this job back a moment ago, and those whose part of it nobody could
        judge. The order is read again when the first ends; the second lasts."""
        pause_us = self._parameters.decline_pause_us
        returned = work.recent_returns(tx, job_id, tx.now_us - pause_us)
        if returned:
            self.keeper.read_again(job_id, min(returned.values()) + pause_us)
        return frozenset(returned) | segments.offers_with(tx, job_id, GOES_ELSEWHERE)

    def _open_works(self, tx: Transaction) -> Sequence[OpenWork]:
        """The first range of every order that waits, in order of priority."""
        orders = sorted(
            self._book.orders(), key=lambda item: priority(item.demand, item.held, item.number)
        )
        return [order.work(order.pieces[0]) for order in orders]

    def _work_reasons(
        self, tx: Transaction, open_work: OpenWork
    ) -> tuple[Mapping[Reason, int], int]:
        """Why listed offers do not take a range now, and how many could; looks at all of them."""
        counts = self._book.count_reasons(
            open_work.demand,
            now_us=tx.now_us,
            cap_nano=money_cap(open_work),
            most_picoseconds=step_time_cap(open_work.step_count, tx.now_us, open_work.deadline_us),
            idle_only=True,
            avoid=sorted(open_work.avoid),
        )
        return counts, max(0, self._book.offer_count - sum(counts.values()))

    def _lease(self, tx: Transaction, match: Match) -> Instruction:
        offer, start = match.found.offer, match.piece.start
        step_count = min(match.piece.step_count, MAX_CHAIN_VALUES)
        job = self._job(tx, match.order.job_id)
        fence = job.fence + 1
        jobs.update(tx, job.job_id, fence=fence)
        terms, counted = match.found.terms, match.order.demand.work
        lease = self._add_lease(
            tx, job, offer, terms, counted, start=start, step_count=step_count, fence=fence
        )
        text = (
            f"steps {start.step} to {start.step + step_count} to "
            f"{who(offer.device_name, offer.device_key_id)}, fence {fence}"
        )
        jobs.record(tx, job.job_id, EventKind.LEASED, text, lease.lease_id)
        self._refresh(tx, job.job_id)
        return lease_offer(tx, job, lease)

    def _add_lease(
        self,
        tx: Transaction,
        job: JobRow,
        offer: Offer,
        terms: PriceTerms,
        counted: JobWork,
        *,
        start: StartPoint,
        step_count: int,
        fence: int,
        audit_id: str = "",
    ) -> LeaseRow:
        """Write down a lease that is offered, with the terms of its draws."""
        lease_id = self._new_id()
        values = {
            "lease_id": lease_id,
            "job_id": job.job_id,
            "fence": fence,
            "offer_id": offer.offer_id,
            "device_key_id": offer.device_key_id,
            "device_id": offer.device_id,
            "device_name": offer.device_name,
            "account_id": offer.account_id,
            "chain": not job.stateless,
            "first_step": start.step,
            "step_count": step_count,
            "first_segment": start.index,
            "state_artifact": start.state_artifact,
            "state_root": start.state_root,
            "ask_nano_per_hour": terms.ask_nano_per_hour,
            "step_picoseconds": terms.step_picoseconds,
            "next_step": start.step,
            "next_segment": start.index,
            "next_root": start.state_root,
            "state": LeaseState.OFFERED.value,
            "reason": "",
            "detail": "",
            "told": not audit_id,
            "created_at_us": tx.now_us,
            "expires_at_us": tx.now_us + self._parameters.accept_ttl_us,
            "ended_at_us": 0,
            "milliwatts": offer.milliwatts,
            "watts_source": offer.watts_source,
            "audit_id": audit_id,
            **lease_forecast(offer, counted),
        }
        work.add_lease(tx, values)
        self._challenge(tx, job, values)
        lease = work.lease(tx, lease_id)
        assert lease is not None, "it was written a moment ago"
        return lease


def revocation(lease: LeaseRow) -> LeaseRevoked:
    """The instruction that tells a worker of a lease's end."""
    return LeaseRevoked(
        lease.device_key_id, lease.lease_id, lease.fence, lease.reason, lease.detail
    )
