"""A simulated worker: the real session machine in a shell on virtual time.

The shell does what the agent does: it keeps a journal that survives a crash, uploads in turn, signs
with its own clock, reconnects. What a device computes is pretended (:mod:`tests.sim.arithmetic`);
bots override the methods that say what is computed, uploaded, signed and sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from flopmarket.engine.exact import PROFILE
from flopmarket.errors import FlopmarketError, Forbidden
from flopmarket.limits import WORKER_DOCUMENT_SECONDS
from flopmarket.trust.documents import (
    Commitment,
    LeaseAcceptance,
    OfferTerms,
    Rate,
    SessionRequest,
    WattsSource,
)
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import Envelope, seal
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.sealing import InnerSecret, seal_inner
from flopmarket_coordinator.application.types import (
    HeldLease,
    Hello,
    SegmentCommit,
    SegmentOpening,
    Session,
    TimeReport,
)
from flopmarket_worker.core import events
from flopmarket_worker.core.events import LeaseKey, SegmentRecord, UploadedFiles
from flopmarket_worker.core.session import SessionMachine
from flopmarket_worker.lease_offer import LeaseOffer, key_of, read_offer
from tests.sim import arithmetic
from tests.sim.arithmetic import Ran, named
from tests.sim.broken import Broken
from tests.sim.network import Link, Stream
from tests.sim.place import Place
from tests.sim.schedule import SECOND_US, Dice, Trace

BACKOFF_US = 2 * SECOND_US
RATE = 1_000_000


@dataclass(frozen=True, slots=True)
class Card:
    """One device: its speed, its price, and how unsteady it is (chances for one segment)."""

    step_us: int = SECOND_US
    ask_nano_per_hour: int = 360_000_000
    dies: float = 0.0
    released: float = 0.0


@dataclass(slots=True)
class Folder:
    """What a lease left on disk."""

    offer: LeaseOffer
    message: Any
    computed: list[SegmentRecord] = field(default_factory=list)
    uploaded: dict[int, UploadedFiles] = field(default_factory=dict)
    answered: list[int] = field(default_factory=list)
    abandoned: bool = False
    closed: bool = False
    queue: deque[SegmentRecord] = field(default_factory=deque)
    uploading: bool = False
    interrupted: bool = False


class Worker:
    """One key with one device."""

    honest = True

    def __init__(
        self,
        place: Place,
        link: Link,
        trace: Trace,
        dice: Dice,
        name: str,
        *,
        key: KeyPair,
        account: str,
        card: Card,
    ) -> None:
        self.place = place
        self.link = link
        self.schedule = link.schedule
        self.trace = trace
        self.dice = dice
        self.name = name
        self.key = key
        self.account = account
        self.card = card
        self.device_id = named(f"card {name}").hex()
        self.clock_offset_us = 0
        self.banned = False
        self.sessions_asked = 0
        self.guilty = False
        """Whether it ever did what costs a stake."""
        self.disk: dict[LeaseKey, Folder] = {}
        self.secrets: dict[tuple[str, int], InnerSecret] = {}
        """On disk, too: what commitments hide, by lease and index."""
        self.drops: Callable[[], bool] = _never
        self.machine = SessionMachine(frozenset({self.device_id}))
        self._life = 0
        self._nonces = 0
        self._accepted: set[tuple[str, int]] = set()
        self._stream: Stream | None = None
        self._session: Session | None = None
        self._connecting = False
        self._running = False

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process: take up what is on disk, and connect."""
        self._life += 1
        self._running = True
        self.machine = SessionMachine(frozenset({self.device_id}))
        self._stream, self._connecting = None, False
        for key, folder in list(self.disk.items()):
            if folder.closed:
                del self.disk[key]
                continue
            folder.abandoned = folder.uploading = folder.interrupted = False
            folder.queue.clear()
            answered = tuple(index for index in folder.answered if index in folder.uploaded)
            self._dispatch(
                events.Recovered(
                    folder.offer.terms,
                    tuple(folder.computed),
                    tuple(folder.uploaded.items()),
                    answered,
                )
            )
        self._connect()
        self._beat(self._life)

    def crash(self, away_us: int) -> None:
        """Power is gone for a while; the disk stays."""
        if not self._running:
            return
        self.trace.tell(f"{self.name} crashes for {away_us} us")
        self._running = False
        self._life += 1
        if self._stream is not None:
            self._stream.at_worker = False
            self._stream.break_within(8.0)
            self._stream = None
        self.schedule.after(away_us, self._back)

    def _back(self) -> None:
        if not self._running:
            self.trace.tell(f"{self.name} is back")
            self.start()

    def reform(self) -> None:
        """The quiet phase begins: nothing happens here any more that is not as it should be."""
        self.card = replace(self.card, dies=0.0)
        self.clock_offset_us = 0
        self.drops = _never
        if not self._running:
            self._back()

    def break_stream(self) -> None:
        """The transport fails."""
        if self._stream is not None:
            self._stream.break_within(10.0)

    def _later(self, delay_us: int, run: Callable[..., None], *arguments: Any) -> None:
        """In this life only."""
        self.schedule.after(delay_us, self._if_alive, self._life, run, arguments)

    def _if_alive(self, life: int, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if life == self._life:
            run(*arguments)

    # --- signing ------------------------------------------------------------------------------

    def now_us(self) -> int:
        """This machine's own clock."""
        return self.schedule.now_us + self.clock_offset_us

    def nonce(self) -> bytes:
        """16 bytes that this key never used."""
        self._nonces += 1
        return named(f"nonce {self.name} {self._life} {self._nonces}")[:16]

    def sign(self, body: Document, seconds: int = WORKER_DOCUMENT_SECONDS) -> Envelope:
        """``body`` in an envelope for the coordinator."""
        issued = self.now_us()
        return seal(
            body,
            self.key,
            audience=self.place.key.key_id,
            nonce=self.nonce(),
            issued_at_us=issued,
            expires_at_us=issued + seconds * SECOND_US,
        )

    # --- connection ---------------------------------------------------------------------------

    def _connect(self) -> None:
        if self.banned or self._connecting or not self._running or self._stream is not None:
            return
        self._connecting = True
        self.sessions_asked += 1
        request = self.sign(SessionRequest(self.account, KeyRole.DEVICE, "simulation"), 600)
        life = self._life

        def opened(answer: Any, error: FlopmarketError | None) -> None:
            if life != self._life:
                return
            self._connecting = False
            if error is not None:
                self._connection_failed(error)
            elif self._stream is None:
                self._session = answer.session
                self._stream = Stream(self.link, self.key.key_id, self._hear_in(life))
                self.place.opened(self._stream)
                if self._stream is not None:
                    self._stream.up("hello", (answer.token, self._hello()))

        # The application of the moment when it arrives: the coordinator may have restarted.
        self.link.call(lambda tx: self.place.application.open_session(tx, request), opened)

    def _connection_failed(self, error: FlopmarketError) -> None:
        if isinstance(error, Forbidden) or error.code == "KEY_REVOKED":
            self.banned = True
            self.trace.tell(f"{self.name} is shut out: {error.code}")
            return
        self._later(self.dice.between_us(1.0, 4.0), self._connect)

    def _hello(self) -> Hello:
        return Hello("1.0", (self.sign(self.terms()),), self._held())

    def _held(self) -> tuple[HeldLease, ...]:
        return tuple(HeldLease(key.lease_id, key.fence) for key in self.machine.held)

    def terms(self) -> OfferTerms:
        """What this device offers."""
        return OfferTerms(
            account_id=self.account,
            device_key_id=self.key.key_id,
            device_id=self.device_id,
            device_name=self.name,
            driver="simulated",
            profile=PROFILE,
            memory_bytes=1 << 30,
            max_allocation_bytes=1 << 30,
            region="",
            ask_nano_per_hour=self.card.ask_nano_per_hour,
            rates=(Rate("dot-f32", RATE), Rate("elementwise-f32", RATE)),
            bandwidth_bytes_per_second=1 << 40,
            launch_nanoseconds=1_000,
            step_nanoseconds=self.card.step_us * 1_000,
            build_milliseconds=0,
            download_bytes_per_second=0,
            upload_bytes_per_second=0,
            watts_milli=0,
            watts_source=WattsSource.UNKNOWN,
            card_price_nano=0,
            admission_digest=named("admission"),
        )

    def _beat(self, life: int) -> None:
        if life != self._life:
            return
        if self._stream is not None and self._stream.greeted:
            self.send("heartbeat", self._held())
        period_us = self.place.parameters.heartbeat_ms * 1_000
        self.schedule.after(period_us, self._beat, life)

    def send(self, kind: str, body: Any) -> None:
        """Without a connection nothing is lost: the machine repeats after the next welcome."""
        if self._stream is not None:
            self._stream.up(kind, body)

    def _hear_in(self, life: int) -> Callable[[str, Any], None]:
        def hear(kind: str, body: Any) -> None:
            if life == self._life:
                self.hear(kind, body)

        return hear

    def hear(self, kind: str, body: Any) -> None:
        """A message of the coordinator."""
        match kind:
            case "welcome":
                for refused in body.refused:
                    self.trace.tell(f"{self.name}: offer refused {refused.code}")
                kept = tuple(LeaseKey(item.lease_id, item.fence) for item in body.kept)
                self._dispatch(events.Connected(kept))
            case "ended":
                self._stream = None
                self._dispatch(events.Disconnected())
                self._later(self.dice.between_us(0.1, 3.0), self._connect)
            case "lease_offered":
                self._on_offer(body)
            case "lease_revoked":
                revoked = body.lease_revoked
                key = LeaseKey(revoked.lease_id, revoked.fence)
                self._dispatch(events.Revoked(key, revoked.reason))
            case "commitment_answer":
                self._on_answer(body)
            case "opening_asked":
                self._on_opening_asked(body)

    def _on_offer(self, message: Any) -> None:
        offered = message.lease_offered
        key = key_of(offered)
        try:
            offer = read_offer(offered, audience=self.place.key.key_id, now_us=self.now_us())
        except FlopmarketError as error:
            self.trace.tell(f"{self.name} declines an offer: {error.code}")
            self._dispatch(events.OfferUnusable(key, str(error)))
            return
        if key not in self.disk and self.machine.phase(key) is None:
            self.disk[key] = Folder(offer, message)
        self._dispatch(events.Offered(offer.terms))
        if key not in self.machine.held and self.machine.phase(key) is None:
            self.disk.pop(key, None)

    def _on_answer(self, answer: Any) -> None:
        name = (answer.lease_id, answer.segment_index)
        if answer.accepted:
            self._accepted.add(name)
        elif name in self._accepted and self.honest:
            raise Broken("answer", f"{self.name}: {name} was accepted, and now {answer.code}")
        for key, folder in self.disk.items():
            if key.lease_id == answer.lease_id and answer.accepted:
                folder.answered.append(answer.segment_index)
        if not answer.accepted:
            self.trace.tell(f"{self.name}: segment {answer.segment_index} refused {answer.code}")
        self._dispatch(
            events.Answered(answer.lease_id, answer.segment_index, answer.accepted, answer.code)
        )

    # --- instructions -------------------------------------------------------------------------

    def _dispatch(self, event: events.Event) -> None:
        for instruction in self.machine.handle(event):
            self._carry_out(instruction)

    def _carry_out(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.Prepare(terms, start):
                self._prepare(terms.key, start)
            case events.Abandon(key):
                self.disk[key].abandoned = True
            case events.Run(key):
                self._run(instruction)
            case events.Interrupt(key):
                self.disk[key].interrupted = True
            case events.Upload(key, segment):
                self._upload(key, segment)
            case events.Close(key):
                self._later(self.dice.between_us(0.01, 0.3), self._close, key)
            case events.Accept(terms):
                self.send("lease_accepted", self.acceptance(terms))
            case events.Commit(key, segment, files):
                self.commit(self.disk[key], segment, files)
            case events.Release(key, reason, detail):
                self.trace.tell(f"{self.name} gives back {key.lease_id[:6]}: {reason}")
                self.send("lease_released", (key.lease_id, key.fence, str(reason), detail[:100]))

    def acceptance(self, terms: events.LeaseTerms) -> Envelope:
        """The signed "I take it"."""
        return self.sign(
            LeaseAcceptance(
                job_id=self.disk[terms.key].offer.job_id,
                lease_id=terms.key.lease_id,
                fence=terms.key.fence,
                device_key_id=self.key.key_id,
                device_id=terms.device_id,
                first_step=terms.first_step,
                step_count=terms.step_count,
            )
        )

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
            # Its owner is back: the lease ends, honestly.
            self._later(self.card.step_us // 2, self._owner_returns, run)
            return
        self._step(run, 0)

    def _owner_returns(self, run: events.Run) -> None:
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
        return arithmetic.run(offer.job_id, before, first_step, steps)

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

    # --- commitments --------------------------------------------------------------------------

    def commit(self, folder: Folder, segment: SegmentRecord, files: UploadedFiles) -> None:
        """Sign and send a commitment."""
        self.send(
            "segment_committed",
            SegmentCommit(
                self.sign(self.commitment(folder, segment)),
                files.outputs_artifact,
                files.checkpoint_artifact,
                TimeReport(run_us=segment.times.run_us),
            ),
        )

    def commitment(self, folder: Folder, segment: SegmentRecord) -> Commitment:
        """What it claims."""
        terms = folder.offer.terms
        return Commitment(
            job_id=folder.offer.job_id,
            lease_id=terms.key.lease_id,
            fence=terms.key.fence,
            device_key_id=self.key.key_id,
            segment_index=segment.index,
            first_step=segment.first_step,
            steps_done=segment.steps,
            state_root_before=segment.state_root_before,
            state_root_after=segment.state_root_after,
            outputs_root=segment.outputs_root,
            sealed_inner=seal_inner(self.secret_of(folder, segment)),
        )

    def secret_of(self, folder: Folder, segment: SegmentRecord) -> InnerSecret:
        """What the commitment of a segment hides; kept for the day when somebody asks."""
        name = (folder.offer.terms.key.lease_id, segment.index)
        if name not in self.secrets:
            salt = named(f"salt {self.name} {name}")
            self.secrets[name] = InnerSecret(self.key.key_id, salt, segment.inner)
        return self.secrets[name]

    def _on_opening_asked(self, message: Any) -> None:
        asked = message.opening_asked
        self._later(self.dice.between_us(0.05, 0.5), self.open, asked.lease_id, asked.segment_index)

    def open(self, lease_id: str, index: int) -> None:
        """Show what a commitment hides, or say that it is not here."""
        secret = self.secrets.get((lease_id, index))
        envelope = None if secret is None else self.sign(secret)
        code = "" if secret is not None else "SECRET_UNKNOWN"
        self.send("segment_opened", SegmentOpening(lease_id, index, envelope, code, ""))


def _never() -> bool:
    return False
