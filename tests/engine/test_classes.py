"""Class admission: same device, same class; another compiler, another one; unsteady, none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from flopmarket.engine.classes import SUITE, ClassReport, class_programs, classify
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.golden import suite, tiles
from flopmarket.engine.probes import run_probes
from flopmarket.engine.runtime.cache import default_directory
from flopmarket.engine.runtime.devices import find
from flopmarket.engine.runtime.open import opened
from flopmarket.jobs.host import EngineProcess, JobRefused
from tests.engine.law.mutants import Array
from tests.engine_processes import ContractingEngine, contracting, mutated, splitting


@pytest.fixture(scope="module")
def plain() -> ClassReport:
    with opened(find("PoCL:0")) as device:
        return classify(device)


def test_the_suite_is_part_of_the_golden_programs() -> None:
    assert tuple(class_programs(Target())) == SUITE
    assert tuple(class_programs(Target(is_cpu=False))) == (*SUITE, tiles.TILES)
    assert set(SUITE) <= set(suite.programs())


def test_a_steady_device_has_a_class_that_another_process_finds_again(plain: ClassReport) -> None:
    assert plain.deterministic
    assert not plain.failures
    assert plain.reason == ""
    assert len(bytes.fromhex(plain.kernels)) == len(bytes.fromhex(plain.results)) == 32

    async def elsewhere() -> dict[str, Any]:
        engine = await EngineProcess.start("PoCL:0", cache_dir=default_directory())
        try:
            return await engine.classification()
        finally:
            await engine.stop()

    found = asyncio.run(elsewhere())
    assert found["deterministic"] is True
    assert (found["kernels"], found["results"]) == (plain.kernels, plain.results)


@pytest.fixture(scope="module")
def reports() -> Iterator[dict[str, ClassReport]]:
    found = {}
    for name, rewrite in (("contracting", contracting), ("splitting", splitting)):
        with mutated(rewrite, find("PoCL:0")) as device:
            found[name] = classify(device)
    yield found


def test_equal_sources_with_other_bits_are_other_classes(
    plain: ClassReport, reports: dict[str, ClassReport]
) -> None:
    everything = [plain, *reports.values()]
    assert all(report.deterministic for report in everything)
    assert len({report.kernels for report in everything}) == 1
    assert len({report.results for report in everything}) == 3


@pytest.mark.parametrize("rewrite", [contracting, splitting])
def test_the_mutated_devices_do_not_compute_the_exact_profile(
    rewrite: Callable[[str], str],
) -> None:
    """One probe that does not pass is enough to refuse admission."""
    with mutated(rewrite, find("PoCL:0")) as device:
        failed = {result.name for result in run_probes(device) if not result.passed}
    assert "division" in failed
    assert ("no contraction: a*b+c" in failed) == (rewrite is contracting)


def test_a_device_that_answers_twice_differently_has_no_class_and_is_told_why() -> None:
    reads = 0

    def unsteady(array: Array) -> Array:
        nonlocal reads
        reads += 1
        if reads % 50 or array.dtype != np.float32 or not array.size:
            return array
        bits = array.copy().view(np.uint32)
        bits.reshape(-1)[0] ^= 1
        return bits.view(np.float32)

    with mutated(lambda source: source, find("PoCL:0")) as device:
        device.spoil = unsteady  # type: ignore[method-assign]
        report = classify(device)
    assert not report.deterministic
    assert report.failures
    assert "two runs" in report.reason


def test_what_does_not_build_is_a_failure_and_no_exception() -> None:
    with mutated(
        lambda source: source.replace("return sqrt(x)", "return root(x)"), find("PoCL:0")
    ) as device:
        report = classify(device)
    assert not report.deterministic
    assert [failure.name for failure in report.failures] == list(SUITE)


def test_the_child_of_another_compiler_says_what_its_device_is(
    reports: dict[str, ClassReport],
) -> None:
    async def ask() -> dict[str, Any]:
        engine = await ContractingEngine.start("PoCL:0", cache_dir=default_directory())
        try:
            return await engine.classification()
        finally:
            await engine.stop()

    found = asyncio.run(ask())
    assert found["deterministic"] is True
    assert found["results"] == reports["contracting"].results


def test_the_reference_has_no_class() -> None:
    async def ask() -> None:
        engine = await EngineProcess.start("reference")
        try:
            with pytest.raises(JobRefused, match="exact"):
                await engine.classification()
        finally:
            await engine.stop()

    asyncio.run(ask())
