"""A coordinator in memory, for tests of the agent: real wire, real files, no OpenCL.

:class:`FakeCoordinator` speaks the three services a worker uses, over loopback, and records what it
is told. Its jobs are those of :mod:`tests.integration.worker.fake_engine`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpc import aio

from flopmarket.jobs import bundle
from flopmarket.jobs.spec import JobSpec, job_id
from flopmarket.trust.audit_policy import RULES, Level
from flopmarket.trust.challenge import Chain, ChainName, ChallengeTerms, Purpose
from flopmarket.trust.documents import (
    Commitment,
    LeaseAcceptance,
    OfferTerms,
)
from flopmarket.trust.encoding import Document, digest
from flopmarket.trust.envelope import open_envelope, seal
from flopmarket.trust.keys import KeyPair, PublicKey
from flopmarket.trust.sealing import InnerSecret
from flopmarket.v1 import (
    artifact_pb2_grpc,
    common_pb2,
    identity_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from flopmarket.wire import envelope_from_proto, envelope_to_proto
from flopmarket_worker.signing import wall_clock_us
from tests.integration.worker.fake_job import (
    BUYER,
    COORDINATOR,
    digest_of,
    state_after,
)
from tests.integration.worker.fake_services import Artifacts, Identity, Worker


@dataclass
class LeaseBook:
    """What the fake coordinator knows of one lease."""

    message: worker_pb2.LeaseOffered
    state: str = "offered"
    commitments: dict[int, Commitment] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)

    @property
    def chain(self) -> Chain:
        """What its audits are drawn from."""
        name = ChainName(self.message.lease_id, Purpose.AUDIT)
        return Chain(b"x" * 32, name, self.message.step_count)


class FakeCoordinator:
    """Offers what a test tells it to, accepts commitments that follow each other."""

    def __init__(self) -> None:
        self.artifacts: dict[str, bytes] = {}
        self.leases: dict[str, LeaseBook] = {}
        self.released: list[worker_pb2.LeaseReleased] = []
        self.heartbeats: list[worker_pb2.Heartbeat] = []
        self.hellos: list[worker_pb2.Hello] = []
        self.accepted: list[LeaseAcceptance] = []
        self.offers: list[OfferTerms] = []
        self.withdrawn: list[str] = []
        self.opened: list[worker_pb2.SegmentOpened] = []
        self.stepped: list[worker_pb2.StepsAnswered] = []
        self.granted: set[str] = set()
        self.registered: set[str] = set()
        self.tokens: dict[str, str] = {}
        self.refuse_commit: Callable[[Commitment], str] = lambda _: ""
        self.answers_held = False
        self.false_values: set[int] = set()
        """Segments whose commitments are answered with values of no chain."""
        self.audit_steps = 0
        """How many steps of a segment the terms of leases say that the house draws."""
        self.corrupt: set[str] = set()
        self.port = 0
        self.changed = asyncio.Event()
        self.device_key: PublicKey | None = None
        self._server: aio.Server | None = None
        self.calls: set[asyncio.Queue[worker_pb2.SessionResponse | None]] = set()

    async def start(self) -> None:
        server = aio.server()
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(Identity(self), server)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(Worker(self), server)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(Artifacts(self), server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            for queue in list(self.calls):
                queue.put_nowait(None)
            await self._server.stop(0)
            self._server = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def put(self, data: bytes) -> str:
        self.artifacts[digest_of(data)] = data
        return digest_of(data)

    def offer(
        self, device_id: str, spec: JobSpec, *, lease_id: str = "lease-1", fence: int = 1
    ) -> LeaseBook:
        """Queue a lease over the whole job and offer it on the open connection."""
        envelope = seal(
            spec,
            BUYER,
            audience=COORDINATOR.key_id,
            nonce=b"s" * 16,
            issued_at_us=1,
            expires_at_us=2**62,
        )
        message = worker_pb2.LeaseOffered(
            lease_id=lease_id,
            fence=fence,
            device_id=device_id,
            job_id=job_id(spec).hex(),
            spec=envelope_to_proto(envelope),
            spec_public_key=BUYER.public.raw,
            program_artifact=self.put(b"program"),
            state_artifact=self.put(bundle.save(state_after(0))),
            state_root=spec.state_root,
            first_step=0,
            step_count=spec.steps,
            first_segment=0,
        )
        book = self.leases[lease_id] = LeaseBook(message)
        message.challenge_terms.CopyFrom(self.terms(book))
        self.send(worker_pb2.SessionResponse(lease_offered=message))
        return book

    def terms(self, book: LeaseBook, signer: KeyPair = COORDINATOR) -> common_pb2.Envelope:
        """The challenge terms of a lease; every segment is audited."""
        terms = ChallengeTerms(
            lease_id=book.message.lease_id,
            device_key_id="d" * 64 if self.device_key is None else self.device_key.key_id,
            anchor=book.chain.anchor,
            cross_anchor=bytes(32),
            values=book.message.step_count,
            rules=digest(RULES),
            level=Level.DETER,
            streak=0,
            stake_nano=0,
            candidates=bytes(32),
            house=bytes(32),
            steps_anchor=book.chain.anchor if self.audit_steps else bytes(32),
            audit_steps=self.audit_steps,
        )
        envelope = seal(
            terms,
            signer,
            audience=COORDINATOR.key_id,
            nonce=b"t" * 16,
            issued_at_us=1,
            expires_at_us=2**62,
        )
        return envelope_to_proto(envelope)

    def revoke(self, lease_id: str) -> None:
        book = self.leases[lease_id]
        book.state = "revoked"
        revoked = worker_pb2.LeaseRevoked(
            lease_id=lease_id, fence=book.message.fence, reason="CANCELLED"
        )
        self.send(worker_pb2.SessionResponse(lease_revoked=revoked))

    def ask_opening(self, lease_id: str, segment_index: int) -> None:
        asked = worker_pb2.OpeningAsked(lease_id=lease_id, segment_index=segment_index)
        self.send(worker_pb2.SessionResponse(opening_asked=asked))

    def ask_steps(
        self,
        lease_id: str,
        segment_index: int,
        signer: KeyPair,
        steps: Sequence[int] = (),
        audit_id: str = "audit-1",
    ) -> None:
        """Ask about a segment that the key committed to; with steps about its newest claim."""
        book = self.leases[lease_id]
        asked = worker_pb2.StepsAsked(
            lease_id=lease_id,
            segment_index=segment_index,
            steps=steps,
            commitment=self._signed(book.commitments[segment_index], signer),
        )
        asked.work.CopyFrom(book.message)
        asked.work.ClearField("challenge_terms")
        asked.work.lease_id = audit_id
        if steps:
            asked.claim.CopyFrom(self.stepped[-1].claim)
        self.send(worker_pb2.SessionResponse(steps_asked=asked))

    def _signed(self, body: Document, signer: KeyPair) -> common_pb2.Envelope:
        envelope = seal(
            body,
            signer,
            audience=COORDINATOR.key_id,
            nonce=b"w" * 16,
            issued_at_us=1,
            expires_at_us=2**62,
        )
        return envelope_to_proto(envelope)

    def secret(self, opened: worker_pb2.SegmentOpened) -> InnerSecret:
        return self._open(opened.secret, InnerSecret)  # type: ignore[no-any-return]

    def send(self, message: worker_pb2.SessionResponse) -> None:
        for queue in self.calls:
            queue.put_nowait(message)

    def hang_up(self) -> None:
        """End every open stream."""
        for queue in list(self.calls):
            queue.put_nowait(None)

    async def until(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        """Wait for something that the worker tells us."""
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                try:
                    async with asyncio.timeout(0.05):
                        await self.changed.wait()
                except TimeoutError:
                    pass

    def receive(
        self,
        message: worker_pb2.SessionRequest,
        reply: Callable[[worker_pb2.SessionResponse], None],
    ) -> None:
        match message.WhichOneof("message"):
            case "hello":
                self._greet(message.hello, reply)
            case "heartbeat":
                self.heartbeats.append(message.heartbeat)
            case "lease_accepted":
                body = self._open(message.lease_accepted.acceptance, LeaseAcceptance)
                self.accepted.append(body)
                if self.leases[body.lease_id].state == "offered":
                    self.leases[body.lease_id].state = "accepted"
            case "lease_released":
                self.released.append(message.lease_released)
                if message.lease_released.lease_id in self.leases:
                    self.leases[message.lease_released.lease_id].state = "released"
            case "segment_committed":
                self._commit(message.segment_committed, reply)
            case "segment_opened":
                self.opened.append(message.segment_opened)
            case "steps_answered":
                self.stepped.append(message.steps_answered)
            case "offer_changed":
                changed = message.offer_changed
                if changed.withdrawn:
                    self.withdrawn.append(changed.device_id)
                else:
                    self.offers.append(self._open(changed.offer, OfferTerms))
        self.changed.set()

    def _greet(
        self, hello: worker_pb2.Hello, reply: Callable[[worker_pb2.SessionResponse], None]
    ) -> None:
        self.hellos.append(hello)
        self.offers = [self._open(envelope, OfferTerms) for envelope in hello.offers]
        kept = [
            held
            for held in hello.held
            if held.lease_id in self.leases
            and self.leases[held.lease_id].state in ("offered", "accepted")
        ]
        welcome = worker_pb2.Welcome(session_id="s", heartbeat_ms=50, kept=kept)
        reply(worker_pb2.SessionResponse(welcome=welcome))

    def _commit(
        self,
        message: worker_pb2.SegmentCommitted,
        reply: Callable[[worker_pb2.SessionResponse], None],
    ) -> None:
        body = self._open(message.commitment, Commitment)
        book = self.leases[body.lease_id]
        code = self.refuse_commit(body)
        known = book.commitments.get(body.segment_index)
        if known is not None and known != body:
            code = "EQUIVOCATION"
        if body.fence != book.message.fence:
            code = "STALE_FENCE"
        if message.outputs_artifact not in self.artifacts:
            code = "ARTIFACT_MISSING"
        if not code:
            book.commitments[body.segment_index] = body
            if message.checkpoint_artifact:
                book.checkpoints[body.segment_index] = message.checkpoint_artifact
        if self.answers_held:
            return
        answer = worker_pb2.CommitmentAnswer(
            lease_id=body.lease_id,
            segment_index=body.segment_index,
            accepted=not code,
            code=code,
            challenge_value=self._value(book, body.segment_index),
            rate_ppm=1_000_000,
            audited=True,
        )
        reply(worker_pb2.SessionResponse(commitment_answer=answer))

    def _value(self, book: LeaseBook, segment_index: int) -> bytes:
        if segment_index in self.false_values:
            return bytes(32)
        return book.chain.value(segment_index - book.message.first_segment + 1)

    def _open(self, envelope: Any, kind: type[Any]) -> Any:
        assert self.device_key is not None
        return open_envelope(
            envelope_from_proto(envelope),
            kind,
            keys={self.device_key.key_id: self.device_key},
            audience=COORDINATOR.key_id,
            now_us=wall_clock_us(),
            replay=None,
        ).body
