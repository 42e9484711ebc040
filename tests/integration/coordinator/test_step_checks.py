"""The house's look at steps, on real files and the reference: what each forged file comes to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from flopmarket.errors import Unavailable
from flopmarket.jobs import bundle
from flopmarket.jobs.checksums import ChecksumList, checksums_path
from flopmarket.jobs.host import SegmentDone, StepDone
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.process import DATA_FILE, FROZEN_FILE, PROGRAM_FILE
from flopmarket.jobs.questions import StepsQuestion
from flopmarket.jobs.spec import JobSpec
from flopmarket.jobs.stepping import CHECKSUMS_FILE, ROOTS_FILE, state_file
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import digest, encode
from flopmarket.trust.step_audit import DrawnState, Finding, StepAnswer, StepClaim, StepCode
from flopmarket_coordinator.application.types_steps import StepTask
from flopmarket_coordinator.step_checks import look_at_steps
from tests.integration.coordinator.engines import InProcessEngine
from tests.unit.jobs.disputes import mlp_job

FIRST, STEPS = 3, 4
DRAWN = (3, 5, 6)
JOB: PreparedJob = replace(mlp_job(steps=12), segment_steps=4)
NOBODY = "d" * 64


def spec_of(job: PreparedJob) -> JobSpec:
    return job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))


@dataclass
class Case:
    """A segment of an honest worker, its answer, and where everything lies."""

    folder: Path
    store: Path
    task: StepTask

    def put(self, data: bytes) -> bytes:
        name = hashlib.sha256(data).digest()
        (self.store / name.hex()).write_bytes(data)
        return name

    def data(self, name: bytes) -> bytes:
        return (self.store / name.hex()).read_bytes()

    def claiming(self, **changes: object) -> Case:
        claim = replace(self.task.claim, **changes)  # type: ignore[arg-type]
        return Case(self.folder, self.store, replace(self.task, claim=claim))

    def with_list(self, change: int, *, rehashed: bool) -> Case:
        """A list with another word; the claimed hash follows it, or not."""
        sums = ChecksumList.from_bytes(self.data(self.task.claim.checksums))
        words = np.frombuffer(sums.data, "<u4").copy()
        words[change] ^= 1
        forged = replace(sums, data=words.tobytes())
        made = self.claiming(checksums=self.put(forged.to_bytes()))
        return made.claiming(inner=forged.inner()) if rehashed else made

    def with_state(self, place: int, state: bytes) -> Case:
        states = list(self.task.answer.states)
        states[place] = replace(states[place], state=state)
        answer = replace(self.task.answer, states=tuple(states))
        return Case(self.folder, self.store, replace(self.task, answer=answer))

    def look(self, engine: InProcessEngine | None = None) -> Finding:
        async def run() -> Finding:
            used, spec = engine or InProcessEngine(), encode(spec_of(JOB))
            await used.open(self.folder, spec)
            return await look_at_steps(
                used, self.task, spec, self.folder, lambda name: self.store / name, False
            )

        return asyncio.run(run())


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("steps")
    folder, store, target = root / "job", root / "store", root / "answer"
    for path in (folder, store, target):
        path.mkdir()
    (folder / PROGRAM_FILE).write_bytes(JOB.program.to_bytes())
    (folder / FROZEN_FILE).write_bytes(bundle.save(JOB.frozen))
    (folder / DATA_FILE).write_bytes(bundle.save(JOB.data))
    start = root / "start"
    start.write_bytes(bundle.save(JOB.state))
    spec = encode(spec_of(JOB))

    async def run() -> tuple[SegmentDone, bytes]:
        engine, outputs = InProcessEngine(), root / "outputs.safetensors"
        await engine.open(folder, spec)
        await engine.load_state(start, 0)
        done: SegmentDone | StepDone | None = None
        for first, count in ((0, FIRST), (FIRST, STEPS)):
            async for event in engine.run(first, count, outputs_path=outputs, state_path=None):
                done = event
        kept = checksums_path(outputs).read_bytes()
        for drawn in ((), DRAWN):
            asked = StepsQuestion(start, 0, FIRST, STEPS, drawn)
            await InProcessEngine().replay_steps(folder, spec, asked, target)
            if not drawn:
                assert (target / CHECKSUMS_FILE).read_bytes() == kept
        assert isinstance(done, SegmentDone)
        return done, outputs.read_bytes()

    done, outputs = asyncio.run(run())
    case = Case(folder, store, None)  # type: ignore[arg-type]
    body = Commitment(
        bytes(32), "lease", 1, NOBODY, 1, FIRST, STEPS, done.state_root_before,
        done.state_root_after, done.outputs_root, bytes(32),
    )  # fmt: skip
    roots = (target / ROOTS_FILE).read_bytes()
    asked = StepsQuestion(start, 0, FIRST, STEPS)
    asyncio.run(InProcessEngine().replay_steps(folder, spec, asked, target))
    claim = StepClaim(
        digest(body),
        NOBODY,
        bytes(32),
        done.inner,
        case.put((target / CHECKSUMS_FILE).read_bytes()),
        case.put(roots),
    )
    states = tuple(
        DrawnState(step, case.put((target / state_file(step)).read_bytes())) for step in DRAWN
    )
    answer = StepAnswer(digest(claim), states)
    case.task = StepTask("audit", body, claim, answer, False, case.put(outputs).hex())
    return case


def test_honest_files_are_equal(honest: Case) -> None:
    engine = InProcessEngine()
    assert honest.look(engine).code is StepCode.EQUAL
    assert engine.runs == [(step, 1) for step in DRAWN]


def test_without_an_outputs_file_the_list_alone_speaks(honest: Case) -> None:
    assert replace(honest, task=replace(honest.task, outputs_artifact="")).look().code is (
        StepCode.EQUAL
    )


def test_a_forged_list_is_no_answer(honest: Case) -> None:
    """It does not hash to what was committed."""
    assert honest.with_list(0, rehashed=False).look().code is StepCode.UNUSABLE


@pytest.mark.parametrize("word", range(3))
def test_a_list_that_was_committed_wrong_convicts(honest: Case, word: int) -> None:
    """A word of the first drawn step, committed to as it stands."""
    found = honest.with_list(word, rehashed=True).look()
    assert (found.code, found.step) == (StepCode.DIFFERS, FIRST)


def test_a_word_of_an_output_convicts_though_its_step_is_not_drawn(honest: Case) -> None:
    sums = ChecksumList.from_bytes(honest.data(honest.task.claim.checksums))
    found = honest.with_list(2 * sums.words - 1, rehashed=True).look()
    assert (found.code, found.step) == (StepCode.DIFFERS, 4)
    assert 4 not in DRAWN


def odd_outputs(tensors: bundle.Tensors, what: str) -> bundle.Tensors:
    """Outputs that no segment of the program leaves."""
    name = next(iter(tensors))
    rest = {other: values for other, values in tensors.items() if other != name}
    return {
        "fewer steps": {**rest, name: tensors[name][:1]},
        "no steps": {**rest, name: tensors[name][0].reshape(-1)[0].reshape(())},
        "a tensor less": rest,
        "a tensor more": {**tensors, "more": tensors[name]},
        "another type": {**rest, name: tensors[name].astype(np.float64)},
    }[what]


@pytest.mark.parametrize(
    "what", ["fewer steps", "no steps", "a tensor less", "a tensor more", "another type"]
)
def test_outputs_of_another_form_convict(honest: Case, what: str) -> None:
    """The worker committed to the root of such a file, and no honest segment leaves one."""
    tensors = bundle.load(honest.data(bytes.fromhex(honest.task.outputs_artifact)))
    odd = honest.put(bundle.save(odd_outputs(tensors, what))).hex()
    found = replace(honest, task=replace(honest.task, outputs_artifact=odd)).look()
    assert (found.code, found.step) == (StepCode.DIFFERS, FIRST)


def test_another_state_is_no_answer(honest: Case) -> None:
    """That of another drawn step, of other numbers, of another shape, or no state at all."""
    states = honest.task.answer.states
    tensors = bundle.load(honest.data(states[1].state))
    name = next(iter(tensors))
    changed = {**tensors, name: tensors[name] + np.float32(1)}
    for wrong in (
        states[2].state,
        honest.put(bundle.save(changed)),
        honest.put(bundle.save({**tensors, "more": tensors[name]})),
        honest.put(b"no state"),
    ):
        found = honest.with_state(1, wrong).look()
        assert (found.code, found.step) == (StepCode.UNUSABLE, DRAWN[1])


@pytest.mark.parametrize("place", [0, STEPS])
def test_roots_that_do_not_meet_the_commitment_are_no_answer(honest: Case, place: int) -> None:
    roots = bytearray(honest.data(honest.task.claim.roots))
    roots[32 * place] ^= 1
    assert honest.claiming(roots=honest.put(bytes(roots))).look().code is StepCode.UNUSABLE


def test_a_wrong_root_after_a_drawn_step_convicts(honest: Case) -> None:
    roots = bytearray(honest.data(honest.task.claim.roots))
    roots[32 * (DRAWN[0] + 1 - FIRST)] ^= 1
    found = honest.claiming(roots=honest.put(bytes(roots))).look()
    assert (found.code, found.step) == (StepCode.DIFFERS, DRAWN[0])


def test_a_file_that_is_gone_is_our_fault(honest: Case) -> None:
    """An answer counts only when its files are here."""
    for lost in (
        honest.claiming(roots=bytes(32)),
        honest.claiming(checksums=bytes(32)),
        honest.with_state(0, bytes(32)),
    ):
        with pytest.raises(Unavailable):
            lost.look()


class Unsteady(InProcessEngine):
    """Comes to another end each time."""

    async def run(
        self,
        first_step: int,
        count: int,
        *,
        outputs_path: Path,
        state_path: Path | None,
        roots_ppm: int = 0,
    ) -> AsyncIterator[StepDone | SegmentDone]:
        async for event in super().run(
            first_step, count, outputs_path=outputs_path, state_path=state_path
        ):
            if isinstance(event, SegmentDone) and len(self.runs) % 2:
                event = replace(event, state_root_after=bytes(32))
            yield event


def test_an_engine_that_is_not_steady_convicts_nobody(honest: Case) -> None:
    with pytest.raises(Unavailable):
        honest.look(Unsteady())
