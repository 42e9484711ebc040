"""A market in which one segment in five is drawn, and what it publishes."""

from __future__ import annotations

from dataclasses import replace

from flopmarket.trust.audit_policy import AuditRules
from flopmarket.trust.audit_records import LeaseAudits
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.sealing import Waits
from flopmarket_coordinator.application.types_working import CommitmentAnswer
from flopmarket_coordinator.core.lifecycle import JobState
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import DOLLAR

FIFTH = AuditRules(
    safety=1,
    floor_ppm=200_000,
    outlier_ppm=1_000_000,
    full_streak=0,
    onboarding_streak=0,
    bond_units=1,
    own_audit_units=0,
)
"""Everybody's segments are drawn with one in five, from the first on."""


def parameters(rules: AuditRules = FIFTH) -> Parameters:
    return Parameters(
        held_us=0,
        audit_rules=rules,
        audit_waits=Waits(jitter_us=0),
        bond_target_nano=0,
        decline_pause_us=0,
        presence_ttl_us=3_600 * SECOND_US,
        stall_us=3_600 * SECOND_US,
        house_disputes=False,
    )


def bonded(world: World, name: str, amount: int = DOLLAR, **changes: object) -> Worker:
    """A worker whose stake makes one in five of its segments an audit."""
    worker = world.worker(name, **changes)  # type: ignore[arg-type]
    world.deposit(worker.account, amount, f"bond of {name}", DepositTarget.BOND)
    return worker


def published(world: World, buyer: Buyer | Worker, job_id: str, page: int = 7) -> list[LeaseAudits]:
    """All pages of a job's draws, put together as a client does."""
    token = ""
    leases: dict[str, LeaseAudits] = {}
    while True:
        found = world.see(world.application.list_audits, buyer.session, job_id, page, token)
        for lease in found.leases:
            new = LeaseAudits(
                lease.lease_id, lease.terms, lease.rules, lease.candidates, lease.house, ()
            )
            leases.setdefault(lease.lease_id, new)
        for lease_id, item in found.segments:
            known = leases[lease_id]
            leases[lease_id] = replace(known, segments=(*known.segments, item))
        if not (token := found.next_page_token):
            return list(leases.values())


def finish(world: World, buyer: Buyer, worker: Worker, job_id: str) -> list[CommitmentAnswer]:
    answers = []
    while buyer.job(job_id).state is not JobState.SUCCEEDED:
        for lease in world.offers():
            worker.accept(lease)
            answers += [worker.commit(lease, 1) for _ in range(lease.step_count)]
        world.audit_all()
    return answers
