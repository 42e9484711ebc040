"""Who signs and calls in the small market, as the real ones do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flopmarket.engine.exact import PROFILE
from flopmarket.jobs.spec import (
    NO_CLASS,
    DataOrder,
    JobKind,
    JobSpec,
    Mode,
    OrderKind,
)
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.documents import (
    CancelRequest,
    Commitment,
    LeaseAcceptance,
    OfferTerms,
    Rate,
    WattsSource,
)
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.sealing import InnerSecret, seal_inner
from flopmarket_coordinator.application.beating import Beat
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_buying import JobView, SubmitRequest
from flopmarket_coordinator.application.types_working import (
    CommitmentAnswer,
    HeldLease,
    Hello,
    LeaseOffered,
    OpeningAsked,
    SegmentCommit,
    SegmentOpening,
)
from flopmarket_coordinator.parameters import SECOND_US
from tests.unit.coordinator.world_work import (
    BATCH,
    DOLLAR,
    EMPTY,
    RATE,
    RESTS,
    digest_of,
    outputs,
    program,
    state,
)

if TYPE_CHECKING:
    from tests.unit.coordinator.world import World


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
