"""``flop run MODEL.onnx``: inputs from files, results under the model's names, clear refusals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import flopmarket as fm
from tests.engine.formats.models import FLOAT, INT64, model, node
from tests.integration.client.doubles import FakeCoordinator
from tests.unit.cli.conftest import Flop, json_lines

Array = np.ndarray[Any, Any]
LOCAL = ("--local", "--device", "reference")


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


@pytest.fixture
def linear(home: Path) -> Path:
    """probabilities = softmax(x w), 3 numbers a row to 2."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Softmax", ["h"], ["probabilities"], axis=1)]
    weights = {"w": np.arange(6, dtype=np.float32).reshape(3, 2) / 7}
    file = model(nodes, [("x", FLOAT, ["n", 3])], [("probabilities", FLOAT, ["n", 2])], weights)
    onnx.save(file, home / "linear.onnx")
    return home / "linear.onnx"


@pytest.fixture
def pair(home: Path) -> Path:
    """total = a + k and gap = a - k, by row."""
    nodes = [
        node("Cast", ["k"], ["real"], to=FLOAT),
        node("Add", ["a", "real"], ["total"]),
        node("Sub", ["a", "real"], ["gap"]),
    ]
    inputs = [("a", FLOAT, ["n", 3]), ("k", INT64, ["n", 3])]
    outputs = [("total", FLOAT, ["n", 3]), ("gap", FLOAT, ["n", 3])]
    onnx.save(model(nodes, inputs, outputs), home / "pair.onnx")
    return home / "pair.onnx"


def results(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_rows_of_one_file_become_rows_of_results(flop: Flop, linear: Path, home: Path) -> None:
    np.save(home / "in.npy", rows(10))
    done = flop("run", str(linear), "--input", "in.npy", "--batch", "4", *LOCAL)
    assert done.exit_code == 0, done.output
    found = results(home / "results.npz")
    want = fm.onnx.load(linear).run({"x": rows(10)}, "reference")
    assert set(found) == {"probabilities"}
    assert (found["probabilities"] == want["probabilities"]).all()
    assert "3 in" in done.stdout and "results.npz" in done.stdout


def test_a_folder_is_read_in_the_order_of_names(flop: Flop, linear: Path, home: Path) -> None:
    (home / "samples").mkdir()
    data = rows(4)
    for position, name in ((2, "c"), (0, "a"), (1, "b")):
        np.save(home / "samples" / f"{name}.npy", data[position])
    np.savez(home / "samples" / "d.npz", x=data[3:])
    (home / "samples" / "notes.txt").write_text("not a sample")
    done = flop("run", str(linear), "--input", "samples", "--out", "out.npz", *LOCAL)
    assert done.exit_code == 0, done.output
    want = fm.onnx.load(linear).run({"x": data}, "reference")["probabilities"]
    assert (results(home / "out.npz")["probabilities"] == want).all()


@pytest.mark.parametrize("form", ["npz", "named"])
def test_several_inputs_come_by_name(flop: Flop, pair: Path, home: Path, form: str) -> None:
    a, k = rows(5), np.arange(15).reshape(5, 3)
    arguments = ["--input", "in.npz"]
    if form == "npz":
        np.savez(home / "in.npz", a=a, k=k)
    else:
        np.save(home / "a.npy", a)
        np.save(home / "k.npy", k)
        arguments = ["--input", "a=a.npy", "--input", "k=k.npy"]
    done = flop("run", str(pair), *arguments, *LOCAL)
    assert done.exit_code == 0, done.output
    found = results(home / "results.npz")
    assert list(found) == ["total", "gap"]
    assert (found["gap"] == a - k.astype(np.float32)).all()


def test_equal_results_are_equal_files_and_none_is_overwritten(
    flop: Flop, linear: Path, home: Path
) -> None:
    np.save(home / "in.npy", rows(5))
    run = ("run", str(linear), "--input", "in.npy", *LOCAL)
    assert flop(*run).exit_code == 0
    first = (home / "results.npz").read_bytes()
    again = flop(*run)
    assert again.exit_code == 5 and "FILE_EXISTS" in again.stderr
    os.utime(home / "results.npz", (1, 1))
    assert flop(*run, "--force").exit_code == 0
    assert (home / "results.npz").read_bytes() == first


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (rows(4)[:, :2], "in.npy: input 'x' wants float32[n, 3], float32[4, 2] was given"),
        (rows(4).astype(np.float64), "float64[4, 3] was given"),
        (np.zeros((0, 3), np.float32), "there are no rows"),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    flop: Flop, linear: Path, home: Path, data: Array, words: str
) -> None:
    np.save(home / "in.npy", data)
    refused = flop("run", str(linear), "--input", "in.npy", *LOCAL)
    assert refused.exit_code == 2
    assert words in refused.stderr
    assert not (home / "results.npz").exists()


