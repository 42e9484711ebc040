"""The work of one lease: fetching, checking, running, uploading, cleaning up.

Carries out the machine's instructions for one lease and answers each with an event. Compute calls
come one at a time; uploads run beside them, in the order of their segments, and go on trying while
the coordinator is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from flopmarket.errors import FlopmarketError
from flopmarket.jobs.host import SegmentDone, StepDone
from flopmarket.limits import MAX_BUNDLE_BYTES
from flopmarket_worker.backoff import Backoff, Jitter, persistently
from flopmarket_worker.checksum_lists import ChecksumLists
from flopmarket_worker.core import events
from flopmarket_worker.core.events import (
    Event,
    LeaseKey,
    ReleaseReason,
    ResumePoint,
    Run,
    SegmentRecord,
    Times,
    UploadedFiles,
)
from flopmarket_worker.executor import ExecutorFailed, JobExecutor, JobUnfit
from flopmarket_worker.journal import LeaseFolder
from flopmarket_worker.lease_offer import LeaseOffer
from flopmarket_worker.root_odds import roots_asked_ppm
from flopmarket_worker.transfers import Transfers

OnProgress = Callable[[LeaseKey, int, Mapping[str, float]], None]


class LeaseWork:
    """One lease on one device."""

    def __init__(
        self,
        offer: LeaseOffer,
        folder: LeaseFolder,
        executor: JobExecutor,
        transfers: Transfers,
        jitter: Jitter,
        lists: ChecksumLists,
    ) -> None:
        self.offer = offer
        self.folder = folder
        self._executor = executor
        self._transfers = transfers
        self._jitter = jitter
        self._lists = lists
        self._roots_ppm = roots_asked_ppm(offer.challenge, offer.spec.mode)
        self._fetching: asyncio.Task[Path | None] | None = None
        self._abandoned = False
        self._closed = False
        self._uploads = asyncio.Lock()
        self._upload_tasks: set[asyncio.Task[UploadedFiles]] = set()
        self._newest_state: int | None = None
        self._noted: set[int] = set()
        self._journal = asyncio.Lock()
        self._setup = Times()  # spent before a segment and not reported yet

    @property
    def key(self) -> LeaseKey:
        """Which lease."""
        return self.offer.terms.key

    def recover(self, computed: Sequence[SegmentRecord]) -> None:
        """Go on with what an earlier run wrote down."""
        self._noted.update(record.index for record in computed)
        self._newest_state = max((r.index for r in computed if r.has_state), default=None)

    async def prepare(self, start: ResumePoint) -> Event:
        """Fetch, open, load, compare the root."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            state = await self._fetched(start)
            fetched = clock()
            if self._abandoned:
                return self._unprepared(ReleaseReason.PREEMPTED, "abandoned while it was fetched")
            root = await self._executor.prepare(
                self.folder.job, self.offer.spec_bytes, state, start.step
            )
        except ExecutorFailed as error:
            return events.ExecutorDied(self.key, str(error))
        except JobUnfit as error:
            return self._unprepared(error.reason, str(error))
        except (FlopmarketError, OSError) as error:
            return self._unprepared(ReleaseReason.DECLINED, str(error))
        if root != start.state_root:
            return self._unprepared(
                ReleaseReason.DECLINED,
                f"the state at step {start.step} has root {root.hex()}, "
                f"{start.state_root.hex()} is expected [STATE_ROOT_MISMATCH]",
            )
        self._setup = Times(
            build_us=_microseconds(clock() - fetched), transfer_us=_microseconds(fetched - began)
        )
        return events.Prepared(self.key, state.stat().st_size if state else 0)

    def abandon(self) -> None:
        """Stop fetching."""
        self._abandoned = True
        if self._fetching is not None:
            self._fetching.cancel()

    async def run(self, instruction: Run, on_progress: OnProgress) -> Event:
        """Run one segment."""
        index = instruction.segment_index
        done: SegmentDone | None = None
        try:
            async for event in self._executor.run(
                instruction.first_step,
                instruction.count,
                outputs_path=self.folder.outputs(index),
                state_path=self.folder.state(index) if instruction.keep_state else None,
                roots_ppm=self._roots_ppm,
            ):
                if isinstance(event, StepDone):
                    on_progress(self.key, event.step, event.scalars)
                else:
                    done = event
        except JobUnfit as error:
            return events.JobFailed(self.key, error.reason, str(error))
        except FlopmarketError as error:
            return events.ExecutorDied(self.key, str(error))
        if done is None:
            return events.ExecutorDied(self.key, "the engine ended a segment without a result")
        return self._ran(done)

    async def interrupt(self) -> None:
        """End the running segment at the next step boundary."""
        await self._executor.interrupt()

    def _ran(self, done: SegmentDone) -> Event:
        setup, self._setup = self._setup, Times()
        return events.SegmentRan(
            self.key,
            done.first_step,
            done.steps_done,
            done.state_root_before,
            done.state_root_after,
            done.outputs_root,
            done.inner,
            replace(setup, run_us=done.run_us),
        )

    async def upload(self, segment: SegmentRecord) -> Event | None:
        """Store a segment's files with the coordinator; None when the lease ended meanwhile."""
        if segment.has_state:
            self._newest_state = max(segment.index, self._newest_state or 0)
        task = asyncio.create_task(self._upload_in_turn(segment))
        self._upload_tasks.add(task)
        try:
            files = await task
        except asyncio.CancelledError:
            if not self._closed:
                task.cancel()
                raise
            return None
        except (FlopmarketError, OSError) as error:
            if self._closed:
                return None
            return events.UploadFailed(self.key, segment.index, str(error))
        finally:
            self._upload_tasks.discard(task)
        return events.Uploaded(self.key, segment.index, files)

    def note_answered(self, index: int) -> None:
        """Write down that the coordinator accepted a commitment of this lease."""
        if index in self._noted and not self._closed:
            self.folder.note_answered(index)

    async def close(self) -> Event:
        """Wipe the device, stop uploads, delete the folder."""
        self._closed = True
        for task in list(self._upload_tasks):
            task.cancel()
        await self._executor.close_job()
        await asyncio.to_thread(self.folder.delete)
        return events.Closed(self.key)

    # ------------------------------------------------------------ parts

    async def _fetched(self, start: ResumePoint) -> Path | None:
        """Fetch the job's files; the path of the state to load, None for a stateless program."""
        if self._abandoned:
            return None
        self._fetching = asyncio.create_task(self._fetch(start))
        try:
            return await self._fetching
        except asyncio.CancelledError:
            if not self._abandoned:
                self._fetching.cancel()
                raise
            return None
        finally:
            self._fetching = None

    async def _fetch(self, start: ResumePoint) -> Path | None:
        offer, transfers, lease_id = self.offer, self._transfers, self.key.lease_id
        for artifact, name, max_bytes in offer.files:
            target = self.folder.job / name
            fetch = partial(transfers.fetch, artifact, lease_id, target, max_bytes=max_bytes)
            await persistently(fetch, Backoff(self._jitter).pauses())
        if offer.terms.stateless:
            return None
        if start.segment_index is not None:
            return self.folder.state(start.segment_index)
        state = self.folder.start_state
        if not state.exists():
            # States are seen once and belong to nobody but the job: they stay out of the cache.
            download = partial(
                transfers.download,
                offer.state_artifact,
                lease_id,
                state,
                max_bytes=MAX_BUNDLE_BYTES,
            )
            await persistently(download, Backoff(self._jitter).pauses())
        return state

    async def _upload_in_turn(self, segment: SegmentRecord) -> UploadedFiles:
        async with self._journal:
            if segment.index not in self._noted:
                await asyncio.to_thread(self.folder.note_computed, segment)
                lease_id, index = self.key.lease_id, segment.index
                self._lists.keep(lease_id, index, self.folder.checksums(index))
                self._lists.keep_roots(lease_id, index, self.folder.roots(index))
                self._noted.add(segment.index)
        async with self._uploads:
            outputs = await self._upload_one(self.folder.outputs(segment.index))
            checkpoint = ""
            if segment.upload_state:
                checkpoint = await self._upload_one(self.folder.state(segment.index))
            files = UploadedFiles(outputs, checkpoint)
            async with self._journal:
                await asyncio.to_thread(self.folder.note_uploaded, segment.index, files)
            self.folder.forget_files(segment.index, self._newest_state)
            return files

    async def _upload_one(self, path: Path) -> str:
        upload = partial(self._transfers.upload, path, self.key.lease_id)
        return await persistently(upload, Backoff(self._jitter).pauses())

    def _unprepared(self, reason: ReleaseReason, detail: str) -> Event:
        return events.JobFailed(self.key, reason, detail)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
