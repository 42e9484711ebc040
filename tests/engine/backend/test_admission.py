"""Admission lets an exact device in, keeps others out and says why.

``tests/engine/law/test_mutants.py`` breaks devices in every way that it must notice.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from flopmarket.engine import admission, dtypes, probes
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.golden import suite
from flopmarket.engine.graph import Op, topological
from flopmarket.engine.runtime.opencl import Device
from tests.engine.law.mutants import MutatedDevice, mutated


@pytest.fixture
def faulty(device: Device) -> MutatedDevice:
    return mutated(device)


def test_the_cpu_device_is_admitted(device: Device) -> None:
    report = admission.admit(device)
    assert report.failures == ()
    assert report.admitted
    assert report.profile == PROFILE
    assert len(report.digest) == 64
    assert report == admission.admit(device)
    json.dumps(dataclasses.asdict(report))  # it crosses a process border


def test_a_device_without_a_compiler_fails_everything(
    faulty: MutatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = suite.programs()
    monkeypatch.setattr(suite, "programs", lambda: {"softmax": every["softmax"]})
    monkeypatch.setattr(faulty, "rewrite", lambda source: source + "\nthis is no C")
    report = admission.admit(faulty)
    assert not report.admitted
    assert len(report.failures) == len(report.probes)
    assert all("cannot build" in failure.detail for failure in report.failures)


def test_one_construct_that_does_not_build_fails_its_own_probe(
    faulty: MutatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rewrite(source: str) -> str:
        return source.replace("fx1_sqrt(a[i])", "no_such_function(a[i])")

    monkeypatch.setattr(faulty, "rewrite", rewrite)
    results = probes.run_probes(faulty)
    assert [result.name for result in results if not result.passed] == ["square root"]
    assert len({result.name for result in results}) == len(results) == len(probes.PROBES)


def test_probes_that_build_share_one_build(
    faulty: MutatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def note(source: str) -> str:
        built.append(source)
        return source

    monkeypatch.setattr(faulty, "rewrite", note)
    assert all(result.passed for result in probes.run_probes(faulty))
    assert len(built) == 1


def test_contraction_stands_for_fma_only_where_it_is_one_operation(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intel's runtime contracts small kernels and not a longer loop: no probe can tell for all."""
    if device.info.family in probes.CONTRACTING_FAMILIES:
        assert probes.contraction_is_exact(device)
    other = dataclasses.replace(device.info, index_name="Intel:0")
    monkeypatch.setattr(device, "info", other)
    assert not probes.contraction_is_exact(device)


def test_a_device_without_float64_may_be_admitted_to_the_rest(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "info", dataclasses.replace(device.info, has_fp64=False))
    names = ("arithmetic float32", "arithmetic float64", "literals", "conversions float64")
    every = suite.programs()
    monkeypatch.setattr(suite, "programs", lambda: {name: every[name] for name in names})
    found = {r.name: r for r in admission.run_golden(device, contract_helper=False)}
    assert all(result.passed for result in found.values())
    assert "no float64" in found["arithmetic float64"].detail
    assert found["arithmetic float32"].digest == suite.committed()["arithmetic float32"].result


# ---------------------------------------------------------------- the golden programs


@pytest.mark.parametrize("name", list(suite.programs()))
def test_golden_programs_are_the_committed_ones_and_so_are_their_results(name: str) -> None:
    """After a change that is meant to change a program, ``make golden`` writes the file anew."""
    golden = suite.programs()[name]()
    committed = suite.committed()[name]
    assert golden.program.digest.hex() == committed.program
    assert suite.result_digest(name, suite.expected(golden)) == committed.result
    assert len(golden.labels) == len(golden.nodes) == len(set(golden.labels))


def test_the_committed_file_has_no_program_that_is_gone() -> None:
    assert set(suite.committed()) == set(suite.programs())


def test_golden_programs_hold_every_primitive_and_element_type() -> None:
    ops: set[Op] = set()
    types: set[dtypes.DType] = set()
    for make in suite.programs().values():
        for node in topological(make().nodes):
            ops.add(node.op)
            types.add(node.dtype)
    assert ops == set(Op)
    assert types == set(dtypes.DTYPES)


def test_inputs_of_golden_programs_do_not_depend_on_numpy() -> None:
    """SplitMix64's first values from the state 2^40, as any other implementation gives them."""
    from flopmarket.engine.samples import Sampler

    def splitmix(state: int) -> int:
        mask = 2**64 - 1
        z = state * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    expected = [splitmix(2**40 + at) for at in range(1, 6)]
    assert Sampler(1).words(5).tolist() == expected
    assert np.abs(Sampler(1).unit(1000)).max() <= 1
