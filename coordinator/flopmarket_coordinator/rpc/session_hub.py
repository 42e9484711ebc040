"""Live streams of this process: one a device key for instructions, any number a job for watchers.

Nothing here is a record. A lease lives in the store and is offered again when its worker comes
back, so a stream may be dropped at any time; it is dropped when its peer reads too slowly.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from flopmarket.errors import Conflict, FlopmarketError, QuotaExceeded
from flopmarket.limits import MAX_SESSION_QUEUE_MESSAGES, MAX_WATCH_EVENTS
from flopmarket.v1 import worker_pb2
from flopmarket_coordinator.application.types_working import (
    Instruction,
    JobProgress,
    LeaseOffered,
    LeaseRevoked,
    OpeningAsked,
    StepsAsked,
)
from flopmarket_coordinator.rpc import convert


class Connection:
    """The outgoing half of one worker's stream."""

    def __init__(self, key_id: str, address: str = "") -> None:
        self.key_id = key_id
        self.address = address
        """IP address that the worker connects from, or empty."""
        self.closed = asyncio.Event()
        """Set when the stream must end: at once, or after what is queued when it is draining."""
        self.failure: FlopmarketError | None = None
        self._queue: asyncio.Queue[worker_pb2.SessionResponse | None] = asyncio.Queue(
            MAX_SESSION_QUEUE_MESSAGES
        )
        self._offered: set[tuple[str, int]] = set()

    def send(self, message: worker_pb2.SessionResponse) -> None:
        """Queue a message. A full queue drops the connection, never the message alone."""
        self._put(message)

    def instruct(self, instruction: Instruction) -> None:
        """Queue an instruction; an offer that went out on this stream already is not repeated."""
        match instruction:
            case LeaseOffered(lease_id=lease_id, fence=fence):
                if (lease_id, fence) in self._offered:
                    return
                self._offered.add((lease_id, fence))
            case LeaseRevoked(lease_id=lease_id, fence=fence):
                self._offered.discard((lease_id, fence))
        self._put(convert.instruction(instruction))

    def finish(self, last: worker_pb2.SessionResponse) -> None:
        """End the stream in good order after ``last``."""
        self._put(last)
        self._put(None)

    def drop(self, failure: FlopmarketError) -> None:
        """End the stream at once with an error."""
        if not self.closed.is_set():
            self.failure = failure
            self.closed.set()

    async def next(self) -> worker_pb2.SessionResponse | None:
        """The next message to write; None at the end."""
        return await self._queue.get()

    def _put(self, message: worker_pb2.SessionResponse | None) -> None:
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.drop(
                QuotaExceeded(
                    f"{MAX_SESSION_QUEUE_MESSAGES} messages wait for this worker, their limit",
                    code="SESSION_TOO_SLOW",
                    retryable=True,
                    hint="connect again; leases are kept",
                    details={"limit": str(MAX_SESSION_QUEUE_MESSAGES)},
                )
            )


