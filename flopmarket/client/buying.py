"""The steps of a purchase that are more than one call: quoting, submitting, waiting, fetching.

:class:`~flopmarket.client.client.Client` calls these; each checks what came back before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from flopmarket.client import checks
from flopmarket.client.artifacts import Artifacts
from flopmarket.client.checks import CheckedReceipt
from flopmarket.client.failures import AnswerRefused, JobEnded
from flopmarket.client.jobs import PreparedJob, form_of
from flopmarket.client.results import (
    Array,
    JobEvent,
    JobInfo,
    JobResult,
    JobState,
    Quote,
    Tensors,
)
from flopmarket.errors import InvalidInput, Unavailable
from flopmarket.jobs import bundle
from flopmarket.jobs.form import JobForm
from flopmarket.jobs.spec import NO_CLASS, JobSpec, Mode, job_id, segment_steps_in
from flopmarket.limits import (
    MAX_BUNDLE_BYTES,
    MAX_INLINE_PROGRAM_BYTES,
    MAX_SEGMENT_OUTPUT_BYTES,
)
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.encoding import tagged_hash
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.receipt import Receipt
from flopmarket.v1 import job_pb2

if TYPE_CHECKING:
    from flopmarket.client.client import Client

Progress: TypeAlias = Callable[[JobEvent], None]
"""Called with every event of a job, on the thread that waits for it."""

_CLASS = re.compile(r"[0-9a-f]{64}")
_NONCE_DOMAIN = "flopmarket.submission-nonce.v1"
BUNDLE_HEADER_BYTES = 1 << 20  # what a file of tensors may add to the tensors


class JobHandle:
    """A submitted job. Its id is the digest of what we signed, so no other receipt fits it."""

    def __init__(self, client: Client, info: JobInfo) -> None:
        self._client = client
        self.info = info
        """How the job stood when it was submitted."""

    @property
    def job_id(self) -> str:
        """64 hex digits."""
        return self.info.job_id

    def watch(self, progress: Progress | None = None) -> JobInfo:
        """Wait for the end; how the job stands then."""
        return self._client.wait(self.job_id, progress)

    def wait(self, progress: Progress | None = None) -> JobResult:
        """Wait for the end, fetch and check.

        Raises JobEnded when there is no result, AnswerRefused when it is not the one proven.
        """
        job = self.watch(progress)
        if job.state is not JobState.SUCCEEDED:
            raise ended_without_result(job)
        tensors = self._client.fetch(self.job_id)
        checked = checks.check_receipt(tensors.receipt_file, self._client.coordinator().public_key)
        checks.check_finished(checked)
        if job.billed.nano != checked.receipt.invoice_nano:
            raise AnswerRefused(
                f"billed {job.billed}, but the receipt's invoice is "
                f"{checked.receipt.invoice_nano} nano-units",
                code="BILLED_DIFFERS",
            )
        return JobResult(
            job_id=self.job_id,
            state=tensors.state,
            outputs=tensors.outputs,
            billed=job.billed,
            job=job,
            receipt=checked.verified,
            receipt_file=tensors.receipt_file,
            order=checked.spec.data_order,
        )

    def cancel(self) -> JobInfo:
        """Stop the job."""
        return self._client.cancel(self.job_id)


@dataclass(frozen=True, slots=True)
class Numerics:
    """What a job is to be verified by. ``device_class`` is the class (64 hex digits) of a job in
    class mode, empty while the market may choose one."""

    mode: Mode
    device_class: str

    @property
    def class_digest(self) -> bytes:
        """As it is signed."""
        return bytes.fromhex(self.device_class) or NO_CLASS


def quote_request(
    job: PreparedJob | JobForm, level: Level, numerics: Numerics, artifacts: Artifacts
) -> job_pb2.QuoteJobRequest:
    """The request for a quote; a program too large for a message is uploaded."""
    form = form_of(job)
    request = job_pb2.QuoteJobRequest(
        steps=form.steps,
        segment_steps=segment_steps_in(numerics.mode, form.segment_steps),
        input_bytes=form.input_bytes,
        verification=level,
        mode=numerics.mode,
        class_digest=bytes.fromhex(numerics.device_class),
    )
    if len(form.program) <= MAX_INLINE_PROGRAM_BYTES:
        request.program = form.program
    else:
        request.program_artifact = artifacts.ensure({"program": form.program})["program"]
    return request


def level_of(verification: str) -> Level:
    """The level of this name; InvalidInput ``VERIFICATION_UNKNOWN`` otherwise."""
    if verification not in list(Level):
        raise InvalidInput(
            f"verification {verification[:40]!r} is not offered",
            code="VERIFICATION_UNKNOWN",
            hint=f"one of: {', '.join(Level)}",
        )
    return Level(verification)


def numerics_of(mode: str, device_class: str) -> Numerics:
    """The mode of this name; InvalidInput ``MODE_UNKNOWN`` or ``JOB_CLASS`` otherwise."""
    if mode not in list(Mode):
        raise InvalidInput(
            f"mode {mode[:40]!r} is not offered",
            code="MODE_UNKNOWN",
            hint=f"one of: {', '.join(Mode)}",
        )
    if device_class and (mode != Mode.CLASS or not _CLASS.fullmatch(device_class)):
        raise InvalidInput(
            "a class of devices is 64 hex digits and goes with class mode",
            code="JOB_CLASS",
            hint="take it from a quote in class mode",
        )
    return Numerics(Mode(mode), device_class)


def bound_by(numerics: Numerics, quote: Quote) -> Numerics:
    """The same with the class that a quote chose; Unavailable CLASS_NONE when there was none."""
    if numerics.mode is not Mode.CLASS or numerics.device_class:
        return numerics
    if not quote.device_class:
        raise Unavailable(
            "no class of devices can run this job now",
            code="CLASS_NONE",
            hint="`flop quote --mode class` says why; name a class with --class to wait for it",
        )
    return replace(numerics, device_class=quote.device_class)


def check_submitted(job: JobInfo, spec: JobSpec) -> None:
    """Raise AnswerRefused unless the coordinator's job is the one that was signed.

    A job's id is the digest of its specification: from here on it binds program, tensors, seed,
    steps and budget of whatever the coordinator shows under it.
    """
    if job.job_id != job_id(spec).hex():
        raise AnswerRefused(
            f"the coordinator answers with job {job.job_id}, {job_id(spec).hex()} was submitted",
            code="JOB_ID_MISMATCH",
        )


def submission_nonce(account_id: str, request_id: str) -> bytes:
    """The job's nonce for a request id: the same request made again is the same job."""
    return tagged_hash(_NONCE_DOMAIN, account_id.encode(), b"\x00", request_id.encode())[:16]


