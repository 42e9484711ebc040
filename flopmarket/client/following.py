"""Calls about jobs that exist: look, watch, wait, cancel, fetch. A part of :class:`Client`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from flopmarket.client import buying, messages
from flopmarket.client.artifacts import Artifacts
from flopmarket.client.failures import AnswerRefused
from flopmarket.client.results import JobEvent, JobInfo, JobState, SegmentInfo, Tensors
from flopmarket.client.session import Session
from flopmarket.client.watching import watch_events
from flopmarket.errors import InvalidInput
from flopmarket.limits import (
    CLIENT_SESSION_LIFETIME_US,
    CLIENT_TRANSFER_SECONDS,
    MAX_RECEIPT_BYTES,
)
from flopmarket.trust.documents import CancelRequest
from flopmarket.v1 import job_pb2, job_pb2_grpc


class JobCalls:
    """What :class:`Client` can do with a job's id."""

    _session: Session
    _artifacts: Artifacts
    _jobs: job_pb2_grpc.JobServiceStub

    def job(self, job_id: str) -> JobInfo:
        """How a job stands, with its first segments; :meth:`segments` has all of them."""
        request = job_pb2.GetJobRequest(job_id=check_job_id(job_id))
        answer = self._session.call(self._jobs.GetJob, request)
        found = messages.job_from_proto(answer.job, self._currency)
        return buying.check_asked(found, job_id)

    def jobs(self, states: Collection[JobState] = ()) -> Iterator[JobInfo]:
        """Our jobs in these states (none: all), newest first, page by page; without segments."""
        wanted = [job_pb2.Job.State.Value(f"STATE_{state.name}") for state in states]
        request = job_pb2.ListJobsRequest(states=wanted)
        for page in self._session.pages(self._jobs.ListJobs, request, "jobs"):
            for job in page.jobs:
                yield messages.job_from_proto(job, self._currency)

    def segments(self, job_id: str) -> Iterator[SegmentInfo]:
        """Every segment of a job, in order of steps, page by page."""
        request = job_pb2.ListSegmentsRequest(job_id=check_job_id(job_id))
        for page in self._session.pages(self._jobs.ListSegments, request, "segments"):
            for segment in page.segments:
                yield messages.segment_from_proto(segment, self._currency)

    def watch(
        self, job_id: str, after_sequence: int = 0, *, timeout_seconds: float | None = None
    ) -> Iterator[JobEvent]:
        """Events of a job until it has ended; goes on by itself after a lost connection.

        After ``timeout_seconds`` it raises :class:`~flopmarket.client.watching.WaitedLongEnough`.
        """
        asked = check_job_id(job_id)
        now_us = self._session.ports.now_us
        until_us = None if timeout_seconds is None else now_us() + int(timeout_seconds * 1e6)

        def connect(after: int) -> Iterator[JobEvent]:
            request = job_pb2.WatchJobRequest(job_id=asked, after_sequence=after)
            left = None if until_us is None else max(0.001, (until_us - now_us()) / 1e6)
            with self._session.stream(
                self._jobs.WatchJob, request, timeout_seconds=left
            ) as answers:
                for answer in answers:
                    yield messages.event_from_proto(answer, self._currency)

        return watch_events(
            connect, lambda: self.job(asked), self._session.ports, after_sequence, until_us
        )

    def wait(
        self,
        job_id: str,
        progress: Callable[[JobEvent], None] | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> JobInfo:
        """Wait until a job has ended; how it stands then. See :meth:`watch`."""
        for event in self.watch(job_id, timeout_seconds=timeout_seconds):
            if progress is not None:
                progress(event)
        return self.job(job_id)

    def cancel(self, job_id: str, request_id: str | None = None) -> JobInfo:
        """Stop a job. Finished segments stay paid, the rest of the hold is released."""
        document = CancelRequest(
            job_id=bytes.fromhex(check_job_id(job_id)), request_id=request_id or self._new_id()
        )
        envelope = self._session.seal(document, lifetime_us=CLIENT_SESSION_LIFETIME_US)
        answer = self._session.call(self._jobs.CancelJob, job_pb2.CancelJobRequest(cancel=envelope))
        found = messages.job_from_proto(answer.job, self._currency)
        return buying.check_asked(found, job_id)

    def fetch(self, job_id: str) -> Tensors:
        """Last durable verified state and verified outputs so far, checked against their roots."""
        job = self.job(job_id)
        receipt = self.receipt(job_id) if job.state.has_ended else b""
        if job.segment_count > len(job.segments):
            job = replace(job, segments=tuple(self.segments(job_id)))
        key = self._session.coordinator().public_key
        return buying.fetch_tensors(job, receipt, key, self._artifacts)

    def receipt(self, job_id: str) -> bytes:
        """The signed receipt file of a job that has ended, as sent, however long; checked."""
        request = job_pb2.DownloadReceiptRequest(job_id=check_job_id(job_id))
        received = bytearray()
        with self._session.stream(
            self._jobs.DownloadReceipt, request, timeout_seconds=CLIENT_TRANSFER_SECONDS
        ) as answers:
            for answer in answers:
                received += answer.chunk
                if len(received) > MAX_RECEIPT_BYTES:
                    raise AnswerRefused(
                        "the receipt is longer than any receipt", code="RECEIPT_TOO_LONG"
                    )
        file = bytes(received)
        buying.checked_receipt(file, self._session.coordinator().public_key, job_id)
        return file

    @property
    def _currency(self) -> str:
        return self._session.coordinator().currency

    def _new_id(self) -> str:
        return str(uuid.UUID(bytes=self._session.ports.random_bytes(16), version=4))


def check_job_id(text: str) -> str:
    """``text`` if it is a job's id; InvalidInput ``JOB_ID_INVALID``."""
    if len(text) == 64 and not set(text) - set("0123456789abcdef"):
        return text
    raise InvalidInput(
        f"{text[:80]!r} is not a job id",
        code="JOB_ID_INVALID",
        hint="64 hex digits; see `flop job list`",
    )
