"""What a simulated device does for a lease: fetches a state, runs steps, uploads files."""

from __future__ import annotations

from typing import Any

from flopmarket.errors import FlopmarketError
from flopmarket.trust.modes import Mode
from flopmarket_worker.core import events
from flopmarket_worker.core.events import LeaseKey, SegmentRecord, UploadedFiles
from flopmarket_worker.lease_offer import LeaseOffer
from tests.sim import arithmetic
from tests.sim.arithmetic import Ran
from tests.sim.device import BACKOFF_US, Device, Folder


class Labour(Device):
    """Work that the session machine asks for, and its ends told to the machine."""

    # --- steps --------------------------------------------------------------------------------

    def _prepare(self, key: LeaseKey, start: events.ResumePoint) -> None:
        folder = self.disk[key]
        if start.segment_index is not None or folder.offer.terms.stateless:
            self._later(
                self.dice.between_us(0.1, 0.6), self._prepared, key, start.state_root, start
            )
            return
        self._fetch(key, start)

    def _fetch(self, key: LeaseKey, start: events.ResumePoint) -> None:
        """The state to start from, again and again while the coordinator does not answer."""
        folder = self.disk[key]
        if folder.abandoned:
            self._unprepared(key, "abandoned")
            return
        artifact, life = folder.offer.state_artifact, self._life
        session = self._session
        if session is None:
            self._later(BACKOFF_US, self._fetch, key, start)
            return

        def done(answer: Any, error: FlopmarketError | None) -> None:
            if life != self._life:
                return
            if error is None:
                root = self.place.shelf.stored[artifact]
                self._later(self.dice.between_us(0.1, 1.0), self._prepared, key, root, start)
            elif error.retryable:
                self._later(BACKOFF_US, self._fetch, key, start)
            else:
                self._unprepared(key, error.code)

        self.link.call(
            lambda tx: self.place.application.artifact_may_read(
                tx, session, artifact, key.lease_id, ""
            ),
            done,
        )

    def _prepared(self, key: LeaseKey, root: bytes, start: events.ResumePoint) -> None:
        if self.disk[key].abandoned:
            self._unprepared(key, "abandoned")
        elif self.dice.chance(self.card.dies):
            self._dispatch(events.ExecutorDied(key, "simulated"))
        elif root != start.state_root:
            self._unprepared(key, "STATE_ROOT_MISMATCH")
        else:
            self._dispatch(events.Prepared(key, 64))

    def _unprepared(self, key: LeaseKey, detail: str) -> None:
        self._dispatch(events.JobFailed(key, events.ReleaseReason.DECLINED, detail))

    def _run(self, run: events.Run) -> None:
        folder = self.disk[run.key]
        folder.interrupted = False
        if self.drops():
            # Half of the segment was for nothing.
            self._later(self.card.step_us * run.count // 2, self.drop, run)
            return
        self._step(run, 0)

    def drop(self, run: events.Run) -> None:
        """Its owner is back: the lease ends, honestly."""
        self.trace.tell(f"{self.name} drops a session")
        self._dispatch(
            events.JobFailed(run.key, events.ReleaseReason.PREEMPTED, "the owner is back")
        )

    def _step(self, run: events.Run, done: int) -> None:
        """Steps of a segment, up to the end or an interruption."""
        folder = self.disk[run.key]
        if done == run.count or (done and folder.interrupted):
            self._ran(run, done)
        else:
            # One event for the whole rest unless somebody interrupts: half of it at a time.
            count = max(1, (run.count - done + 1) // 2)
            self._later(self.card.step_us * count, self._step, run, done + count)

    def _ran(self, run: events.Run, steps: int) -> None:
        folder = self.disk[run.key]
        if self.dice.chance(self.card.dies):
            self._dispatch(events.ExecutorDied(run.key, "simulated"))
            return
        before = self.root_before(folder, run.first_step)
        ran = self.compute(folder.offer, before, run.first_step, steps)
        self._dispatch(
            events.SegmentRan(
                run.key,
                run.first_step,
                steps,
                before,
                ran.root_after,
                ran.outputs_root,
                ran.inner,
                events.Times(run_us=self.card.step_us * steps),
            )
        )

    def root_before(self, folder: Folder, first_step: int) -> bytes:
        """Root of the state in which this lease is after ``first_step`` steps of the job."""
        for record in folder.computed:
            if record.end_step == first_step:
                return record.state_root_after
        return folder.offer.terms.state_root

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """The work."""
        return arithmetic.run(offer.job_id, before, first_step, steps, self.bits(offer))

    def bits(self, offer: LeaseOffer) -> str:
        """Whose bits a job asks of this device: those of its kind, or the exact ones."""
        return self.card.kind if offer.spec.mode is Mode.CLASS else ""

    def files(self, folder: Folder, segment: SegmentRecord) -> tuple[bytes, bytes]:
        """Bytes of the outputs and of the state, as they are uploaded."""
        return segment.outputs_root, segment.state_root_after

    # --- uploads ------------------------------------------------------------------------------

    def _upload(self, key: LeaseKey, segment: SegmentRecord) -> None:
        folder = self.disk[key]
        if all(record.index != segment.index for record in folder.computed):
            folder.computed.append(segment)
        folder.queue.append(segment)
        if not folder.uploading:
            self._upload_next(key)

    def _upload_next(self, key: LeaseKey) -> None:
        folder = self.disk.get(key)
        if folder is None or folder.closed or not folder.queue:
            return
        folder.uploading = True
        segment = folder.queue[0]
        first, second = self.files(folder, segment)
        wanted = [first, second] if segment.upload_state else [first]
        session = self._session
        if session is None:
            self._later(BACKOFF_US, self._upload_next, key)
            return
        digests = [self.place.shelf.put(data) for data in wanted]
        life = self._life

        def run(tx: Any) -> None:
            for digest, data in zip(digests, wanted, strict=True):
                self.place.application.artifact_put(tx, session, digest, len(data), key.lease_id)

        def done(answer: Any, error: FlopmarketError | None) -> None:
            if life != self._life or folder.closed or folder is not self.disk.get(key):
                return
            if error is None:
                files = UploadedFiles(digests[0], digests[1] if segment.upload_state else "")
                folder.uploaded[segment.index] = files
                folder.queue.popleft()
                folder.uploading = False
                self._dispatch(events.Uploaded(key, segment.index, files))
                self._upload_next(key)
            elif error.retryable or error.code == "SESSION_UNKNOWN":
                self._later(BACKOFF_US, self._upload_next, key)
            else:
                folder.uploading = False
                folder.queue.clear()
                self._dispatch(events.UploadFailed(key, segment.index, error.code))

        self.link.call(run, done)

    def _close(self, key: LeaseKey) -> None:
        folder = self.disk.pop(key)
        folder.closed = True
        self._dispatch(events.Closed(key))
