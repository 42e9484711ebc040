"""Engines that compute single steps wrong and answer for it with a straight face."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import numpy as np

from flopmarket.engine.program import Program
from flopmarket.engine.runtime.session import Session
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.checksums import entry_of
from flopmarket.jobs.instrument import CHECKSUMS
from flopmarket.jobs.process import EngineServer
from flopmarket.jobs.spec import JobSpec
from flopmarket_worker.simulated_engine import SharedEngine, SimulatedCard

Change = Callable[[Tensors, Tensors], Tensors]
"""(state before, right state after) -> state that the cheat goes on with."""


def skipped(before: Tensors, after: Tensors) -> Tensors:
    """The step is not done."""
    return before


def nudged(before: Tensors, after: Tensors) -> Tensors:
    """All work is done, and one weight is off by the smallest amount."""
    name, value = next((n, v) for n, v in after.items() if v.dtype == np.float32)
    wrong = value.copy()
    wrong.reshape(-1)[0] = np.nextafter(wrong.reshape(-1)[0], np.float32(np.inf))
    return {**after, name: wrong}


class CheatingSession:
    """Changes the state after one step of the job; everything after follows from that, and its
    checksums are those of what it says."""

    def __init__(self, session: Session, step: int, change: Change) -> None:
        self._session = session
        self._wrong_step = step
        self._change = change
        self._frozen: Mapping[str, Array] = {}

    @property
    def program(self) -> Program:
        return self._session.program

    def load(self, frozen: Mapping[str, Array], state: Mapping[str, Array]) -> None:
        self._frozen = frozen
        self._session.load(frozen, state)

    def step(self, inputs: Mapping[str, Array], *, seed: int, step: int) -> dict[str, Array]:
        if step != self._wrong_step:
            return self._session.step(inputs, seed=seed, step=step)
        before = self._session.read_state()
        outputs = self._session.step(inputs, seed=seed, step=step)
        state = self._change(before, self._session.read_state())
        self._session.load(self._frozen, state)
        specs = [spec for spec in self.program.outputs if spec.name != CHECKSUMS]
        entry = entry_of(self.program.state, state) + entry_of(specs, outputs)
        return {**outputs, CHECKSUMS: np.frombuffer(entry, dtype="<u4").copy()}

    def read_state(self) -> dict[str, Array]:
        return self._session.read_state()

    def close(self) -> None:
        self._session.close()


class CheatingServer(EngineServer):
    """An engine whose sessions cheat."""

    wrong_step = 0
    change: Change = staticmethod(skipped)

    def open_session(self, program: Program, spec: JobSpec, *, fusion: bool = True) -> Session:
        session = super().open_session(program, spec, fusion=fusion)
        return CheatingSession(session, self.wrong_step, self.change)


class CheatingEngines(SharedEngine):
    """Cards that are wrong in one step of the job, in runs and replays alike."""

    def __init__(self, step: int, change: Change) -> None:
        super().__init__("reference", None)
        self._step = step
        self._change = change

    def server(self, stop: threading.Event) -> EngineServer:
        made = CheatingServer("reference", None, lambda _: None, stop)
        made.wrong_step, made.change = self._step, self._change
        return made

    async def begin(self) -> SimulatedCard:
        return await self.card(100)
