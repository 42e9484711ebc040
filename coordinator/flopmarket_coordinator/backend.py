"""What servicers and loops share: the application behind its tick, and the signals around it.

A command is answered after its commit and wakes whoever waits for a change: the dispatcher, the
auditor, watchers of jobs. A query neither waits for writers nor wakes anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from flopmarket_coordinator.application import Application
from flopmarket_coordinator.artifacts import ArtifactStore
from flopmarket_coordinator.desk import Desk
from flopmarket_coordinator.rpc.session_hub import ProgressBoard, SessionHub, Signal
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.tick import Tick

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Backend:
    """One coordinator's parts, as its edge sees them."""

    application: Application
    tick: Tick
    artifacts: ArtifactStore
    clock_us: Callable[[], int]
    hub: SessionHub = field(default_factory=SessionHub)
    board: ProgressBoard = field(default_factory=ProgressBoard)
    changed: Signal = field(default_factory=Signal)
    desk: Desk = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "desk", Desk(self.hub, self.clock_us))

    async def command(self, run: Callable[[Transaction], _Answer]) -> _Answer:
        """Run a use case that writes; returns once its transaction is committed."""
        try:
            return await self.tick.submit(run)
        finally:
            self.changed.notify()

    async def query(self, run: Callable[[Transaction], _Answer]) -> _Answer:
        """Run a use case that only reads."""
        return await self.tick.read(run)
