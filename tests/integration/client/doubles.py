"""A coordinator in memory, behind a real gRPC server: the double that client and CLI tests talk to.

It checks signatures and hashes as a coordinator must, runs a job at once by a rule that tests can
repeat (:func:`expected_state`, :func:`expected_outputs`), and signs a real receipt. ``tricks``
makes it hostile, one lie at a time.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import numpy as np
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from flopmarket.jobs import bundle
from flopmarket.jobs.spec import (
    NO_CLASS,
    DataOrder,
    JobKind,
    JobSpec,
    Mode,
    OrderKind,
    class_hex,
    job_id,
)
from flopmarket.market.order import MARKET_ORDER, OrderTerms
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.encoding import encode
from flopmarket.trust.envelope import Envelope, Opened, Signature, open_envelope
from flopmarket.trust.keys import KeyPair, PublicKey
from flopmarket.trust.receipt import (
    HOUSE,
    AuditOutcome,
    Outcome,
    ReceiptDevice,
    ReceiptSegment,
    build_receipt,
    sign_receipt,
    verify_receipt,
)
from flopmarket.v1 import (
    common_pb2,
    job_pb2,
    ledger_pb2,
)

COORDINATOR_KEY = KeyPair.from_seed(b"C" * 32)
OPERATOR_KEY = KeyPair.from_seed(b"O" * 32)
BUYER_KEY = KeyPair.from_seed(b"B" * 32)
SEGMENT_PRICE_NANO = 1_500_000
CEILING_NANO = 9_000_000
FEE_PPM = 30_000


@dataclass(frozen=True)
class TinyJob:
    """A prepared job of a few bytes, with the same face as the real one."""

    steps: int = 5
    segment_steps: int = 2
    title: str = "tiny"
    stateless: bool = False
    program: bytes = b"program"

    @property
    def state(self) -> Mapping[str, np.ndarray[Any, Any]]:
        return {} if self.stateless else {"weights": np.arange(6, dtype=np.float32)}

    @property
    def data(self) -> dict[str, np.ndarray[Any, Any]]:
        return {"x": np.ones((8, 2), dtype=np.float32)}

    def spec(
        self,
        *,
        buyer: str,
        max_price_nano: int,
        deadline_us: int,
        nonce: bytes,
        order: OrderTerms = MARKET_ORDER,
        verification: Level = Level.DETER,
        mode: Mode = Mode.EXACT,
        class_digest: bytes = NO_CLASS,
    ) -> JobSpec:
        return JobSpec(
            kind=JobKind.INFERENCE if self.stateless else JobKind.TRAINING,
            program_digest=hashlib.sha256(self.program).digest(),
            profile="FX1",
            mode=mode,
            class_digest=class_digest,
            frozen_root=bundle.EMPTY_ROOT,
            state_root=bundle.root(self.state),
            data_root=bundle.root(self.data),
            data_order=DataOrder(kind=OrderKind.SEQUENTIAL, rows=8, batch=2),
            seed=7,
            steps=self.steps,
            segment_steps=self.segment_steps,
            checkpoint_segments=1,
            max_memory_bytes=1 << 20,
            max_price_nano=max_price_nano,
            order=order,
            verification=verification,
            deadline_us=deadline_us,
            buyer=buyer,
            nonce=nonce,
        )

    def artifacts(self) -> dict[str, bytes]:
        files = {"program": self.program, "data": bundle.save(self.data)}
        if not self.stateless:
            files["state"] = bundle.save(self.state)
        return files


def expected_state(job: TinyJob, steps: int) -> dict[str, np.ndarray[Any, Any]]:
    """State after ``steps``: every step adds one."""
    return {name: value + np.float32(steps) for name, value in job.state.items()}


def expected_outputs(first_step: int, steps: int) -> dict[str, np.ndarray[Any, Any]]:
    """Outputs of a segment: the loss of a step is its number."""
    return {"loss": np.arange(first_step, first_step + steps, dtype=np.float32)}


@dataclass
class StoredJob:
    """A submitted job, run to its end when it was submitted."""

    message: job_pb2.Job
    spec: JobSpec
    receipt: bytes
    events: list[job_pb2.WatchJobResponse]


@dataclass
class FakeCoordinator:
    """State and use cases; the servicers below are thin.

    ``tricks`` are names of lies or accidents; ``calls`` counts calls by method; ``outcome`` is how
    the next job ends; ``drop_after`` are event counts after which watch streams break, in order.
    """

    tricks: set[str] = field(default_factory=set)
    outcome: job_pb2.Job.State = job_pb2.Job.STATE_SUCCEEDED
    drop_after: list[int] = field(default_factory=list)
    watched_from: list[int] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    accounts: dict[str, str] = field(default_factory=dict)
    balance_nano: dict[str, int] = field(default_factory=dict)
    transfers: list[ledger_pb2.Transfer] = field(default_factory=list)
    jobs: dict[str, StoredJob] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    empty_market: bool = False
    upload_sizes: list[int] = field(default_factory=list)
    break_uploads: int = 0
    address: str = ""

    def count(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1

    def open(self, message: common_pb2.Envelope, body: type, key: PublicKey | None) -> Opened[Any]:
        """Verify an envelope; ``key`` None accepts whatever key is hinted of known accounts."""
        envelope = Envelope(
            message.payload_type,
            message.payload,
            tuple(Signature(s.key_id, s.signature) for s in message.signatures),
        )
        known = {k.key_id: k.public for k in (BUYER_KEY, OPERATOR_KEY)}
        return open_envelope(
            envelope,
            body,
            keys={key.key_id: key} if key else known,
            audience=COORDINATOR_KEY.key_id,
            now_us=time.time_ns() // 1000,
            replay=None,
        )

    def submit(self, request: job_pb2.SubmitJobRequest, account: str) -> StoredJob:
        """Run the job at once and keep its story."""
        spec: JobSpec = self.open(request.spec, JobSpec, None).body
        name = job_id(spec).hex()
        first = self.requests.setdefault(request.request_id, name)
        if first != name:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                "REQUEST_ID_REUSED",
                f"request id {request.request_id!r} was used for another job",
            )
        if name in self.jobs:
            return self.jobs[name]
        if spec.max_price_nano < SEGMENT_PRICE_NANO:
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "BUDGET_BELOW_QUOTE",
                f"a budget of {spec.max_price_nano} nano-units is below the cheapest offer",
                hint="raise --max-price",
            )
        for digest in (request.program_artifact, request.data_artifact):
            assert digest in self.artifacts
        state = (
            bundle.load(self.artifacts[request.state_artifact]) if request.state_artifact else {}
        )
        assert bundle.root(state) == spec.state_root
        job = self._run(spec, name, request, state, account)
        self.jobs[name] = job
        return job

    def _run(
        self,
        spec: JobSpec,
        name: str,
        request: job_pb2.SubmitJobRequest,
        state: dict[str, np.ndarray[Any, Any]],
        account: str,
    ) -> StoredJob:
        ended = self.outcome
        planned = spec.steps if ended == job_pb2.Job.STATE_SUCCEEDED else spec.segment_steps
        segments: list[ReceiptSegment] = []
        listed: list[job_pb2.Segment] = []
        at, root, artifact = 0, spec.state_root, request.state_artifact
        while at < planned:
            steps = min(spec.segment_steps, planned - at)
            state = {key: value + np.float32(steps) for key, value in state.items()}
            outputs = expected_outputs(at, steps)
            after = bundle.root(state)
            artifact = self.keep(bundle.save(state)) if state else ""
            outputs_root = bundle.root(outputs)
            segments.append(
                ReceiptSegment(
                    index=len(segments),
                    first_step=at,
                    steps=steps,
                    device_key_id="d" * 64,
                    device_id="card-1",
                    state_root_before=root,
                    state_root_after=after,
                    outputs_root=outputs_root,
                    commitment_digest=bytes(32),
                    audit=AuditOutcome.CONFIRMED,
                    auditor=HOUSE,
                    verdict_digest=bytes([1]) * 32,
                    challenge_digest=b"",
                    price_nano=SEGMENT_PRICE_NANO,
                    surcharge_nano=0,
                )
            )
            listed.append(
                job_pb2.Segment(
                    index=len(listed),
                    first_step=at,
                    steps=steps,
                    state="verified" if at else "settled",
                    device_id="card-1",
                    device_name="Radeon \x1b[31mRX",
                    worker_key_id="d" * 64,
                    price=common_pb2.Money(nano=SEGMENT_PRICE_NANO),
                    state_root=after,
                    outputs_root=outputs_root,
                    outputs_artifact=self.keep(bundle.save(outputs)),
                    checkpoint_artifact=artifact,
                )
            )
            at, root = at + steps, after
        now_us = time.time_ns() // 1000
        paid = SEGMENT_PRICE_NANO * len(segments)
        receipt = build_receipt(
            job_id=job_id(spec),
            job_spec=encode(spec),
            buyer_account_id=account,
            program_digest=spec.program_digest,
            profile=spec.profile,
            mode=spec.mode,
            device_class=class_hex(spec),
            verification=spec.verification,
            data_root=spec.data_root,
            seed=spec.seed,
            steps=spec.steps,
            outcome=_OUTCOMES[ended],
            initial_state_root=spec.state_root,
            devices=[ReceiptDevice("d" * 64, "card-1", "Radeon RX", "test")] if segments else [],
            segments=segments,
            currency="USD",
            ceiling_nano=min(CEILING_NANO, spec.max_price_nano),
            fee_nano=paid * FEE_PPM // 1_000_000,
            coordinator_key=COORDINATOR_KEY.public,
            submitted_at_us=now_us - 1_000_000,
            ended_at_us=now_us,
        )
        message = job_pb2.Job(
            job_id=name,
            title=request.title,
            state=ended,
            kind=spec.kind,
            created_at_us=now_us - 1_000_000,
            ended_at_us=now_us,
            steps=spec.steps,
            steps_committed=at,
            steps_verified=at,
            ceiling=common_pb2.Money(nano=receipt.ceiling_nano),
            billed=common_pb2.Money(nano=paid),
            reason="" if ended == job_pb2.Job.STATE_SUCCEEDED else "NO_WORKER_LEFT",
            segments=listed,
            state_artifact=artifact,
            state_root=root,
            program_digest=spec.program_digest.hex(),
            segment_steps=spec.segment_steps,
        )
        stored = StoredJob(message, spec, sign_receipt(receipt, COORDINATOR_KEY), [])
        kinds = ["queued", "leased", *("verified" for _ in segments), _END_KINDS[ended]]
        stored.events = [
            job_pb2.WatchJobResponse(
                sequence=number, time_us=now_us, kind=kind, text=f"event {number}", job=message
            )
            for number, kind in enumerate(kinds, start=1)
        ]
        progress = job_pb2.WatchJobResponse(
            sequence=2, time_us=now_us, kind="progress", step=1, scalars={"loss": 0.5}, job=message
        )
        stored.events.insert(2, progress)
        return stored

    def keep(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.artifacts[digest] = data
        return digest

    def job_message(self, name: str) -> job_pb2.Job:
        """The job as the coordinator tells it, lies included."""
        message = job_pb2.Job()
        message.CopyFrom(self.stored(name).message)
        if "wrong-state" in self.tricks:  # a well-formed file of other numbers, under its own hash
            message.state_artifact = self.keep(bundle.save({"weights": np.zeros(6, np.float32)}))
        if "wrong-outputs" in self.tricks:
            message.segments[0].outputs_artifact = self.keep(
                bundle.save({"loss": np.zeros(2, np.float32)})
            )
        if "not-a-bundle" in self.tricks:
            message.state_artifact = self.keep(b"not tensors at all")
        if "hidden-segment" in self.tricks:
            del message.segments[1]
        message.segment_count = len(message.segments)
        if "other-job-answered" in self.tricks:
            message.job_id = "e" * 64
        if "billed-more" in self.tricks:
            message.billed.nano += 1
        if "state-unknown" in self.tricks:
            message.state = 99  # type: ignore[assignment]
        return message

    def receipt(self, name: str) -> bytes:
        """The receipt as the coordinator hands it out, lies included."""
        good = self.stored(name).receipt
        if "receipt-bad-signature" in self.tricks:
            envelope = json.loads(good)
            signature = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
            signature[0] ^= 1
            envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode("ascii")
            return json.dumps(envelope).encode("utf-8")
        if "receipt-other-key" in self.tricks:
            other = KeyPair.from_seed(b"X" * 32)
            stated = verify_receipt(good, COORDINATOR_KEY.public).receipt
            return sign_receipt(replace(stated, coordinator_key=other.public), other)
        if "receipt-other-job" in self.tricks:
            return next(j.receipt for key, j in self.jobs.items() if key != name)
        if "receipt-garbage" in self.tricks:
            return b"{}"
        return good

    def stored(self, name: str) -> StoredJob:
        if name not in self.jobs:
            raise Refused(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", f"no job {name}")
        return self.jobs[name]


_OUTCOMES = {
    job_pb2.Job.STATE_SUCCEEDED: Outcome.COMPLETED,
    job_pb2.Job.STATE_FAILED: Outcome.FAILED,
    job_pb2.Job.STATE_CANCELLED: Outcome.CANCELLED,
}
_END_KINDS = {
    job_pb2.Job.STATE_SUCCEEDED: "succeeded",
    job_pb2.Job.STATE_FAILED: "failed",
    job_pb2.Job.STATE_CANCELLED: "cancelled",
}


class Refused(Exception):
    """A failure that goes out as google.rpc.Status, as the real edge does it."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        hint: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        info = error_details_pb2.ErrorInfo(
            reason=reason, domain="flopmarket.dev", metadata={"hint": hint} if hint else {}
        )
        details = [info, error_details_pb2.RetryInfo()] if retryable else [info]
        self.status = status_pb2.Status(code=code.value[0], message=message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            self.status.details.append(packed)
