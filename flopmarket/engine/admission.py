"""Admission: may this device offer exact mode? (docs/numerics.md §4)

``admit`` asks the probes of :mod:`flopmarket.engine.probes` and then runs the golden programs of
:mod:`flopmarket.engine.golden`, shapes on both sides of every threshold of profile FX1, with the
code generator as it stands; their digests are committed, and the reference says where a device
departs from them. It runs before a worker's first exact offer and again after a change of driver or
engine. A device that fails anything is fast-only, and the report says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine import probes
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.errors import EngineError
from flopmarket.engine.exact import ADMISSION, PROFILE
from flopmarket.engine.golden import macros, suite, tiles
from flopmarket.engine.golden.builder import second_builder
from flopmarket.engine.golden.suite import Golden
from flopmarket.engine.macros import LAW
from flopmarket.engine.probes import ProbeResult
from flopmarket.engine.runtime.devices import DeviceKind
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.resident import CompileOptions

Array = np.ndarray[Any, Any]

MACROS = "macros"
"""The name under which the elementary functions stand in a report."""
_TILED = "dot float32"
"""The program that a GPU has not passed before its larger tiles are right, too."""
_MAX_DETAIL_CHARACTERS = 300
_NO_FLOAT64 = "not run: the device has no float64, and refuses programs that use it"


@dataclass(frozen=True, slots=True)
class AdmissionReport:
    """What admission found.

    ``digest`` is 64 hex digits over profile, probes and golden bits: equal on all devices with
    float64 that one version of the engine admits, and on all without. ``contract_helper`` says how
    FMA is rendered here.
    """

    admitted: bool
    profile: str
    probes: tuple[ProbeResult, ...]
    digest: str
    contract_helper: bool

    @property
    def failures(self) -> tuple[ProbeResult, ...]:
        """What did not pass: the reason to tell the device's owner."""
        return tuple(probe for probe in self.probes if not probe.passed)


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """One golden program on a device. ``digest`` is empty where it did not run at all.

    A device without float64 does not run what needs it, which is no failure.
    """

    name: str
    passed: bool
    digest: str
    detail: str


def admit(device: Device) -> AdmissionReport:
    """Probe an open device. Never raises for what the device does wrong: that is in the report."""
    return examine(device)[0]


def examine(device: Device) -> tuple[AdmissionReport, tuple[GoldenResult, ...]]:
    """What :func:`admit` reports, and the golden results with their digests."""
    results = probes.run_probes(device)
    helper = probes.contraction_is_exact(device)
    with second_builder(device, contract_helper=helper):
        golden = tuple(run_golden(device, contract_helper=helper))
    digest = hashlib.sha256(f"flopmarket admission {ADMISSION} {PROFILE}\0".encode())
    for found in golden:
        title = f"golden: {found.name}"
        results.append(ProbeResult(title, found.passed, found.detail))
        digest.update(f"{title} {found.digest}\0".encode())
    for result in results:
        digest.update(f"{result.name}={result.passed}\0".encode())
    admitted = all(result.passed for result in results)
    return AdmissionReport(admitted, PROFILE, tuple(results), digest.hexdigest(), helper), golden


def run_golden(device: Device, *, contract_helper: bool) -> Iterator[GoldenResult]:
    """Every golden program on an open device, in the order of the suite, then the macros."""
    target = open_target(device, contract_helper=contract_helper)
    committed = suite.committed()
    for name, make in suite.programs().items():
        program = make()
        if program.needs_float64 and not device.info.has_fp64:
            yield GoldenResult(name, True, "", _NO_FLOAT64)
            continue
        row = committed.get(name)
        known = row if row and row.program == program.program.digest.hex() else None
        try:
            values = _values(device, target, program)
            tile = "" if target.is_cpu or name != _TILED else tiles.wrong_tile(device, target)
        except EngineError as error:
            yield GoldenResult(name, False, "", str(error)[:_MAX_DETAIL_CHARACTERS])
            continue
        digest = suite.result_digest(name, values)
        if tile:
            yield GoldenResult(name, False, digest, tile[:_MAX_DETAIL_CHARACTERS])
        elif known is not None and known.result == digest:
            yield GoldenResult(name, True, digest, f"{len(values)} tensors")
        else:
            yield _judged(program, values, digest, is_known=known is not None)
    yield _elementary_functions(device, target)


def _elementary_functions(device: Device, target: Target) -> GoldenResult:
    """Every elementary function on the sample of 2^24 inputs, and on all 2^32 by a GPU."""
    counts = [macros.SAMPLE]
    if device.info.kind is DeviceKind.GPU:
        counts.append(macros.ALL)
    try:
        found = macros.checksums((device, target), LAW)
        known = macros.golden()
        wrong = [name for name in LAW if found[name] != known[name].sample_checksum]
        if not wrong and macros.ALL in counts:
            wrong += macros.wrong_functions((device, target), LAW, log2_count=macros.ALL)
    except EngineError as error:
        return GoldenResult(MACROS, False, "", str(error)[:_MAX_DETAIL_CHARACTERS])
    digest = hashlib.sha256("".join(f"{n}={s}\0" for n, s in found.items()).encode()).hexdigest()
    if wrong:
        return GoldenResult(MACROS, False, digest, f"wrong: {', '.join(wrong)}")
    inputs = f"{len(found)} functions over 2^{counts[-1]} inputs"
    return GoldenResult(MACROS, True, digest, inputs)


def _judged(program: Golden, values: list[Array], digest: str, *, is_known: bool) -> GoldenResult:
    """By the reference: what differs, or a pass where the program is not the committed one."""
    for at, (want, have) in enumerate(zip(suite.expected(program), values, strict=True)):
        result = probes.compare(program.name, want, have)
        if not result.passed:
            shapes = ", ".join(f"{s.dtype}{list(s.shape)}" for s in program.nodes[at].src[:3])
            detail = f"{program.labels[at]}: {program.nodes[at].op.name}({shapes}): {result.detail}"
            return GoldenResult(program.name, False, digest, detail[:_MAX_DETAIL_CHARACTERS])
    if is_known:
        return GoldenResult(
            program.name, False, digest, "equal to the reference, but not to the committed digest"
        )
    detail = f"{len(values)} tensors, judged by the reference: the program is not the committed one"
    return GoldenResult(program.name, True, digest, detail)


def _values(device: Device, target: Target, program: Golden) -> list[Array]:
    """The results on the device, its memory poisoned before they are computed."""
    prepared = Prepared(program.nodes, device, target, CompileOptions(poison=True))
    try:
        values = prepared.run(program.leaves)
    finally:
        prepared.release()
    return [values[node] for node in program.nodes]
