"""A segment that is run with bits flipping in memory on the way, or by somebody who cheats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flopmarket.engine.program import Program
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.runtime.session import Session
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.checksums import ChecksumList, ListBuilder, checksum
from flopmarket.jobs.flip_words import flipped
from flopmarket.jobs.flips import FlipSearch
from flopmarket.jobs.instrument import CHECKSUMS, instrument
from flopmarket.jobs.order import RowSchedule
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.questions import Flip, FlipQuestion
from flopmarket.jobs.replay import Replay
from flopmarket.jobs.spec import JobSpec


@dataclass
class Ran:
    """What a device came to, and what it kept."""

    kept: ChecksumList
    state: Tensors
    outputs: Tensors


Step = Callable[[int, Tensors], tuple[Tensors, Tensors]]
"""What somebody makes of a step: from its number and the state before it, state and outputs."""


@dataclass
class Counting:
    """A session that counts its steps."""

    session: Session
    program: Program = field(init=False)
    steps: int = 0

    def __post_init__(self) -> None:
        self.program = self.session.program

    def load(self, frozen: Tensors, state: Tensors) -> None:
        self.session.load(frozen, state)

    def step(self, inputs: Tensors, *, seed: int, step: int) -> Tensors:
        self.steps += 1
        return dict(self.session.step(inputs, seed=seed, step=step))

    def read_state(self) -> Tensors:
        return self.session.read_state()

    def close(self) -> None:
        self.session.close()


class Bench:
    """The second segment of a job, of ``steps`` steps, from the state after the first."""

    def __init__(
        self, folder: Path, job: PreparedJob, steps: int, device: str = "reference"
    ) -> None:
        self.folder = folder
        self.job = job
        self.first, self.end = steps, 2 * steps
        self.spec: JobSpec = job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))
        self.session = Counting(open_session(instrument(job.program), device, None))
        self.schedule = RowSchedule(self.spec.data_order, self.spec.seed)
        folder.mkdir(exist_ok=True)
        self.start = folder / "start.safetensors"
        self.start.write_bytes(bundle.save(job.state))
        before = dict(job.state)
        for step in range(steps if before else 0):
            before, _ = self.honest(step, before)
        self.before = before
        self.floats = [n for n, a in job.state.items() if a.dtype == np.float32 and a.size]

    @property
    def weight(self) -> str:
        """The largest tensor of the state."""
        return max(self.job.state, key=lambda name: self.job.state[name].size)

    def inputs(self, step: int) -> Tensors:
        """The rows of a step."""
        return {name: array[self.schedule.rows(step)] for name, array in self.job.data.items()}

    def honest(self, step: int, state: Tensors) -> tuple[Tensors, Tensors]:
        """A step as it should be."""
        self.session.load(self.job.frozen, state)
        found = self.session.step(self.inputs(step), seed=self.spec.seed, step=step)
        found.pop(CHECKSUMS)
        return self.session.read_state(), found

    def run(self, flips: Sequence[Flip] = (), cheat: Step | None = None) -> Ran:
        """What a device comes to whose memory fails like this, or that computes ``cheat``."""
        state, sums, outputs = self.before, ListBuilder(self.first), []
        for step in range(self.first, self.end):
            state = _with(state, [it for it in _of(flips, step, output=False) if not it.summed])
            state, found = (cheat or self.honest)(step, state)
            state = _with(state, [it for it in _of(flips, step + 1, output=False) if it.summed])
            own = _of(flips, step, output=True)
            found = _with(found, [it for it in own if it.summed])
            words = [checksum(state[spec.name]) for spec in self.job.program.state]
            words += [checksum(found[spec.name]) for spec in self.job.program.outputs]
            sums.add(np.array(words, "<u4").tobytes())
            outputs.append(_with(found, [it for it in own if not it.summed]))
        state = _with(state, [it for it in _of(flips, self.end, output=False) if not it.summed])
        kept = sums.list()
        assert kept is not None
        stacked = {name: np.stack([found[name] for found in outputs]) for name in outputs[0]}
        return Ran(kept, state, stacked)

    def find(self, ran: Ran, *, uploaded: bool = True, state_root: bytes = b"") -> tuple[Flip, ...]:
        """What an honest house says of it; ``uploaded``: the end state was."""
        kept, end, outputs = (self.folder / name for name in ("kept", "end", "outputs"))
        kept.write_bytes(ran.kept.to_bytes())
        end.write_bytes(bundle.save(ran.state))
        outputs.write_bytes(bundle.save(ran.outputs))
        asked = FlipQuestion(
            self.start if self.job.state else None,
            0,
            self.first,
            self.end - self.first,
            kept,
            end if uploaded and self.job.state else None,
            outputs,
            state_root or bundle.root(ran.state),
            bundle.root(ran.outputs),
        )
        asked = FlipQuestion.of_command(asked.to_command(self.folder, b""))
        job = self.job
        replay = Replay(self.session, job.program, self.spec, job.frozen, job.data, lambda: False)
        self.session.steps = 0
        found = FlipSearch(replay, asked).find()
        return tuple(Flip.of_fields(flip.to_fields()) for flip in found)


def same_end(bench: Bench, one: Sequence[Flip], other: Sequence[Flip]) -> bool:
    """Whether two sets of flips make the same of a segment."""
    ran = [bench.run(flips) for flips in (one, other)]
    ends = [(it.kept.data, bundle.root(it.state), bundle.root(it.outputs)) for it in ran]
    return ends[0] == ends[1]


def _of(flips: Sequence[Flip], step: int, *, output: bool) -> list[Flip]:
    return [flip for flip in flips if flip.output == output and flip.step == step]


def _with(tensors: Tensors, flips: Sequence[Flip]) -> Tensors:
    changed: dict[str, Array] = dict(tensors)
    for flip in flips:
        changed[flip.tensor] = flipped(changed[flip.tensor], flip.element, flip.bits)
    return changed
