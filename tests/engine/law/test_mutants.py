"""Admission finds every way of breaking FX1 that we know of, and says which."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flopmarket.engine import admission, probes
from flopmarket.engine.golden import suite
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.open import opened
from flopmarket.engine.runtime.opencl import Device
from tests.engine.law.mutants import MUTATIONS, MutatedDevice, Mutation, mutated


@pytest.fixture(scope="module")
def plain() -> Iterator[Device]:
    with opened(devices.find("PoCL:0")) as device:
        yield device


def broken(plain: Device, mutation: Mutation) -> MutatedDevice:
    device = mutated(plain)
    device.rewrite = mutation.rewrite  # type: ignore[method-assign]
    device.spoil = mutation.spoil  # type: ignore[method-assign]
    device.extra_options = mutation.options
    return device


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_admission_finds(
    mutation: Mutation, plain: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the golden programs that are named run here: the whole suite fails where a part does."""
    assert mutation.probes or mutation.programs
    every = suite.programs()
    some = {name: every[name] for name in mutation.programs}
    monkeypatch.setattr(suite, "programs", lambda: some)
    monkeypatch.setattr(admission, "LAW", ("exp",))
    device = broken(plain, mutation)
    report = admission.admit(device)
    failed = {result.name for result in report.failures}
    assert set(mutation.probes) <= failed
    assert {f"golden: {name}" for name in mutation.programs} <= failed
    assert not report.admitted
    assert all(result.detail for result in report.failures)
    assert device.touched or mutation.options or mutation.spoil is not Mutation.spoil


def test_what_is_mutated_passes_when_it_is_left_alone(
    plain: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = suite.programs()
    named = {name for mutation in MUTATIONS for name in mutation.programs}
    monkeypatch.setattr(suite, "programs", lambda: {name: every[name] for name in sorted(named)})
    report = admission.admit(broken(plain, Mutation("nothing")))
    assert report.failures == ()
    assert {probe for mutation in MUTATIONS for probe in mutation.probes} <= {
        probe.name for probe in probes.PROBES
    }
