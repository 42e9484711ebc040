"""The golden data of elementary functions: re-derived, measured by a truth that is itself checked,
and told in the documentation as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flopmarket.engine import dtypes, graph, macros, reference
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.dtypes import DType
from flopmarket.engine.errors import EngineError
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.golden import macros as golden
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.open import open_target, opened
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.tensor import Tensor
from tests.engine.frontend.exact import EXACT
from tests.tools import exhaustive
from tests.tools.macro_truth import Truth

NAMES = list(macros.MACROS)


@pytest.fixture(scope="module")
def target() -> Iterator[tuple[Device, Target]]:
    with opened(devices.find(None)) as device:
        yield device, open_target(device)


def test_every_function_is_recorded_for_this_profile() -> None:
    assert list(golden.golden()) == NAMES
    assert json.loads(golden.DATA.read_text(encoding="utf-8"))["profile"] == PROFILE


def test_the_sample_has_its_golden_digests_and_checksums(target: tuple[Device, Target]) -> None:
    known = golden.golden()
    found = golden.digests(target, NAMES)
    assert found == {name: known[name].sample_digest for name in NAMES}
    sums = golden.checksums(target, NAMES)
    assert sums == {name: known[name].sample_checksum for name in NAMES}


def test_admission_is_told_which_functions_are_wrong(
    target: tuple[Device, Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert golden.wrong_functions(target, ["exp", "sin"]) == ()
    known = dict(golden.golden())
    known["sin"] = replace(known["sin"], sample_checksum="0" * 16, checksum=None)
    monkeypatch.setattr(golden, "golden", lambda: known)
    assert golden.wrong_functions(target, ["exp", "sin"]) == ("sin",)
    assert golden.wrong_functions(target, ["sin"], log2_count=golden.ALL) == ("sin",)


def test_the_reference_has_the_digests_of_the_device(target: tuple[Device, Target]) -> None:
    on_device = golden.digests(target, NAMES, log2_count=16)
    assert golden.digests(None, NAMES, log2_count=16, chunk=2**16) == on_device
    sums = golden.checksums(target, NAMES, log2_count=16)
    assert golden.checksums(None, NAMES, log2_count=16, chunk=2**16) == sums


def test_an_exhaustive_sweep_goes_through_all_inputs_in_order(
    target: tuple[Device, Target],
) -> None:
    sweep = golden.Sweep(["log1p"], target, log2_count=golden.ALL, chunk=4096)
    start = 0x3F800000
    x = np.arange(start, start + 4096, dtype=np.uint32).view(np.float32)
    node = graph.input_("input", "x", dtypes.float32, x.shape)
    (wanted,) = reference.evaluate(canonicalise([macros.log1p(node)]), {node: x})
    np.testing.assert_array_equal(sweep(start)["log1p"], wanted)
    sweep.close()


def test_samples_contain_every_value_of_bfloat16_and_nothing_twice() -> None:
    for count in (16, 20):
        bits = golden.sample_bits(np.arange(2**count, dtype=np.uint32), count)
        assert (np.diff(bits.astype(np.int64)) > 0).all()
        assert np.isin(np.arange(2**16, dtype=np.uint32) << 16, bits).all()


def test_a_checksum_sees_one_wrong_bit_and_two_exchanged_results() -> None:
    x = graph.input_("input", "x", dtypes.uint32, (4096,))
    y = graph.input_("input", "y", dtypes.float32, (4096,))
    sums = golden._partial_checksum(x, y)
    bits = np.arange(4096, dtype=np.uint32)
    results = np.linspace(1, 2, 4096, dtype=np.float32)
    flipped, exchanged = results.copy(), results.copy()
    flipped.view(np.uint32)[7] ^= 1
    exchanged[[3, 4]] = exchanged[[4, 3]]
    found = {
        int(reference.evaluate([sums], {x: bits, y: values})[0][0])
        for values in (results, flipped, exchanged)
    }
    assert len(found) == 3


def test_unfit_sweeps_are_refused() -> None:
    for count, chunk in ((12, 4096), (25, 4096), (24, 1000)):
        with pytest.raises(EngineError) as caught:
            golden.Sweep(["exp"], None, log2_count=count, chunk=chunk)
        assert caught.value.code == "SWEEP_SIZE"


@pytest.mark.parametrize("name", NAMES)
def test_the_measured_truth_rounds_to_that_of_numpy_and_scipy(
    name: str, target: tuple[Device, Target]
) -> None:
    bits = golden.sample_bits(np.arange(2**17, dtype=np.uint32), 17)
    with np.errstate(all="ignore"):
        rounded = EXACT[name](bits.view(np.float32).astype(np.float64)).astype(np.float32)
    truth = Truth(target[0], name, 2**17, 17)
    target[0].upload(truth.results, rounded)
    assert truth.largest(truth.results, 0)[0] <= 0.5 + 1e-6
    # One wrong result is found, and where it is.
    at = int(np.searchsorted(bits, 0x3F000000))
    rounded[at] = 7.0
    target[0].upload(truth.results, rounded)
    error, where = truth.largest(truth.results, 0)
    assert error > 0.6 and where == bits[at]
    truth.close()


def test_a_stopped_measurement_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(golden, "BLOCK", 2**18)
    monkeypatch.setattr(exhaustive, "BLOCKS_PER_SAVE", 1)
    arguments = ["exp", "--sample", "20", "--state"]
    assert exhaustive.main([*arguments, str(tmp_path / "whole")]) == 0
    whole = capsys.readouterr().out.splitlines()[-1].split()
    measured = exhaustive.Measurement.__call__
    calls = []

    def stop_after_two(self: exhaustive.Measurement, start: int, into: np.ndarray) -> object:
        calls.append(start)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured(self, start, into)

    monkeypatch.setattr(exhaustive.Measurement, "__call__", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        exhaustive.main([*arguments, str(tmp_path / "parts")])
    assert exhaustive.main([*arguments, str(tmp_path / "parts")]) == 0
    assert calls.count(0) == 1
    resumed = capsys.readouterr().out.splitlines()[-1].split()
    assert resumed[:8] == whole[:8]


def test_the_documentation_has_the_recorded_errors() -> None:
    page = Path(__file__).parents[3] / "docs" / "numerics.md"
    assert exhaustive.table() in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=repr)
def test_all_inputs_of_16_bits_give_the_float32_result_rounded_once(dtype: DType) -> None:
    x = np.arange(2**16, dtype=np.uint16).view(dtype.numpy)
    wide = x.astype(np.float32)
    node = graph.input_("input", "x", dtypes.float32, wide.shape)
    wanted = reference.evaluate(
        canonicalise([macro(node) for macro in macros.MACROS.values()]), {node: wide}
    )
    for name, value in zip(NAMES, wanted, strict=True):
        found = getattr(Tensor(x), name)()
        assert found.dtype is dtype
        with np.errstate(all="ignore"):
            rounded = dtypes.canonical(value.astype(dtype.numpy))
        np.testing.assert_array_equal(found.numpy().view(np.uint16), rounded.view(np.uint16))
