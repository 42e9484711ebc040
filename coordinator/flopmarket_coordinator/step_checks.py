"""The house's look at drawn steps: each is run once, from the state that its worker handed over.

What comes out is compared with what the worker signed (:mod:`flopmarket.trust.step_audit`). A step
that comes to something else is run again before anybody is convicted by it: an engine that is not
steady is our fault.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flopmarket.engine.program import Program
from flopmarket.errors import FlopmarketError, InvalidInput, Unavailable
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Tensors
from flopmarket.jobs.checksums import ChecksumList, checksums_path, entry_of, words_per_step
from flopmarket.jobs.host import Engine, SegmentDone, StepDone
from flopmarket.jobs.process import PROGRAM_FILE
from flopmarket.jobs.questions import ValuesQuestion
from flopmarket.limits import AUDIT_STEP_SECONDS, MAX_CHECKSUM_LIST_BYTES
from flopmarket.trust.encoding import DIGEST_BYTES
from flopmarket.trust.step_audit import (
    EQUAL,
    DrawnState,
    Finding,
    OneStep,
    StepCode,
    check_roots,
    judge_step,
    root_at,
)
from flopmarket_coordinator.application.types_steps import StepTask
from flopmarket_coordinator.tolerance_checks import judge_values

PathOf = Callable[[str], Path]
"""Where the artifact with a digest lies."""

_OUTPUTS_FILE = "step-outputs.safetensors"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A worker's files, read: the roots of all states, the list, the outputs of all steps."""

    roots: bytes
    sums: ChecksumList
    outputs: Tensors


class Unusable(Exception):
    """A file is not what the worker signed that it is. Leaves this module never."""


async def look_at_steps(
    engine: Engine, task: StepTask, spec: bytes, folder: Path, path_of: PathOf, stateless: bool
) -> Finding:
    """What the drawn steps of a segment come to on an engine that has the job in ``folder`` open.

    Where values were asked for, all steps are judged by them, and the worst is what counts.
    :class:`Unavailable` when the engine cannot work now, or not twice alike.
    """
    program = await asyncio.to_thread(_program, folder)
    try:
        claimed = await asyncio.to_thread(_read, task, program, path_of)
    except Unusable as problem:
        return Finding(StepCode.UNUSABLE, 0, str(problem))
    found = check_roots(claimed.roots, task.body)
    if found == EQUAL:
        found = await asyncio.to_thread(_check_outputs, task, claimed, program)
    seed = secrets.randbits(63)  # of vectors that nobody could foresee
    worst = found
    for drawn in task.answer.states if found == EQUAL else ():
        path = None if stateless else path_of(drawn.state.hex())
        values = None
        if task.with_values:
            file = path_of(drawn.values.hex())
            values = ValuesQuestion(folder, spec, drawn.step, path, file, seed)
        found = await _look(engine, task, claimed, drawn, path, program, folder, values)
        if found.code in (StepCode.DIFFERS, StepCode.FAULT):
            again = await _look(engine, task, claimed, drawn, path, program, folder, values)
            if again != found:
                raise Unavailable(
                    f"step {drawn.step} came to different ends", code="ENGINE_UNSTEADY"
                )
        if found != EQUAL:
            worst = found
        if found.code not in (StepCode.EQUAL, StepCode.SECOND_OPINION):
            break
    return worst


def _program(folder: Path) -> Program:
    return Program.from_bytes((folder / PROGRAM_FILE).read_bytes())


def _read(task: StepTask, program: Program, path_of: PathOf) -> Claimed:
    """The worker's files; Unusable for what is not what it claimed."""
    body, claim = task.body, task.claim
    roots = _bytes(path_of(claim.roots.hex()), (body.steps_done + 1) * DIGEST_BYTES)
    data = _bytes(path_of(claim.checksums.hex()), MAX_CHECKSUM_LIST_BYTES)
    try:
        sums = ChecksumList.from_bytes(data)
    except InvalidInput as error:
        raise Unusable(error.message) from error
    shape = (sums.first_step, sums.steps, sums.words)
    if shape != (body.first_step, body.steps_done, words_per_step(program)):
        raise Unusable("the list is of another segment")
    if sums.inner() != claim.inner:
        raise Unusable("the list does not hash to what the commitment hides")
    outputs: Tensors = {}
    if task.outputs_artifact:
        path = _here(path_of(task.outputs_artifact))
        try:
            outputs = bundle.read(path)
        except FlopmarketError as error:
            raise Unusable("the outputs cannot be read") from error
    return Claimed(roots, sums, outputs)


def _bytes(path: Path, most: int) -> bytes:
    if _here(path).stat().st_size > most:
        raise Unusable("a file is too long")
    return path.read_bytes()


