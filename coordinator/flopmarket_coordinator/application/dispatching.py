"""Use cases of time and matching: lease out open work, end what is overdue."""

from __future__ import annotations

import json
from collections.abc import Iterable

from flopmarket.engine.exact import PROFILE
from flopmarket.jobs.spec import JobSpec
from flopmarket.market.predict import StepWork
from flopmarket.trust.encoding import decode
from flopmarket_coordinator.application.offers import OfferUseCases
from flopmarket_coordinator.application.settling import SettlingUseCases
from flopmarket_coordinator.application.types import ExpireReport, Instruction, LeaseRevoked
from flopmarket_coordinator.application.views import lease_offer
from flopmarket_coordinator.core.events import EventKind, who
from flopmarket_coordinator.core.leasing import RevokeReason, StartPoint, open_ranges
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES, JobState, LeaseState
from flopmarket_coordinator.core.matching import Assignment, Demand, OpenWork, assign
from flopmarket_coordinator.store import identity, jobs, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, LeaseRow

_LAST_ALIVE = "last_alive_us"


class DispatchingUseCases(OfferUseCases, SettlingUseCases):
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
        candidates = self._candidates(tx)
        idle = sum(1 for item in candidates if item.online and not item.busy and not item.banned)
        if not idle:
            return tuple(told)
        works: list[OpenWork] = []
        starts: dict[tuple[str, int], StartPoint] = {}
        by_id: dict[str, JobRow] = {}
        for job in jobs.unfinished(tx):
            if job.ending:
                continue
            by_id[job.job_id] = job
            for work_item, start in self._open_work(tx, job, idle):
                works.append(work_item)
                starts[work_item.job_id, work_item.first_step] = start
        assignments, _ = assign(works, candidates)
        for assignment in assignments:
            item = assignment.work
            start = starts[item.job_id, item.first_step]
            told.append(self._lease(tx, by_id[item.job_id], assignment, start))
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
        overdue = [
            job for job in jobs.unfinished(tx) if job.deadline_us <= tx.now_us and not job.ending
        ]
        for job in overdue:
            self._begin_end(tx, job.job_id, JobState.FAILED, "DEADLINE_PASSED")
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

    def _open_work(
        self, tx: Transaction, job: JobRow, most: int
    ) -> Iterable[tuple[OpenWork, StartPoint]]:
        leases = work.live_leases_of_job(tx, job.job_id)
        if leases and not job.stateless:
            return []
        if job.stateless:
            live = jobs.live_segments(tx, job.job_id)
            taken = [(row.first_step, row.steps) for row in live]
            taken += [(lease.next_step, lease.end_step - lease.next_step) for lease in leases]
            found = open_ranges(job.steps, job.segment_steps, taken)
            empty = (job.state_artifact, decode(JobSpec, job.spec).state_root)
            pieces = [
                (item.step_count, StartPoint(item.first_step, item.index, *empty)) for item in found
            ]
        else:
            start = self._restart(tx, job)
            live = jobs.live_segments(tx, job.job_id)
            pieces = [(job.steps - start.step, start)] if start.step < job.steps else []
        if not pieces:
            return []
        since_us = tx.now_us - self._parameters.decline_pause_us
        avoid = work.recent_returns(tx, job.job_id, since_us)
        demand = Demand(job.buyer, PROFILE, job.peak_memory_bytes, _work(job))
        money = self._money_left(job, live, leases)
        steps = sum(count for count, _ in pieces)
        return [
            (OpenWork(job.job_id, start.step, count, demand, money, steps, avoid), start)
            for count, start in pieces[:most]
        ]

    def _lease(
        self, tx: Transaction, job: JobRow, assignment: Assignment, start: StartPoint
    ) -> Instruction:
        offer, terms = assignment.offer, assignment.terms
        # The row may have moved on: an earlier range of this job got its fence a moment ago.
        fence = self._job(tx, job.job_id).fence + 1
        jobs.update(tx, job.job_id, fence=fence)
        lease_id = self._new_id()
        work.add_lease(
            tx,
            {
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
                "step_count": assignment.work.step_count,
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
                "told": True,
                "created_at_us": tx.now_us,
                "expires_at_us": tx.now_us + self._parameters.accept_ttl_us,
                "ended_at_us": 0,
            },
        )
        text = (
            f"steps {start.step} to {start.step + assignment.work.step_count} to "
            f"{who(offer.device_name, offer.device_key_id)}, fence {fence}"
        )
        jobs.record(tx, job.job_id, EventKind.LEASED, text, lease_id)
        self._refresh(tx, job.job_id)
        lease = work.lease(tx, lease_id)
        assert lease is not None, "it was written a moment ago"
        return lease_offer(tx, job, lease)


def revocation(lease: LeaseRow) -> LeaseRevoked:
    """The instruction that tells a worker of a lease's end."""
    return LeaseRevoked(
        lease.device_key_id, lease.lease_id, lease.fence, lease.reason, lease.detail
    )


def _work(job: JobRow) -> StepWork:
    stored = json.loads(job.work)
    return StepWork(stored["flops"], stored["bytes_moved"], stored["launches"])
