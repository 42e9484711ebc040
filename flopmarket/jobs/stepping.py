"""A worker's side of a step audit: the segment again, and what is asked about its steps.

First the root of every state is asked for, before anybody knows which steps are drawn; then the
states before the drawn steps. Each time the segment runs again on the device that did the work, and
its checksums are written too, so that the caller sees whether it is still the same segment. Asking
the replay to stop ends it after the present step with Conflict (TRACE_ABORTED).
"""

from __future__ import annotations

from collections.abc import Iterator

from flopmarket.errors import Conflict, InvalidInput
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Tensors
from flopmarket.jobs.checksums import ListBuilder, entry_of
from flopmarket.jobs.judging_steps import StepInputs
from flopmarket.jobs.operations import Part
from flopmarket.jobs.questions import StepsQuestion
from flopmarket.jobs.replay import Replay
from flopmarket.jobs.step_values import DeviceValues

CHECKSUMS_FILE = "checksums.bin"
ROOTS_FILE = "roots.bin"

Files = Iterator[tuple[str, bytes]]


def state_file(step: int) -> str:
    """The state before a drawn step of the job."""
    return f"state-{step}.safetensors"


def values_file(step: int) -> str:
    """What the operations of a drawn step came to."""
    return f"values-{step}.safetensors"


class StepReplay:
    """Answers about steps of one job; operations of a step by ``values``."""

    def __init__(self, replay: Replay, values: DeviceValues) -> None:
        self._replay = replay
        self._device_values = values

    def answer(self, asked: StepsQuestion) -> Files:
        """Names and contents of the answer's files, one by one as the replay comes to them.

        InvalidInput (SEGMENT_START, SEGMENT_LENGTH) for what is no part of the job.
        """
        end = asked.first_step + asked.steps
        if not 0 <= asked.step <= asked.first_step:
            raise InvalidInput("the replay starts after the segment", code="SEGMENT_START")
        inside = all(asked.first_step <= step < end for step in asked.drawn)
        if asked.steps < 1 or end > self._replay.spec.steps or not inside:
            raise InvalidInput("no segment of this job, or no step of it", code="SEGMENT_LENGTH")
        self._replay.begin(asked.path, asked.step, asked.first_step)
        return self._drawn(asked) if asked.drawn else self._roots(asked)

    def _roots(self, asked: StepsQuestion) -> Files:
        """Roots of the state before the first step and after each."""
        roots = [self._replay.root()]
        sums = ListBuilder(asked.first_step)
        for step in range(asked.first_step, asked.first_step + asked.steps):
            sums.add(self._replay.step(step)[1])
            roots.append(self._replay.root())
        yield ROOTS_FILE, b"".join(roots)
        yield CHECKSUMS_FILE, _file(sums)

    def _drawn(self, asked: StepsQuestion) -> Files:
        """States before the drawn steps; checksums up to the last of them."""
        wanted = frozenset(asked.drawn)
        sums = ListBuilder(asked.first_step)
        for step in range(asked.first_step, max(wanted) + 1):
            if step not in wanted:
                sums.add(self._replay.step(step)[1])
                continue
            state = self._replay.state()
            yield state_file(step), bundle.save(state)
            _, entry = self._replay.step(step)
            sums.add(entry)
            if asked.with_values:
                yield values_file(step), bundle.save(self._values(step, state, entry))
        yield CHECKSUMS_FILE, _file(sums)

    def _values(self, step: int, state: Tensors, entry: bytes) -> Tensors:
        """What each operation of a step comes to on this device.

        Conflict (STEP_NOT_REPEATED) where they do not lead to what the whole step came to: kernels
        that a compiler rounds otherwise when they are fused. To send these would be a lie.
        """
        job = self._replay
        inputs = StepInputs(job.spec, step, job.frozen, job.data, state)
        values, ends = self._device_values.of_step(inputs)
        tensors = (
            (job.program.state, ends[Part.STATE]),
            (job.program.outputs, ends[Part.OUTPUT]),
        )
        if b"".join(entry_of(specs, found) for specs, found in tensors) != entry:
            raise Conflict(
                f"without fusion step {step} comes to another end",
                code="STEP_NOT_REPEATED",
            )
        return {str(at): value for at, value in values.items()}


def _file(sums: ListBuilder) -> bytes:
    found = sums.list()
    if found is None:
        raise InvalidInput("the checksums of this segment are too many", code="SEGMENT_LENGTH")
    return found.to_bytes()
