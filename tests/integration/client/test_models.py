"""A model and rows through the SDK; uploads that are interrupted; waiting with an end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import flopmarket as fm
from flopmarket.client import Client
from flopmarket.client.artifacts import Upload
from flopmarket.client.client import SYSTEM_PORTS
from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.jobs.models import model_form, model_job
from tests.engine.formats.models import digits_cnn
from tests.integration.client.doubles import BUYER_KEY, FakeCoordinator, TinyJob


def images(count: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(3).uniform(size=(count, 1, 8, 8)).astype(np.float32)


def test_a_model_with_inputs_is_the_job_of_applying_it(
    client: Client, fake: FakeCoordinator
) -> None:
    model = fm.onnx.load(digits_cnn())
    quote = client.quote(model, inputs=images(12), batch=4)
    assert quote.steps == 3
    assert client.quote(model_form(model, 12, batch=4)) == quote
    handle = client.submit(model, inputs={"image": images(12)}, batch=4)
    spec = fake.jobs[handle.job_id].spec
    prepared = model_job(model, images(12), batch=4).prepare()
    assert spec.program_digest == prepared.program.digest
    assert (spec.data_order.rows, spec.data_order.batch) == (12, 4)
    assert handle.info.title == "inference"


def test_inputs_are_for_models(client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.quote(TinyJob(), inputs=images(4))
    assert caught.value.code == "NOT_A_MODEL"
    with pytest.raises(InvalidInput) as caught:
        client.quote(fm.onnx.load(digits_cnn()))
    assert caught.value.code == "NOT_A_JOB" and "inputs=" in caught.value.hint
    with pytest.raises(InvalidInput) as caught:
        client.submit(fm.onnx.load(digits_cnn()), inputs=images(4)[..., :7])
    assert caught.value.code == "INPUT_SHAPE"


def test_every_file_is_told_and_sent_once(client: Client, fake: FakeCoordinator) -> None:
    told: list[Upload] = []
    for expected in (False, True):
        told.clear()
        client.submit(TinyJob(), on_upload=told.append)
        assert [upload.already_there for upload in told] == [expected] * 3
        assert {upload.name for upload in told} == {"program", "data", "state"}
    assert len(fake.upload_sizes) == 3
    assert sorted(upload.size_bytes for upload in told) == sorted(fake.upload_sizes)


@pytest.mark.parametrize(("breaks", "arrives"), [(1, True), (2, True), (3, False)])
def test_an_upload_whose_connection_breaks_begins_again(
    fake: FakeCoordinator, breaks: int, arrives: bool
) -> None:
    pauses: list[float] = []
    ports = replace(SYSTEM_PORTS, sleep=pauses.append)
    fake.break_uploads = breaks
    with Client(fake.address, BUYER_KEY, ports=ports) as client:
        files = {"data": b"x" * 3_000_000}
        if arrives:
            client._artifacts.ensure(files)
            assert fake.upload_sizes == [3_000_000]
        else:
            with pytest.raises(FlopmarketError):
                client._artifacts.ensure(files)
    assert len(pauses) == min(breaks, 2)
