"""A coordinator and an engine in memory, for tests of the agent: real wire, real files, no OpenCL.

:class:`FakeCoordinator` speaks the three services a worker uses, over loopback, and records what it
is told. :class:`FakeEngine` computes a counter: the state after ``n`` steps is the number ``n``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc import aio

from flopmarket.engine.exact import PROFILE
from flopmarket.jobs import bundle
from flopmarket.jobs.checksums import ChecksumList, checksums_path
from flopmarket.jobs.host import EngineProcessDied, JobRefused, SegmentDone, StepDone
from flopmarket.jobs.questions import StepsQuestion
from flopmarket.jobs.spec import NO_CLASS, DataOrder, JobKind, JobSpec, Mode, OrderKind, job_id
from flopmarket.jobs.stepping import CHECKSUMS_FILE, ROOTS_FILE, state_file
from flopmarket.market.order import MARKET_ORDER
from flopmarket.trust.audit_policy import RULES, Level
from flopmarket.trust.challenge import Chain, ChainName, ChallengeTerms, Purpose
from flopmarket.trust.documents import (
    Commitment,
    DeviceGrant,
    LeaseAcceptance,
    OfferTerms,
    SessionRequest,
)
from flopmarket.trust.encoding import Document, digest
from flopmarket.trust.envelope import open_envelope, seal
from flopmarket.trust.keys import KeyPair, KeyRole, PublicKey
from flopmarket.trust.sealing import InnerSecret
from flopmarket.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    common_pb2,
    identity_pb2,
    identity_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from flopmarket.wire import envelope_from_proto, envelope_to_proto
from flopmarket_worker.signing import wall_clock_us

COORDINATOR = KeyPair.from_seed(b"c" * 32)
BUYER = KeyPair.from_seed(b"b" * 32)


def state_after(step: int) -> bundle.Tensors:
    """The state of the fake engine's job."""
    return {"n": np.full((4,), step, np.float32)}


def checksums_of(first_step: int, steps: int) -> ChecksumList:
    """One word a step: the number of steps done after it."""
    words = np.arange(first_step + 1, first_step + steps + 1, dtype="<u4")
    return ChecksumList(first_step, 1, words.tobytes())


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def spec_for(steps: int, segment_steps: int, checkpoint_segments: int = 2) -> JobSpec:
    return JobSpec(
        kind=JobKind.TRAINING,
        program_digest=hashlib.sha256(b"program").digest(),
        profile=PROFILE,
        mode=Mode.EXACT,
        class_digest=NO_CLASS,
        frozen_root=bundle.EMPTY_ROOT,
        state_root=bundle.root(state_after(0)),
        data_root=bundle.EMPTY_ROOT,
        data_order=DataOrder(OrderKind.SEQUENTIAL, 8, 1),
        seed=1,
        steps=steps,
        segment_steps=segment_steps,
        checkpoint_segments=checkpoint_segments,
        max_memory_bytes=1 << 20,
        max_price_nano=10**9,
        order=MARKET_ORDER,
        verification=Level.DETER,
        deadline_us=2**62,
        buyer=BUYER.key_id,
        nonce=b"n" * 16,
    )


