"""The engine of one device behind a process that may die at any time.

Adapts :class:`flopmarket.jobs.host.Engine` to what the agent needs: a process is started when it is
first wanted and again after a death; every failure is one of two sorts, "this job cannot run here"
(:class:`JobUnfit`) or "this process is no good any more" (:class:`ExecutorFailed`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from flopmarket.errors import FlopmarketError, InvalidInput, Unavailable
from flopmarket.jobs.host import (
    Engine,
    EngineProcessDied,
    JobRefused,
    Provable,
    SegmentDone,
    StepDone,
)
from flopmarket.limits import EXECUTOR_STOP_SECONDS
from flopmarket_worker.core.events import ReleaseReason

EngineStarter = Callable[[], Awaitable[Engine]]
Answer = TypeVar("Answer")


class ExecutorFailed(Unavailable):
    """The engine process died, hung, or failed in a way that a fresh one may not."""

    default_code = "EXECUTOR_FAILED"


class JobUnfit(FlopmarketError):
    """This job cannot run on this device; ``reason`` is what the coordinator is told."""

    default_code = "JOB_UNFIT"

    def __init__(self, message: str, *, code: str, reason: ReleaseReason) -> None:
        super().__init__(message, code=code)
        self.reason = reason


class JobExecutor:
    """One device. One call at a time, except :meth:`interrupt`, :meth:`stop`."""

    def __init__(self, start: EngineStarter) -> None:
        self._start = start
        self._engine: Engine | None = None
        self._running = False
        self._waiting = self._stopping = False  # a segment that waits is asked to end
        self._turn = asyncio.Lock()

    async def engine(self) -> Engine:
        """The live engine, started if there is none."""
        if self._engine is None:
            self._engine = await self._start()
        return self._engine

    async def another(self) -> Engine:
        """A further engine process on the same device, for whoever asks to stop it again."""
        return await self._start()

    @contextlib.asynccontextmanager
    async def segment_pause(self, wait_seconds: float) -> AsyncIterator[bool]:
        """Keep the device from beginning a segment; whether the present one ended in time.

        After ``wait_seconds`` the block runs beside a segment that is still computed.
        """
        try:
            async with asyncio.timeout(wait_seconds):
                await self._turn.acquire()
        except TimeoutError:
            yield False
            return
        try:
            yield True
        finally:
            self._turn.release()

    async def admission(self) -> dict[str, Any]:
        """The device's proof that it computes the profile."""
        return await self._guarded((await self.engine()).admission())

    async def classification(self) -> dict[str, Any]:
        """The class of the device's fast kernels."""
        return await self._guarded((await self.engine()).classification())

    async def benchmark(self) -> dict[str, Any]:
        """Measured rates of the device."""
        return await self._guarded((await self.engine()).benchmark())

    async def prove(self, step: str, document: bytes = b"") -> bytes:
        """One step of a benchmark challenge. Cancelling it ends the process.

        InvalidInput CHALLENGE_UNSUPPORTED from engines without a device of their own.
        """
        engine = await self.engine()
        if not isinstance(engine, Provable):
            raise InvalidInput("this engine answers no challenges", code="CHALLENGE_UNSUPPORTED")
        return await self._guarded(engine.prove(step, document))

    async def prepare(self, folder: Path, spec: bytes, state: Path | None, step: int) -> bytes:
        """Open the job in ``folder`` and load the state after ``step`` steps; returns its root."""

        async def open_and_load(engine: Engine) -> bytes:
            await engine.open(folder, spec)
            return await engine.load_state(state, step)

        try:
            engine = await self.engine()
        except (Unavailable, JobRefused) as error:
            raise ExecutorFailed(error.message, code=error.code) from error
        return await self._guarded(open_and_load(engine))

    async def run(
        self,
        first_step: int,
        count: int,
        *,
        outputs_path: Path,
        state_path: Path | None,
        roots_ppm: int = 0,
    ) -> AsyncIterator[StepDone | SegmentDone]:
        """Events of one segment, as :meth:`Engine.run`; cancelling it ends the process."""
        self._waiting, self._stopping = True, False
        try:
            await self._turn.acquire()
        finally:
            self._waiting = False
        self._running = True
        try:
            events = self._run(first_step, count, outputs_path, state_path, roots_ppm)
            async with contextlib.aclosing(events):
                async for event in events:
                    yield event
        finally:
            self._running = False
            self._turn.release()

    async def _run(
        self,
        first_step: int,
        count: int,
        outputs_path: Path,
        state_path: Path | None,
        roots_ppm: int,
    ) -> AsyncGenerator[StepDone | SegmentDone, None]:
        finished = False
        engine = await self.engine()
        events = engine.run(
            first_step,
            count,
            outputs_path=outputs_path,
            state_path=state_path,
            roots_ppm=roots_ppm,
        )
        try:
            async for event in events:
                finished = isinstance(event, SegmentDone)
                if self._stopping and not finished:
                    self._stopping = False
                    await engine.interrupt()
                yield event
        except FlopmarketError as error:
            await self.discard()
            raise _sorted_out(error) from error
        finally:
            if not finished:
                await self.discard()

    async def interrupt(self) -> None:
        """End the running segment after its present step; nothing when none runs."""
        if self._waiting:
            self._stopping = True  # after its first step
        if self._running and self._engine is not None:
            with contextlib.suppress(EngineProcessDied):
                await self._engine.interrupt()

    async def close_job(self) -> None:
        """Wipe and free the job's device memory. A process that cannot is ended, which frees it."""
        if self._engine is not None:
            with contextlib.suppress(FlopmarketError):
                await self._guarded(self._engine.close_job())

    async def discard(self) -> None:
        """End the process; the next call starts a fresh one."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await _stop(engine)

    async def stop(self) -> None:
        """End the process for good."""
        await self.discard()

    async def _guarded(self, call: Awaitable[Answer]) -> Answer:
        """``call``; a process that failed or was left in the middle of an answer is ended."""
        try:
            return await call
        except JobRefused as error:
            raise _sorted_out(error) from error
        except FlopmarketError as error:
            await self.discard()
            raise _sorted_out(error) from error
        except asyncio.CancelledError:
            await self.discard()
            raise


def _sorted_out(error: FlopmarketError) -> FlopmarketError:
    if "MEMORY" in str(error.code):
        return JobUnfit(error.message, code=error.code, reason=ReleaseReason.OUT_OF_MEMORY)
    if error.retryable or isinstance(error, EngineProcessDied):
        return ExecutorFailed(error.message, code=error.code)
    return JobUnfit(error.message, code=error.code, reason=ReleaseReason.PROGRAM_REFUSED)


async def _stop(engine: Engine) -> None:
    """In good order within a few seconds, else by force."""
    try:
        async with asyncio.timeout(EXECUTOR_STOP_SECONDS):
            await engine.stop()
    except TimeoutError:
        kill = getattr(engine, "kill", None)
        if kill is not None:
            await kill()
    except EngineProcessDied:
        pass