class SessionHub:
    """Which device keys are connected here. ``draining`` is set once the coordinator goes down."""

    def __init__(self) -> None:
        self.draining = False
        self._connections: dict[str, Connection] = {}
        self._answering: dict[str, Connection] = {}
        """By keys whose place another key took: the stream of that one."""

    def __len__(self) -> int:
        return len(self._connections)

    def connect(
        self, key_id: str, address: str = "", answers_for: Iterable[str] = ()
    ) -> Connection:
        """A new stream of a device key; an older one of the same key ends.

        What is asked of the keys in ``answers_for`` comes here while they have no stream.
        """
        older = self._connections.get(key_id)
        if older is not None:
            older.drop(
                Conflict(
                    "another connection was opened with this device key", code="SESSION_SUPERSEDED"
                )
            )
        connection = self._connections[key_id] = Connection(key_id, address)
        self._answering |= {each: connection for each in answers_for if each != key_id}
        return connection

    def disconnect(self, connection: Connection) -> bool:
        """Forget a stream; False when a newer one of the same key took its place."""
        for each in [key for key, other in self._answering.items() if other is connection]:
            del self._answering[each]
        if self._connections.get(connection.key_id) is not connection:
            return False
        del self._connections[connection.key_id]
        return True

    def send(self, key_id: str, message: worker_pb2.SessionResponse) -> bool:
        """Queue a message that is no record, such as one of a challenge; False without a stream."""
        connection = self._connections.get(key_id)
        if connection is not None:
            connection.send(message)
        return connection is not None

    def addresses(self) -> dict[str, str]:
        """Where connected workers are, by key; those whose address is unknown are left out."""
        return {name: item.address for name, item in self._connections.items() if item.address}

    def instruct(self, instruction: Instruction) -> None:
        """Pass an instruction on; without a stream it waits in the store for the next hello.

        Openings and steps are asked of whoever holds the key's place now; leases are the key's
        alone.
        """
        connection = self._connections.get(instruction.device_key_id)
        if connection is None and isinstance(instruction, OpeningAsked | StepsAsked):
            connection = self._answering.get(instruction.device_key_id)
        if connection is not None:
            connection.instruct(instruction)

    def tell(self, key_id: str, message: worker_pb2.SessionResponse) -> bool:
        """Pass a message to the stream of a key, or of the one that took its place; False when
        there is none now."""
        connection = self._connections.get(key_id) or self._answering.get(key_id)
        if connection is not None:
            connection.send(message)
        return connection is not None

    def drop_keys(self, key_ids: Iterable[str], failure: FlopmarketError) -> None:
        """End the streams of these keys with an error."""
        for key_id in key_ids:
            connection = self._connections.get(key_id)
            if connection is not None:
                connection.drop(failure)

    def recall(self, key_id: str) -> None:
        """Let the worker with this key come again at once: something of it changed."""
        connection = self._connections.get(key_id)
        if connection is not None:
            drain = worker_pb2.Drain(reconnect_after_ms=0)
            connection.finish(worker_pb2.SessionResponse(drain=drain))

    def drain(self, reconnect_after_ms: Callable[[], int]) -> None:
        """Tell each worker to come back after a delay of its own, and end its stream."""
        self.draining = True
        for connection in list(self._connections.values()):
            drain = worker_pb2.Drain(reconnect_after_ms=reconnect_after_ms())
            connection.finish(worker_pb2.SessionResponse(drain=drain))


class Signal:
    """Something changed: wakes everybody who waits; a change between look and wait counts."""

    def __init__(self) -> None:
        self.version = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Wake all waiters."""
        self.version += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_past(self, version: int, timeout_seconds: float) -> bool:
        """True once the version differs from ``version``, False when the time is over."""
        if self.version != version:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_seconds):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True


class ProgressBoard:
    """Progress of running jobs on its way to watchers: newest first kept, never stored."""

    def __init__(self) -> None:
        self._watchers: dict[str, list[deque[JobProgress]]] = {}

    def publish(self, progress: JobProgress) -> None:
        """Give progress to everybody who watches the job."""
        for queue in self._watchers.get(progress.job_id, ()):
            queue.append(progress)

    def subscribe(self, job_id: str) -> deque[JobProgress]:
        """A queue that receives the job's progress; the oldest goes when it is full."""
        queue: deque[JobProgress] = deque(maxlen=MAX_WATCH_EVENTS)
        self._watchers.setdefault(job_id, []).append(queue)
        return queue

    def unsubscribe(self, job_id: str, queue: deque[JobProgress]) -> None:
        """Stop it."""
        # Two empty queues are equal; the one to remove is the very object.
        left = [other for other in self._watchers.get(job_id, ()) if other is not queue]
        if left:
            self._watchers[job_id] = left
        else:
            self._watchers.pop(job_id, None)
