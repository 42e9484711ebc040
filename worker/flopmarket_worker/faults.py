"""Engines that lie, for demonstrations and tests of what happens to a cheat.

``wrong-weights`` does all the work and then changes a few weights by the smallest amount a float
can hold: the committed root and the uploaded checkpoint are those of slightly wrong weights. The
others (:mod:`flopmarket_worker.lying`) are wrong in single operations; with ``-denied`` they say in
a dispute what an honest device does. ``half-operands`` and ``left-out-step``
(:mod:`flopmarket_worker.cheapening`) keep the records of their cheaper work.

``flipped-memory`` is no cheat: a bit of the state flips once while a segment runs, before its
checksum is taken or, with ``-late``, after it; with ``-end`` after the last one of a segment.
``flipped-output`` is a bit of an output that flips when all is done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from flopmarket.engine.program import Program
from flopmarket.errors import InvalidInput
from flopmarket.jobs import bundle
from flopmarket.jobs.checksums import ChecksumList, checksum, checksums_path
from flopmarket.jobs.host import Engine, SegmentDone, StepDone
from flopmarket.jobs.process import PROGRAM_FILE
from flopmarket_worker.cheapening import CheapEngine, half_operands, without_step
from flopmarket_worker.lying import LIES, LyingEngine
from flopmarket_worker.passing import PassingEngine

_NUDGED = 8
"""Weights that are changed: more than a memory flips in a moment."""


class WrongEnd(PassingEngine):
    """An engine whose state is changed when a segment is done, after every checksum.

    ``change`` changes tensors and says whether it found any to change. The state of a stateless
    program is empty; then, or with ``outputs``, the outputs are changed instead. ``once``: after
    the first segment only. Disputes and proofs are answered honestly: nobody can show operations
    that lead to the change, and only paid work is falsified.
    """

    def __init__(
        self,
        engine: Engine,
        change: Callable[[bundle.Tensors], bool],
        *,
        outputs: bool = False,
        once: bool = False,
    ) -> None:
        super().__init__(engine)
        self._change = change
        self._outputs = outputs
        self._once = once
        self._done = False

    async def run(
        self,
        first_step: int,
        count: int,
        *,
        outputs_path: Path,
        state_path: Path | None,
        roots_ppm: int = 0,
    ) -> AsyncIterator[StepDone | SegmentDone]:
        """Run honestly, then change the files and tell the changed roots; no others are kept."""
        written = state_path or outputs_path.with_name(f"{outputs_path.name}.state")
        async for event in self._engine.run(
            first_step, count, outputs_path=outputs_path, state_path=written
        ):
            if isinstance(event, SegmentDone) and not (self._done and self._once):
                self._done = True
                yield await self._changed(event, outputs_path, written)
            else:
                yield event
        if state_path is None:
            written.unlink(missing_ok=True)

    async def _changed(self, done: SegmentDone, outputs: Path, state: Path) -> SegmentDone:
        state_root, outputs_root = done.state_root_after, done.outputs_root
        if not self._outputs and self._rewritten(state) is not None:
            # It goes on: the next segment starts from the changed state.
            state_root = await self._engine.load_state(state, done.first_step + done.steps_done)
        elif (changed := self._rewritten(outputs)) is not None:
            outputs_root = bundle.root(changed)
        return SegmentDone(
            done.first_step,
            done.steps_done,
            done.state_root_before,
            state_root,
            outputs_root,
            done.inner,
        )

    def _rewritten(self, path: Path) -> bundle.Tensors | None:
        """A file with its tensors changed; None when there is nothing to change."""
        tensors = bundle.read(path)
        if not self._change(tensors):
            return None
        path.write_bytes(bundle.save(tensors))
        return tensors


class FlippedMemory(PassingEngine):
    """An honest engine in whose memory one bit of the state flips in the middle of its first
    segment: everything after follows from that, and no replay shows it. ``late``: after the
    checksum of the step that made the state."""

    def __init__(self, engine: Engine, *, late: bool = False) -> None:
        super().__init__(engine)
        self._late = late
        self._flipped = False
        self._names: list[str] = []

    async def open(self, folder: Path, spec: bytes) -> None:
        program = Program.from_bytes((folder / PROGRAM_FILE).read_bytes())
        self._names = [tensor.name for tensor in program.state]
        await self._engine.open(folder, spec)

    async def run(
        self,
        first_step: int,
        count: int,
        *,
        outputs_path: Path,
        state_path: Path | None,
        roots_ppm: int = 0,
    ) -> AsyncIterator[StepDone | SegmentDone]:
        """The first segment in two parts, between which the bit flips."""
        if self._flipped or count < 2:
            async for event in self._engine.run(
                first_step, count, outputs_path=outputs_path, state_path=state_path
            ):
                yield event
            return
        self._flipped = True
        half = count // 2
        written = outputs_path.with_name(f"{outputs_path.stem}-half.safetensors")
        state = state_path or outputs_path.with_name(f"{outputs_path.name}.state")
        first = await self._part(first_step, half, written, state)
        tensors = bundle.read(state)
        at = flip(tensors)
        state.write_bytes(bundle.save(tensors))
        await self._engine.load_state(state, first_step + half)
        last = await self._part(first_step + half, count - half, outputs_path, state)
        one, two = (
            ChecksumList.from_bytes(checksums_path(path).read_bytes())
            for path in (written, outputs_path)
        )
        words = np.frombuffer(one.data, "<u4").copy()
        if not self._late:
            words[-one.words + self._names.index(at)] = checksum(tensors[at])
        kept = ChecksumList(first_step, one.words, words.tobytes() + two.data)
        checksums_path(outputs_path).write_bytes(kept.to_bytes())
        before, after = bundle.read(written), bundle.read(outputs_path)
        outputs = {name: np.concatenate([before[name], after[name]]) for name in after}
        outputs_path.write_bytes(bundle.save(outputs))
        for path in (written, checksums_path(written), *(() if state_path else (state,))):
            path.unlink()
        roots = last.state_root_after, bundle.root(outputs)
        yield SegmentDone(first_step, count, first.state_root_before, *roots, kept.inner())

    async def _part(self, first_step: int, count: int, outputs: Path, state: Path) -> SegmentDone:
        """Some of the steps; an interrupt comes too late."""
        events = self._engine.run(first_step, count, outputs_path=outputs, state_path=state)
        done = [event async for event in events if isinstance(event, SegmentDone)]
        return done[-1]


def flip(tensors: bundle.Tensors) -> str:
    """Flip one bit of the largest element of the largest tensor of floats; the tensor's name, empty
    where there is none."""
    name = _largest(tensors)
    if name:
        array = tensors[name].copy()
        array.reshape(-1).view(np.uint32)[int(np.argmax(np.abs(array)))] ^= np.uint32(1 << 22)
        tensors[name] = array
    return name


def _nudge(tensors: bundle.Tensors) -> bool:
    """Change some elements of the largest tensor of floats by one unit in the last place."""
    name = _largest(tensors)
    if name:
        wrong = tensors[name].copy()
        first = wrong.reshape(-1)[:_NUDGED]
        first[:] = np.nextafter(first, np.float32(np.inf))
        tensors[name] = wrong
    return bool(name)


def _largest(tensors: bundle.Tensors) -> str:
    floats = [name for name, array in tensors.items() if array.dtype == np.float32 and array.size]
    return max(floats, key=lambda each: tensors[each].size, default="")


def _flip(tensors: bundle.Tensors) -> bool:
    return bool(flip(tensors))


FAULTS: Mapping[str, Callable[[Engine], Engine]] = {
    "wrong-weights": partial(WrongEnd, change=_nudge),
    "half-operands": partial(CheapEngine, change=half_operands),
    "left-out-step": partial(CheapEngine, change=partial(without_step, step=1)),
    "flipped-memory": FlippedMemory,
    "flipped-memory-late": partial(FlippedMemory, late=True),
    "flipped-memory-end": partial(WrongEnd, change=_flip, once=True),
    "flipped-output": partial(WrongEnd, change=_flip, outputs=True, once=True),
    **{name: partial(LyingEngine, fault=name) for name in LIES},
    **{f"{name}-denied": partial(LyingEngine, fault=name, consistent=False) for name in LIES},
}


def wrap(engine: Engine, fault: str) -> Engine:
    """``engine``, or one that lies in the named way."""
    check(fault)
    return FAULTS[fault](engine) if fault else engine


def check(fault: str) -> None:
    """Raise InvalidInput (FAULT_UNKNOWN) unless there is such a fault, or none is wanted."""
    if fault and fault not in FAULTS:
        raise InvalidInput(
            f"no fault is called {fault!r}; there are: {', '.join(FAULTS)}", code="FAULT_UNKNOWN"
        )
