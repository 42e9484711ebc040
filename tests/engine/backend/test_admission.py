"""Admission lets an exact device in and keeps a faulty one out, saying why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import admission, probes
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.cache import KernelCache
from flopmarket.engine.runtime.open import opened
from flopmarket.engine.runtime.opencl import Buffer, Device, Module

Array = np.ndarray[Any, Any]


class FaultyDevice(Device):
    """A device whose compiler or memory does something else than it should."""

    rewrite: Callable[[str], str] = staticmethod(lambda source: source)
    spoil: Callable[[Array], Array] = staticmethod(lambda array: array)

    def compile(self, source: str, *, options: tuple[str, ...] = (), exact: bool = True) -> Module:
        changed = self.rewrite(source)
        return super().compile(changed, options=options, exact=changed == source)

    def download(self, buffer: Buffer, array: Array, offset: int = 0) -> None:
        super().download(buffer, array, offset)
        array[...] = self.spoil(array)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> FaultyDevice:
    with opened(devices.find(None)) as plain:
        cache = KernelCache(tmp_path_factory.mktemp("kernels"))
        return FaultyDevice(plain.info, plain.handle, plain.context, plain.queue, cache)


def flush(array: Array) -> Array:
    if array.dtype != np.float32:
        return array
    return np.where(np.abs(array) < 2.0**-126, np.float32(0), array)


def lowest_bit(array: Array) -> Array:
    """One wrong bit in one element of what is large enough."""
    if array.dtype != np.float32 or array.size < 60:
        return array
    changed = array.copy()
    changed.reshape(-1)[37] = np.nextafter(changed.reshape(-1)[37], np.float32(9), dtype=np.float32)
    return changed


def test_the_cpu_device_is_admitted(device: Device) -> None:
    report = admission.admit(device)
    assert report.failures == ()
    assert report.admitted
    assert report.profile == PROFILE
    assert len(report.digest) == 64
    assert report == admission.admit(device)


@pytest.mark.parametrize(
    ("rewrite", "spoil", "culprit"),
    [
        (None, flush, "flush: product"),
        (None, lowest_bit, "golden: dot"),
        (lambda s: s.replace("FP_CONTRACT OFF", "FP_CONTRACT ON"), None, "no contraction: a*b+c"),
        (lambda s: s.replace("(float)((double)a / (double)b)", "a * (1.0f / b)"), None, "division"),
        (lambda s: s + "\nthis is no C", None, "fma()"),
    ],
    ids=["flushes", "wrong bit", "contracts", "reciprocal", "no compiler"],
)
def test_a_faulty_device_is_kept_out(
    rewrite: Callable[[str], str] | None,
    spoil: Callable[[Array], Array] | None,
    culprit: str,
    faulty: FaultyDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if rewrite is not None:
        monkeypatch.setattr(FaultyDevice, "rewrite", staticmethod(rewrite))
    if spoil is not None:
        monkeypatch.setattr(FaultyDevice, "spoil", staticmethod(spoil))
    report = admission.admit(faulty)
    assert not report.admitted
    named = {probe.name: probe.detail for probe in report.failures}
    assert culprit in named
    assert named[culprit]


def test_one_construct_that_does_not_build_fails_its_own_probe(
    faulty: FaultyDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rewrite(source: str) -> str:
        return source.replace("fx1_sqrt(a[i])", "no_such_function(a[i])")

    monkeypatch.setattr(FaultyDevice, "rewrite", staticmethod(rewrite))
    results = probes.run_probes(faulty)
    assert [result.name for result in results if not result.passed] == ["square root"]
    assert len({result.name for result in results}) == len(results) > len(probes.PROBES)


def test_probes_that_build_share_one_build(
    faulty: FaultyDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def note(source: str) -> str:
        built.append(source)
        return source

    monkeypatch.setattr(FaultyDevice, "rewrite", staticmethod(note))
    assert all(result.passed for result in probes.run_probes(faulty))
    assert len(built) == 1
