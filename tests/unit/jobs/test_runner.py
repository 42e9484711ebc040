"""The scan: same digests however a job is cut, and nothing runs on what the job does not bind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.errors import Conflict, InvalidInput
from flopmarket.jobs.instrument import CHECKSUMS, instrument
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.runner import JobRunner, check_job
from flopmarket.jobs.spec import JobSpec, job_id, segment_count
from tests.unit.jobs.jobs import small_job


def spec_of(job: PreparedJob) -> JobSpec:
    return job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))


def runner_of(job: PreparedJob) -> JobRunner:
    runner = JobRunner(
        ReferenceSession(instrument(job.program)), spec_of(job), job.frozen, job.data
    )
    runner.load(job.state, 0)
    return runner


def test_run_local_is_the_scan_in_plain_words() -> None:
    job = small_job()
    result = run_local(job, "reference")
    from flopmarket.jobs.order import rows_of_step

    w = np.zeros(3, dtype=np.float64)
    for step in range(job.steps):
        x = job.data["x"][rows_of_step(job.order, job.seed, step)].astype(np.float64)
        w = 0.9 * w + x.sum(axis=0) * job.frozen["scale"]
    np.testing.assert_allclose(result.state["w"], w, rtol=1e-5)
    assert result.outputs["step"].tolist() == list(range(10))
    assert [s.steps for s in result.segments] == [4, 4, 2]
    assert segment_count(spec_of(job)) == 3


def test_how_the_job_is_cut_changes_no_state() -> None:
    whole = run_local(small_job(segment_steps=10), "reference")
    cut = run_local(small_job(segment_steps=3), "reference")
    assert whole.state_root == cut.state_root
    assert whole.outputs["sum"].tobytes() == cut.outputs["sum"].tobytes()


def test_a_job_resumes_from_a_checkpoint() -> None:
    job = small_job()
    whole = run_local(job, "reference")
    half = run_local(job, "reference", steps=4)
    rest = run_local(job, "reference", state=half.state, first_step=4)
    assert rest.state_root == whole.state_root
    assert rest.segments == whole.segments[1:]


def test_inner_depends_on_every_step() -> None:
    job = small_job()
    base = runner_of(job).run_segment(0, 4)
    again = runner_of(job).run_segment(0, 4)
    assert base.inner == again.inner
    rows = job.data["x"].copy()
    rows[:, 0] = np.nextafter(rows[:, 0], np.float32(9))
    other = runner_of(replace(job, data={"x": rows})).run_segment(0, 4)
    assert other.inner != base.inner
    shorter = runner_of(job).run_segment(0, 3)
    assert shorter.inner != base.inner


def test_checksums_see_every_bit() -> None:
    job = small_job()
    session = ReferenceSession(instrument(job.program))
    session.load(job.frozen, job.state)
    inputs = {"x": job.data["x"][:4]}
    first = session.step(inputs, seed=1, step=0)[CHECKSUMS]
    w = session.read_state()["w"]
    session.load(job.frozen, job.state)
    flipped = inputs["x"].copy()
    flipped[0, 2] = np.nextafter(flipped[0, 2], np.float32(-9))
    second = session.step({"x": flipped}, seed=1, step=0)[CHECKSUMS]
    changed = session.read_state()["w"].tobytes() != w.tobytes()
    assert (first[0] != second[0]) == changed
    words = w.view(np.uint32).astype(np.uint64)
    assert first[0] == int((words * np.array([1, 3, 5], dtype=np.uint64)).sum()) % 2**32


def test_a_segment_may_end_early_at_a_step_boundary() -> None:
    runner = runner_of(small_job())
    segment = runner.run_segment(0, 4, should_stop=lambda: runner.step == 2)
    assert segment.steps_done == 2
    rest = runner.run_segment(2, 8)
    assert rest.state_root_after == run_local(small_job(), "reference").state_root
    assert segment.state_root_after == rest.state_root_before


def test_segments_start_where_the_state_is() -> None:
    runner = runner_of(small_job())
    with pytest.raises(Conflict) as refusal:
        runner.run_segment(4, 4)
    assert refusal.value.code == "SEGMENT_START"
    with pytest.raises(InvalidInput) as too_long:
        runner.run_segment(0, 11)
    assert too_long.value.code == "SEGMENT_LENGTH"


def changed(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flat[0] += 1
    return copy


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("program_digest", "JOB_PROGRAM"),
        ("frozen_root", "JOB_FROZEN"),
        ("data_root", "JOB_DATA"),
        ("profile", "JOB_PROFILE"),
        ("max_memory_bytes", "JOB_MEMORY"),
    ],
)
def test_what_the_spec_does_not_bind_does_not_run(field: str, code: str) -> None:
    job = small_job()
    wrong: object = {"profile": "FX0", "max_memory_bytes": 1}.get(field, bytes(32))
    spec = replace(spec_of(job), **{field: wrong})
    with pytest.raises(InvalidInput) as refusal:
        check_job(spec, job.program, job.frozen, job.data)
    assert refusal.value.code == code


def test_every_field_of_the_spec_changes_the_job_id() -> None:
    spec = spec_of(small_job())
    others = [
        replace(spec, seed=spec.seed + 1),
        replace(spec, nonce=b"\x01" * 16),
        replace(spec, max_price_nano=2),
        replace(spec, segment_steps=5),
        replace(spec, buyer="c"),
        replace(spec, state_root=bytes(32)),
        replace(spec, data_order=replace(spec.data_order, batch=5)),
    ]
    assert len({job_id(s) for s in (spec, *others)}) == 8


def test_data_that_does_not_fit_is_refused_when_the_job_is_prepared() -> None:
    job = small_job()
    with pytest.raises(InvalidInput, match="'x'"):
        replace(job, data={"x": job.data["x"].astype(np.int32)})
    with pytest.raises(InvalidInput, match="reads"):
        replace(job, data={"y": job.data["x"]})
    with pytest.raises(InvalidInput, match="'w'"):
        replace(job, state={"w": changed(np.zeros(4, dtype=np.float32))})
