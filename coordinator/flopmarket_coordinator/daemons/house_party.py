"""The house as a party of disputes: its engine runs the segment again and answers what is asked.

One dispute at a time, on an engine of its own beside the auditor's. A failure is logged and tried
again; the house is held to the same deadlines as everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
from pathlib import Path

from flopmarket.errors import FlopmarketError
from flopmarket.jobs.host import Engine, FlipFinder
from flopmarket.jobs.process import DATA_FILE, FROZEN_FILE, PROGRAM_FILE
from flopmarket.jobs.questions import Flip, FlipQuestion, TraceQuestion, TraceStart
from flopmarket.limits import MAX_INLINE_DISPUTE_BYTES
from flopmarket.trust.dispute_documents import Party
from flopmarket.trust.dispute_port import Place
from flopmarket.trust.transcript import payload_digest
from flopmarket_coordinator.application.types_disputes import DisputeAsked, FlipClaim
from flopmarket_coordinator.auditor import StartEngine
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.daemons.referee import chunks_of
from flopmarket_coordinator.store.disputes import DisputeRow

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_FAILURE_PAUSE_SECONDS = 2.0
_LIST_FILE = "list.bin"
_TILE_FILE = "tile.bin"
_STATE_FILE = "state.safetensors"
_KEPT_FILE = "kept.bin"


class HouseParty:
    """``folder`` is its own and holds one job's files."""

    def __init__(self, backend: Backend, folder: Path, start_engine: StartEngine) -> None:
        self._backend = backend
        self._folder = folder
        self._start_engine = start_engine
        self._engine: Engine | None = None
        self._dispute_id = ""
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled; the engine is stopped on the way out."""
        application = self._backend.application
        try:
            while True:
                seen = self._backend.changed.version
                try:
                    asked = await self._backend.query(application.house_questions)
                    if asked:
                        await self._answer(asked[0])
                        continue
                    await self._rest()
                except Exception:  # the boundary of a daemon
                    _log.exception("the house could not answer in a dispute")
                    await self._close()
                    await asyncio.sleep(_FAILURE_PAUSE_SECONDS)
                    continue
                await self._backend.changed.wait_past(seen, _POLL_SECONDS)
        finally:
            await asyncio.shield(self._close())

    async def follows(self, row: DisputeRow, spec: bytes, place: Place, tile: bytes) -> bytes:
        """State root and outputs root, joined, that honest work comes to from a wrong tile."""
        async with self._turn:
            engine = await self._opened(row, spec)
            path = self._folder / _TILE_FILE
            path.write_bytes(tile)
            try:
                return b"".join(await engine.trace_end(place, path))
            except BaseException:
                await self._close()
                raise

    async def find_flips(
        self, row: DisputeRow, spec: bytes, party: Party, kept: bytes, claim: FlipClaim
    ) -> tuple[Flip, ...]:
        """The flips after which honest work comes to all that a party kept and committed to."""
        async with self._turn:
            job = await self._backend.query(
                lambda tx: self._backend.application.dispute_files(tx, row)
            )
            self._dispute_id = ""
            state = await asyncio.to_thread(self._place, job, row.replay_artifact)
            if self._engine is None:
                self._engine = await self._start_engine()
            if not isinstance(self._engine, FlipFinder):
                return ()
            path, opening = self._folder / _KEPT_FILE, row.question
            await asyncio.to_thread(path.write_bytes, kept)
            committed, path_of = opening.claim(party), self._backend.artifacts.path
            asked = FlipQuestion(
                state,
                row.replay_step,
                opening.first_step,
                opening.steps,
                path,
                path_of(claim.checkpoint_artifact) if claim.checkpoint_artifact else None,
                path_of(claim.outputs_artifact) if claim.outputs_artifact else None,
                committed.state_root_after,
                committed.outputs_root,
            )
            try:
                return await self._engine.find_flips(self._folder, spec, asked)
            except BaseException:
                await self._close()
                raise

    async def _answer(self, asked: DisputeAsked) -> None:
        assert asked.level is not None, "what is asked has a level"
        backend = self._backend
        task = await backend.query(
            lambda tx: backend.application.referee_task(tx, asked.dispute_id, whole=False)
        )
        async with self._turn:
            engine = await self._opened(task.row, task.spec)
            path = self._folder / _LIST_FILE
            await engine.trace_answer(TraceQuestion(asked.level, asked.place), path)
            data = await asyncio.to_thread(path.read_bytes)
        artifact, size_bytes, signed = "", len(data), payload_digest(data)
        if size_bytes > MAX_INLINE_DISPUTE_BYTES:
            artifact = hashlib.sha256(data).hexdigest()
            await backend.artifacts.write(artifact, size_bytes, chunks_of(data))
            data = b""
        await backend.command(
            lambda tx: backend.application.house_moved(
                tx, asked, signed, data, artifact, size_bytes
            )
        )

    async def _opened(self, row: DisputeRow, spec: bytes) -> Engine:
        """The engine, with the segment of this dispute open."""
        if self._engine is None:
            self._engine = await self._start_engine()
        if self._dispute_id != row.dispute_id:
            self._dispute_id = ""
            job = await self._backend.query(
                lambda tx: self._backend.application.dispute_files(tx, row)
            )
            state = await asyncio.to_thread(self._place, job, row.replay_artifact)
            start = TraceStart(row.question, state, row.replay_step)
            await self._engine.trace_open(self._folder, spec, start)
            self._dispute_id = row.dispute_id
        return self._engine

    def _place(self, artifacts: tuple[str, str, str], state: str) -> Path | None:
        """Names of stored files in our folder; the path of the state, None without one."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700, parents=True)
        names = (PROGRAM_FILE, FROZEN_FILE, DATA_FILE, _STATE_FILE)
        for name, artifact in zip(names, (*artifacts, state), strict=True):
            if artifact:
                (self._folder / name).symlink_to(self._backend.artifacts.path(artifact).resolve())
        return self._folder / _STATE_FILE if state else None

    async def _rest(self) -> None:
        """Nothing is asked: an engine whose dispute is over is ended."""
        if not self._dispute_id:
            return
        rows = await self._backend.query(self._backend.application.open_disputes)
        if self._dispute_id not in {row.dispute_id for row in rows} and not self._turn.locked():
            await self._close()

    async def _close(self) -> None:
        engine, self._engine, self._dispute_id = self._engine, None, ""
        if engine is not None:
            with contextlib.suppress(FlopmarketError):
                await engine.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
