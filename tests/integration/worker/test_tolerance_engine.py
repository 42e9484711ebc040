"""An OpenCL device that is not exact, in tolerance mode: its values pass, and another's do not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from flopmarket.jobs import bundle
from flopmarket.jobs.checksums import ChecksumList
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.process import DATA_FILE, FROZEN_FILE, PROGRAM_FILE, EngineServer
from flopmarket.jobs.questions import StepsQuestion, StepVerdict, ValuesQuestion
from flopmarket.jobs.spec import Mode
from flopmarket.jobs.stepping import CHECKSUMS_FILE, state_file, values_file
from flopmarket.trust.encoding import encode
from flopmarket.trust.tolerance import Opinion
from tests.engine_processes import ContractingServer, SplittingServer
from tests.unit.jobs.disputes import loop_job
from tests.unit.jobs.jobs import small_job

STEPS = 3
DRAWN = (0, 2)


def served(kind: type[EngineServer], device: str) -> EngineServer:
    return kind(device, None, lambda _: None, threading.Event())


@pytest.mark.parametrize(
    ("kind", "job"),
    [(SplittingServer, small_job()), (ContractingServer, loop_job())],
    ids=["never contracts", "always contracts"],
)
def test_a_device_answers_for_its_steps_and_the_reference_judges_them(
    tmp_path: Path, kind: type[EngineServer], job: PreparedJob
) -> None:
    spec = encode(
        job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16), mode=Mode.TOLERANCE)
    )
    (tmp_path / PROGRAM_FILE).write_bytes(job.program.to_bytes())
    (tmp_path / FROZEN_FILE).write_bytes(bundle.save(job.frozen))
    (tmp_path / DATA_FILE).write_bytes(bundle.save(job.data))
    start = tmp_path / "start.safetensors"
    start.write_bytes(bundle.save(job.state))

    worker, house = served(kind, "PoCL:0"), served(EngineServer, "reference")
    worker.handle({"op": "open", "folder": str(tmp_path), "spec": spec.hex()})
    worker.handle({"op": "load_state", "path": str(start), "step": 0})
    done = _run(worker, tmp_path)
    asked = StepsQuestion(start, 0, 0, STEPS, DRAWN, with_values=True)
    worker.handle(asked.to_command(tmp_path, spec, tmp_path))
    sums = ChecksumList.from_bytes((tmp_path / CHECKSUMS_FILE).read_bytes())

    for step in DRAWN:
        state, values = tmp_path / state_file(step), tmp_path / values_file(step)
        question = ValuesQuestion(tmp_path, spec, step, state, values, seed=5)
        found = StepVerdict.of_fields(house.handle(question.to_command()))
        assert found.opinion == Opinion.INSIDE, found.detail
        assert found.entry == sums.entry(step)
        if step == STEPS - 1:
            assert found.root_after.hex() == done["state_root_after"]

    other = ValuesQuestion(
        tmp_path, spec, 2, tmp_path / state_file(2), tmp_path / values_file(0), seed=5
    )
    assert StepVerdict.of_fields(house.handle(other.to_command())).opinion == Opinion.FAULT
    (tmp_path / "nothing.safetensors").write_bytes(b"no tensors")
    broken = ValuesQuestion(
        tmp_path, spec, 2, tmp_path / state_file(2), tmp_path / "nothing.safetensors", seed=5
    )
    assert StepVerdict.of_fields(house.handle(broken.to_command())).opinion == Opinion.FAULT
    worker.handle({"op": "close_job"})


def _run(worker: EngineServer, folder: Path) -> dict[str, Any]:
    return worker.handle(
        {
            "op": "run",
            "first_step": 0,
            "count": STEPS,
            "outputs_path": str(folder / "outputs.safetensors"),
            "state_path": "",
        }
    )
