"""Step audits through the real coordinator, real agents and the reference: who is paid and who not.

The house may spend no more than a step or two on a segment, so it asks the worker for steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.cache import default_directory
from flopmarket.errors import InvalidInput
from flopmarket.jobs.host import Engine, EngineProcess
from flopmarket.trust.audit_policy import RULES
from flopmarket.trust.sealing import Waits
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.store import identity, segments, step_audits
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow
from flopmarket_coordinator.store.step_audits import StepAuditRow
from tests.integration.coordinator.disputed import Scene, Worker, scene
from tests.integration.coordinator.engines import InProcessEngine
from tests.integration.coordinator.market import FAST, eventually, running_market
from tests.integration.coordinator.stepped import CheatingEngines, nudged, skipped
from tests.unit.jobs.disputes import mlp_job

STEPS = 6
JOB = replace(mlp_job(steps=STEPS), segment_steps=STEPS, checkpoint_segments=1)
TWO = replace(mlp_job(steps=2 * STEPS), segment_steps=STEPS, checkpoint_segments=1)
SOME = replace(
    FAST,
    max_house_flops=1,
    audit_rules=replace(RULES, own_audit_units=0, least_steps=2),
    audit_waits=Waits(jitter_us=0),
)
ALL = replace(SOME, audit_rules=replace(SOME.audit_rules, least_steps=STEPS))
WAIT_SECONDS = 60.0


def play(
    folder: Path,
    story: Callable[[Scene], Awaitable[None]],
    parameters: Any = SOME,
    job: Any = JOB,
    **config: Any,
) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(120),
            running_market(folder, parameters=parameters, **config) as market,
            scene(market, folder, job) as built,
        ):
            await story(built)

    asyncio.run(run())


async def closed(built: Scene, row: SegmentRow) -> tuple[SegmentRow, StepAuditRow | None]:
    """A segment and its step audit, when something has become of both."""

    def find(tx: Transaction) -> tuple[SegmentRow, StepAuditRow | None] | None:
        found = segments.get(tx, row.segment_id)
        assert found is not None
        if found.state is SegmentState.COMMITTED:
            return None
        return found, step_audits.newest_of_segment(tx, row.segment_id)

    found: tuple[SegmentRow, StepAuditRow | None] = await eventually(
        lambda: built.query(find), WAIT_SECONDS
    )
    return found


async def is_banned(built: Scene, worker: Worker) -> bool:
    key = await built.query(lambda tx: identity.key(tx, worker.key.key_id))
    return bool(key.revoked)


@pytest.mark.parametrize("job", [JOB, TWO], ids=["one segment", "two"])
def test_an_honest_worker_is_paid_for_what_nobody_recomputed(tmp_path: Path, job: Any) -> None:
    async def story(built: Scene) -> None:
        honest = await built.worker("honest", built.honest)
        for row in await built.committed(honest):
            found, audit = await closed(built, row)
            assert found.state in (SegmentState.VERIFIED, SegmentState.SETTLED)
            assert audit is not None and audit.outcome == "EQUAL" and audit.number > 0
        assert not await is_banned(built, honest)
        recomputed = [count for engine in built.market.engines for _, count in engine.runs]
        assert recomputed and set(recomputed) == {1}

    play(tmp_path, story, job=job)


@pytest.mark.parametrize("change", [skipped, nudged], ids=["skipped", "nudged"])
@pytest.mark.parametrize("step", [0, 3, STEPS - 1])
def test_a_wrong_step_is_refuted_when_all_are_drawn(tmp_path: Path, change: Any, step: int) -> None:
    """The worker stands by what it did: its list, roots and states fit each other but for one
    step."""

    async def story(built: Scene) -> None:
        cheats = CheatingEngines(step, change)
        try:
            liar = await built.worker("liar", cheats.begin)
            (row,) = await built.committed(liar)
            found, audit = await closed(built, row)
            assert audit is not None and audit.outcome == "DIFFERS", audit
            assert (found.state, found.reason) == (SegmentState.REJECTED, "STEP_DIFFERS")
            assert await is_banned(built, liar)
        finally:
            cheats.close()

    play(tmp_path, story, ALL)


def test_a_wrong_step_is_seen_exactly_when_it_is_drawn(tmp_path: Path) -> None:
    async def story(built: Scene) -> None:
        cheats = CheatingEngines(2, nudged)
        try:
            liar = await built.worker("liar", cheats.begin)
            (row,) = await built.committed(liar)
            found, audit = await closed(built, row)
            assert audit is not None
            application = built.market.coordinator.backend.application
            drawn = await built.market.coordinator.backend.command(
                lambda tx: application._steps_drawn(tx, audit, found)
            )
            assert len(drawn) == 2
            assert (found.state is SegmentState.REJECTED) == (2 in drawn)
            assert (audit.outcome == "DIFFERS") == (2 in drawn)
        finally:
            cheats.close()

    play(tmp_path, story)


class Flipping(InProcessEngine):
    """Right when it runs, and otherwise when it replays: a bit flipped once."""

    async def replay_steps(self, folder: Path, spec: bytes, asked: Any, target: Path) -> None:
        await super().replay_steps(folder, spec, asked, target)
        path = target / "checksums.bin"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))


async def flipping() -> Engine:
    return Flipping()


async def dying() -> Engine:
    class Dying(InProcessEngine):
        async def replay_steps(self, *_: Any) -> None:
            raise InvalidInput("no room for this", code="DISK_FULL")

    return Dying()


@pytest.mark.parametrize("start", [flipping, dying], ids=["other bits", "no engine"])
def test_who_cannot_answer_says_so_and_is_not_slashed(tmp_path: Path, start: Any) -> None:
    async def story(built: Scene) -> None:
        worker = await built.worker("unlucky", start)
        rows = await built.committed(worker)
        found, _ = await closed(built, rows[0])
        assert (found.state, found.reason) == (SegmentState.VOID, "STEPS_UNANSWERED")
        assert not await is_banned(built, worker)

    play(tmp_path, story)


def test_the_question_outlives_the_worker_and_the_lease(tmp_path: Path) -> None:
    """The worker is gone when it is asked, and answers after a restart from what it kept."""

    async def story(built: Scene) -> None:
        worker = await built.worker("honest", Slow.begin)
        (row,) = await built.committed(worker)
        async with asyncio.timeout(WAIT_SECONDS):
            await Slow.begun.wait()
        worker.stop.set()
        assert worker.task is not None
        await worker.task
        assert (await built.segment(row.segment_id)).state is SegmentState.COMMITTED
        worker.stop = asyncio.Event()
        built.again("honest", worker, built.honest)
        worker.start()
        found, audit = await closed(built, row)
        assert found.state in (SegmentState.VERIFIED, SegmentState.SETTLED)
        assert audit is not None and audit.outcome == "EQUAL"

    play(tmp_path, story)


class Slow(InProcessEngine):
    """Never comes to the end of a replay."""

    begun = asyncio.Event()

    @classmethod
    async def begin(cls) -> Engine:
        return cls()

    async def replay_steps(self, *_: Any) -> None:
        self.begun.set()
        await asyncio.sleep(3_600)


def test_a_real_device_answers_from_an_engine_process(tmp_path: Path) -> None:
    """The worker's steps run on OpenCL, the house's on the reference: equal bits."""
    device = devices.find(None).index_name

    async def start() -> Engine:
        return await EngineProcess.start(device, cache_dir=default_directory())

    async def story(built: Scene) -> None:
        worker = await built.worker("honest", start)
        (row,) = await built.committed(worker)
        found, audit = await closed(built, row)
        assert found.state in (SegmentState.VERIFIED, SegmentState.SETTLED)
        assert audit is not None and audit.outcome == "EQUAL"

    play(tmp_path, story, ALL)
