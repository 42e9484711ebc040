"""Use cases of buyers: quote, submit, cancel; looking is next door."""

from __future__ import annotations

import hashlib
import json

from flopmarket.engine.exact import PROFILE
from flopmarket.errors import Conflict, Forbidden, InvalidInput, QuotaExceeded, Unavailable
from flopmarket.jobs.spec import JobSpec, class_hex, job_id, segment_count
from flopmarket.limits import (
    MAX_JOB_TITLE_LENGTH,
    MAX_RECEIPT_SEGMENTS,
    MAX_REQUEST_ID_LENGTH,
)
from flopmarket.trust.documents import CancelRequest
from flopmarket.trust.encoding import encode
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.errors import EnvelopeCode, EnvelopeError
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.merkle import state_root
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application.budgets import BudgetUseCases
from flopmarket_coordinator.application.context import ProgramFacts
from flopmarket_coordinator.application.looking import LookingUseCases
from flopmarket_coordinator.application.predicting import work_text
from flopmarket_coordinator.application.quoting import QuotingUseCases, demand_of, no_artifact
from flopmarket_coordinator.application.settling import SettlingUseCases
from flopmarket_coordinator.application.tolerance_rules import check_tolerance
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_buying import JobView, SubmitRequest
from flopmarket_coordinator.core import escrow
from flopmarket_coordinator.core.events import EventKind
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES, JobState
from flopmarket_coordinator.store import buyers, identity, jobs, ledger, prediction, work
from flopmarket_coordinator.store.engine import Transaction

EMPTY_ROOT = state_root({})


class BuyingUseCases(QuotingUseCases, SettlingUseCases, LookingUseCases, BudgetUseCases):
    """Jobs, as their buyers handle them."""

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
        if self._draining:
            raise Unavailable(
                "the coordinator is being drained and takes no new jobs",
                code="COORDINATOR_DRAINING",
                hint="try again later",
            )
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
        if spec.mode is Mode.TOLERANCE:
            check_tolerance(facts.values, spec.verification)
        demand = demand_of(
            spec.buyer,
            facts,
            facts.job_work(spec.steps, self._input_bytes(tx, request), spec.mode),
            spec.order.constraints,
            spec.mode,
            class_hex(spec),
        )
        ceiling, surcharge_ppm, promised = self._ceiling(tx, spec, facts, demand)
        grant_number = self._reserve_budget(tx, signed_by, spec, ceiling)
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
                "work": work_text(demand.work),
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
                "verification": spec.verification.value,
                "surcharge_ppm": surcharge_ppm,
                "mode": spec.mode.value,
                "device_class": class_hex(spec),
                "receipt": None,
            },
        )
        prediction.add_promises(tx, identity_hex, promised)
        if grant_number:
            buyers.add_job_grant(tx, identity_hex, signed_by.key_id, grant_number)
        identity.remember_answer(
            tx, session.account_id, "submit", request.request_id, payload_hash, identity_hex
        )
        text = (
            f"{spec.steps} steps, {spec.order.kind} order, {spec.mode} mode, {spec.verification}, "
            f"at most {self._money(ceiling)}"
        )
        jobs.record(tx, identity_hex, EventKind.QUEUED, text, request.request_id)
        return self.get_job(tx, session, identity_hex)

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

    def _input_bytes(self, tx: Transaction, request: SubmitRequest) -> int:
        """What a worker fetches beside the program."""
        files = (request.frozen_artifact, request.state_artifact, request.data_artifact)
        return sum(work.artifact_size(tx, name) or 0 for name in files if name)

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
                raise no_artifact(what, artifact)


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
    if facts.batches - {spec.data_order.batch}:
        raise InvalidInput(
            f"steps have {spec.data_order.batch} rows, the program's inputs "
            f"{sorted(facts.batches)}",
            code="JOB_DATA",
        )


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
