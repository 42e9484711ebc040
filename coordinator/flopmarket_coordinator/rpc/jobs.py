"""JobService: quote, submit, watch, cancel, receipt."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from flopmarket.errors import LimitExceeded, Unavailable
from flopmarket.limits import MAX_INLINE_PROGRAM_BYTES, MAX_WATCH_EVENTS
from flopmarket.market.order import OrderType
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.modes import Mode
from flopmarket.v1 import job_pb2, job_pb2_grpc
from flopmarket.wire import envelope_from_proto
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_buying import JobView, QuoteRequest, SubmitRequest
from flopmarket_coordinator.application.types_working import JobProgress
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.core.lifecycle import FINAL_JOB_STATES
from flopmarket_coordinator.rpc import convert, convert_prediction
from flopmarket_coordinator.rpc.convert_audits import audits_page
from flopmarket_coordinator.rpc.convert_orders import job_explanation, order_of
from flopmarket_coordinator.rpc.interceptors import caller

_WATCH_POLL_SECONDS = 1.0


class JobService(job_pb2_grpc.JobServiceServicer):
    """Thin: messages in, use cases, messages out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def QuoteJob(
        self, request: job_pb2.QuoteJobRequest, context: Any
    ) -> job_pb2.QuoteJobResponse:
        session, application = caller(), self._backend.application
        if len(request.program) > MAX_INLINE_PROGRAM_BYTES:
            raise LimitExceeded(
                f"an inline program of {len(request.program)} bytes, at most "
                f"{MAX_INLINE_PROGRAM_BYTES}",
                hint="upload it as an artifact and give its digest",
                details={"field": "program", "limit": str(MAX_INLINE_PROGRAM_BYTES)},
            )
        wanted = QuoteRequest(
            program=request.program,
            program_artifact=convert.text_of(request.program_artifact, "program_artifact"),
            steps=request.steps,
            segment_steps=request.segment_steps,
            input_bytes=request.input_bytes,
            verification=convert.text_of(request.verification, "verification") or Level.DETER.value,
            order=order_of(request.order if request.HasField("order") else None),
            deadline_us=request.deadline_us,
            mode=convert.text_of(request.mode, "mode") or Mode.EXACT.value,
            device_class=convert.class_of(request.class_digest),
        )
        quote = await self._backend.query(
            lambda tx: application.quote(tx, wanted, session.account_id)
        )
        rests = wanted.order.kind is OrderType.LIMIT
        return convert_prediction.quote(quote, "rest" if rests else "refuse")

    async def SubmitJob(
        self, request: job_pb2.SubmitJobRequest, context: Any
    ) -> job_pb2.SubmitJobResponse:
        session, application = caller(), self._backend.application
        wanted = SubmitRequest(
            request_id=convert.text_of(request.request_id, "request_id"),
            spec=envelope_from_proto(request.spec),
            program_artifact=convert.text_of(request.program_artifact, "program_artifact"),
            frozen_artifact=convert.text_of(request.frozen_artifact, "frozen_artifact"),
            state_artifact=convert.text_of(request.state_artifact, "state_artifact"),
            data_artifact=convert.text_of(request.data_artifact, "data_artifact"),
            title=convert.text_of(request.title, "title"),
        )
        view = await self._backend.command(lambda tx: application.submit(tx, session, wanted))
        return job_pb2.SubmitJobResponse(job=convert.job(view))

    async def GetJob(self, request: job_pb2.GetJobRequest, context: Any) -> job_pb2.GetJobResponse:
        view = await self._job(caller(), convert.text_of(request.job_id, "job_id"))
        return job_pb2.GetJobResponse(job=convert.job(view))

    async def ListJobs(
        self, request: job_pb2.ListJobsRequest, context: Any
    ) -> job_pb2.ListJobsResponse:
        session, application = caller(), self._backend.application
        size = convert.page_size_of(request.page_size)
        token = convert.text_of(request.page_token, "page_token")
        states = convert.job_states_of(request.states)
        page = await self._backend.query(
            lambda tx: application.list_jobs(tx, session, size, token, states)
        )
        return job_pb2.ListJobsResponse(
            jobs=[convert.job(view) for view in page.jobs], next_page_token=page.next_page_token
        )

    async def WatchJob(
        self, request: job_pb2.WatchJobRequest, context: Any
    ) -> AsyncIterator[job_pb2.WatchJobResponse]:
        session, backend = caller(), self._backend
        job_id = convert.text_of(request.job_id, "job_id")
        view = await self._job(session, job_id)  # a stranger's job ends the call here
        progress = backend.board.subscribe(job_id)
        try:
            async for response in self._watched(session, view, request.after_sequence, progress):
                yield response
        finally:
            backend.board.unsubscribe(job_id, progress)

    async def CancelJob(
        self, request: job_pb2.CancelJobRequest, context: Any
    ) -> job_pb2.CancelJobResponse:
        session, application = caller(), self._backend.application
        cancel = envelope_from_proto(request.cancel)
        view = await self._backend.command(lambda tx: application.cancel(tx, session, cancel))
        return job_pb2.CancelJobResponse(job=convert.job(view))

    async def ExplainJob(
        self, request: job_pb2.ExplainJobRequest, context: Any
    ) -> job_pb2.ExplainJobResponse:
        session, application = caller(), self._backend.application
        job_id = convert.text_of(request.job_id, "job_id")
        found = await self._backend.query(lambda tx: application.explain_job(tx, session, job_id))
        return job_explanation(found)

    async def GetReceipt(
        self, request: job_pb2.GetReceiptRequest, context: Any
    ) -> job_pb2.GetReceiptResponse:
        session, application = caller(), self._backend.application
        job_id = convert.text_of(request.job_id, "job_id")
        receipt = await self._backend.query(lambda tx: application.get_receipt(tx, session, job_id))
        return job_pb2.GetReceiptResponse(receipt=receipt)

    async def DownloadReceipt(
        self, request: job_pb2.DownloadReceiptRequest, context: Any
    ) -> AsyncIterator[job_pb2.DownloadReceiptResponse]:
        session, application = caller(), self._backend.application
        job_id = convert.text_of(request.job_id, "job_id")
        size_bytes = await self._backend.query(
            lambda tx: application.receipt_bytes(tx, session, job_id)
        )
        sent = 0
        while sent < size_bytes:
            chunk = await self._backend.query(
                lambda tx, offset=sent: application.receipt_chunk(  # type: ignore[misc]
                    tx, session, job_id, offset
                )
            )
            sent += len(chunk)
            yield job_pb2.DownloadReceiptResponse(chunk=chunk)

    async def ListSegments(
        self, request: job_pb2.ListSegmentsRequest, context: Any
    ) -> job_pb2.ListSegmentsResponse:
        session, application = caller(), self._backend.application
        job_id = convert.text_of(request.job_id, "job_id")
        size = convert.page_size_of(request.page_size)
        token = convert.text_of(request.page_token, "page_token")
        page = await self._backend.query(
            lambda tx: application.list_segments(tx, session, job_id, size, token)
        )
        return job_pb2.ListSegmentsResponse(
            segments=[convert.segment(view) for view in page.segments],
            next_page_token=page.next_page_token,
        )

    async def ListAudits(
        self, request: job_pb2.ListAuditsRequest, context: Any
    ) -> job_pb2.ListAuditsResponse:
        session, application = caller(), self._backend.application
        job_id = convert.text_of(request.job_id, "job_id")
        size = convert.page_size_of(request.page_size)
        token = convert.text_of(request.page_token, "page_token")
        page = await self._backend.query(
            lambda tx: application.list_audits(tx, session, job_id, size, token)
        )
        return audits_page(page)

    async def _job(self, session: Session, job_id: str) -> JobView:
        application = self._backend.application
        return await self._backend.query(lambda tx: application.get_job(tx, session, job_id))

    async def _watched(
        self, session: Session, view: JobView, sequence: int, progress: deque[JobProgress]
    ) -> AsyncIterator[job_pb2.WatchJobResponse]:
        """Stored events in order, each batch's last with the job as it then is, and progress."""
        backend, job_id = self._backend, view.job_id
        while True:
            seen = backend.changed.version
            events = await backend.query(
                lambda tx, after=sequence: backend.application.job_events(  # type: ignore[misc]
                    tx, session, job_id, after, MAX_WATCH_EVENTS
                )
            )
            view = await self._job(session, job_id)
            for event in events:
                sequence = event.sequence
                yield job_pb2.WatchJobResponse(
                    sequence=event.sequence,
                    time_us=event.time_us,
                    kind=str(event.kind),
                    text=event.text,
                    job=convert.job(view) if event is events[-1] else None,
                )
            while progress:
                report = progress.popleft()
                yield job_pb2.WatchJobResponse(
                    sequence=sequence,
                    time_us=backend.clock_us(),
                    kind="progress",
                    step=report.step,
                    scalars=report.scalars,
                )
            if len(events) == MAX_WATCH_EVENTS:
                continue
            if view.state in FINAL_JOB_STATES and not events:
                return
            if backend.hub.draining:
                raise Unavailable("the coordinator is going down", code="DRAINING")
            if view.state not in FINAL_JOB_STATES:
                await backend.changed.wait_past(seen, _WATCH_POLL_SECONDS)
