"""A simulated buyer: submits jobs, asks how they are, sometimes cancels one."""

from __future__ import annotations

from typing import Any

from flopmarket.engine.exact import PROFILE
from flopmarket.errors import FlopmarketError
from flopmarket.jobs.spec import NO_CLASS, DataOrder, JobKind, JobSpec, Mode, OrderKind
from flopmarket.market.order import OrderTerms, OrderType
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.documents import CancelRequest
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import Envelope, seal
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_buying import SubmitRequest
from tests.sim.arithmetic import EMPTY, named
from tests.sim.broken import Broken
from tests.sim.network import Link
from tests.sim.place import Place
from tests.sim.programs import BATCH, program
from tests.sim.schedule import SECOND_US, Dice, Trace

DOLLAR = 1_000_000_000


class Buyer:
    """One account with a session that lasts."""

    def __init__(
        self,
        place: Place,
        link: Link,
        trace: Trace,
        dice: Dice,
        name: str,
        *,
        key: KeyPair,
        session: Session,
    ) -> None:
        self.place = place
        self.link = link
        self.trace = trace
        self.dice = dice
        self.name = name
        self.key = key
        self.session = session
        self.jobs: list[str] = []
        """Those that the coordinator took."""
        self._made = 0

    def sign(self, body: Document, name: str) -> Envelope:
        """``body`` in an envelope that is good for a week."""
        now_us = self.place.schedule.now_us
        return seal(
            body,
            self.key,
            audience=self.place.key.key_id,
            nonce=named(f"nonce {self.name} {name}")[:16],
            issued_at_us=now_us,
            expires_at_us=now_us + 7 * 86_400 * SECOND_US,
        )

    def spec(self, **changes: Any) -> JobSpec:
        """A job of a few steps."""
        self._made += 1
        name = f"{self.name} {self._made}"
        stateless = bool(changes.pop("stateless", False))
        large = bool(changes.pop("large", False))
        values: dict[str, Any] = {
            "kind": JobKind.INFERENCE if stateless else JobKind.TRAINING,
            "program_digest": program(stateless, large).digest,
            "profile": PROFILE,
            "mode": Mode.EXACT,
            "class_digest": NO_CLASS,
            "frozen_root": EMPTY,
            "state_root": EMPTY if stateless else named(f"start of {name}"),
            "data_root": named("data"),
            "data_order": DataOrder(OrderKind.SEQUENTIAL, 100, BATCH),
            "seed": 7,
            "steps": 12,
            "segment_steps": 3,
            "checkpoint_segments": 1,
            "max_memory_bytes": 1 << 30,
            "max_price_nano": DOLLAR,
            "order": OrderTerms(OrderType.LIMIT),
            "verification": Level.DETER,
            "deadline_us": self.place.schedule.now_us + 86_400 * SECOND_US,
            "buyer": self.session.account_id,
            "nonce": named(f"job {name}")[:16],
        }
        return JobSpec(**(values | changes))

    def submit(self, **changes: Any) -> None:
        """Upload and submit, again and again until there is an answer."""
        spec = self.spec(**changes)
        number = self._made
        shelf = self.place.shelf
        stateless = spec.state_root == EMPTY
        files = [program(stateless, bool(changes.get("large"))).to_bytes(), b"data"]
        if not stateless:
            files.append(spec.state_root)
        digests = [shelf.put(data) for data in files]
        request = SubmitRequest(
            request_id=f"job {number}",
            spec=self.sign(spec, f"spec {number}"),
            program_artifact=digests[0],
            frozen_artifact="",
            state_artifact="" if stateless else digests[2],
            data_artifact=digests[1],
        )

        def run(tx: Any) -> Any:
            application = self.place.application
            for digest, data in zip(digests, files, strict=True):
                application.artifact_put(tx, self.session, digest, len(data), "")
            return application.submit(tx, self.session, request)

        self._persist(run, lambda view: self._taken(view.job_id))

    def _taken(self, job_id: str) -> None:
        if job_id not in self.jobs:
            self.jobs.append(job_id)
            self.trace.tell(f"{self.name} has job {job_id[:6]}")

    def cancel(self, job_id: str = "") -> None:
        """Cancel a job, or the one submitted last."""
        if not (job_id or self.jobs):
            return
        job_id = job_id or self.jobs[-1]
        body = CancelRequest(bytes.fromhex(job_id), "cancel")
        envelope = self.sign(body, f"cancel {job_id}")
        self.trace.tell(f"{self.name} cancels {job_id[:6]}")
        self._persist(
            lambda tx: self.place.application.cancel(tx, self.session, envelope), lambda view: None
        )

    def _persist(self, run: Any, then: Any) -> None:
        def done(answer: Any, error: FlopmarketError | None) -> None:
            if error is None:
                then(answer)
            elif error.retryable:
                delay_us = self.dice.between_us(0.5, 3.0)
                self.place.schedule.after(delay_us, self._persist, run, then)
            else:
                raise Broken("repeated-request", f"{self.name} is refused: {error.code}")

        self.link.call(run, done)
