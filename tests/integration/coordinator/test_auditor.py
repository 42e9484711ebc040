"""The auditor against the real runner: goes on, replays, retries, and never blames a worker."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from flopmarket.errors import FlopmarketError, Unavailable
from flopmarket.jobs import bundle
from flopmarket.jobs.host import JobRefused
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.spec import job_id
from flopmarket.trust.encoding import encode
from flopmarket_coordinator.application.types_auditing import (
    AuditKind,
    AuditOutcome,
    AuditResult,
    AuditTask,
    FilesResult,
    JobRefusedByAuditor,
    PathDiffers,
    PathSegment,
)
from flopmarket_coordinator.artifacts import FileArtifactStore
from flopmarket_coordinator.auditor import Auditor, Recomputer
from flopmarket_coordinator.backend import Backend
from tests.integration.coordinator.engines import InProcessEngine
from tests.unit.jobs.jobs import small_job


class Bench:
    """A stored job, its honest segments, and the tasks that audit them."""

    def __init__(self, folder: Path) -> None:
        self.job: PreparedJob = small_job()
        numbers = iter(range(1000))
        self.store = FileArtifactStore(folder / "artifacts", lambda: str(next(numbers)))
        self.store.prepare()
        self.spec = self.job.spec(buyer="b" * 64, max_price_nano=1, deadline_us=1, nonce=bytes(16))
        self.digests = {name: self.keep(data) for name, data in self.job.artifacts().items()}
        states = folder / "states"
        states.mkdir()
        self.result = run_local(self.job, "reference", work_dir=states)
        self.states = {
            int(path.stem.removeprefix("state-")): self.keep(path.read_bytes())
            for path in states.iterdir()
        }
        self.states[0] = self.digests["state"]
        self.engines: list[InProcessEngine] = []
        self.deaths = 0
        self.recomputer = Recomputer(self.store, folder / "audit", self.start_engine)

    async def start_engine(self) -> InProcessEngine:
        engine = InProcessEngine(self.deaths)
        self.deaths = 0
        self.engines.append(engine)
        return engine

    def keep(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()

        async def chunks() -> AsyncIterator[bytes]:
            yield data

        asyncio.run(self.store.write(digest, len(data), chunks()))
        return digest

    def root_at(self, step: int) -> bytes:
        if step == 0:
            return self.spec.state_root
        return next(s.state_root for s in self.result.segments if s.first_step + s.steps == step)

    def path(self, first: int, end: int) -> tuple[PathSegment, ...]:
        """Segments between two, as they were committed by an honest worker."""
        return tuple(
            PathSegment(at, s.first_step, s.steps, s.state_root, s.outputs_root, recomputed=False)
            for at, s in enumerate(self.result.segments)
            if first <= at < end
        )

    def task(self, index: int, replay_step: int | None = None, **changes: Any) -> AuditTask:
        segment = self.result.segments[index]
        at = segment.first_step if replay_step is None else replay_step
        outputs = {
            name: array[segment.first_step : segment.first_step + segment.steps]
            for name, array in self.result.outputs.items()
        }
        task = AuditTask(
            job_id=job_id(self.spec).hex(),
            segment_id=index,
            segment_index=index,
            first_step=segment.first_step,
            steps=segment.steps,
            commitment_digest=bytes(32),
            spec=encode(self.spec),
            program_artifact=self.digests["program"],
            frozen_artifact=self.digests["frozen"],
            data_artifact=self.digests["data"],
            replay_artifact=self.states[at],
            replay_root=self.root_at(at),
            replay_step=at,
            state_root_before=self.root_at(segment.first_step),
            state_root_after=segment.state_root,
            outputs_root=segment.outputs_root,
            outputs_artifact=self.keep(bundle.save(outputs)),
            checkpoint_artifact=self.states[segment.first_step + segment.steps],
        )
        return dataclasses.replace(task, **changes)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def confirms(result: AuditResult | JobRefusedByAuditor, task: AuditTask) -> bool:
    assert isinstance(result, AuditResult)
    return (
        result.state_root == task.state_root_after == result.checkpoint_artifact_root
        and result.outputs_root == task.outputs_root == result.outputs_artifact_root
    )


def test_an_honest_chain_is_confirmed_without_reloading(bench: Bench) -> None:
    tasks = [bench.task(index) for index in range(3)]

    async def scenario() -> list[bool]:
        return [confirms(await bench.recomputer.recompute(task), task) for task in tasks]

    assert asyncio.run(scenario()) == [True, True, True]
    (engine,) = bench.engines
    assert engine.loads == 1
    assert engine.runs == [(0, 4), (4, 4), (8, 2)]


def test_a_segment_without_a_durable_start_is_replayed(bench: Bench) -> None:
    task = bench.task(2, replay_step=0)
    assert confirms(asyncio.run(bench.recomputer.recompute(task)), task)
    assert bench.engines[0].runs == [(0, 4), (4, 4), (8, 2)]


def test_a_wrong_claim_shows_as_another_root(bench: Bench) -> None:
    task = bench.task(0, state_root_after=bytes(32))
    result = asyncio.run(bench.recomputer.recompute(task))
    assert isinstance(result, AuditResult)
    assert result.state_root == bench.root_at(4)


def test_uploaded_files_are_read_not_believed(bench: Bench) -> None:
    other = bench.keep(bundle.save({"w": np.ones(3, np.float32)}))
    junk = bench.keep(b"this is no bundle")
    task = bench.task(0, outputs_artifact=junk, checkpoint_artifact=other)
    result = asyncio.run(bench.recomputer.recompute(task))
    assert isinstance(result, AuditResult)
    assert result.outputs_artifact_root == b""
    assert result.checkpoint_artifact_root == bundle.root({"w": np.ones(3, np.float32)})
    empty = asyncio.run(bench.recomputer.recompute(bench.task(0, checkpoint_artifact="")))
    assert isinstance(empty, AuditResult)
    assert empty.checkpoint_artifact_root is None


def test_a_job_that_is_not_what_it_binds_is_refused(bench: Bench) -> None:
    other_state = bench.keep(bundle.save({"w": np.ones(3, np.float32)}))
    other_data = bench.keep(bundle.save({"x": np.ones((11, 3), np.float32)}))
    wrong_state = asyncio.run(
        bench.recomputer.recompute(bench.task(0, replay_artifact=other_state))
    )
    wrong_data = asyncio.run(bench.recomputer.recompute(bench.task(0, data_artifact=other_data)))
    assert isinstance(wrong_state, JobRefusedByAuditor)
    assert wrong_state.code == "JOB_STATE"
    # The first refusal closed the job, so the second one opened it anew.
    assert isinstance(wrong_data, JobRefusedByAuditor)
    assert wrong_data.code == "JOB_DATA"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state_root_before": bytes(32)}, "REPLAY_DIFFERS"),
        ({"replay_root": bytes(32), "replay_step": 4}, "STORED_STATE_DIFFERS"),
    ],
)
def test_a_contradiction_of_ours_is_no_verdict(
    bench: Bench, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(Unavailable) as caught:
        asyncio.run(bench.recomputer.recompute(bench.task(1, **changes)))
    assert caught.value.code == code
    assert bench.engines[0].stopped


def test_a_dead_engine_is_replaced(bench: Bench) -> None:
    bench.deaths = 1
    task = bench.task(1, replay_step=0)

    async def scenario() -> AuditResult | JobRefusedByAuditor:
        with pytest.raises(Unavailable):
            await bench.recomputer.recompute(task)
        return await bench.recomputer.recompute(task)

    assert confirms(asyncio.run(scenario()), task)
    assert len(bench.engines) == 2
    assert bench.engines[0].stopped


class Desk:
    """Application and tick of an auditor: tasks in, results out, no store."""

    def __init__(self, tasks: list[AuditTask]) -> None:
        self.tasks = tasks
        self.results: list[tuple[AuditTask, Any]] = []

    def next_audit(self, tx: None, exclude: Collection[str], kind: AuditKind) -> AuditTask | None:
        mine = (task for task in self.tasks if task.kind is kind)
        return next((task for task in mine if task.job_id not in exclude), None)

    def audit_finished(self, tx: None, task: AuditTask, result: Any) -> AuditOutcome:
        self.tasks.remove(task)
        self.results.append((task, result))
        return AuditOutcome(True, True, "")

    async def read(self, query: Callable[[None], Any]) -> Any:
        return query(None)

    submit = read


def test_a_job_that_fails_here_waits_while_others_are_audited(bench: Bench) -> None:
    bench.deaths = 1
    first = bench.task(0)
    second = dataclasses.replace(bench.task(0), job_id="f" * 64)
    desk, now = Desk([first, second]), 100.0
    backend = Backend(cast(Any, desk), cast(Any, desk), bench.store, lambda: 0)
    auditor = Auditor(backend, bench.recomputer, now=lambda: now)

    async def scenario() -> None:
        nonlocal now
        assert await auditor.step(AuditKind.RECOMPUTE)  # dies: the first job is put off
        assert await auditor.step(AuditKind.RECOMPUTE)  # the other one
        assert not await auditor.step(AuditKind.RECOMPUTE)
        now += 1.01
        assert await auditor.step(AuditKind.RECOMPUTE)
        assert not await auditor.step(AuditKind.RECOMPUTE)

    asyncio.run(scenario())
    assert [task.job_id for task, _ in desk.results] == [second.job_id, first.job_id]
    assert all(confirms(result, task) for task, result in desk.results)


def test_the_wait_grows_and_is_bounded(bench: Bench) -> None:
    class Broken(Recomputer):
        async def recompute(self, task: AuditTask) -> Any:
            raise FlopmarketError("no device", code="NO_DEVICE")

    desk, now, waits = Desk([bench.task(0)]), 0.0, []
    backend = Backend(cast(Any, desk), cast(Any, desk), bench.store, lambda: 0)
    broken = Broken(bench.store, Path("unused"), bench.start_engine)
    auditor = Auditor(backend, broken, now=lambda: now)

    async def scenario() -> None:
        nonlocal now
        assert await auditor.step(AuditKind.RECOMPUTE)
        for _ in range(9):
            start = now
            while not await auditor.step(AuditKind.RECOMPUTE):
                now += 0.5
            waits.append(now - start)

    asyncio.run(scenario())
    assert waits == sorted(waits)
    assert waits[0] <= 2
    assert 30 <= waits[-1] <= 61
    assert not desk.results


def test_refusals_of_the_engine_are_told_from_misuse(bench: Bench) -> None:
    async def misused(*args: Any, **keywords: Any) -> AsyncIterator[Any]:
        raise JobRefused("the state is at step 3", code="SEGMENT_START")
        yield

    task = bench.task(0)

    async def scenario() -> None:
        engine = await bench.start_engine()
        engine.run = misused  # type: ignore[method-assign,assignment]

        async def start() -> InProcessEngine:
            return engine

        recomputer = Recomputer(bench.store, bench.recomputer._folder, start)
        with pytest.raises(Unavailable):
            await recomputer.recompute(task)

    asyncio.run(scenario())


def test_the_first_segment_that_differs_on_the_way_is_told(bench: Bench) -> None:
    path = list(bench.path(0, 2))
    path[1] = dataclasses.replace(path[1], outputs_root=bytes(32))
    task = bench.task(2, replay_step=0, path=tuple(path))
    found = asyncio.run(bench.recomputer.recompute(task))
    right = bench.result.segments[1]
    assert found == PathDiffers(1, right.state_root, right.outputs_root)


def test_what_the_house_found_right_before_is_never_held_against_the_worker(bench: Bench) -> None:
    path = list(bench.path(0, 2))
    path[0] = dataclasses.replace(path[0], root_after=bytes(32), recomputed=True)
    task = bench.task(2, replay_step=0, path=tuple(path))
    with pytest.raises(Unavailable) as caught:
        asyncio.run(bench.recomputer.recompute(task))
    assert caught.value.code == "REPLAY_DIFFERS"


def test_an_engine_that_is_on_the_way_goes_on_from_where_it_is(bench: Bench) -> None:
    steps: list[int] = []
    first, task = bench.task(0), bench.task(2, replay_step=0, path=bench.path(0, 2))

    async def scenario() -> None:
        assert confirms(await bench.recomputer.recompute(first), first)
        engine = bench.engines[0]
        run = engine.run

        def counted(first_step: int, count: int, **keywords: Any) -> AsyncIterator[Any]:
            steps.append(first_step)
            return run(first_step, count, **keywords)

        engine.run = counted  # type: ignore[method-assign,assignment]
        assert confirms(await bench.recomputer.recompute(task), task)

    asyncio.run(scenario())
    assert steps == [segment.first_step for segment in bench.result.segments[1:3]]


def test_files_are_read_without_an_engine(bench: Bench) -> None:
    task = bench.task(0, kind=AuditKind.FILES)
    wrong = bench.task(1, kind=AuditKind.FILES, outputs_artifact=bench.keep(b"no bundle"))
    desk = Desk([task, wrong])
    backend = Backend(cast(Any, desk), cast(Any, desk), bench.store, lambda: 0)
    auditor = Auditor(backend, bench.recomputer, now=lambda: 0.0)

    async def scenario() -> None:
        assert not await auditor.step(AuditKind.RECOMPUTE)
        assert await auditor.step(AuditKind.FILES)
        assert await auditor.step(AuditKind.FILES)

    asyncio.run(scenario())
    assert [result for _, result in desk.results] == [
        FilesResult(task.outputs_root, task.state_root_after),
        FilesResult(b"", wrong.state_root_after),
    ]
    assert bench.engines == []
