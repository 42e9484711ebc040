"""A small market in one process: the real application on SQLite, real signatures, pretended work.

``World`` holds the coordinator, its file and its clock; ``Buyer`` and ``Worker`` of
:mod:`tests.unit.coordinator.world_people` sign and call as the real ones do. The state after step n
is pretended to be ``state(n)``; a liar says otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from flopmarket.errors import NotFound
from flopmarket.trust.audit_policy import RULES
from flopmarket.trust.documents import (
    AccountRegistration,
    Deposit,
    DepositTarget,
    DeviceGrant,
    SessionRequest,
)
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import Envelope, seal
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.sealing import Waits
from flopmarket_coordinator.application import Application
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_auditing import (
    AuditKind,
    AuditOutcome,
    AuditResult,
    AuditTask,
    FilesResult,
    PathDiffers,
)
from flopmarket_coordinator.application.types_working import Instruction, LeaseOffered
from flopmarket_coordinator.core.invariants import Finding
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import engine
from tests.unit.coordinator.databases import Database
from tests.unit.coordinator.world_people import Buyer, Worker
from tests.unit.coordinator.world_work import (
    ASK,
    DOLLAR,
    EMPTY,
    digest_of,
    outputs,
    state,
)

Answer = TypeVar("Answer")
SPENT_AT_ONCE = replace(RULES, own_audit_units=0)
"""Rules by which all pay is the worker's: with ``held_us = 0`` it is free at a job's end."""


class MemoryArtifacts:
    """Artifacts as a dict; implements ``ArtifactReader``."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    def read(self, digest: str, max_bytes: int) -> bytes:
        if digest not in self.stored:
            raise NotFound(f"no artifact {digest}", code="ARTIFACT_MISSING")
        return self.stored[digest][:max_bytes]


