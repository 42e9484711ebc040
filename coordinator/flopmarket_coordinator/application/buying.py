"""Use cases of buyers: quote, submit, look, cancel, fetch the receipt."""

from __future__ import annotations

import hashlib
import json

from flopmarket.engine.exact import PROFILE
from flopmarket.errors import Conflict, Forbidden, InvalidInput, NotFound, QuotaExceeded
from flopmarket.jobs.spec import JobSpec, Verification, job_id, segment_count
from flopmarket.limits import (
    MAX_JOB_STEPS,
    MAX_JOB_TITLE_LENGTH,
    MAX_RECEIPT_SEGMENTS,
    MAX_REQUEST_ID_LENGTH,
    MAX_SEGMENT_STEPS,
)
from flopmarket.market.offer import Offer
from flopmarket.market.quote import Quote, build_quote
from flopmarket.trust.documents import CancelRequest
from flopmarket.trust.encoding import encode
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.merkle import state_root
from flopmarket_coordinator.application.context import ProgramFacts, page_size
from flopmarket_coordinator.application.offers import OfferUseCases
from flopmarket_coordinator.application.settling import SettlingUseCases
from flopmarket_coordinator.application.types import (
    JobEvent,
    JobPage,
    JobView,
    QuoteRequest,
    Session,
    SubmitRequest,
)
from flopmarket_coordinator.application.views import job_view
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.events import EventKind
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES, JobState
from flopmarket_coordinator.core.matching import Demand, Reason, quotable
from flopmarket_coordinator.store import identity, jobs, ledger, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow

EMPTY_ROOT = state_root({})


