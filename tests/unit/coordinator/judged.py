"""A world in which nothing is drawn by chance, for tests of what follows from a fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flopmarket.trust.audit_policy import RULES, AuditRules, Signature
from flopmarket.trust.documents import DepositTarget
from flopmarket.trust.sealing import Waits
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import ledger, segments
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import DOLLAR, digest_of, state

NOT_DRAWN = replace(
    RULES, full_streak=0, onboarding_streak=0, onboarding_ppm=0, floor_ppm=1, own_audit_units=0
)
"""With a stake that dwarfs prices nothing is drawn: a segment is paid when its files were read."""
STAKE = 500 * DOLLAR
FLIP = Signature(differing_elements=1, most_flipped_bits=1, follows=True)
DAY_US = 24 * 3_600 * SECOND_US


def made(folder: Path, rules: AuditRules = NOT_DRAWN, **changes: int) -> World:
    values: dict[str, int] = {
        "house_disputes": False,
        "held_us": 0,
        "bond_target_nano": 0,
        "decline_pause_us": 0,
        "presence_ttl_us": 3_600 * SECOND_US,
        **changes,
    }
    waits = Waits(jitter_us=0)
    return World(folder, Parameters(**values, audit_rules=rules, audit_waits=waits))  # type: ignore[arg-type]


def staked(world: World, name: str, ask: int = 100_000_000, stake: int = STAKE) -> Worker:
    worker = world.worker(name, ask=ask)
    world.deposit(worker.account, stake, f"bond of {name}", DepositTarget.BOND)
    return worker


def rows(world: World, job_id: str) -> list[SegmentRow]:
    return world.see(segments.of_job, job_id)


def balance(world: World, account: str) -> int:
    return world.see(ledger.balance, account)[0]


def lie_at(*steps: int) -> Callable[[int], bytes]:
    def claimed(step: int) -> bytes:
        return digest_of(f"wrong {step}") if step in steps else state(step)

    return claimed


def reject(world: World, row: SegmentRow, signature: Signature | None, auditor: str = "") -> None:
    def judged(tx: Transaction) -> None:
        fresh = segments.get(tx, row.segment_id)
        assert fresh is not None
        finder = auditor or world.key.key_id
        world.application._reject(
            tx, fresh, VerdictCode.STATE_DIFFERS, None, auditor=finder, signature=signature
        )

    world.do(judged)


def settle_one(world: World, buyer: Buyer, worker: Worker, name: str) -> SegmentRow:
    """One paid segment of a job of its own, which has ended."""
    job = buyer.submit(name, steps=3)
    (lease,) = world.offers()
    assert lease.device_id == worker.device_id
    worker.run(lease)
    world.audit_all()
    (row,) = rows(world, job.job_id)
    assert row.state is SegmentState.SETTLED
    return row
