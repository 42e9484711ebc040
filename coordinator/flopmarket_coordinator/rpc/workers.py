"""WorkerService: the one long stream of a worker.

The stream carries messages; it owns nothing. A worker whose stream breaks keeps its leases and says
so in its next hello. Messages are handled in order, one at a time, and a worker that sends faster
than its rate is read more slowly. The call always ends here: reader and writer are cancelled, and
the key is forgotten unless a newer stream took its place.
"""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

from flopmarket.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from flopmarket.limits import MAX_REASON_CHARACTERS, SESSION_HELLO_SECONDS
from flopmarket.trust.keys import KeyRole
from flopmarket.v1 import worker_pb2, worker_pb2_grpc
from flopmarket.wire import envelope_from_proto
from flopmarket_coordinator.application.beating import Beat
from flopmarket_coordinator.application.types_accounts import Session as Caller
from flopmarket_coordinator.application.types_working import LeaseRevoked, SegmentCommit, TimeReport
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.rpc import convert, convert_disputes, convert_steps
from flopmarket_coordinator.rpc.heartbeats import Heartbeats
from flopmarket_coordinator.rpc.interceptors import caller
from flopmarket_coordinator.rpc.rates import RateLimiter
from flopmarket_coordinator.rpc.session_hub import Connection

_log = logging.getLogger(__name__)

_SETTLE_SECONDS = 1.0


class WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    """``messages`` limits what one key sends."""

    def __init__(self, backend: Backend, messages: RateLimiter) -> None:
        self._backend = backend
        self._heartbeats = Heartbeats(backend)
        self._messages = messages

    async def Session(  # type: ignore[override]  # writes to the context, yields nothing
        self, request_iterator: AsyncIterator[worker_pb2.SessionRequest], context: Any
    ) -> None:
        session, backend = caller(), self._backend
        if session.role is not KeyRole.DEVICE:
            raise Forbidden(
                f"a worker's session takes a device key, not an {session.role} key",
                code="ROLE_MISMATCH",
                hint="grant a device key and open a session with it",
            )
        if backend.hub.draining:
            raise Unavailable("the coordinator is going down", code="DRAINING")
        hello = await _hello(request_iterator)
        answers_for = await backend.query(
            lambda tx: backend.application.answers_for(tx, session.key_id)
        )
        address = address_of(context.peer())
        connection = backend.hub.connect(session.key_id, address, answers_for)
        backend.desk.gone(session.key_id)  # an older stream's challenges are void
        try:
            greeting = await self._greet(session, hello, connection)
            await self._exchange(session, connection, greeting, request_iterator, context)
        finally:
            if backend.hub.disconnect(connection):
                backend.desk.gone(session.key_id)
                await asyncio.shield(self._gone(session))

    async def _gone(self, session: Caller) -> None:
        """Take the worker's offers off the market; its silence would do the same a little later."""
        application = self._backend.application
        try:
            await self._backend.command(lambda tx: application.worker_gone(tx, session))
        except Exception:  # must not hide why the stream ended
            _log.warning("key %s is gone, and that is not recorded", session.key_id, exc_info=True)

    async def _greet(
        self, session: Caller, hello: worker_pb2.Hello, connection: Connection
    ) -> list[worker_pb2.SessionResponse]:
        """Welcome and refusals, to be written first; repeated instructions go to the queue."""
        parsed, application = convert.hello_of(hello), self._backend.application
        welcome = await self._backend.command(
            lambda tx: application.worker_hello(tx, session, parsed)
        )
        for instruction in welcome.again:
            connection.instruct(instruction)
        refused = [convert.offer_refused(item) for item in welcome.refused]
        questions = await self._backend.query(
            lambda tx: application.dispute_questions(tx, session.key_id)
        )
        return [convert.welcome(welcome), *refused, *map(convert_disputes.asked, questions)]

    async def _exchange(
        self,
        session: Caller,
        connection: Connection,
        greeting: list[worker_pb2.SessionResponse],
        requests: AsyncIterator[worker_pb2.SessionRequest],
        context: Any,
    ) -> None:
        """Read and write until either side ends the stream or the connection is dropped."""
        writer = _Writer(context)
        valid_us = session.expires_at_us - self._backend.clock_us()
        # A stream ends with the session that opened it: a key that was revoked cannot come back.
        expiry = asyncio.get_running_loop().call_later(
            valid_us / 1_000_000,
            connection.finish,
            worker_pb2.SessionResponse(drain=worker_pb2.Drain(reconnect_after_ms=0)),
        )
        tasks = [
            asyncio.create_task(self._read(session, connection, requests)),
            asyncio.create_task(writer.run(connection, greeting)),
            asyncio.create_task(connection.closed.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            expiry.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await writer.settle()
        if connection.failure is not None:
            raise connection.failure
        for task in done:
            task.result()

    async def _read(
        self,
        session: Caller,
        connection: Connection,
        requests: AsyncIterator[worker_pb2.SessionRequest],
    ) -> None:
        async for request in requests:
            while (wait := self._messages.wait_seconds(session.key_id, 1.0)) > 0:
                await asyncio.sleep(wait)
            await self._handle(session, connection, request)

    async def _handle(
        self, session: Caller, connection: Connection, request: worker_pb2.SessionRequest
    ) -> None:
        """One message. What it raises ends the stream: the worker reconnects with what it holds."""
        match request.WhichOneof("message"):
            case "heartbeat":
                await self._heartbeat(session, connection, request.heartbeat)
            case "lease_accepted":
                await self._lease_accepted(session, connection, request.lease_accepted)
            case "lease_released":
                await self._lease_released(session, request.lease_released)
            case "segment_committed":
                await self._segment_committed(session, connection, request.segment_committed)
            case "offer_changed":
                await self._offer_changed(session, connection, request.offer_changed)
            case "segment_opened":
                await self._segment_opened(session, request.segment_opened)
            case "dispute_moved":
                await self._dispute_moved(session, request.dispute_moved)
            case "steps_answered":
                await self._steps_answered(session, request.steps_answered)
            case "benchmark_stage":
                now_us = self._backend.clock_us()
                self._backend.desk.stage(session.key_id, request.benchmark_stage, now_us)
            case "benchmark_opening":
                now_us = self._backend.clock_us()
                self._backend.desk.opening(session.key_id, request.benchmark_opening, now_us)
            case "hello":
                raise InvalidInput("a second hello on one stream", code="SESSION_HELLO_TWICE")
            case _:
                raise InvalidInput(
                    "an empty message, or one of a newer protocol", code="SESSION_MESSAGE_UNKNOWN"
                )

    async def _heartbeat(
        self, session: Caller, connection: Connection, message: worker_pb2.Heartbeat
    ) -> None:
        backend = self._backend
        held, progress = convert.held_of(message.held), convert.progress_of(message.progress)
        answer = await self._heartbeats.beat(Beat(session, held, progress))
        for report in answer.progress:
            backend.board.publish(report)
        if answer.progress:
            backend.changed.notify()
        for lost in answer.lost:
            connection.instruct(lost)

    async def _lease_accepted(
        self, session: Caller, connection: Connection, message: worker_pb2.LeaseAccepted
    ) -> None:
        """A lease that was lost meanwhile is revoked; the other leases of the stream go on."""
        backend, acceptance = self._backend, envelope_from_proto(message.acceptance)
        try:
            await backend.command(
                lambda tx: backend.application.lease_accepted(tx, session, acceptance)
            )
        except (Conflict, NotFound) as error:
            lease_id, fence = error.details.get("lease_id", ""), error.details.get("fence", "0")
            if not lease_id:
                raise
            connection.instruct(
                LeaseRevoked(
                    session.key_id,
                    lease_id,
                    int(fence) if fence.isdecimal() else 0,
                    error.code,
                    error.message,
                )
            )

    async def _lease_released(self, session: Caller, message: worker_pb2.LeaseReleased) -> None:
        application = self._backend.application
        lease_id = convert.text_of(message.lease_id, "lease_id")
        reason = convert.text_of(message.reason, "reason")
        detail = message.detail[:MAX_REASON_CHARACTERS]
        try:
            await self._backend.command(
                lambda tx: application.lease_released(
                    tx, session, lease_id, message.fence, reason, detail
                )
            )
        except (Conflict, NotFound) as error:
            # The worker lets go of what it no longer has: both sides agree already.
            _log.info("release of lease %s by key %s: %s", lease_id, session.key_id, error)

    async def _segment_committed(
        self, session: Caller, connection: Connection, message: worker_pb2.SegmentCommitted
    ) -> None:
        application = self._backend.application
        commit = SegmentCommit(
            commitment=envelope_from_proto(message.commitment),
            outputs_artifact=convert.text_of(message.outputs_artifact, "outputs_artifact"),
            checkpoint_artifact=convert.text_of(message.checkpoint_artifact, "checkpoint_artifact"),
            times=TimeReport(message.run_us, message.build_us, message.transfer_us),
        )
        answer = await self._backend.command(
            lambda tx: application.segment_committed(tx, session, commit)
        )
        connection.send(convert.commitment_answer(answer))

    async def _offer_changed(
        self, session: Caller, connection: Connection, message: worker_pb2.OfferChanged
    ) -> None:
        application = self._backend.application
        if message.withdrawn:
            device_id = convert.text_of(message.device_id, "device_id")
            await self._backend.command(
                lambda tx: application.offer_withdrawn(tx, session, device_id)
            )
            return
        offer = envelope_from_proto(message.offer)
        refused = await self._backend.command(
            lambda tx: application.offer_changed(tx, session, offer)
        )
        if refused is not None:
            connection.send(convert.offer_refused(refused))

    async def _segment_opened(self, session: Caller, message: worker_pb2.SegmentOpened) -> None:
        """An opening that nobody waits for (any more), or a wrong one, changes nothing."""
        application, opening = self._backend.application, convert.opening_of(message)
        try:
            await self._backend.command(lambda tx: application.segment_opened(tx, session, opening))
        except (Conflict, NotFound) as error:
            _log.info("opening by key %s: %s", session.key_id, error)

    async def _steps_answered(self, session: Caller, message: worker_pb2.StepsAnswered) -> None:
        """An answer that nobody waits for (any more), or one about something else, changes
        nothing."""
        application, said = self._backend.application, convert_steps.answered(message)
        try:
            await self._backend.command(lambda tx: application.steps_answered(tx, session, said))
        except (Conflict, InvalidInput, NotFound) as error:
            _log.warning("answer about steps by key %s: %s", session.key_id, error)

    async def _dispute_moved(self, session: Caller, message: worker_pb2.DisputeMoved) -> None:
        application, move = self._backend.application, convert_disputes.move_of(message)
        await self._backend.command(lambda tx: application.dispute_moved(tx, session, move))


def address_of(peer: str) -> str:
    """The IP address in gRPC's name of a peer (``ipv4:10.0.0.7:41532``); empty for other names."""
    kind, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    return host if kind in ("ipv4", "ipv6") else ""


async def _hello(requests: AsyncIterator[worker_pb2.SessionRequest]) -> worker_pb2.Hello:
    try:
        async with asyncio.timeout(SESSION_HELLO_SECONDS):
            first = await anext(requests, None)
    except TimeoutError as error:
        raise InvalidInput(
            f"no hello within {SESSION_HELLO_SECONDS} s", code="SESSION_HELLO_MISSING"
        ) from error
    if first is None or first.WhichOneof("message") != "hello":
        raise InvalidInput("a worker's first message is hello", code="SESSION_HELLO_MISSING")
    return first.hello


class _Writer:
    """Writes to one stream, and knows whether a write is under way.

    gRPC cannot end a call with a status while a write of it is pending, and cancelling the write's
    task does not take it back: so a write is never cancelled, but waited for.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._pending: asyncio.Task[None] | None = None

    async def run(self, connection: Connection, greeting: list[worker_pb2.SessionResponse]) -> None:
        """Write the greeting, then what is queued, until the end mark."""
        for message in greeting:
            await self._write(message)
        while (queued := await connection.next()) is not None:
            await self._write(queued)

    async def settle(self) -> None:
        """Wait for a pending write. A peer that does not read at all is not waited for longer."""
        if self._pending is not None and not self._pending.done():
            await asyncio.wait({self._pending}, timeout=_SETTLE_SECONDS)
            self._pending.cancel()

    async def _write(self, message: worker_pb2.SessionResponse) -> None:
        self._pending = asyncio.create_task(self._context.write(message))
        await asyncio.shield(self._pending)
