"""Engines that lie, for demonstrations and tests of what happens to a cheat.

``wrong-weights`` does all the work and then changes one weight by the smallest amount a float can
hold: the committed root and the uploaded checkpoint are those of slightly wrong weights. The others
(:mod:`flopmarket_worker.lying`) are wrong in single operations; with ``-denied`` they say in a
dispute what an honest device does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from flopmarket.errors import InvalidInput
from flopmarket.jobs import bundle
from flopmarket.jobs.host import Engine, SegmentDone, StepDone
from flopmarket_worker.lying import LIES, LyingEngine
from flopmarket_worker.passing import PassingEngine


class WrongWeights(PassingEngine):
    """An engine whose state is off by one unit in the last place at the end of each segment.

    The state of a stateless program is empty; then the outputs are changed instead. Disputes and
    proofs are answered honestly: nobody can show operations that lead to the changed weight, and
    only paid work is falsified.
    """

    async def run(
        self, first_step: int, count: int, *, outputs_path: Path, state_path: Path | None
    ) -> AsyncIterator[StepDone | SegmentDone]:
        """Run honestly, then change the files and tell the changed roots."""
        written = state_path or outputs_path.with_name(f"{outputs_path.name}.state")
        async for event in self._engine.run(
            first_step, count, outputs_path=outputs_path, state_path=written
        ):
            if isinstance(event, SegmentDone):
                yield await self._falsified(event, outputs_path, written)
            else:
                yield event
        if state_path is None:
            written.unlink(missing_ok=True)

    async def _falsified(self, done: SegmentDone, outputs: Path, state: Path) -> SegmentDone:
        state_root, outputs_root = done.state_root_after, done.outputs_root
        if (changed := _nudge(state)) is not None:
            # The lie goes on: the next segment starts from the wrong weights.
            state_root = await self._engine.load_state(state, done.first_step + done.steps_done)
        elif (changed := _nudge(outputs)) is not None:
            outputs_root = bundle.root(changed)
        return SegmentDone(
            done.first_step,
            done.steps_done,
            done.state_root_before,
            state_root,
            outputs_root,
            done.inner,
        )


def _nudge(path: Path) -> bundle.Tensors | None:
    """Change the first element of the first float tensor in a file; None when there is none."""
    tensors = bundle.read(path)
    for name, array in tensors.items():
        if array.dtype == np.float32 and array.size:
            wrong = array.copy()
            wrong.reshape(-1)[0] = np.nextafter(wrong.reshape(-1)[0], np.float32(np.inf))
            tensors[name] = wrong
            path.write_bytes(bundle.save(tensors))
            return tensors
    return None


FAULTS: Mapping[str, Callable[[Engine], Engine]] = {
    "wrong-weights": WrongWeights,
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