def check_asked(job: JobInfo, asked: str) -> JobInfo:
    """``job`` if it is the one that was asked for."""
    if job.job_id != asked:
        raise AnswerRefused(
            f"the coordinator answers with job {job.job_id}, {asked} was asked for",
            code="JOB_ID_MISMATCH",
        )
    return job


def ended_without_result(job: JobInfo) -> JobEnded:
    """The error for a job that did not succeed."""
    why = f": {job.reason}" if job.reason else ""
    return JobEnded(
        f"job {job.job_id[:12]} {job.state}{why}; billed {job.billed}",
        code=f"JOB_{job.state.name}",
        hint=f"`flop job show {job.job_id}` tells the story",
        details={"job_id": job.job_id, "reason": job.reason},
    )


def checked_receipt(file: bytes, coordinator: PublicKey, asked: str) -> CheckedReceipt:
    """The receipt, signed by this coordinator and for the job that was asked for."""
    checked = checks.check_receipt(file, coordinator)
    checks.check_receipt_names(checked, asked)
    return checked


def fetch_tensors(
    job: JobInfo, receipt_file: bytes, coordinator: PublicKey, artifacts: Artifacts
) -> Tensors:
    """State and outputs of ``job``; against the receipt when it has ended, else against ``job``."""
    checked = checked_receipt(receipt_file, coordinator, job.job_id) if receipt_file else None
    receipt = checked.receipt if checked else None
    state_root = receipt.final_state_root if receipt else job.state_root
    return Tensors(
        job=job,
        state=_fetch_state(job, state_root, artifacts),
        outputs=_fetch_outputs(job, receipt, artifacts),
        receipt=checked.verified if checked else None,
        receipt_file=receipt_file,
        data_order=checked.spec.data_order if checked else None,
    )


def _fetch_state(job: JobInfo, root: bytes, artifacts: Artifacts) -> dict[str, Array]:
    state: dict[str, Array] = {}
    if job.state_artifact:
        state = bundle.load(
            artifacts.download(job.state_artifact, job_id=job.job_id, max_bytes=MAX_BUNDLE_BYTES)
        )
    checks.check_root(state, root, "the state", "STATE_ROOT_MISMATCH")
    return state


def _fetch_outputs(job: JobInfo, receipt: Receipt | None, artifacts: Artifacts) -> dict[str, Array]:
    collected: list[dict[str, Array]] = []
    for segment, paid in checks.verified_segments(job, receipt):
        outputs: dict[str, Array] = {}
        if segment.outputs_artifact:
            outputs = bundle.load(
                artifacts.download(
                    segment.outputs_artifact,
                    job_id=job.job_id,
                    max_bytes=MAX_SEGMENT_OUTPUT_BYTES + BUNDLE_HEADER_BYTES,
                )
            )
        root = paid.outputs_root if paid is not None else segment.outputs_root
        what = f"the outputs of segment {segment.index}"
        checks.check_root(outputs, root, what, "OUTPUTS_ROOT_MISMATCH")
        collected.append(outputs)
    return checks.stack_outputs(collected)
