"""One writer, many commands a commit: the heartbeat of the coordinator.

Commands queue up; a writer thread takes up to ``max_commands`` of them, or what came within
``max_wait_seconds``, runs each in its own SAVEPOINT inside one transaction, commits once, and only
then releases the answers. A command that raises is undone and fails alone. Queries run beside the
writer on snapshots. Group commit is what pays for ``synchronous=FULL``.

Observers hear what commands noted on their transaction: each command's changes at once, so that the
next command finds the order book up to date, and all of them again after the commit.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from flopmarket.errors import Unavailable
from flopmarket.limits import MAX_COMMANDS_PER_COMMIT, MAX_QUEUED_COMMANDS
from flopmarket_coordinator.core.changes import Change
from flopmarket_coordinator.store.engine import Transaction, read, write

_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

MAX_WAIT_SECONDS = 0.005
READER_THREADS = 2


class Observer(Protocol):
    """Follows what the store holds. Called on the writer thread, except for the first ``reset``."""

    def applied(self, tx: Transaction, changes: Sequence[Change]) -> None:
        """A command succeeded inside ``tx``, which is not committed yet. Reads, writes nothing.

        An error fails the whole batch.
        """
        ...

    def committed(self, changes: Sequence[Change], now_us: int) -> None:
        """Everything that the commands of one batch noted is durable. Must not wait.

        Callers get their answers afterwards. An error is logged and changes nothing.
        """
        ...

    def reset(self, tx: Transaction) -> None:
        """Forget everything and read the store anew: at the start, and after a failed commit."""
        ...


@dataclass(slots=True)
class _Command:
    run: Callable[[Transaction], Any]
    done: Future[Any] = field(default_factory=Future)
    answer: Any = None
    error: BaseException | None = None


class Tick:
    """Runs use cases against one database. Start it, submit, stop it.

    ``clock_us`` gives microseconds since the Unix epoch, once per transaction: all commands of a
    batch happen at the same instant.
    """

    def __init__(
        self,
        engine: sa.Engine,
        clock_us: Callable[[], int],
        *,
        observers: Sequence[Observer] = (),
        max_commands: int = MAX_COMMANDS_PER_COMMIT,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        max_queued: int = MAX_QUEUED_COMMANDS,
    ) -> None:
        self._engine = engine
        self._clock_us = clock_us
        self._observers = tuple(observers)
        self._stale = False  # observers saw a batch that was not committed
        self._max_commands = max_commands
        self._max_wait_seconds = max_wait_seconds
        self._queue: queue.Queue[_Command | None] = queue.Queue(max_queued)
        self._writer: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._accepting = False
        self._gate = threading.Lock()  # nothing enters the queue behind the stop mark

    async def start(self) -> None:
        """Let observers read the store, then begin to take commands."""
        if self._writer is not None:
            raise Unavailable("this tick runs already", code="TICK_RUNNING", retryable=False)
        await asyncio.to_thread(self._reset)
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="store-reader")
        self._writer = threading.Thread(target=self._write_forever, name="store-writer")
        self._accepting = True
        self._writer.start()

    async def stop(self) -> None:
        """Finish what is queued, then end; later commands are refused."""
        with self._gate:
            was_accepting, self._accepting = self._accepting, False
        if not was_accepting or self._writer is None or self._readers is None:
            return
        await asyncio.to_thread(self._queue.put, None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        self._writer = self._readers = None

    async def submit(self, command: Callable[[Transaction], Answer]) -> Answer:
        """Run a command; its answer comes after the commit that made it last.

        Raises what the command raised, or :class:`Unavailable`: ``STORE_BUSY`` when the queue is
        full, ``STORE_STOPPED``, ``STORE_FAILED`` when the commit itself failed (then nothing of
        the batch happened).
        """
        entry = _Command(command)
        with self._gate:
            if not self._accepting:
                raise Unavailable("the coordinator is stopping", code="STORE_STOPPED")
            try:
                self._queue.put_nowait(entry)
            except queue.Full:
                raise Unavailable(
                    f"{self._queue.maxsize} commands wait already", code="STORE_BUSY"
                ) from None
        # A caller that gives up does not undo the command: it may be in a batch already.
        answer: Answer = await asyncio.shield(asyncio.wrap_future(entry.done))
        return answer

    async def read(self, query: Callable[[Transaction], Answer]) -> Answer:
        """Run a query on a snapshot; sees every command that was answered before."""
        if self._readers is None or not self._accepting:
            raise Unavailable("the coordinator is stopping", code="STORE_STOPPED")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._run_query, query)

    def _run_query(self, query: Callable[[Transaction], Answer]) -> Answer:
        try:
            with read(self._engine, self._clock_us()) as tx:
                return query(tx)
        except SQLAlchemyError as error:
            raise _failed(error) from error

    def _write_forever(self) -> None:
        while True:
            batch, stopping = self._next_batch()
            if batch:
                self._commit(batch)
            if stopping:
                return

    def _next_batch(self) -> tuple[list[_Command], bool]:
        """Wait for a command, then for company, but not for long."""
        first = self._queue.get()
        if first is None:
            return [], True
        batch = [first]
        deadline = monotonic() + self._max_wait_seconds
        while len(batch) < self._max_commands:
            try:
                left = deadline - monotonic()
                entry = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if entry is None:
                return batch, True
            batch.append(entry)
        return batch, False

    def _commit(self, batch: list[_Command]) -> None:
        try:
            if self._stale:
                self._reset()
            with write(self._engine, self._clock_us()) as tx:
                for entry in batch:
                    self._run(tx, entry)
        except Exception as error:  # the boundary of the writer thread: it must outlive any failure
            self._stale = True
            self._try_reset()
            failure = _failed(error)
            for entry in batch:
                entry.done.set_exception(entry.error or failure)
            return
        if tx.changes:
            self._tell(tuple(tx.changes), tx.now_us)
        for entry in batch:
            if entry.error is not None:
                entry.done.set_exception(entry.error)
            else:
                entry.done.set_result(entry.answer)

    def _run(self, tx: Transaction, entry: _Command) -> None:
        """One command in its own SAVEPOINT; a failure stays with the command."""
        before = len(tx.changes)
        try:
            with tx.connection.begin_nested():
                entry.answer = entry.run(tx)
        except SQLAlchemyError as error:
            entry.error = _failed(error)
            entry.error.__cause__ = error
        except Exception as error:  # whatever a command raises is the caller's to hear
            entry.error = error
        if entry.error is not None:
            del tx.changes[before:]
        elif changes := tuple(tx.changes[before:]):
            for observer in self._observers:
                observer.applied(tx, changes)

    def _tell(self, changes: Sequence[Change], now_us: int) -> None:
        for observer in self._observers:
            try:
                observer.committed(changes, now_us)
            except Exception:  # an observer's trouble is no reason to hold answers back
                _log.exception("an observer failed after a commit")

    def _try_reset(self) -> None:
        """Forget what was not committed. Should that fail too, the next batch tries again."""
        try:
            self._reset()
        except Exception:  # the store is in trouble; the next batch will hear of it
            _log.exception("observers could not read the store anew")

    def _reset(self) -> None:
        """Observers read what is committed; from then on they follow changes."""
        with read(self._engine, self._clock_us()) as tx:
            for observer in self._observers:
                observer.reset(tx)
        self._stale = False


def _failed(error: Exception) -> Unavailable:
    return Unavailable(
        f"the store refused: {type(error).__name__}: {str(error)[:300]}", code="STORE_FAILED"
    )