class World:
    """One coordinator with its database, operator and clock."""

    def __init__(self, folder: Path, parameters: Parameters | None = None) -> None:
        self.database = Database(folder)
        self.path = self.database.path
        self.key = KeyPair.from_seed(digest_of("coordinator"))
        self.operator = KeyPair.from_seed(digest_of("operator"))
        self.parameters = parameters or Parameters(
            held_us=0,
            audit_rules=SPENT_AT_ONCE,
            house_disputes=False,
            audit_waits=Waits(jitter_us=0),
            bond_target_nano=0,
            decline_pause_us=0,
            presence_ttl_us=3_600 * SECOND_US,
        )
        self.artifacts = MemoryArtifacts()
        self.now_us = 1_000_000 * SECOND_US
        self._entropy_calls = 0
        self._damaged = False
        self.start()

    def start(self) -> None:
        """A new process on the same database."""
        self.store = engine.open_store(self.database.url)
        self.application = Application(
            key=self.key,
            parameters=self.parameters,
            artifacts=self.artifacts,
            entropy=self.entropy,
            operator_keys=[self.operator.public],
            chain_secret=digest_of("chains"),
        )
        self.see(self.application.keeper.reset)

    def close(self) -> None:
        """Nothing of it is left."""
        self.store.dispose()
        self.database.drop()

    def restart(self) -> None:
        self.store.dispose()
        self.start()

    def entropy(self, count: int) -> bytes:
        self._entropy_calls += 1
        return hashlib.shake_256(f"entropy {self._entropy_calls}".encode()).digest(count)

    def do(self, run: Callable[..., Answer], *arguments: object) -> Answer:
        """Run a use case in a transaction of its own, as the tick does."""
        with engine.write(self.store, self.now_us) as tx:
            answer = run(tx, *arguments)
            self.application.keeper.applied(tx, tuple(tx.changes))
        self.application.keeper.committed(tuple(tx.changes), self.now_us)
        return answer

    def see(self, run: Callable[..., Answer], *arguments: object) -> Answer:
        """Run a query."""
        with engine.read(self.store, self.now_us) as tx:
            return run(tx, *arguments)

    def sign(self, body: Document, key: KeyPair, lifetime_s: int = 3_600) -> Envelope:
        return seal(
            body,
            key,
            audience=self.key.key_id,
            nonce=self.entropy(16),
            issued_at_us=self.now_us,
            expires_at_us=self.now_us + lifetime_s * SECOND_US,
        )

    def session(self, key: KeyPair, account: str, role: KeyRole) -> Session:
        request = self.sign(SessionRequest(account, role, "test"), key)
        opened = self.do(self.application.open_session, request)
        return self.see(self.application.authenticate, opened.token)

    def account(self, name: str) -> tuple[KeyPair, str]:
        key = KeyPair.from_seed(digest_of(f"owner {name}"))
        body = AccountRegistration(key.public.raw, name)
        return key, self.do(self.application.register, self.sign(body, key))

    def deposit(
        self,
        account: str,
        amount: int,
        request_id: str,
        target: DepositTarget = DepositTarget.AVAILABLE,
    ) -> None:
        body = Deposit(account, target, amount, self.parameters.currency, "cash", request_id)
        self.do(self.application.deposit, self.sign(body, self.operator))

    def buyer(self, name: str = "buyer", money: int = 1_000 * DOLLAR) -> Buyer:
        key, account = self.account(name)
        if money:
            self.deposit(account, money, f"first of {name}")
        return Buyer(self, key, account, self.session(key, account, KeyRole.OWNER))

    def worker(
        self,
        name: str,
        *,
        ask: int = ASK,
        memory: int = 1 << 30,
        owner: str = "",
        region: str = "",
        milliwatts: int = 0,
    ) -> Worker:
        owner_key, account = self.account(owner or f"owner of {name}")
        key = KeyPair.from_seed(digest_of(f"device {name}"))
        grant = DeviceGrant(account, key.public.raw, name, KeyRole.DEVICE)
        self.do(self.application.grant_device, self.sign(grant, owner_key))
        session = self.session(key, account, KeyRole.DEVICE)
        worker = Worker(self, name, key, account, session, ask, memory, region, milliwatts)
        worker.hello()
        return worker

    def match(self) -> tuple[Instruction, ...]:
        self.read_files()
        return self.do(self.application.match)

    def read_files(self) -> list[AuditOutcome]:
        """The house reads what was uploaded, as its own loop does beside everything else."""
        done = []
        while task := self.see(self.application.next_audit, (), AuditKind.FILES):
            done.append(self.do(self.application.audit_finished, task, self.recomputed(task)))
        return done

    def offers(self) -> list[LeaseOffered]:
        """Match, and the leases that were offered."""
        return [item for item in self.match() if isinstance(item, LeaseOffered)]

    def audit(self, task: AuditTask | None = None) -> AuditOutcome | None:
        """What the house does next: recompute a waiting segment, or else read one's files."""
        task = task or self.see(self.application.next_audit)
        if task is None:
            return None
        return self.do(self.application.audit_finished, task, self.recomputed(task))

    def recomputed(self, task: AuditTask) -> AuditResult | FilesResult | PathDiffers:
        """What an honest auditor finds."""
        if task.kind is AuditKind.FILES:
            return FilesResult(
                self._root_in(task.outputs_artifact), self._root_in(task.checkpoint_artifact)
            )
        for part in task.path:
            right = (state(part.end_step), outputs(part.first_step, part.steps))
            if (part.root_after, part.outputs_root) != right:
                return PathDiffers(part.segment_id, *right)
        stateless = task.state_root_before == EMPTY
        return AuditResult(
            state_root=EMPTY if stateless else state(task.first_step + task.steps),
            outputs_root=outputs(task.first_step, task.steps),
            outputs_artifact_root=self._root_in(task.outputs_artifact),
            checkpoint_artifact_root=self._root_in(task.checkpoint_artifact),
        )

    def audit_all(self) -> list[AuditOutcome]:
        done = []
        while (outcome := self.audit()) is not None:
            done.append(outcome)
        return done

    def _root_in(self, artifact: str) -> bytes | None:
        """Pretended files hold the root of their tensors."""
        return self.artifacts.stored[artifact] if artifact else None

    def check(self) -> None:
        """The books are right at the end of a test, unless it damaged them itself."""
        assert self._damaged or self.findings() == ()

    def findings(self) -> tuple[Finding, ...]:
        return self.see(self.application.check)

    def expect_damage(self) -> None:
        """The test edited the database: what its end looks like proves nothing."""
        self._damaged = True