class BuyingUseCases(OfferUseCases, SettlingUseCases):
    """Jobs, as their buyers handle them."""

    def quote(self, tx: Transaction, request: QuoteRequest, account_id: str | None) -> Quote:
        """The firm ceiling of a job on the offers of this moment. No money moves."""
        if not 0 < request.steps <= MAX_JOB_STEPS:
            raise InvalidInput(f"a job has 1 to {MAX_JOB_STEPS} steps", code="JOB_STEPS")
        if not 0 < request.segment_steps <= MAX_SEGMENT_STEPS:
            raise InvalidInput(
                f"a segment has 1 to {MAX_SEGMENT_STEPS} steps", code="JOB_SEGMENT_STEPS"
            )
        if request.verification != Verification.AUDIT_ALL:
            raise InvalidInput(
                f"verification is {Verification.AUDIT_ALL}, not {request.verification[:40]!r}",
                code="VERIFICATION_UNKNOWN",
            )
        if request.program:
            facts = self._programs.of_bytes(request.program)
        elif account_id and work.may_read(tx, request.program_artifact, account_id):
            facts = self._programs.of_artifact(request.program_artifact)
        else:
            raise _no_artifact("program", request.program_artifact)
        demand = _demand(account_id or "", facts)
        return self._quote(tx, demand, request.steps, request.segment_steps)

    def submit(self, tx: Transaction, session: Session, request: SubmitRequest) -> JobView:
        """Take a signed job and hold its ceiling. The same request again: the first answer."""
        opened, signed_by = self._open(tx, request.spec, JobSpec)
        self._require_key(session, signed_by)
        spec = opened.body
        identity_hex = job_id(spec).hex()
        payload_hash = _payload_hash(identity_hex, request)
        known = identity.answered(tx, session.account_id, "submit", request.request_id)
        if known is not None:
            if known[0] != payload_hash:
                raise Conflict(
                    f"request id {request.request_id[:80]!r} was used for another job",
                    code="REQUEST_ID_REUSED",
                    hint="use a new request id for a new job",
                )
            return self.get_job(tx, session, known[1])
        replay = identity.StoredReplayCache(tx)
        if not replay.remember(opened.header.nonce, opened.key_id, opened.header.expires_at_us):
            raise EnvelopeError(
                "this signed job was submitted before under another request id",
                code=EnvelopeCode.REPLAYED,
            )
        if jobs.get(tx, identity_hex) is not None:
            raise Conflict(
                f"job {identity_hex} exists", code="JOB_EXISTS", hint="change the job's nonce"
            )
        self._check_request(tx, session, request, spec)
        facts = self._programs.of_artifact(request.program_artifact)
        _check_program(spec, facts)
        ceiling = self._ceiling(tx, spec, facts)
        hold_transfer, hold = escrow.open_hold(identity_hex, session.account_id, ceiling)
        ledger.execute(tx, hold_transfer)
        jobs.add(
            tx,
            {
                "job_id": identity_hex,
                "buyer": session.account_id,
                "title": request.title,
                "kind": spec.kind.value,
                "state": JobState.QUEUED.value,
                "reason": "",
                "ending": "",
                "envelope": request.spec.to_bytes(),
                "spec": encode(spec),
                "program_artifact": request.program_artifact,
                "frozen_artifact": request.frozen_artifact,
                "state_artifact": request.state_artifact,
                "data_artifact": request.data_artifact,
                "stateless": facts.stateless,
                "work": json.dumps(
                    {
                        "flops": dict(facts.work.flops),
                        "bytes_moved": facts.work.bytes_moved,
                        "launches": facts.work.launches,
                    }
                ),
                "peak_memory_bytes": facts.peak_memory_bytes,
                "steps": spec.steps,
                "segment_steps": spec.segment_steps,
                "ceiling_nano": ceiling,
                "billed_nano": 0,
                "fee_nano": 0,
                "hold_id": hold.transfer_id,
                "hold_number": hold.number,
                "hold_nano": hold.amount_nano,
                "fence": 0,
                "event_count": 0,
                "created_at_us": tx.now_us,
                "deadline_us": min(spec.deadline_us, 2**63 - 1),
                "ended_at_us": 0,
                "receipt": None,
            },
        )
        identity.remember_answer(
            tx, session.account_id, "submit", request.request_id, payload_hash, identity_hex
        )
        text = f"{spec.steps} steps, at most {self._money(ceiling)}"
        jobs.record(tx, identity_hex, EventKind.QUEUED, text, request.request_id)
        return self.get_job(tx, session, identity_hex)

    def get_job(self, tx: Transaction, session: Session, job_id: str) -> JobView:
        """A job of the caller, with its segments."""
        job = self._own_job(tx, session, job_id)
        return job_view(job, jobs.segments(tx, job_id), with_segments=True)

    def list_jobs(
        self, tx: Transaction, session: Session, asked_size: int, page_token: str
    ) -> JobPage:
        """Jobs of the caller, newest first, without their segments."""
        query = f"jobs/{session.account_id}"
        size = page_size(asked_size)
        before = self._page_position(query, page_token) or 2**62
        rows = jobs.of_buyer(tx, session.account_id, before, size + 1)
        views = tuple(
            job_view(row, jobs.live_segments(tx, row.job_id), with_segments=False)
            for row in rows[:size]
        )
        more = len(rows) > size
        return JobPage(views, self._page_token(query, rows[size - 1].number) if more else "")

    def job_events(
        self, tx: Transaction, session: Session, job_id: str, after_sequence: int, limit: int
    ) -> tuple[JobEvent, ...]:
        """Lines of a job's story after a sequence number."""
        self._own_job(tx, session, job_id)
        return tuple(
            JobEvent(event.sequence, event.time_us, event.kind, event.text, event.cause)
            for event in jobs.events(tx, job_id, after_sequence, page_size(limit))
        )

    def cancel(self, tx: Transaction, session: Session, cancel: Envelope) -> JobView:
        """Stop a job. Finished segments are audited and paid, the rest of the hold returns."""
        opened, signed_by = self._open(tx, cancel, CancelRequest)
        self._require_key(session, signed_by)
        job = self._own_job(tx, session, opened.body.job_id.hex())
        if job.state not in FINAL_JOB_STATES and not job.ending:
            jobs.record(
                tx, job.job_id, EventKind.CANCELLING, "by its buyer", opened.body.request_id
            )
            self._begin_end(tx, job.job_id, JobState.CANCELLED, "CANCELLED_BY_BUYER")
        return self.get_job(tx, session, job.job_id)

    def get_receipt(self, tx: Transaction, session: Session, job_id: str) -> bytes:
        """The signed receipt file of a job that has ended."""
        job = self._own_job(tx, session, job_id)
        if job.receipt is None:
            raise Conflict(
                f"job {job_id} is {job.state}; its receipt comes when it ends",
                code="JOB_NOT_ENDED",
                retryable=True,
            )
        return job.receipt

    def _own_job(self, tx: Transaction, session: Session, job_id: str) -> JobRow:
        job = jobs.get(tx, job_id)
        if job is None or job.buyer != session.account_id:
            raise NotFound(f"there is no job {job_id[:80]}", code="JOB_UNKNOWN")
        return job

    def _quote(self, tx: Transaction, demand: Demand, steps: int, segment_steps: int) -> Quote:
        eligible: list[Offer] = []
        reasons: dict[str, int] = {}
        for candidate in self._candidates(tx):
            found = quotable(demand, candidate, steps)
            if isinstance(found, Reason):
                reasons[found.value] = reasons.get(found.value, 0) + 1
            else:
                eligible.append(candidate.offer)
        return build_quote(
            quote_id=self._new_id(),
            as_of_us=tx.now_us,
            expires_at_us=tx.now_us + self._parameters.quote_ttl_us,
            work=demand.work,
            peak_memory_bytes=demand.peak_memory_bytes,
            steps=steps,
            segment_steps=segment_steps,
            eligible=eligible,
            ineligible=reasons,
            fee_ppm=self._parameters.fee_ppm,
            verification=Verification.AUDIT_ALL.value,
            detection_probability=1.0,
            audit_seconds_factor=self._parameters.audit_seconds_factor,
        )

    def _ceiling(self, tx: Transaction, spec: JobSpec, facts: ProgramFacts) -> int:
        """What to hold: the quote's ceiling, or the buyer's limit if that is lower.

        Without any offer that could run it now the job waits with the buyer's limit on hold, unless
        offers exist and not one has the memory.
        """
        quote = self._quote(tx, _demand(spec.buyer, facts), spec.steps, spec.segment_steps)
        if quote.offers:
            if spec.max_price_nano < quote.least_ceiling_nano:
                raise QuotaExceeded(
                    f"the price limit is {spec.max_price_nano} nano-units, the cheapest eligible "
                    f"offer may cost {quote.least_ceiling_nano}",
                    code="BUDGET_BELOW_QUOTE",
                    hint="raise the limit, or wait for cheaper offers",
                    details={
                        "max_price_nano": str(spec.max_price_nano),
                        "least_ceiling_nano": str(quote.least_ceiling_nano),
                    },
                )
            return min(spec.max_price_nano, quote.ceiling_nano)
        if set(quote.ineligible) == {Reason.MEMORY.value}:
            largest = max(self._candidates(tx), key=lambda item: item.offer.memory_bytes).offer
            raise InvalidInput(
                f"the program needs {facts.peak_memory_bytes} bytes; the largest offer, "
                f"{largest.device_name}, has {largest.memory_bytes}",
                code="PROGRAM_TOO_LARGE",
                hint="use a smaller batch or model",
                details={
                    "peak_memory_bytes": str(facts.peak_memory_bytes),
                    "largest_memory_bytes": str(largest.memory_bytes),
                    "largest_offer_id": largest.offer_id,
                },
            )
        if spec.max_price_nano == 0:
            raise QuotaExceeded("a price limit is above zero", code="BUDGET_BELOW_QUOTE")
        return spec.max_price_nano

    def _check_request(
        self, tx: Transaction, session: Session, request: SubmitRequest, spec: JobSpec
    ) -> None:
        if session.role not in (KeyRole.OWNER, KeyRole.CI) or spec.buyer != session.account_id:
            raise Forbidden("a job is submitted by its buyer", code="NOT_THE_BUYER")
        if not 0 < len(request.request_id) <= MAX_REQUEST_ID_LENGTH:
            raise InvalidInput(
                f"a request id has 1 to {MAX_REQUEST_ID_LENGTH} characters", code="REQUEST_ID"
            )
        if len(request.title) > MAX_JOB_TITLE_LENGTH:
            raise InvalidInput(
                f"a title has at most {MAX_JOB_TITLE_LENGTH} characters", code="TITLE"
            )
        if spec.deadline_us <= tx.now_us:
            raise InvalidInput("the deadline has passed", code="JOB_DEADLINE")
        if spec.profile != PROFILE:
            raise InvalidInput(f"profile {spec.profile!r}; this is {PROFILE}", code="JOB_PROFILE")
        if segment_count(spec) > MAX_RECEIPT_SEGMENTS:
            raise InvalidInput(
                f"{segment_count(spec)} segments, at most {MAX_RECEIPT_SEGMENTS}",
                code="JOB_TOO_MANY_SEGMENTS",
                hint="raise segment_steps",
            )
        unfinished = jobs.count_unfinished(tx, session.account_id)
        if unfinished >= self._parameters.max_running_jobs_per_account:
            raise QuotaExceeded(f"{unfinished} jobs are unfinished", code="TOO_MANY_JOBS")
        for what, artifact, root in (
            ("program", request.program_artifact, b""),
            ("frozen", request.frozen_artifact, spec.frozen_root),
            ("state", request.state_artifact, spec.state_root),
            ("data", request.data_artifact, spec.data_root),
        ):
            needed = root != EMPTY_ROOT or bool(artifact)
            if needed and not (artifact and work.may_read(tx, artifact, session.account_id)):
                raise _no_artifact(what, artifact)