def _here(path: Path) -> Path:
    """A file that was here when the worker named it: that it is gone is our fault."""
    if not path.exists():
        raise Unavailable(f"file {path.name} is gone", code="STEP_FILE_MISSING")
    return path


def _check_outputs(task: StepTask, claimed: Claimed, program: Program) -> Finding:
    """The uploaded outputs are the program's, of all steps, and the list has their checksums. The
    worker committed to their root: no honest segment leaves others."""
    if not task.outputs_artifact:
        return EQUAL
    steps = claimed.sums.steps
    specs = tuple(replace(spec, shape=(steps, *spec.shape)) for spec in program.outputs)
    try:
        bundle.check_specs(claimed.outputs, specs, "outputs")
    except InvalidInput as error:
        return Finding(StepCode.DIFFERS, claimed.sums.first_step, error.message)
    skipped = len(program.state) * 4
    for place in range(claimed.sums.steps):
        step = claimed.sums.first_step + place
        row = {name: values[place] for name, values in claimed.outputs.items()}
        if entry_of(program.outputs, row) != claimed.sums.entry(step)[skipped:]:
            return Finding(StepCode.DIFFERS, step, "the outputs have other checksums than the list")
    return EQUAL


async def _look(
    engine: Engine,
    task: StepTask,
    claimed: Claimed,
    drawn: DrawnState,
    path: Path | None,
    program: Program,
    folder: Path,
    values: ValuesQuestion | None,
) -> Finding:
    """One step from one state, run, or judged by its values."""
    body, sums, step = task.body, claimed.sums, drawn.step
    before = b""
    has_entry = step > sums.first_step
    try:
        state = await asyncio.to_thread(_state, path, program)
    except Unusable as problem:
        return Finding(StepCode.UNUSABLE, step, str(problem))
    if has_entry:
        before = await asyncio.to_thread(entry_of, program.state, state)
    place = step - sums.first_step
    stated = OneStep(
        root_at(claimed.roots, body, step),
        root_at(claimed.roots, body, step + 1),
        sums.entry(step - 1)[: len(before)] if has_entry else b"",
        sums.entry(step),
        _output_bytes(claimed.outputs, place),
    )
    if values is not None:
        return await judge_values(engine, values, _with_outputs_root(stated, claimed, place))
    root_before = await engine.load_state(path, step)
    done, entry, outputs = await _one_step(engine, step, folder)
    if not claimed.outputs:
        outputs = {}
    run = OneStep(root_before, done.state_root_after, before, entry, _output_bytes(outputs, 0))
    return judge_step(step, stated, run)


def _with_outputs_root(stated: OneStep, claimed: Claimed, place: int) -> OneStep:
    """What was signed, with the root of the step's outputs instead of their bytes."""
    row = {name: values[place : place + 1] for name, values in claimed.outputs.items()}
    return replace(stated, outputs=bundle.root(row))


def _state(path: Path | None, program: Program) -> Tensors:
    if path is None:
        return {}
    _here(path)
    try:
        state = bundle.read(path)
        bundle.check_specs(state, program.state, "state")
    except FlopmarketError as error:
        raise Unusable(f"the state cannot be read: {error.message}") from error
    return state


def _output_bytes(outputs: Tensors, place: int) -> bytes:
    """Outputs of one step, in the order of their names."""
    return b"".join(outputs[name][place].tobytes() for name in sorted(outputs))


async def _one_step(engine: Engine, step: int, folder: Path) -> tuple[SegmentDone, bytes, Tensors]:
    """The step's end, its checksums, and its outputs with a first axis of one."""
    path = folder / _OUTPUTS_FILE
    run = engine.run(step, 1, outputs_path=path, state_path=None)
    try:
        while not isinstance(event := await next_event(run), SegmentDone):
            pass
        sums = ChecksumList.from_bytes(checksums_path(path).read_bytes())
        return event, sums.entry(step), await asyncio.to_thread(bundle.read, path)
    except (OSError, InvalidInput) as error:
        raise Unavailable(f"the engine wrote no list: {error}", code="ENGINE_NO_RESULT") from error
    finally:
        # Not started again after its last event; before that, closing kills the engine.
        if hasattr(run, "aclose"):
            await run.aclose()
        path.unlink(missing_ok=True)
        checksums_path(path).unlink(missing_ok=True)


async def next_event(run: AsyncIterator[StepDone | SegmentDone]) -> StepDone | SegmentDone:
    """The next event of a run, within a bound on the silence between two of them."""
    try:
        async with asyncio.timeout(AUDIT_STEP_SECONDS):
            return await anext(run)
    except TimeoutError as error:
        raise Unavailable(
            f"the engine was silent for {AUDIT_STEP_SECONDS} s", code="ENGINE_SILENT"
        ) from error
    except StopAsyncIteration as error:
        raise Unavailable("the engine ended without a result", code="ENGINE_NO_RESULT") from error
