"""A market of one class of devices: a worker, auditors in accounts of their own, a class job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from flopmarket.trust.device_class import class_of
from flopmarket.trust.modes import Mode
from flopmarket.trust.sealing import InnerSecret
from flopmarket_coordinator.application.types_buying import JobView
from flopmarket_coordinator.application.types_working import LeaseOffered
from flopmarket_coordinator.core.auditing import AuditPurpose
from flopmarket_coordinator.store import audits, segments
from flopmarket_coordinator.store.audits import AuditRow
from flopmarket_coordinator.store.records import SegmentRow
from tests.unit.coordinator.auditors import DAY_US, Club
from tests.unit.coordinator.classed import fast_terms, fast_worker
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import digest_of

NAMES = ("first", "second", "third", "fourth")
DEAR = 10**11
"""An ask that keeps auditors from being the cheapest worker."""


def join(club: Club, name: str, *, seasoned: bool = True, ask: int = DEAR, **asked: str) -> Worker:
    worker = club.add(fast_worker(club.world, name, ask=ask, **asked))
    if seasoned:
        club.onboard(worker)
    return worker


def class_market(
    club: Club,
    auditors: Sequence[str] = NAMES,
    *,
    steps: int = 3,
    seasoned: bool = True,
    funded: bool = True,
    **changes: object,
) -> tuple[Buyer, Worker, JobView]:
    """A producer, auditors of its class in accounts of their own, and a buyer with a class job."""
    buyer = club.world.buyer()
    if funded:
        club.fund_audits()
    for name in auditors:
        join(club, name, seasoned=seasoned)
    producer = club.add(fast_worker(club.world, "producer"))
    named = class_of(fast_terms(producer, "fast card"))
    job = buyer.submit(
        steps=steps,
        mode=Mode.CLASS,
        class_digest=named,
        deadline_us=club.world.now_us + 10 * DAY_US,
        **changes,
    )
    return buyer, producer, job


def collude(*workers: Worker, at: int = 0) -> None:
    """They come to one and the same wrong result, with the same checksums (from a step on)."""
    for worker in workers:
        honest = worker.secret
        worker.lie = lambda step: digest_of(f"wrong {step}" if step > at else f"state after {step}")

        def secret(
            lease_id: str,
            index: int,
            first: int,
            known: Callable[[str, int, int], InnerSecret] = honest,
        ) -> InnerSecret:
            truth = known(lease_id, index, first)
            right = digest_of(f"inner right {first}")
            return replace(truth, inner=digest_of(f"false {first}") if first >= at else right)

        worker.secret = secret  # type: ignore[method-assign]


def drawn_first(club: Club) -> Worker:
    """Who audits the first segment: found by asking, as nobody knows it before."""
    for _ in range(30):
        for item in club.round(run=False):
            if isinstance(item, LeaseOffered):
                worker = club.workers[item.device_key_id]
                if worker.name != "producer":
                    return worker
                club.work(worker, item)
    raise AssertionError([(row.phase, row.outcome) for row in club.audits()])


def go_on(club: Club, worker: Worker) -> None:
    """The auditor that was found does what it was offered, and everything follows."""
    club.work(worker, offered_to(club, worker))
    club.turn(60)


def offered_to(club: Club, worker: Worker) -> LeaseOffered:
    return next(it for it in club.leases.values() if it.device_key_id == worker.key.key_id)


def main_audit(club: Club) -> AuditRow:
    return next(row for row in club.audits() if row.purpose is AuditPurpose.AUDIT)


def arbiters(club: Club) -> list[AuditRow]:
    return club.world.see(lambda tx: audits.arbiters(tx, main_audit(club).audit_id))


def play(club: Club, rounds: int = 60, step_us: int = 0) -> None:
    """Rounds, quiet ones too, until the first audit has its finding."""
    for _ in range(rounds):
        if club.audits() and main_audit(club).finding:
            return
        if not club.round():
            club.world.now_us += step_us
    raise AssertionError([(row.purpose, row.phase, row.outcome) for row in club.audits()])


def segment(club: Club, job: JobView) -> SegmentRow:
    rows = club.world.see(lambda tx: segments.of_job(tx, job.job_id))
    return rows[0]


def stake(worker: Worker) -> int:
    return worker.balances.bond_nano