def _check_program(spec: JobSpec, facts: ProgramFacts) -> None:
    if facts.digest != spec.program_digest:
        raise InvalidInput("the program is not the one the job names", code="JOB_PROGRAM")
    if facts.peak_memory_bytes > spec.max_memory_bytes:
        raise InvalidInput(
            f"the program needs {facts.peak_memory_bytes} bytes, the job allows "
            f"{spec.max_memory_bytes}",
            code="JOB_MEMORY",
        )
    if facts.stateless != (spec.state_root == EMPTY_ROOT):
        raise InvalidInput("program and job differ about having a state", code="JOB_STATE")
    if facts.batches - {spec.order.batch}:
        raise InvalidInput(
            f"steps have {spec.order.batch} rows, the program's inputs {sorted(facts.batches)}",
            code="JOB_DATA",
        )


def _demand(buyer: str, facts: ProgramFacts) -> Demand:
    return Demand(buyer, PROFILE, facts.peak_memory_bytes, facts.work)


def _payload_hash(job: str, request: SubmitRequest) -> bytes:
    parts = (
        job,
        request.program_artifact,
        request.frozen_artifact,
        request.state_artifact,
        request.data_artifact,
        request.title,
    )
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def _no_artifact(what: str, digest: str) -> NotFound:
    return NotFound(
        f"the {what} artifact {digest[:80] or '(none)'} is not here, or not yours",
        code="ARTIFACT_MISSING",
        hint="upload it first",
        details={"artifact": what, "digest": digest[:80]},
    )
