"""Jobs as buyers write them, through the client: what they prepare is what gets submitted."""

from __future__ import annotations

import numpy as np

import flopmarket as fm
from flopmarket.client import Client
from flopmarket.engine.program import Program
from flopmarket.jobs import bundle
from tests.integration.client.doubles import FakeCoordinator


def inference_job() -> fm.InferenceJob:
    model = fm.nn.Linear(4, 2)
    model.load_state_dict(model.init(1))
    rows = np.arange(32, dtype=np.float32).reshape(8, 4)
    return fm.InferenceJob(model=model, inputs=rows, batch=4)


def test_an_inference_job_is_submitted_as_it_was_prepared(
    client: Client, fake: FakeCoordinator
) -> None:
    job = inference_job()
    assert client.quote(job).steps == 2
    handle = client.submit(job)
    spec, prepared = fake.jobs[handle.job_id].spec, job.prepare()
    assert spec.program_digest == prepared.program.digest
    assert (spec.frozen_root, spec.data_root) == (
        bundle.root(prepared.frozen),
        bundle.root(prepared.data),
    )
    stored = [data for data in fake.artifacts.values() if data == prepared.program.to_bytes()]
    assert Program.from_bytes(stored[0]).digest == spec.program_digest
