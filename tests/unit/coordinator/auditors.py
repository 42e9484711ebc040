"""A world in which workers audit each other: devices through their onboarding, money to pay them.

``Club`` turns the crank: files are read, time passes, leases are offered and run, openings are
asked for and shown, until nothing moves any more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from flopmarket.errors import Forbidden
from flopmarket.trust.administration import AdminAction, AdminOrder
from flopmarket.trust.audit_policy import RULES, AuditRules
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.sealing import Waits
from flopmarket_coordinator.application.types_buying import JobView
from flopmarket_coordinator.application.types_working import (
    LeaseOffered,
    LeaseRevoked,
    OpeningAsked,
)
from flopmarket_coordinator.core.auditing import AuditPhase
from flopmarket_coordinator.core.ledger import (
    AUDIT,
    EXTERNAL,
    Purpose,
    Transfer,
    TransferKind,
    transfer_id,
)
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import audits, ledger, schema
from flopmarket_coordinator.store.audits import AuditRow
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import DOLLAR

DAY_US = 24 * 3_600 * SECOND_US
EVERYTHING = replace(
    RULES, own_audit_units=0, floor_ppm=1_000_000, house_ppm=0, canary_ppm=0, cross_ppm=0
)
"""Every segment is drawn, and for outsiders where there are any."""


def club_parameters(rules: AuditRules = EVERYTHING, **changes: Any) -> Parameters:
    values: dict[str, Any] = {
        "held_us": 0,
        "audit_rules": rules,
        "house_disputes": False,
        "audit_waits": Waits(jitter_us=0),
        "bond_target_nano": 0,
        "decline_pause_us": 0,
        "presence_ttl_us": 30 * 24 * 3_600 * SECOND_US,
        "stall_us": 365 * 24 * 3_600 * SECOND_US,
        "lease_ttl_us": 30 * 24 * 3_600 * SECOND_US,
    }
    return Parameters(**(values | changes))


class Club:
    """Workers of a world, each does what it is told; ``silent`` ones do not open."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.workers: dict[str, Worker] = {}
        self.silent: set[str] = set()
        self.idle: set[str] = set()
        """Keys that are told of a lease and do nothing about it."""
        self.seen: list[object] = []
        self.leases: dict[str, LeaseOffered] = {}

    def add(self, worker: Worker, *, audits_others: bool = False) -> Worker:
        self.workers[worker.key.key_id] = worker
        if audits_others:
            self.onboard(worker)
        return worker

    def onboard(self, worker: Worker) -> None:
        """As after months of right segments, with the whole bond."""
        self.world.deposit(
            worker.account, 1_000 * DOLLAR, f"bond of {worker.name}", DepositTarget.BOND
        )

        def promote(tx: Transaction) -> None:
            tx.connection.execute(
                sa.update(schema.offer)
                .where(schema.offer.c.device_key_id == worker.key.key_id)
                .values(streak=RULES.onboarding_streak, verified_segments=RULES.onboarding_streak)
            )

        self.world.do(promote)

    def fund_audits(self, amount_nano: int = 10 * DOLLAR) -> None:
        """Money that auditors are paid from."""
        identity = transfer_id("test", "audits", amount_nano)
        kind, purpose = TransferKind.DIRECT, Purpose.DEPOSIT
        transfer = Transfer(identity, kind, EXTERNAL, AUDIT, amount_nano, purpose, "", "a test's")
        self.world.do(ledger.execute, transfer)

    def audits(self) -> list[AuditRow]:
        """All audits, oldest first."""

        def read(tx: Transaction) -> list[AuditRow]:
            query = sa.select(schema.audit.c.audit_id).order_by(schema.audit.c.created_at_us)
            return [
                row
                for audit_id in tx.connection.execute(query).scalars()
                if (row := audits.get(tx, audit_id)) is not None
            ]

        return self.world.see(read)

    def round(self, *, run: bool = True) -> list[object]:
        """One pass of the dispatcher; what it told the workers, who do it at once."""
        world = self.world
        world.read_files()
        world.do(world.application.expire)
        told = list(world.match())
        self.seen += told
        for item in told:
            worker = self.workers[item.device_key_id]
            match item:
                case LeaseOffered():
                    self.leases[item.lease_id] = item
                    if run and item.device_key_id not in self.idle:
                        self.work(worker, item)
                case OpeningAsked():
                    if worker.key.key_id not in self.silent:
                        worker.open(item)
                case LeaseRevoked():
                    self.leases.pop(item.lease_id, None)
        return told

    def work(self, worker: Worker, lease: LeaseOffered) -> None:
        """Accept, and commit until the lease is done or over."""
        worker.accept(lease)
        left = lease.step_count
        while left:
            steps = min(3, left)
            try:
                if not worker.commit(lease, steps).accepted:
                    return
            except Forbidden:  # the lease ended with the segment before: nothing is uploaded
                return
            left -= steps

    def turn(self, rounds: int = 20) -> None:
        """Until nothing is said any more."""
        for _ in range(rounds):
            if not self.round():
                return

    def open_audits(self) -> list[AuditRow]:
        return [row for row in self.audits() if row.phase is not AuditPhase.ENDED]


def market(
    club: Club, *auditors: str, steps: int = 12, stateless: bool = False, **changes: object
) -> tuple[Buyer, Worker, JobView]:
    """A producer, auditors of other accounts too dear to work, and a buyer with a job."""
    buyer = club.world.buyer()
    club.fund_audits()
    for name in auditors:
        club.add(club.world.worker(name, ask=10**11), audits_others=True)
    producer = club.add(club.world.worker("producer"))
    deadline_us = club.world.now_us + 10 * DAY_US
    job = buyer.submit(steps=steps, stateless=stateless, deadline_us=deadline_us, **changes)
    return buyer, producer, job


def auditor(club: Club, name: str = "first") -> Worker:
    """The worker with this name."""
    return next(worker for worker in club.workers.values() if worker.name == name)


def until(club: Club, phase: AuditPhase, rounds: int = 30) -> AuditRow:
    """Rounds until an audit is in this phase."""
    for _ in range(rounds):
        found = [row for row in club.audits() if row.phase is phase]
        if found:
            return found[0]
        club.round()
    raise AssertionError([(row.phase, row.outcome) for row in club.audits()])


def audit_offer(club: Club) -> LeaseOffered:
    """Rounds until an audit is offered to somebody, who does nothing about it yet."""
    club.idle |= {key for key, worker in club.workers.items() if worker.name != "producer"}
    for _ in range(30):
        for item in club.round():
            if isinstance(item, LeaseOffered) and item.device_key_id in club.idle:
                club.idle.clear()
                return item
    raise AssertionError([(row.phase, row.outcome) for row in club.audits()])


def strikes(club: Club, kind: StrikeKind) -> int:
    query = sa.select(sa.func.count()).select_from(schema.strike)
    query = query.where(schema.strike.c.kind == kind.value)
    return club.world.see(lambda tx: int(tx.connection.execute(query).scalar_one()))


def leases(club: Club) -> list[sa.RowMapping]:
    query = sa.select(schema.lease).where(schema.lease.c.audit_id != "")
    return list(club.world.see(lambda tx: tx.connection.execute(query).mappings().all()))


def ban(club: Club, key_id: str) -> None:
    order = AdminAction(AdminOrder.BAN, key_id, "", "ABUSE", f"ban {key_id[:8]}")
    club.world.do(club.world.application.administer, club.world.sign(order, club.world.operator))