class FakeEngine:
    """Counts. ``step_seconds`` is how long a step takes; ``die_at`` steps at which it dies, once
    each; ``refuse`` is the code with which it refuses to open a job; ``flipped``: whether replays
    come to another end than runs."""

    def __init__(self) -> None:
        self.step_seconds = 0.0
        self.die_at: set[int] = set()
        self.refuse = ""
        self.step = -1
        self.closed_jobs = 0
        self.starts = 0
        self.dead = False
        self.ran: list[int] = []
        self.replayed: list[StepsQuestion] = []
        self.flipped = False
        self._interrupted = False

    async def start(self) -> FakeEngine:
        self.starts += 1
        self.dead = False
        self.step = -1
        return self

    @property
    def device_info(self) -> Mapping[str, Any]:
        return {"name": "fake", "device_id": "f" * 64}

    async def open(self, folder: Path, spec: bytes) -> None:
        if self.refuse:
            raise JobRefused("refused by the test", code=self.refuse)
        assert (folder / "program.bin").read_bytes() == b"program"

    async def load_state(self, path: Path | None, step: int) -> bytes:
        assert path is not None
        tensors = bundle.read(path)
        self.step = step
        return bundle.root(tensors)

    async def run(
        self, first_step: int, count: int, *, outputs_path: Path, state_path: Path | None
    ) -> AsyncIterator[StepDone | SegmentDone]:
        assert first_step == self.step
        self._interrupted = False
        done = 0
        while done < count and not (done and self._interrupted):
            await asyncio.sleep(self.step_seconds)
            if self.step in self.die_at:
                self.die_at.discard(self.step)
                raise EngineProcessDied("killed by the test")
            self.ran.append(self.step)
            done += 1
            self.step += 1
            yield StepDone(self.step, {"loss": 1.0 / self.step})
        outputs = {"loss": np.arange(done, dtype=np.float32)}
        outputs_path.write_bytes(bundle.save(outputs))
        sums = checksums_of(first_step, done)
        checksums_path(outputs_path).write_bytes(sums.to_bytes())
        if state_path is not None:
            state_path.write_bytes(bundle.save(state_after(self.step)))
        yield SegmentDone(
            first_step,
            done,
            bundle.root(state_after(first_step)),
            bundle.root(state_after(self.step)),
            bundle.root(outputs),
            sums.inner(),
        )

    async def replay_steps(
        self, folder: Path, spec: bytes, asked: StepsQuestion, target: Path
    ) -> None:
        assert (folder / "program.bin").read_bytes() == b"program"
        self.replayed.append(asked)
        end = asked.first_step + asked.steps
        if asked.drawn:
            end = asked.drawn[-1] + 1
            for step in asked.drawn:
                (target / state_file(step)).write_bytes(bundle.save(state_after(step)))
        else:
            roots = [bundle.root(state_after(n)) for n in range(asked.first_step, end + 1)]
            (target / ROOTS_FILE).write_bytes(b"".join(roots))
        sums = checksums_of(asked.first_step, end - asked.first_step)
        if self.flipped:
            wrong = bytearray(sums.data)
            wrong[-1] ^= 1
            sums = replace(sums, data=bytes(wrong))
        (target / CHECKSUMS_FILE).write_bytes(sums.to_bytes())

    async def interrupt(self) -> None:
        self._interrupted = True

    async def close_job(self) -> None:
        self.closed_jobs += 1

    async def admission(self) -> dict[str, Any]:
        return {"admitted": True, "probes": []}

    async def classification(self) -> dict[str, Any]:
        digests = {"kernels": "ab" * 32, "results": "cd" * 32}
        return {**digests, "deterministic": True, "failures": [], "reason": ""}

    async def benchmark(self) -> dict[str, Any]:
        return {}

    async def stop(self) -> None:
        self.dead = True


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
        self.corrupt: set[str] = set()
        self.port = 0
        self.changed = asyncio.Event()
        self.device_key: PublicKey | None = None
        self._server: aio.Server | None = None
        self._calls: set[asyncio.Queue[worker_pb2.SessionResponse | None]] = set()

    async def start(self) -> None:
        server = aio.server()
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(_Identity(self), server)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(_Worker(self), server)
        artifact_pb2_grpc.add_ArtifactServiceServicer_to_server(_Artifacts(self), server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            for queue in list(self._calls):
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
        self, lease_id: str, segment_index: int, signer: KeyPair, steps: Sequence[int] = ()
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
        for queue in self._calls:
            queue.put_nowait(message)

    def hang_up(self) -> None:
        """End every open stream."""
        for queue in list(self._calls):
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


class _Identity(identity_pb2_grpc.IdentityServiceServicer):
    def __init__(self, book: FakeCoordinator) -> None:
        self.book = book

    async def GetCoordinator(self, request: Any, context: Any) -> Any:
        return identity_pb2.GetCoordinatorResponse(
            key_id=COORDINATOR.key_id,
            public_key=COORDINATOR.public.raw,
            profile=PROFILE,
            currency="USD",
        )

    async def Register(self, request: Any, context: Any) -> Any:
        hint = request.registration.signatures[0].key_id
        self.book.registered.add(hint)
        return identity_pb2.RegisterResponse(account_id=hint)

    async def GrantDevice(self, request: Any, context: Any) -> Any:
        await self._authorised(context)
        envelope = envelope_from_proto(request.grant)
        owner = next(iter(self.book.registered))
        assert envelope.signatures[0].key_id_hint == owner
        # The test knows the device key; the grant must name it.
        from flopmarket.trust.encoding import decode
        from flopmarket.trust.envelope import Header

        grant = decode(DeviceGrant, decode(Header, envelope.payload).body)
        key = PublicKey(grant.device_key)
        self.book.device_key = key
        self.book.granted.add(key.key_id)
        return identity_pb2.GrantDeviceResponse(key_id=key.key_id)

    async def OpenSession(self, request: Any, context: Any) -> Any:
        from flopmarket.trust.encoding import decode
        from flopmarket.trust.envelope import Header

        envelope = envelope_from_proto(request.request)
        body = decode(SessionRequest, decode(Header, envelope.payload).body)
        signer = envelope.signatures[0].key_id_hint
        known = self.book.granted if body.role is KeyRole.DEVICE else self.book.registered
        if signer not in known:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown key")
        token = f"token-{len(self.book.tokens)}"
        self.book.tokens[token] = signer
        return identity_pb2.OpenSessionResponse(
            token=token, account_id=body.account_id, expires_at_us=wall_clock_us() + 3600 * 10**6
        )

    async def _authorised(self, context: Any) -> None:
        await authorised(self.book, context)


async def authorised(book: FakeCoordinator, context: Any) -> None:
    metadata = dict(context.invocation_metadata() or ())
    token = str(metadata.get("authorization", "")).removeprefix("Bearer ")
    if token not in book.tokens:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown token")


class _Worker(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self, book: FakeCoordinator) -> None:
        self.book = book

    async def Session(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        await authorised(self.book, context)
        queue: asyncio.Queue[worker_pb2.SessionResponse | None] = asyncio.Queue()

        async def read() -> None:
            async for message in request_iterator:
                self.book.receive(message, queue.put_nowait)
                self.book._calls.add(queue)
            queue.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (message := await queue.get()) is not None:
                yield message
        finally:
            self.book._calls.discard(queue)
            reader.cancel()


class _Artifacts(artifact_pb2_grpc.ArtifactServiceServicer):
    def __init__(self, book: FakeCoordinator) -> None:
        self.book = book

    async def Upload(self, request_iterator: Any, context: Any) -> Any:
        await authorised(self.book, context)
        header, data = None, b""
        async for part in request_iterator:
            if part.WhichOneof("part") == "header":
                header = part.header
            else:
                data += part.chunk
        assert header is not None
        assert digest_of(data) == header.digest
        assert len(data) == header.size_bytes
        self.book.artifacts[header.digest] = data
        return artifact_pb2.UploadResponse(digest=header.digest, size_bytes=len(data))

    async def Download(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await authorised(self.book, context)
        data = self.book.artifacts.get(request.digest)
        if data is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such artifact")
            return
        if request.digest in self.book.corrupt:
            data = b"X" + data[1:]
        for start in range(0, len(data), 1000):
            yield artifact_pb2.DownloadResponse(chunk=data[start : start + 1000])
