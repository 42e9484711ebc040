"""Engines that do less work than they are paid for and keep the records of it.

Their runs, the checksum lists that they keep and their replays all tell the same wrong segment: it
is that of another program, so that a step audit comes to the judge. What
:mod:`flopmarket_worker.lying` commits to has no such records. For demonstrations and tests: they
compute with the reference interpreter, here.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from flopmarket.engine import dtypes, graph
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.session import Session
from flopmarket.jobs.host import Engine, SegmentDone, StepDone
from flopmarket.jobs.instrument import CHECKSUMS, instrument
from flopmarket.jobs.process import EngineServer
from flopmarket.jobs.questions import StepsQuestion
from flopmarket.jobs.spec import JobSpec
from flopmarket_worker.passing import PassingEngine
from flopmarket_worker.simulated_engine import SharedEngine, SimulatedCard


def half_operands(program: Program) -> Program:
    """The program whose float32 products take operands that were rounded to float16 before."""
    done: dict[Node, Node] = {}
    for node in program.nodes:
        src = tuple(done[source] for source in node.src)
        if node.op is Op.DOT and node.dtype is dtypes.float32:
            src = (*(_half(source) for source in src[:2]), *src[2:])
        same = src == node.src
        done[node] = node if same else graph.make(node.op, src, node.arg, node.dtype, node.shape)
    return Program.build(
        frozen=program.frozen,
        state=program.state,
        inputs=program.inputs,
        next_state=[done[node] for node in program.state_nodes],
        outputs=[
            (spec.name, done[node])
            for spec, node in zip(program.outputs, program.output_nodes, strict=True)
        ],
        reserved_names=True,
    )


def _half(node: Node) -> Node:
    if node.dtype is not dtypes.float32:
        return node
    return graph.cast(graph.cast(node, dtypes.float16), dtypes.float32)


def without_step(program: Program, step: int) -> Program:
    """The program whose state leaves one step of the job as it came; its checksums follow."""
    at = graph.input_("step", "step", dtypes.uint32, ())
    left_out = graph.cmp("eq", at, graph.const(step, dtypes.uint32))
    state = []
    for spec, after in zip(program.state, program.state_nodes, strict=True):
        before = graph.input_("state", spec.name, spec.dtype, spec.shape)
        one = graph.reshape(left_out, (1,) * len(spec.shape))
        state.append(graph.where(graph.expand(one, spec.shape), before, after))
    outputs = {
        spec.name: node
        for spec, node in zip(program.outputs, program.output_nodes, strict=True)
        if spec.name != CHECKSUMS
    }
    plain = Program.build(
        frozen=program.frozen,
        state=program.state,
        inputs=program.inputs,
        next_state=state,
        outputs=list(outputs.items()),
    )
    return instrument(plain) if len(outputs) < len(program.outputs) else plain


Change = Callable[[Program], Program]


class _ChangedServer(EngineServer):
    change: Change = staticmethod(half_operands)

    def open_session(self, program: Program, spec: JobSpec, *, fusion: bool = True) -> Session:
        return super().open_session(self.change(program), spec, fusion=fusion)


class _ChangedEngines(SharedEngine):
    def __init__(self, change: Change) -> None:
        super().__init__("reference", None)
        self._change = change

    def server(self, stop: threading.Event) -> EngineServer:
        made = _ChangedServer("reference", None, lambda _: None, stop)
        made.change = self._change
        return made


class CheapEngine(PassingEngine):
    """Admission and disputes by ``engine``; paid work, and what is asked about its steps, by the
    program that ``change`` makes of the right one."""

    def __init__(self, engine: Engine, change: Change) -> None:
        super().__init__(engine)
        self._cheap = _ChangedEngines(change)
        self._card = SimulatedCard(self._cheap, 100)

    async def open(self, folder: Path, spec: bytes) -> None:
        await self._card.open(folder, spec)

    async def load_state(self, path: Path | None, step: int) -> bytes:
        return await self._card.load_state(path, step)

    def run(
        self,
        first_step: int,
        count: int,
        *,
        outputs_path: Path,
        state_path: Path | None,
        roots_ppm: int = 0,
    ) -> AsyncIterator[StepDone | SegmentDone]:
        """The segment as the other program has it."""
        return self._card.run(
            first_step,
            count,
            outputs_path=outputs_path,
            state_path=state_path,
            roots_ppm=roots_ppm,
        )

    async def replay_steps(
        self, folder: Path, spec: bytes, asked: StepsQuestion, target: Path
    ) -> None:
        await self._card.replay_steps(folder, spec, asked, target)

    async def interrupt(self) -> None:
        await self._card.interrupt()
        await super().interrupt()

    async def close_job(self) -> None:
        await self._card.close_job()
        await super().close_job()

    async def stop(self) -> None:
        await self._card.stop()
        self._cheap.close()
        await super().stop()
