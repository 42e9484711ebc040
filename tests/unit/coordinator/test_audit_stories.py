"""Any interleaving of commits, audits, openings, deaths, bans and restarts: audits end in time."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flopmarket.errors import FlopmarketError
from flopmarket.trust.audit_records import check
from flopmarket.trust.canaries import DAY_US, check_day
from flopmarket_coordinator.application.types_working import (
    HeldLease,
    LeaseOffered,
    LeaseRevoked,
    OpeningAsked,
    SegmentOpening,
)
from flopmarket_coordinator.core.auditing import AuditPhase
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import segments
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.auditors import EVERYTHING, Club, club_parameters
from tests.unit.coordinator.drawn import published
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_work import digest_of

NAMES = ("producer", "first", "second", "third")
RULES = replace(EVERYTHING, cross_ppm=300_000, canary_ppm=300_000)
PARAMETERS = club_parameters(RULES, lease_ttl_us=300 * SECOND_US, presence_ttl_us=60 * SECOND_US)
FIRST_DAY = 1_000_000 * SECOND_US // DAY_US
"""In which a world begins."""
JUMPS_US = (SECOND_US, 70 * SECOND_US, 700 * SECOND_US, 3_600 * SECOND_US, 25 * 3_600 * SECOND_US)


class Market(RuleBasedStateMachine):
    """Workers that do the next thing, or nothing, or the wrong one, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self._folder.name), PARAMETERS)
        self.club = Club(self.world)
        self.buyer = self.world.buyer()
        self.club.fund_audits()
        for name in NAMES:
            ask = 360_000_000 if name == "producer" else 10**11
            self.club.add(self.world.worker(name, ask=ask), audits_others=name != "producer")
        self.by_name = {worker.name: worker for worker in self.club.workers.values()}
        self.held: dict[str, dict[str, LeaseOffered]] = {name: {} for name in NAMES}
        self.asked: dict[str, list[OpeningAsked]] = {name: [] for name in NAMES}
        self.submitted = 0
        self.jobs: list[str] = []
        self.submit(stateless=False, every=1)

    def teardown(self) -> None:
        self._settle()
        self.world.close()
        self._folder.cleanup()

    # --- what happens -------------------------------------------------------------------------

    @precondition(lambda self: self.submitted < 3)
    @rule(stateless=st.booleans(), every=st.sampled_from((1, 2)))
    def submit(self, stateless: bool, every: int) -> None:
        self.submitted += 1
        deadline_us = self.world.now_us + 20 * 24 * 3_600 * SECOND_US
        job = self.buyer.submit(
            f"job {self.submitted}", steps=6, stateless=stateless, checkpoint_segments=every,
            deadline_us=deadline_us,
        )  # fmt: skip
        self.jobs.append(job.job_id)

    @rule()
    def dispatch(self) -> None:
        self.world.read_files()
        self.world.do(self.world.application.expire)
        for item in self.world.match():
            self._tell(item)

    def _tell(self, item: object) -> None:
        name = self.club.workers[item.device_key_id].name  # type: ignore[attr-defined]
        match item:
            case LeaseOffered():
                self.held[name][item.lease_id] = item
            case LeaseRevoked():
                self.held[name].pop(item.lease_id, None)
            case OpeningAsked():
                self.asked[name].append(item)

    @rule(name=st.sampled_from(NAMES), lies=st.booleans())
    def work(self, name: str, lies: bool) -> None:
        """Accept what was offered, or commit the next segment of what was accepted."""
        worker = self.by_name[name]
        worker.lie = (lambda step: digest_of(f"{name} lies {step}")) if lies else None
        for lease in list(self.held[name].values()):
            with contextlib.suppress(FlopmarketError):
                if lease.lease_id not in worker.position:
                    worker.accept(lease)
                    continue
                first, _, _ = worker.position[lease.lease_id]
                end = lease.first_step + lease.step_count
                if first < end:
                    worker.commit(lease, min(3, end - first))
        worker.lie = None

    @rule(name=st.sampled_from(NAMES), how=st.sampled_from(("right", "wrong", "refuse")))
    def answer(self, name: str, how: str) -> None:
        worker = self.by_name[name]
        asked, self.asked[name] = self.asked[name], []
        for item in asked:
            first = worker.committed[item.lease_id, item.segment_index]
            secret = worker.secret(item.lease_id, item.segment_index, first)
            with contextlib.suppress(FlopmarketError):
                if how == "refuse":
                    refusal = SegmentOpening(item.lease_id, item.segment_index, None, "LOST", "")
                    self.world.do(self.world.application.segment_opened, worker.session, refusal)
                else:
                    inner = secret.inner if how == "right" else bytes(32)
                    worker.open(item, replace(secret, inner=inner))

    @rule(
        away=st.sampled_from((*NAMES, "", "", "")),
        liar=st.sampled_from((*NAMES, "", "", "", "", "")),
        turns=st.integers(1, 6),
    )
    def go_on(self, away: str, liar: str, turns: int) -> None:
        """Everybody but one does the next thing, a few times."""
        for _ in range(turns):
            self.dispatch()
            for name in NAMES:
                if name != away:
                    self.work(name, name == liar)
                    self.answer(name, "right")

    @rule(name=st.sampled_from(NAMES), keeps=st.booleans())
    def reconnect(self, name: str, keeps: bool) -> None:
        worker = self.by_name[name]
        leases = list(self.held[name].values()) if keeps else []
        held = tuple(HeldLease(item.lease_id, item.fence) for item in leases)
        if not keeps:
            self.held[name].clear()
        with contextlib.suppress(FlopmarketError):  # some are banned
            for item in worker.hello(held).again:
                self._tell(item)

    @rule(name=st.sampled_from(NAMES))
    def give_back(self, name: str) -> None:
        for lease in list(self.held[name].values()):
            with contextlib.suppress(FlopmarketError):
                self.by_name[name].release(lease)
        self.held[name].clear()

    @rule(jump_us=st.sampled_from(JUMPS_US))
    def wait(self, jump_us: int) -> None:
        self.world.now_us += jump_us

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule()
    def house(self) -> None:
        self.world.audit()

    # --- what holds ---------------------------------------------------------------------------

    @invariant()
    def nobody_audits_its_own(self) -> None:
        def look(tx: Transaction) -> None:
            for row in self.club.audits():
                if row.auditor_account_id:
                    segment = segments.get(tx, row.segment_id)
                    assert segment is not None
                    apart = {segment.account_id, self.buyer.account}
                    assert row.auditor_account_id not in apart

        self.world.see(look)

    @invariant()
    def a_device_has_one_lease(self) -> None:
        self.world.check()

    def _settle(self) -> None:
        """Time passes and nobody says anything: every exchange ends, the house does the rest."""
        for _ in range(12):
            self.world.now_us += 25 * 3_600 * SECOND_US
            self.world.read_files()
            self.world.do(self.world.application.expire)
            self.world.match()
        left = {AuditPhase.HOUSE, AuditPhase.DISPUTE, AuditPhase.ENDED}
        assert {row.phase for row in self.club.audits()} <= left
        for _ in range(40):
            if self.world.audit() is None:
                break
        for _ in range(3):
            self.world.do(self.world.application.expire)
        disputes = AuditPhase.DISPUTE
        unfinished = [row for row in self.club.audits() if row.phase is not AuditPhase.ENDED]
        assert all(row.phase is disputes for row in unfinished), unfinished
        self.world.check()
        if not unfinished:
            self._derive_again()

    def _derive_again(self) -> None:
        """Everything that is published about draws follows from what was signed."""
        key = self.world.key.public
        for job_id in self.jobs:
            if self.buyer.job(job_id).state in FINAL_JOB_STATES:
                assert check(published(self.world, self.buyer, job_id), key) == ()
        for day in range(FIRST_DAY, self.world.now_us // DAY_US):
            page = self.world.see(self.world.application.canary_day, day, 500, "")
            assert page.day.over and not page.next_page_token
            if page.day.terms:
                assert check_day(page.day, key) == ()
            else:
                assert page.day.draws == ()


TestMarket = Market.TestCase
TestMarket.settings = settings(
    max_examples=12,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
