"""A simulated device without its work: lives and crashes, a clock, a key, a connection.

What it does with what it hears is :mod:`tests.sim.worker`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from flopmarket.engine.exact import PROFILE
from flopmarket.errors import FlopmarketError, Forbidden
from flopmarket.limits import WORKER_DOCUMENT_SECONDS
from flopmarket.trust.documents import OfferTerms, Rate, SessionRequest, WattsSource
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import Envelope, seal
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.modes import NO_CLASS, Mode
from flopmarket.trust.sealing import InnerSecret
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_working import HeldLease, Hello
from flopmarket_worker.core import events
from flopmarket_worker.core.events import LeaseKey, SegmentRecord, UploadedFiles
from flopmarket_worker.core.session import SessionMachine
from flopmarket_worker.lease_offer import LeaseOffer
from tests.sim.arithmetic import named
from tests.sim.kinds import DRIVER, EXACT_ONLY, kind_of
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
    kind: str = ""
    """The kind of cards that it says to be of (:mod:`tests.sim.kinds`); none without class mode."""
    modes: tuple[Mode, ...] = EXACT_ONLY


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


class Device(ABC):
    """A key, its disk, and the session machine of its present life."""

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
        kind = kind_of(self.card.kind)
        return OfferTerms(
            account_id=self.account,
            device_key_id=self.key.key_id,
            device_id=self.device_id,
            device_name=self.card.kind or self.name,
            driver=DRIVER,
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
            admission_digest=named("admission") if Mode.EXACT in self.card.modes else NO_CLASS,
            modes=self.card.modes,
            class_kernels=kind.kernels,
            class_results=kind.results,
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

    # --- what a worker does with it -----------------------------------------------------------

    @abstractmethod
    def hear(self, kind: str, body: Any) -> None:
        """A message of the coordinator."""

    @abstractmethod
    def _dispatch(self, event: events.Event) -> None:
        """Tell the session machine, and carry out what it says."""


def _never() -> bool:
    return False
