"""A model file and rows for it become a job: what fits, what is refused and how it is said."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import flopmarket as fm
from flopmarket.errors import FlopmarketError
from flopmarket.jobs.models import (
    Sample,
    model_form,
    model_job,
    model_outputs,
    model_rows,
)
from tests.engine.formats.models import BOOL, FLOAT, INT64, model, node

Array = np.ndarray[Any, Any]


def scaled(first_axis: int | str = "batch", inner: int | str = 3) -> onnx.ModelProto:
    """scores = x * w: one input, one output called otherwise than the program calls it."""
    weights = {"w": np.arange(1, 4, dtype=np.float32)}
    form = [first_axis, inner]
    return model(
        [node("Mul", ["x_in", "w"], ["scores:0"])],
        [("x_in", FLOAT, form)],
        [("scores:0", FLOAT, form)],
        weights,
    )


def pair() -> onnx.ModelProto:
    """total = a + k per row, and the mean of a over the batch."""
    nodes = [
        node("Cast", ["k"], ["real"], to=FLOAT),
        node("Add", ["a", "real"], ["total"]),
        node("ReduceMean", ["a"], ["mean"], keepdims=0),
    ]
    inputs = [("a", FLOAT, ["n", "width"]), ("k", INT64, ["n", "width"])]
    return model(nodes, inputs, [("total", FLOAT, ["n", "width"]), ("mean", FLOAT, [])])


def numbers(*shape: int) -> Array:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def run(found: fm.Model, inputs: Any, **options: Any) -> dict[str, Array]:
    result = model_job(found, inputs, **options).run_local("reference")
    return model_outputs(found, result)[0]


@pytest.mark.parametrize(("rows", "batch"), [(10, 4), (8, 4), (3, 4), (1, None), (70, None)])
def test_outputs_have_the_models_names_and_one_row_each(rows: int, batch: int | None) -> None:
    found, data = fm.onnx.load(scaled()), numbers(rows, 3)
    outputs = run(found, data, batch=batch)
    assert set(outputs) == {"scores:0"}
    assert (outputs["scores:0"] == data * np.arange(1, 4, dtype=np.float32)).all()


def test_a_fixed_batch_is_the_batch() -> None:
    found, data = fm.onnx.load(scaled(first_axis=4)), numbers(10, 3)
    assert model_job(found, data).prepare().order.batch == 4
    assert run(found, data)["scores:0"].shape == (10, 3)
    with pytest.raises(FlopmarketError) as caught:
        model_job(found, data, batch=5)
    assert caught.value.code == "BATCH_FIXED"


def test_open_axes_are_bound_by_the_rows() -> None:
    found = fm.onnx.load(pair())
    data = {"a": numbers(6, 5), "k": np.arange(30).reshape(6, 5)}
    job = model_job(found, data, batch=4)
    outputs, unbatched = model_outputs(found, job.run_local("reference"))
    assert (outputs["total"] == data["a"] + data["k"].astype(np.float32)).all()
    assert unbatched == ["mean"]
    assert outputs["mean"].shape == (2,)  # one a step
    data["k"] = data["k"][:, :4]
    with pytest.raises(FlopmarketError) as caught:
        model_job(found, data)
    assert caught.value.code == "INPUT_SHAPE"
    assert "int64[n, width] with {'width': 5}" in caught.value.message
    assert "int64[6, 4]" in caught.value.message


def test_one_file_a_row_or_several() -> None:
    found = fm.onnx.load(scaled())
    samples = [Sample("a.npy", {"x_in": numbers(3)}), Sample("b.npy", {"x_in": numbers(2, 3)})]
    assert model_rows(found, samples)["x_in"].shape == (3, 3)
    open_width = fm.onnx.load(
        model([node("Neg", ["x"], ["y"])], [("x", FLOAT, ["n", "w"])], [("y", FLOAT, ["n", "w"])])
    )
    uneven = [Sample("a.npy", {"x": numbers(3)}), Sample("b.npy", {"x": numbers(4)})]
    with pytest.raises(FlopmarketError) as caught:
        model_rows(open_width, uneven)
    assert caught.value.message.startswith("b.npy: input 'x'")


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        ({"x_in": numbers(4, 2)}, "INPUT_SHAPE", "wants float32[batch, 3], float32[4, 2]"),
        ({"x_in": numbers(4, 3, 1)}, "INPUT_SHAPE", "float32[4, 3, 1]"),
        ({"x_in": numbers(4, 3).astype(np.float64)}, "INPUT_DTYPE", "float64[4, 3]"),
        ({"x_in": np.zeros((4, 3), np.int32)}, "INPUT_DTYPE", "int32[4, 3]"),
        ({"y_in": numbers(4, 3)}, "INPUT_MISFIT", "x_in float32[batch, 3]"),
        ({}, "INPUT_MISFIT", "'x_in' float32[batch, 3] is missing"),
        ({"x_in": numbers(0, 3)}, "INPUT_EMPTY", "no rows"),
    ],
)
def test_what_does_not_fit_is_named(arrays: dict[str, Array], code: str, words: str) -> None:
    with pytest.raises(FlopmarketError) as caught:
        model_rows(fm.onnx.load(scaled()), [Sample("in.npz", arrays)])
    assert caught.value.code == code
    assert words in caught.value.message


def test_casting_is_asked_for_and_never_loses_the_kind() -> None:
    found = fm.onnx.load(scaled())
    doubles = Sample("in.npy", {"x_in": numbers(4, 3).astype(np.float64)})
    assert model_rows(found, [doubles], cast=True)["x_in"].dtype == np.float32
    texts = Sample("in.npy", {"x_in": np.full((4, 3), "1")})
    with pytest.raises(FlopmarketError, match="INPUT_DTYPE"):
        model_rows(found, [texts], cast=True)


def test_doubles_stay_doubles() -> None:
    double = onnx.TensorProto.DOUBLE
    nodes = [node("Add", ["x", "x"], ["y"])]
    found = fm.onnx.load(model(nodes, [("x", double, ["n", 2])], [("y", double, ["n", 2])]))
    data = np.full((3, 2), 1 / 3)
    assert (run(found, data)["y"] == data + data).all()


def test_a_model_whose_shapes_depend_on_data_says_so() -> None:
    found = fm.onnx.load(
        model(
            [node("NonZero", ["x"], ["where"])],
            [("x", FLOAT, ["n", 3])],
            [("where", INT64, [2, "k"])],
        )
    )
    with pytest.raises(FlopmarketError) as caught:
        model_job(found, numbers(4, 3))
    assert caught.value.code == "MODEL_NOT_A_JOB"
    assert "depend on its data" in caught.value.message and "NonZero" in caught.value.message


def test_inputs_that_are_no_rows_become_constants() -> None:
    nodes = [
        node("Where", ["flag", "x", "zero"], ["y"]),
    ]
    file = model(
        nodes,
        [("x", FLOAT, ["n", 3]), ("flag", BOOL, [])],
        [("y", FLOAT, ["n", 3])],
        {"zero": np.zeros(1, np.float32)},
    )
    with pytest.raises(FlopmarketError) as caught:
        model_job(fm.onnx.load(file), {"x": numbers(4, 3), "flag": np.array(True)})
    assert "--set flag=" in caught.value.hint
    fixed = fm.onnx.load(file, values={"flag": np.array(True)})
    assert (run(fixed, numbers(4, 3))["y"] == numbers(4, 3)).all()


def test_a_form_is_that_of_the_job() -> None:
    found, data = fm.onnx.load(scaled()), numbers(100, 3)
    prepared = model_job(found, data, batch=8).prepare()
    form = model_form(found, 100, batch=8)
    assert form.program == prepared.program.to_bytes()
    assert (form.steps, form.segment_steps) == (prepared.steps, prepared.segment_steps)
    assert form.input_bytes == data.nbytes + 12
    with pytest.raises(FlopmarketError) as caught:
        model_form(fm.onnx.load(pair()), 100)
    assert caught.value.code == "SHAPE_OPEN"
    assert model_form(fm.onnx.load(pair()), 100, shapes={"a": [5], "k": [5]}).steps == 4


def test_the_files_of_a_model_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Or a model would be uploaded again by every run."""
    path = tmp_path / "model.onnx"
    onnx.save(scaled(), path)
    script = f"""
import hashlib, numpy as np, flopmarket as fm
from flopmarket.jobs.models import model_job
job = model_job(fm.onnx.load({str(path)!r}), np.full((9, 3), 2, np.float32), batch=4).prepare()
for name, data in sorted(job.artifacts().items()):
    print(name, hashlib.sha256(data).hexdigest())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYOPENCL_NO_CACHE": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    }
    (lines,) = found
    here = model_job(fm.onnx.load(path), np.full((9, 3), 2, np.float32), batch=4).prepare()
    for line in lines.splitlines():
        name, digest = line.split()
        assert hashlib.sha256(here.artifacts()[name]).hexdigest() == digest