def test_other_number_types_are_converted_when_asked(flop: Flop, linear: Path, home: Path) -> None:
    np.save(home / "in.npy", rows(4).astype(np.float64))
    assert flop("run", str(linear), "--input", "in.npy", "--cast", *LOCAL).exit_code == 0


@pytest.mark.parametrize(
    ("argument", "code"),
    [
        ("missing.npy", "INPUT_UNREADABLE"),
        ("garbage.npy", "INPUT_UNREADABLE"),
        ("garbage.npz", "INPUT_UNREADABLE"),
        ("pickle.npy", "INPUT_UNREADABLE"),
        ("empty", "INPUT_UNREADABLE"),
        ("notes.txt", "INPUT_UNREADABLE"),
        ("x=missing.npy", "INPUT_UNREADABLE"),
    ],
)
def test_files_that_are_no_arrays_are_refused(
    flop: Flop, linear: Path, home: Path, argument: str, code: str
) -> None:
    (home / "empty").mkdir()
    (home / "notes.txt").write_text("x")
    (home / "garbage.npy").write_bytes(b"\x93NUMPY but not really")
    (home / "garbage.npz").write_bytes(b"PK but not really")
    np.save(home / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused = flop("run", str(linear), "--input", argument, *LOCAL)
    assert refused.exit_code == 2, refused.output
    assert code in refused.stderr


def test_a_model_whose_shapes_depend_on_data_says_why_it_is_no_job(flop: Flop, home: Path) -> None:
    file = model(
        [node("NonZero", ["x"], ["where"])], [("x", FLOAT, ["n", 3])], [("where", INT64, [2, "k"])]
    )
    onnx.save(file, home / "model.onnx")
    np.save(home / "in.npy", rows(4))
    refused = flop("quote", "model.onnx", "--input", "in.npy")
    assert refused.exit_code == 2
    assert "MODEL_NOT_A_JOB" in refused.stderr and "NonZero" in refused.stderr
    (home / "broken.onnx").write_bytes(b"not a model")
    assert flop("quote", "broken.onnx", "--input", "in.npy").exit_code == 2


def test_options_that_make_no_sense_together(
    flop: Flop, linear: Path, home: Path, job_file: str
) -> None:
    np.save(home / "in.npy", rows(4))
    for arguments in (
        ("run", str(linear)),
        ("quote", str(linear)),
        ("quote", str(linear), "--input", "in.npy", "--rows", "5"),
        ("quote", str(linear), "--input", "in.npy", "--shape", "x=3"),
        ("quote", job_file, "--rows", "5"),
        ("run", job_file, "--input", "in.npy"),
        ("run", str(linear), "--input", "in.npy", "--device", "reference"),
        ("run", str(linear), "--input", "in.npy", "--out", "folder", *LOCAL),
        ("run", str(linear), "--input", "in.npy", "--out", "no/such/results.npz", *LOCAL),
        ("run", str(linear), "--input", "in.npy", "--set", "z=1", *LOCAL),
        ("quote", str(linear), "--rows", "5", "--shape", "x=-3"),
        ("quote", str(linear), "--rows", "5", "--shape", "z=3"),
    ):
        assert flop(*arguments).exit_code == 2, arguments


def test_a_quote_for_rows_that_do_not_exist_yet(
    flop: Flop, buyer: FakeCoordinator, linear: Path, home: Path
) -> None:
    (quote,) = json_lines(flop("quote", str(linear), "--rows", "1000", "--batch", "8", "--json"))
    assert quote["steps"] == 125
    np.save(home / "in.npy", rows(1000))
    (same,) = json_lines(flop("quote", str(linear), "--input", "in.npy", "--batch", "8", "--json"))
    assert same == quote


def test_what_was_uploaded_once_is_not_uploaded_again(
    flop: Flop, buyer: FakeCoordinator, linear: Path, home: Path
) -> None:
    np.save(home / "in.npy", rows(16))
    first = flop("submit", str(linear), "--input", "in.npy", "--batch", "8")
    assert first.exit_code == 0, first.output
    assert first.stderr.count("uploading") == 3 and "already there" not in first.stderr
    sent = len(buyer.upload_sizes)
    np.save(home / "in.npy", rows(16, seed=1))
    second = flop("submit", str(linear), "--input", "in.npy", "--batch", "8")
    assert second.exit_code == 0, second.output
    assert "program: " in second.stderr and "frozen: " in second.stderr
    assert second.stderr.count("already there") == 2  # program and frozen: only the rows are new
    assert len(buyer.upload_sizes) == sent + 1
