"""The engine process, for real: a child with the reference interpreter, driven over pipes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from flopmarket.jobs import bundle
from flopmarket.jobs.host import EngineProcess, EngineProcessDied, JobRefused, SegmentDone, StepDone
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.process import DATA_FILE, FROZEN_FILE, PROGRAM_FILE
from flopmarket.jobs.roots import StateRoots, roots_path
from flopmarket.trust.encoding import encode
from tests.unit.jobs.jobs import small_job


def lay_out(job: PreparedJob, folder: Path) -> bytes:
    """Write the job's files; returns the canonical spec."""
    files = job.artifacts()
    (folder / PROGRAM_FILE).write_bytes(files["program"])
    (folder / DATA_FILE).write_bytes(files["data"])
    (folder / FROZEN_FILE).write_bytes(files["frozen"])
    (folder / "state.safetensors").write_bytes(files["state"])
    return encode(job.spec(buyer="b", max_price_nano=0, deadline_us=0, nonce=bytes(16)))


def with_engine(test: Callable[[EngineProcess], Awaitable[None]]) -> None:
    async def run() -> None:
        engine = await EngineProcess.start("reference")
        try:
            await asyncio.wait_for(test(engine), 60)
        finally:
            await engine.stop()
        assert not engine.alive

    asyncio.run(run())


async def segment(
    engine: EngineProcess, folder: Path, first: int, count: int
) -> tuple[list[StepDone], SegmentDone]:
    events = [
        event
        async for event in engine.run(
            first,
            count,
            outputs_path=folder / "outputs.safetensors",
            state_path=folder / f"state-{first + count}.safetensors",
        )
    ]
    done = events[-1]
    assert isinstance(done, SegmentDone)
    return [e for e in events if isinstance(e, StepDone)], done


def test_segments_have_the_digests_of_a_local_run(tmp_path: Path) -> None:
    job = small_job()
    local = run_local(job, "reference")
    spec = lay_out(job, tmp_path)

    async def run(engine: EngineProcess) -> None:
        await engine.open(tmp_path, spec)
        root = await engine.load_state(tmp_path / "state.safetensors", 0)
        for record in local.segments:
            steps, done = await segment(engine, tmp_path, record.first_step, record.steps)
            assert done.state_root_before == root
            assert (done.state_root_after, done.outputs_root) == (
                record.state_root,
                record.outputs_root,
            )
            assert steps and "sum" in steps[0].scalars
            root = done.state_root_after
            written = bundle.read(tmp_path / "outputs.safetensors")
            assert bundle.root(written) == record.outputs_root
        assert bundle.root(bundle.read(tmp_path / "state-10.safetensors")) == local.state_root
        # Another process, another start: the same answer from the checkpoint.
        await engine.close_job()
        await engine.open(tmp_path, spec)
        await engine.load_state(tmp_path / "state-4.safetensors", 4)
        _, again = await segment(engine, tmp_path, 4, 4)
        assert again.state_root_after == local.segments[1].state_root

    with_engine(run)


def test_a_job_that_is_not_what_its_spec_binds_is_refused(tmp_path: Path) -> None:
    spec = lay_out(small_job(), tmp_path)
    other = small_job(rows=12).artifacts()["data"]

    async def run(engine: EngineProcess) -> None:
        (tmp_path / DATA_FILE).write_bytes(other)
        with pytest.raises(JobRefused) as wrong_data:
            await engine.open(tmp_path, spec)
        assert wrong_data.value.code == "JOB_DATA"
        (tmp_path / PROGRAM_FILE).write_bytes(b"not a program")
        with pytest.raises(JobRefused) as wrong_program:
            await engine.open(tmp_path, spec)
        assert wrong_program.value.code == "PROGRAM_MALFORMED"
        with pytest.raises(JobRefused):
            await engine.load_state(tmp_path / "state.safetensors", 0)
        assert engine.alive

    with_engine(run)


def test_an_interrupt_ends_the_segment_at_a_step_boundary(tmp_path: Path) -> None:
    job = small_job(steps=500_000, segment_steps=500_000)
    spec = lay_out(job, tmp_path)

    async def run(engine: EngineProcess) -> None:
        await engine.open(tmp_path, spec)
        await engine.load_state(tmp_path / "state.safetensors", 0)
        done = None
        async for event in engine.run(
            0, job.steps, outputs_path=tmp_path / "o", state_path=tmp_path / "s"
        ):
            if isinstance(event, StepDone):
                await engine.interrupt()
            else:
                done = event
        assert done is not None
        assert 0 < done.steps_done < job.steps
        expected = run_local(job, "reference", steps=done.steps_done)
        assert done.state_root_after == expected.state_root

    with_engine(run)


def test_the_death_of_the_child_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    job = small_job(steps=500_000, segment_steps=500_000)
    spec = lay_out(job, tmp_path)

    async def run(engine: EngineProcess) -> None:
        await engine.open(tmp_path, spec)
        await engine.load_state(tmp_path / "state.safetensors", 0)
        with pytest.raises(EngineProcessDied) as death:
            async for _ in engine.run(0, job.steps, outputs_path=tmp_path / "o", state_path=None):
                os.kill(engine.pid, signal.SIGKILL)
        assert death.value.retryable
        with pytest.raises(EngineProcessDied):
            await engine.close_job()

    with_engine(run)


def test_an_engine_is_stopped_while_somebody_waits_for_its_answer(tmp_path: Path) -> None:
    """A dispute may end while its replay is asked something: only the waiter hears of it."""
    job = small_job(steps=500_000, segment_steps=500_000)
    spec = lay_out(job, tmp_path)

    async def run(engine: EngineProcess) -> None:
        await engine.open(tmp_path, spec)
        await engine.load_state(tmp_path / "state.safetensors", 0)
        running = asyncio.create_task(segment(engine, tmp_path, 0, job.steps))
        waiting = asyncio.create_task(engine.close_job())
        await asyncio.sleep(0.5)
        assert not running.done() and not waiting.done()
        await asyncio.gather(engine.stop(), engine.stop())
        assert not engine.alive
        for task in (running, waiting):
            with contextlib.suppress(EngineProcessDied):
                await asyncio.wait_for(task, 5)

    with_engine(run)


def test_a_missing_device_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(JobRefused) as refusal:
            await EngineProcess.start("no such device")
        assert refusal.value.code == "DEVICE_UNKNOWN"

    asyncio.run(run())


def test_roots_are_written_where_somebody_may_ask_for_them(tmp_path: Path) -> None:
    job, outputs = small_job(), tmp_path / "outputs.safetensors"
    spec = lay_out(job, tmp_path)

    async def run(engine: EngineProcess) -> None:
        await engine.open(tmp_path, spec)
        await engine.load_state(tmp_path / "state.safetensors", 0)
        await segment(engine, tmp_path, 0, 4)
        assert not roots_path(outputs).exists()
        events = engine.run(4, 4, outputs_path=outputs, state_path=None, roots_ppm=1_000_000)
        done = [event async for event in events][-1]
        assert isinstance(done, SegmentDone)
        kept = StateRoots.from_bytes(roots_path(outputs).read_bytes())
        assert (kept.first_step, len(kept.data)) == (4, 5 * 32)
        assert kept.data[:32] == done.state_root_before
        assert kept.data[-32:] == done.state_root_after

    with_engine(run)
