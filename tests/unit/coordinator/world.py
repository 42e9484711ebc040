"""A small market in one process: the real application on SQLite, real signatures, pretended work.

``World`` holds the coordinator, its file and its clock; ``Buyer`` and ``Worker`` sign and call as
the real ones do. The state after step n is pretended to be ``state(n)``; a liar says otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from flopmarket.engine import dtypes, graph
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.errors import NotFound
from flopmarket.jobs.spec import (
    NO_CLASS,
    DataOrder,
    JobKind,
    JobSpec,
    Mode,
    OrderKind,
    job_id,
)
from flopmarket.market.order import OrderTerms, OrderType
from flopmarket.trust.audit_policy import RULES, Level
from flopmarket.trust.documents import (
    AccountRegistration,
    CancelRequest,
    Commitment,
    Deposit,
    DepositTarget,
    DeviceGrant,
    LeaseAcceptance,
    OfferTerms,
    Rate,
    SessionRequest,
    WattsSource,
)
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import Envelope, seal
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.merkle import state_root
from flopmarket.trust.sealing import InnerSecret, Waits, seal_inner
from flopmarket_coordinator.application import Application
from flopmarket_coordinator.application.beating import Beat
from flopmarket_coordinator.application.types import (
    AuditKind,
    AuditOutcome,
    AuditResult,
    AuditTask,
    CommitmentAnswer,
    FilesResult,
    HeldLease,
    Hello,
    Instruction,
    JobView,
    LeaseOffered,
    OpeningAsked,
    PathDiffers,
    SegmentCommit,
    SegmentOpening,
    Session,
    SubmitRequest,
)
from flopmarket_coordinator.core.invariants import Finding
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.store import engine
from tests.unit.coordinator.databases import Database

Answer = TypeVar("Answer")
BATCH = 2
EMPTY = state_root({})
DOLLAR = 1_000_000_000
ASK = 360_000_000  # 0.36 an hour: 100,000 nano a second
RESTS = OrderTerms(OrderType.LIMIT)
"""An order that waits for offers: most stories submit before a worker comes."""
SPENT_AT_ONCE = replace(RULES, own_audit_units=0)
"""Rules by which all pay is the worker's: with ``held_us = 0`` it is free at a job's end."""
RATE = 1_000  # operations per second: a step takes seconds, so prices are far from rounding


def digest_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def state(step: int) -> bytes:
    """Root of the right state after ``step`` steps."""
    return digest_of(f"state after {step}")


def outputs(first: int, count: int) -> bytes:
    """Root of the right outputs of a segment."""
    return digest_of(f"outputs {first} + {count}")


@cache
def program(stateless: bool = False) -> Program:
    form = (dtypes.float32, (BATCH, 8))
    rows = graph.input_("input", "x", *form)
    if stateless:
        doubled = graph.add(rows, rows)
        return Program.build(
            frozen=(), state=(), inputs=[TensorSpec("x", *form)], next_state=(),
            outputs=[("y", doubled)],
        )  # fmt: skip
    kept = graph.input_("state", "w", *form)
    return Program.build(
        frozen=(),
        state=[TensorSpec("w", *form)],
        inputs=[TensorSpec("x", *form)],
        next_state=[graph.add(kept, rows)],
        outputs=[("y", graph.mul(kept, rows))],
    )


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


@dataclass
class Buyer:
    world: World
    key: KeyPair
    account: str
    session: Session

    def upload(self, data: bytes) -> str:
        return upload(self.world, self.session, data, "")

    def spec(self, name: str = "job", **changes: object) -> JobSpec:
        stateless = bool(changes.pop("stateless", False))
        values: dict[str, object] = {
            "kind": JobKind.INFERENCE if stateless else JobKind.TRAINING,
            "program_digest": program(stateless).digest,
            "profile": PROFILE,
            "mode": Mode.EXACT,
            "class_digest": NO_CLASS,
            "frozen_root": EMPTY,
            "state_root": EMPTY if stateless else state(0),
            "data_root": digest_of("data"),
            "data_order": DataOrder(OrderKind.SEQUENTIAL, 100, BATCH),
            "seed": 7,
            "steps": 12,
            "segment_steps": 3,
            "checkpoint_segments": 1,
            "max_memory_bytes": 1 << 30,
            "max_price_nano": 100 * DOLLAR,
            "order": RESTS,
            "verification": Level.DETER,
            "deadline_us": self.world.now_us + 86_400 * SECOND_US,
            "buyer": self.account,
            "nonce": digest_of(name)[:16],
        }
        return JobSpec(**(values | changes))  # type: ignore[arg-type]

    def request(self, spec: JobSpec, request_id: str = "") -> SubmitRequest:
        stateless = spec.state_root == EMPTY
        return SubmitRequest(
            request_id=request_id or spec.nonce.hex(),
            spec=self.world.sign(spec, self.key),
            program_artifact=self.upload(program(stateless).to_bytes()),
            frozen_artifact="",
            state_artifact="" if stateless else self.upload(b"initial state"),
            data_artifact=self.upload(b"data"),
        )

    def submit(self, name: str = "job", **changes: object) -> JobView:
        request = self.request(self.spec(name, **changes))
        return self.world.do(self.world.application.submit, self.session, request)

    def job(self, job: str) -> JobView:
        return self.world.see(self.world.application.get_job, self.session, job)

    def cancel(self, job: str) -> JobView:
        body = CancelRequest(bytes.fromhex(job), "cancel")
        return self.world.do(
            self.world.application.cancel, self.session, self.world.sign(body, self.key)
        )

    def kinds(self, job: str) -> list[str]:
        """What happened to a job, in order."""
        events = self.world.see(self.world.application.job_events, self.session, job, 0, 500)
        return [event.kind for event in events]

    @property
    def available(self) -> int:
        return self.world.see(self.world.application.balances, self.session).available_nano


@dataclass
class Worker:
    world: World
    name: str
    key: KeyPair
    account: str
    session: Session
    ask: int
    memory: int
    region: str = ""
    milliwatts: int = 0
    lie: Callable[[int], bytes] | None = None
    """Root it claims after a step, where it lies."""
    position: dict[str, tuple[int, int, bytes]] = field(default_factory=dict)
    committed: dict[tuple[str, int], int] = field(default_factory=dict)
    """First step of what it committed, by lease and segment."""

    @property
    def device_id(self) -> str:
        return digest_of(f"card {self.name}").hex()

    def terms(self) -> OfferTerms:
        return OfferTerms(
            account_id=self.account,
            device_key_id=self.key.key_id,
            device_id=self.device_id,
            device_name=f"card of {self.name}",
            driver="test",
            profile=PROFILE,
            memory_bytes=self.memory,
            max_allocation_bytes=self.memory,
            region=self.region,
            ask_nano_per_hour=self.ask,
            rates=(Rate("dot-f32", RATE), Rate("elementwise-f32", RATE)),
            bandwidth_bytes_per_second=1 << 40,
            launch_nanoseconds=1_000,
            step_nanoseconds=0,
            build_milliseconds=0,
            download_bytes_per_second=0,
            upload_bytes_per_second=0,
            watts_milli=self.milliwatts,
            watts_source=WattsSource.DECLARED if self.milliwatts else WattsSource.UNKNOWN,
            card_price_nano=0,
            admission_digest=digest_of("admission"),
        )

    def hello(self, held: tuple[HeldLease, ...] = ()):  # type: ignore[no-untyped-def]
        offer = self.world.sign(self.terms(), self.key)
        return self.world.do(
            self.world.application.worker_hello, self.session, Hello("1.0", (offer,), held)
        )

    def heartbeat(self, *leases: LeaseOffered):  # type: ignore[no-untyped-def]
        held = tuple(HeldLease(lease.lease_id, lease.fence) for lease in leases)
        beats = (Beat(self.session, held, ()),)
        (answer,) = self.world.do(self.world.application.worker_heartbeats, beats)
        return answer

    def accept(self, lease: LeaseOffered) -> LeaseOffered:
        body = LeaseAcceptance(
            bytes.fromhex(lease.job_id),
            lease.lease_id,
            lease.fence,
            self.key.key_id,
            lease.device_id,
            lease.first_step,
            lease.step_count,
        )
        self.world.do(
            self.world.application.lease_accepted, self.session, self.world.sign(body, self.key)
        )
        self.position[lease.lease_id] = (lease.first_step, lease.first_segment, lease.state_root)
        return lease

    def release(self, lease: LeaseOffered, reason: str = "PREEMPTED") -> None:
        self.world.do(
            self.world.application.lease_released,
            self.session,
            lease.lease_id,
            lease.fence,
            reason,
            "",
        )

    def commitment(self, lease: LeaseOffered, steps: int, *, keep: bool = True) -> SegmentCommit:
        """The next segment, finished and uploaded, as this worker would report it."""
        first, index, before = self.position[lease.lease_id]
        stateless = before == EMPTY
        end = first + steps
        after = EMPTY if stateless else (self.lie or state)(end)
        claimed = outputs(first, steps)
        if stateless and self.lie is not None:
            claimed = self.lie(end)
        out = upload(self.world, self.session, claimed, lease.lease_id)
        saved = ""
        if keep and not stateless:
            saved = upload(self.world, self.session, after, lease.lease_id)
        body = Commitment(
            job_id=bytes.fromhex(lease.job_id),
            lease_id=lease.lease_id,
            fence=lease.fence,
            device_key_id=self.key.key_id,
            segment_index=index,
            first_step=first,
            steps_done=steps,
            state_root_before=before,
            state_root_after=after,
            outputs_root=claimed,
            sealed_inner=seal_inner(self.secret(lease.lease_id, index, first)),
        )
        self.position[lease.lease_id] = (end, index + 1, after)
        self.committed[lease.lease_id, index] = first
        return SegmentCommit(self.world.sign(body, self.key), out, saved)

    def secret(self, lease_id: str, index: int, first_step: int) -> InnerSecret:
        """What the commitment of a segment hides. The hash follows from the work, so that two
        honest workers find the same."""
        inner = digest_of(f"inner {self.name if self.lie else 'right'} {first_step}")
        return InnerSecret(self.key.key_id, digest_of(f"salt {lease_id} {index}"), inner)

    def open(self, asked: OpeningAsked, secret: InnerSecret | None = None) -> None:
        """Show what a commitment hides, the truth by default."""
        first = self.committed[asked.lease_id, asked.segment_index]
        secret = secret or self.secret(asked.lease_id, asked.segment_index, first)
        opening = SegmentOpening(
            asked.lease_id, asked.segment_index, self.world.sign(secret, self.key)
        )
        self.world.do(self.world.application.segment_opened, self.session, opening)

    def send(self, commit: SegmentCommit) -> CommitmentAnswer:
        return self.world.do(self.world.application.segment_committed, self.session, commit)

    def commit(self, lease: LeaseOffered, steps: int = 3, *, keep: bool = True) -> CommitmentAnswer:
        return self.send(self.commitment(lease, steps, keep=keep))

    def run(self, lease: LeaseOffered, segment_steps: int = 3) -> None:
        """Accept and do the whole lease."""
        self.accept(lease)
        left = lease.step_count
        while left:
            steps = min(segment_steps, left)
            answer = self.commit(lease, steps)
            assert answer.accepted, answer
            left -= steps

    @property
    def balances(self):  # type: ignore[no-untyped-def]
        return self.world.see(self.world.application.balances, self.session)


def upload(world: World, session: Session, data: bytes, lease_id: str) -> str:
    digest = hashlib.sha256(data).hexdigest()
    world.artifacts.stored[digest] = data
    world.do(world.application.artifact_put, session, digest, len(data), lease_id)
    return digest


__all__ = ["Buyer", "Worker", "World", "job_id"]
