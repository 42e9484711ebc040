"""From an .onnx file to results.npz through ``flop`` alone: bought, computed, verified, named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import flopmarket as fm
from flopmarket.cli.main import main
from tests.engine.formats.models import digits_cnn
from tests.integration.market.processes import Market
from tests.unit.cli.conftest import json_lines


def flop(*arguments: str) -> Result:
    done = CliRunner().invoke(main, arguments, prog_name="flop")
    assert done.exit_code == 0, done.output
    return done


def test_a_model_file_is_bought_and_computed(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.buyer_key.save(tmp_path / "buyer.pem")
    monkeypatch.setenv("FLOPMARKET_ADDRESS", market.address)
    monkeypatch.setenv("FLOPMARKET_KEY", str(tmp_path / "buyer.pem"))
    monkeypatch.chdir(tmp_path)
    onnx.save(digits_cnn(), tmp_path / "digits.onnx")
    images = np.random.default_rng(1).uniform(size=(21, 1, 8, 8)).astype(np.float32)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        np.save(tmp_path / "images" / f"{number:03}.npy", image)
    job = ("digits.onnx", "--input", "images", "--batch", "4")
    market.worker("painter")

    (quote,) = json_lines(flop("quote", *job, "--json"))
    (rows,) = json_lines(flop("quote", "digits.onnx", "--rows", "21", "--batch", "4", "--json"))
    assert quote["ceiling_nano"] == rows["ceiling_nano"] > 0

    bought = flop("run", *job, "--json")
    (told,) = (line for line in json_lines(bought))
    assert 0 < told["billed_nano"] <= quote["ceiling_nano"]
    assert bought.stderr.count("uploading") == 3
    with np.load("results.npz") as file:
        scores = file["scores"]
    want = fm.onnx.load("digits.onnx").run({"image": images})["scores"]
    assert (scores == want).all()

    # The receipt beside it proves the digests that the same job has here.
    (proof,) = json_lines(flop("receipt", "verify", "results.receipt.json", "--json"))
    (here,) = json_lines(flop("run", *job, "--local", "--out", "local.npz", "--json"))
    assert proof["outputs_root"] == here["outputs_root"] == told["outputs_root"]
    assert Path("local.npz").read_bytes() == Path("results.npz").read_bytes()

    # Again: the model is there, the rows are too; nothing is sent, and another job is bought.
    again = flop("run", *job, "--out", "again.npz")
    assert again.stderr.count("already there") == 3 and "uploading" not in again.stderr
    assert Path("again.npz").read_bytes() == Path("results.npz").read_bytes()

    fetched = flop(
        *("job", "fetch", told["job_id"][:12], "--out", "fetched.npz", "--model", "digits.onnx")
    )
    assert "fetched.npz" in fetched.stdout
    assert Path("fetched.npz").read_bytes() == Path("results.npz").read_bytes()
