"""ONNX models as jobs: fine-tuning some parameters, inference with several inputs and outputs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import flopmarket as fm
from flopmarket.engine.errors import EngineError
from flopmarket.errors import FlopmarketError
from tests.engine.formats.models import FLOAT, INT64, digits_cnn, model, node

Array = np.ndarray[Any, Any]


@cache
def digits() -> tuple[Array, Array]:
    data = load_digits()
    x = (data.images / 16).astype(np.float32)[:256, None]
    return x, data.target.astype(np.int64)[:256]


def fine_tuning(**options: Any) -> fm.TrainingJob:
    return fm.TrainingJob(
        model=fm.onnx.load(digits_cnn()),
        loss=fm.functional.cross_entropy,
        optimizer=fm.optim.Adam(lr=1e-1),
        data=digits(),
        batch=32,
        **{"steps": 80, "seed": 3, "trainable": ["head.*"]} | options,
    )


def test_only_the_chosen_parameters_move() -> None:
    job = fine_tuning()
    prepared = job.prepare()
    assert set(prepared.frozen) == {
        f"model.{name}" for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")
    }
    assert {n for n in prepared.state if n.startswith("model.")} == {
        "model.head.weight",
        "model.head.bias",
    }
    result = job.run_local()
    losses = result.outputs["loss"]
    assert losses[-8:].mean() < 0.5 * losses[0]
    before, after = fm.onnx.load(digits_cnn()).state_dict(), job.weights(result)
    assert set(before) == set(after)
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == {"head.weight", "head.bias"}
    tuned = fm.onnx.load(digits_cnn()).load_state_dict(after)
    x, y = digits()
    hits = tuned.run({"image": x})["scores"].argmax(1) == y
    plain = fm.onnx.load(digits_cnn()).run({"image": x})["scores"].argmax(1) == y
    assert hits.mean() > plain.mean() + 0.3


def test_fine_tuning_has_the_same_digests_everywhere() -> None:
    short = {"steps": 3, "segment_steps": 2}
    first, second = (fine_tuning(**short).run_local() for _ in range(2))
    assert first.state_root == second.state_root
    reference = fine_tuning(**short).run_local("reference")
    assert reference.state_root == first.state_root
    assert reference.outputs_root == first.outputs_root


def test_all_parameters_train_by_default() -> None:
    prepared = fine_tuning(trainable=None).prepare()
    assert not prepared.frozen
    assert sum(name.startswith("model.") for name in prepared.state) == 6


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(EngineError) as refusal:
        fine_tuning(trainable=["tail.*"]).prepare()
    assert refusal.value.code == "TRAINABLE_UNKNOWN"


def test_any_module_may_be_trained_in_part() -> None:
    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    module = fm.nn.Sequential(fm.nn.Linear(4, 8), fm.nn.Tanh(), fm.nn.Linear(8, 2))
    first = module.init(9)
    job = fm.TrainingJob(
        model=module,
        loss=fm.functional.cross_entropy,
        optimizer=fm.optim.SGD(lr=0.1),
        data=(x, (x[:, 0] > 0).astype(np.int64)),
        batch=8,
        steps=4,
        trainable=["2.*"],
        initial=first,
    )
    after = job.weights(job.run_local("reference"))
    assert list(after) and (after["0.weight"] == first["0.weight"]).all()
    assert (after["2.weight"] != first["2.weight"]).any()


def two_by_two() -> fm.Model:
    nodes = [
        node("MatMul", ["a", "w"], ["h"]),
        node("Add", ["h", "b"], ["sum"]),
        node("Cast", ["k"], ["real"], to=FLOAT),
        node("Mul", ["h", "real"], ["product"]),
    ]
    inputs = [("a", FLOAT, ["n", 3]), ("b", FLOAT, ["n", 2]), ("k", INT64, ["n", 1])]
    outputs = [("sum", FLOAT, ["n", 2]), ("product", FLOAT, ["n", 2])]
    weights = {"w": np.arange(6, dtype=np.float32).reshape(3, 2)}
    return fm.onnx.load(model(nodes, inputs, outputs, weights))


def rows(count: int) -> dict[str, Array]:
    random = np.random.default_rng(0)
    return {
        "a": random.normal(size=(count, 3)).astype(np.float32),
        "b": random.normal(size=(count, 2)).astype(np.float32),
        "k": random.integers(-5, 5, (count, 1)),
    }


def test_inference_with_several_inputs_and_outputs() -> None:
    data = rows(10)
    job = fm.InferenceJob(model=two_by_two(), inputs=data, batch=4)
    result = job.run_local("reference")
    want = two_by_two().run(data, "reference")
    for name in ("sum", "product"):
        assert (result.rows(name) == want[name]).all()


def test_training_with_several_inputs() -> None:
    data = rows(16)
    job = fm.TrainingJob(
        model=two_by_two(),
        loss=lambda found, y: (found["sum"] - y).square().mean(),
        optimizer=fm.optim.SGD(lr=0.05),
        data=(data, data["a"] @ np.ones((3, 2), np.float32) + data["b"]),
        batch=16,
        steps=60,
    )
    losses = job.run_local("reference").outputs["loss"]
    assert losses[-1] < 0.1 * losses[0]


def test_a_job_wants_the_models_inputs() -> None:
    data = rows(8)
    del data["k"]
    with pytest.raises(EngineError):
        fm.InferenceJob(model=two_by_two(), inputs=data, batch=4).prepare()
    with pytest.raises(FlopmarketError):
        fm.TrainingJob(
            model=two_by_two(),
            loss=lambda found, y: found["sum"].sum(),
            optimizer=fm.optim.SGD(lr=0.1),
            data=(rows(8) | {"y": rows(8)["b"]}, rows(8)["b"]),
            batch=4,
            steps=1,
        ).prepare()
