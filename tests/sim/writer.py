"""The coordinator's process and its commands: the real application on a database in memory.

Commands wait in a bounded queue and run as the real writer's batches (:meth:`Tick._commit`, many to
a transaction, each in a SAVEPOINT); answers go out after the commit. Matching, expiry and the
house's auditor are driven by virtual time. A crash loses everything but the database.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Any

from flopmarket.errors import FlopmarketError, Unavailable
from flopmarket.limits import MAX_COMMANDS_PER_COMMIT, MAX_QUEUED_COMMANDS
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.application import Application
from flopmarket_coordinator.core.changes import (
    JobChanged,
    LeaseChanged,
    SegmentChanged,
    SegmentSettled,
)
from flopmarket_coordinator.core.ledger import LedgerConflict
from flopmarket_coordinator.core.lifecycle import IllegalTransition
from flopmarket_coordinator.parameters import Parameters
from flopmarket_coordinator.store import engine
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.tick import Tick, _Command
from tests.sim.arithmetic import named
from tests.sim.broken import Broken
from tests.sim.network import Command, Done
from tests.sim.quick import store_of
from tests.sim.schedule import SECOND_US, Dice, Schedule, Trace
from tests.sim.shelf import Shelf

TICK_US = 200_000
EXPIRE_US = 10 * SECOND_US


class Writer:
    """One process that answers commands; it may crash and come back."""

    def __init__(
        self,
        schedule: Schedule,
        trace: Trace,
        dice: Dice,
        *,
        image: sqlite3.Connection,
        key: KeyPair,
        operator: KeyPair,
        parameters: Parameters,
        shelf: Shelf,
    ) -> None:
        self.schedule = schedule
        self.trace = trace
        self.dice = dice
        self.key = key
        self.operator = operator
        self.parameters = parameters
        self.shelf = shelf
        self.store = store_of(image)
        self.raw: sqlite3.Connection = self.store.raw_connection().driver_connection  # type: ignore[assignment]
        self.clock_offset_us = 0
        self.up = False
        self.ticks = 0
        self.tick_us = TICK_US
        self.crash_chance = 0.0
        self.most_queued = 0
        self.after_tick: list[Callable[[], None]] = []
        self.after_start: list[Callable[[], None]] = []
        self._entropy_calls = 0
        self._life = 0
        self._inbox: deque[tuple[Command, Done]] = deque()
        self._tick_due = False
        self._stirred = True
        self._expired_us = 0
        self._resumed = True
        self._listener = _Listener()
        self.start()

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process on the same database."""
        self.application = Application(
            key=self.key,
            parameters=self.parameters,
            artifacts=self.shelf,
            entropy=self.entropy,
            operator_keys=[self.operator.public],
            chain_secret=named("secret of the chains"),
        )
        self._tick = Tick(
            self.store, self.now_us, observers=[self.application.keeper, self._listener]
        )
        self._tick._reset()
        self.up = True
        self._resumed = True
        self._life += 1
        for run in self.after_start:
            run()
        self._wake()
        self._beat(self._life)

    def crash(self, away_us: int) -> None:
        """Everything in memory is gone; a new process starts after ``away_us``."""
        if not self.up:
            return
        self.trace.tell(f"coordinator crashes for {away_us} us")
        self.up = False
        self._inbox.clear()
        self._tick_due = False
        self._forget_streams()
        self.schedule.after(away_us, self._back)

    def _back(self) -> None:
        self.trace.tell("coordinator is back")
        self.start()

    def now_us(self) -> int:
        """The coordinator's own clock."""
        return self.schedule.now_us + self.clock_offset_us

    def entropy(self, count: int) -> bytes:
        """Random bytes of this run."""
        self._entropy_calls += 1
        return hashlib.shake_256(
            f"entropy {self.dice.seed_name} {self._entropy_calls}".encode()
        ).digest(count)

    @property
    def settled(self) -> bool:
        """Whether this process has let time pass since it started."""
        return self.up and not self._resumed

    # --- commands -----------------------------------------------------------------------------

    def submit(self, command: Command, done: Done) -> None:
        """See :class:`tests.sim.network.Office`. Matching follows."""
        if not self.up:
            return
        self._stirred = True
        if len(self._inbox) >= MAX_QUEUED_COMMANDS:
            done(None, Unavailable("full", code="STORE_BUSY"))
            return
        self._inbox.append((command, done))
        self.most_queued = max(self.most_queued, len(self._inbox))
        self._wake()

    def read(self, query: Callable[[Transaction], Any]) -> Any:
        """A query, now."""
        with engine.read(self.store, self.now_us()) as tx:
            return query(tx)

    def take_noted(self) -> dict[str, set[Any]]:
        """Rows that changed since this was asked last, by table."""
        noted, self._listener.noted = self._listener.noted, _Listener().noted
        return noted

    def watch_commands(self, watch: Callable[[Any], None]) -> None:
        """Have ``watch`` called with the changes of each command, before the commit."""
        self._listener.after_command = watch

    def segments_changed(self) -> bool:
        """Whether a segment changed since this was asked last."""
        changed, self._listener.segments = self._listener.segments, False
        return changed

    def look_again(self) -> None:
        """Whoever asks next for changed segments is told so."""
        self._listener.segments = True

    def _wake(self, after_us: int | None = None) -> None:
        if not self._tick_due:
            self._tick_due = True
            delay_us = self.tick_us if after_us is None else after_us
            self.schedule.after(delay_us, self._run_tick, self._life)

    def _beat(self, life: int) -> None:
        """Time passes, with or without messages."""
        if life == self._life and self.up:
            self._wake()
            self.schedule.after(EXPIRE_US, self._beat, life)

    def _run_tick(self, life: int) -> None:
        """What waits, then time and matching, in one transaction."""
        if life != self._life or not self.up:
            return
        self._tick_due = False
        batch: list[tuple[Command, Done]] = []
        while self._inbox and len(batch) < MAX_COMMANDS_PER_COMMIT:
            batch.append(self._inbox.popleft())
        batch += self._join_beats()
        rounds = self._rounds(self._stirred)
        batch += [(command, self._round_done) for command in rounds]
        self._stirred = False
        entries = [_Command(command) for command, _ in batch]
        self._tick._commit(entries)
        self.ticks += 1
        for run in self.after_tick:
            run()
        if self.dice.chance(self.crash_chance):
            # Everything is committed and nobody is told.
            self.crash(self.dice.between_us(0.5, 20.0))
            return
        for entry, (_, done) in zip(entries, batch, strict=True):
            error = entry.done.exception()
            if error is not None:
                _expected(error)
            done(entry.answer if error is None else None, error)
        if self._inbox:  # more than one batch: the real writer goes on at once
            self._wake(min(self.tick_us, TICK_US))
        elif self.application.keeper.behind:
            self._wake(self.tick_us)

    def _rounds(self, stirred: bool) -> list[Command]:
        """Expiry at its interval; matching then, and when something happened."""
        application = self.application
        rounds: list[Command] = []
        stirred = stirred or self.application.keeper.behind
        now_us = self.schedule.now_us
        if self._resumed or now_us - self._expired_us >= EXPIRE_US:
            resumed, self._resumed, self._expired_us = self._resumed, False, now_us
            rounds.append(lambda tx: application.expire(tx, resumed=resumed))
            rounds += [application.tend_ledger, application.release_pay]
            stirred = True
        if stirred:
            rounds.append(application.match)
        return rounds

    def _round_done(self, answer: Any, error: FlopmarketError | None) -> None:
        if error is not None:
            raise error
        if isinstance(answer, tuple):
            for instruction in answer:
                self.instruct(instruction)

    # --- what streams add ---------------------------------------------------------------------

    def instruct(self, instruction: Any) -> None:
        """Pass an instruction on to its worker."""
        raise NotImplementedError

    def _join_beats(self) -> list[tuple[Command, Done]]:
        raise NotImplementedError

    def _forget_streams(self) -> None:
        raise NotImplementedError


