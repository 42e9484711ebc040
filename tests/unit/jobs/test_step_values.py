"""What a worker hands over of a step: a run without fusion, held to the run that it sold."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from flopmarket.engine.program import Program
from flopmarket.engine.runtime.session import Session
from flopmarket.errors import Conflict
from flopmarket.jobs import bundle
from flopmarket.jobs.judging_steps import StepInputs, claimed_operations, values_of_step
from flopmarket.jobs.operations import StepPlan
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.process import DATA_FILE, FROZEN_FILE, PROGRAM_FILE, EngineServer
from flopmarket.jobs.questions import StepsQuestion
from flopmarket.jobs.spec import JobSpec, Mode
from flopmarket.jobs.step_values import DeviceValues, values_program
from flopmarket.jobs.stepping import values_file
from flopmarket.jobs.tracing import by_reference
from flopmarket.trust.encoding import encode
from tests.unit.jobs.disputes import JOBS, mlp_job
from tests.unit.jobs.rounding import RoundingServer, RoundingSession, splitting


def spec_of(job: PreparedJob) -> JobSpec:
    return job.spec(
        buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16), mode=Mode.TOLERANCE
    )


@pytest.mark.parametrize("name", JOBS)
def test_one_run_has_the_values_of_single_operations(name: str) -> None:
    job = JOBS[name]()
    plan, inputs = (
        StepPlan(job.program),
        StepInputs(spec_of(job), 0, job.frozen, job.data, job.state),
    )
    values = DeviceValues(job.program, lambda program: RoundingSession(program, splitting))
    for _ in range(2):
        made, ends = values.of_step(inputs)
        alone, wanted = values_of_step(plan, inputs, splitting)
        assert tuple(made) == claimed_operations(plan)
        assert {at: v.tobytes() for at, v in made.items()} == {
            at: v.tobytes() for at, v in alone.items()
        }
        assert bundle.root(next(iter(ends.values()))) == bundle.root(next(iter(wanted.values())))
    values.close()


def test_the_program_of_values_changes_no_state() -> None:
    plan = StepPlan(mlp_job().program)
    made = values_program(plan)
    assert [output.name for output in made.outputs] == [str(at) for at in claimed_operations(plan)]
    assert all(node.arg[1] == s.name for node, s in zip(made.state_nodes, made.state, strict=True))


class Fused(RoundingServer):
    """A compiler that rounds otherwise where operations share a kernel."""

    def open_session(self, program: Program, spec: JobSpec, *, fusion: bool = True) -> Session:
        return RoundingSession(program, by_reference if fusion else splitting)


@pytest.mark.parametrize("kind", [RoundingServer, Fused])
def test_a_device_that_cannot_stand_by_its_values_says_so(
    tmp_path: Path, kind: type[EngineServer]
) -> None:
    job = mlp_job(steps=2)
    spec = encode(spec_of(job))
    for name, data in (
        (PROGRAM_FILE, job.program.to_bytes()),
        (FROZEN_FILE, bundle.save(job.frozen)),
        (DATA_FILE, bundle.save(job.data)),
        ("start", bundle.save(job.state)),
    ):
        (tmp_path / name).write_bytes(data)
    server = kind("reference", None, lambda _: None, threading.Event())
    asked = StepsQuestion(tmp_path / "start", 0, 0, 2, (1,), with_values=True)
    command = asked.to_command(tmp_path, spec, tmp_path)
    if kind is RoundingServer:
        server.handle(command)
        assert bundle.read(tmp_path / values_file(1))
        return
    with pytest.raises(Conflict) as error:
        server.handle(command)
    assert error.value.code == "STEP_NOT_REPEATED"
    assert not (tmp_path / values_file(1)).exists()
