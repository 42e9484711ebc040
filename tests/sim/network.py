"""Links with faults: calls that ask and answer, and the one long stream of a worker.

A message may be lost, late, doubled or overtaken. A lost one ends its stream some seconds later, as
a transport would notice; whatever else was on the way still arrives, which is worse than what TCP
does. While a link is cut nothing passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from flopmarket.errors import FlopmarketError, Unavailable
from flopmarket_coordinator.store.engine import Transaction
from tests.sim.schedule import SECOND_US, Dice, Schedule

CALL_TIMEOUT_US = 5 * SECOND_US


@dataclass(frozen=True, slots=True)
class Faults:
    """Chances for one message, and how late it may be (seconds)."""

    loss: float = 0.0
    double: float = 0.0
    overtake: float = 0.0
    least_delay: float = 0.005
    most_delay: float = 0.08
    late: float = 0.0
    """Chance of a delay of seconds."""


CALM = Faults()

Command = Callable[[Transaction], Any]
Done = Callable[[Any, FlopmarketError | None], None]


class Office(Protocol):
    """What links need of the coordinator."""

    def submit(self, command: Command, done: Done) -> None:
        """Run a command in the next tick."""

    def opened(self, stream: Stream) -> None:
        """A worker's stream begins."""

    def receive(self, stream: Stream, kind: str, body: Any) -> None:
        """A message of a worker."""

    def closed(self, stream: Stream) -> None:
        """A worker's stream is gone."""


class Link:
    """Between one party and the coordinator."""

    def __init__(self, schedule: Schedule, dice: Dice, office: Office, faults: Faults) -> None:
        self.schedule = schedule
        self.dice = dice
        self.office = office
        self.faults = faults
        self.cut = False

    def delays(self) -> tuple[int, ...]:
        """When the copies of a message arrive, microseconds from now: none if it is lost."""
        faults, dice = self.faults, self.dice
        if self.cut or dice.chance(faults.loss):
            return ()
        first = self._delay()
        return (first, first + self._delay()) if dice.chance(faults.double) else (first,)

    def _delay(self) -> int:
        faults = self.faults
        if self.dice.chance(faults.late):
            return self.dice.between_us(1.0, 8.0)
        return self.dice.between_us(faults.least_delay, faults.most_delay)

    def call(self, command: Command, done: Done) -> None:
        """One request and its answer. Without an answer: UNAVAILABLE after a while."""
        state = {"over": False}

        def finish(answer: Any, error: FlopmarketError | None) -> None:
            if not state["over"]:
                state["over"] = True
                done(answer, error)

        def answered(answer: Any, error: FlopmarketError | None) -> None:
            for delay in self.delays():
                self.schedule.after(delay, finish, answer, error)

        lost = Unavailable("no answer", code="CALL_TIMEOUT")
        self.schedule.after(CALL_TIMEOUT_US, finish, None, lost)
        for delay in self.delays():
            self.schedule.after(delay, self.office.submit, command, answered)


class Stream:
    """One connection of a worker. Each side learns of its end in its own time."""

    def __init__(self, link: Link, key_id: str, worker_hears: Callable[[str, Any], None]) -> None:
        self.link = link
        self.key_id = key_id
        self.at_worker = True
        self.at_coordinator = True
        self.greeted = False
        self._worker_hears = worker_hears
        self._last_up_us = 0
        self._last_down_us = 0

    def up(self, kind: str, body: Any) -> None:
        """From the worker to the coordinator."""
        if self.at_worker:
            self._last_up_us = self._pass(self._last_up_us, self._arrive_up, kind, body)

    def down(self, kind: str, body: Any) -> None:
        """From the coordinator to the worker."""
        if self.at_coordinator:
            self._last_down_us = self._pass(self._last_down_us, self._arrive_down, kind, body)

    def _pass(self, last_us: int, arrive: Callable[[str, Any], None], kind: str, body: Any) -> int:
        link = self.link
        delays = link.delays()
        if not delays:
            self.break_within(10.0)
        for delay in delays:
            at_us = link.schedule.now_us + delay
            if not link.dice.chance(link.faults.overtake):
                at_us = max(at_us, last_us + 1)
                last_us = at_us
            link.schedule.at(at_us, arrive, kind, body)
        return last_us

    def _arrive_up(self, kind: str, body: Any) -> None:
        if self.at_coordinator:
            self.link.office.receive(self, kind, body)

    def _arrive_down(self, kind: str, body: Any) -> None:
        if self.at_worker:
            self._worker_hears(kind, body)

    def break_within(self, seconds: float) -> None:
        """Both sides notice that the stream is gone, neither at once."""
        link = self.link
        link.schedule.after(link.dice.between_us(0.0, seconds), self.end_at_worker)
        link.schedule.after(link.dice.between_us(0.0, seconds), self.end_at_coordinator)

    def end_at_worker(self) -> None:
        """The worker notices the end."""
        if self.at_worker:
            self.at_worker = False
            self._worker_hears("ended", None)

    def end_at_coordinator(self) -> None:
        """The coordinator notices the end."""
        if self.at_coordinator:
            self.at_coordinator = False
            self.link.office.closed(self)

    def drop(self) -> None:
        """The coordinator ends the stream."""
        self.end_at_coordinator()
        self.link.schedule.after(self.link.dice.between_us(0.0, 0.2), self.end_at_worker)