def _expected(error: BaseException) -> None:
    """What outsiders do wrong is refused; what the store or an inner rule refuses is a bug."""
    if not isinstance(error, FlopmarketError):
        raise error
    if isinstance(error, LedgerConflict | IllegalTransition) or error.code == "STORE_FAILED":
        raise Broken(f"refused-inside/{error.code}", error.message[:300]) from error


class _Listener:
    """An observer that remembers which rows changed."""

    def __init__(self) -> None:
        self.noted: dict[str, set[Any]] = {"job": set(), "lease": set(), "segment": set()}
        self.segments = True
        """Whether a segment changed since somebody looked."""
        self.after_command: Callable[[Any], None] = lambda changes: None

    def applied(self, tx: Transaction, changes: Any) -> None:
        """See :class:`flopmarket_coordinator.tick.Observer`."""
        self.after_command(changes)

    def committed(self, changes: Any, now_us: int) -> None:
        """See :class:`flopmarket_coordinator.tick.Observer`."""
        for change in changes:
            match change:
                case JobChanged(job_id):
                    self.noted["job"].add(job_id)
                case LeaseChanged(lease_id):
                    self.noted["lease"].add(lease_id)
                case SegmentChanged(segment_id, job_id):
                    self.segments = True
                    self.noted["segment"].add(segment_id)
                    self.noted["job"].add(job_id)
                case SegmentSettled(segment_id):
                    self.noted["segment"].add(segment_id)

    def reset(self, tx: Transaction) -> None:
        """See :class:`flopmarket_coordinator.tick.Observer`."""
