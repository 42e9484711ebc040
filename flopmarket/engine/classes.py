"""Class admission: does this device compute fast kernels twice alike, and with whom?

Two devices may sell work to the same buyer in fast mode where equal sources give equal bits on
both. ``classify`` runs a part of the golden programs under FAST, each twice in memory that was
filled with other garbage in between. A device whose two answers differ has no class. The others are
named by two digests: of what was compiled (sources and options; a driver's binaries of one source
may differ) and of the bits that came out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.errors import EngineError
from flopmarket.engine.golden import suite, tiles
from flopmarket.engine.golden.suite import Array, Golden
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.probes import ProbeResult, build_options, compare
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.resident import CompileOptions

CLASSES = 1
"""Revision of the class suite: devices that were classified by another are classified anew."""

SUITE = (
    "arithmetic float32",
    "contraction",
    "rounding",
    "dot float32",
    "dot bfloat16",
    "reduce float32",
    "softmax",
    "layer norm",
    "convolution",
    "attention",
    "adam step",
)
"""Golden programs whose bits under FAST name a class: what fast kernels may do differently."""

_POISONS = (0xFF, 0x41)
_MAX_DETAIL_CHARACTERS = 300
_KERNELS_DOMAIN = f"flopmarket class kernels {CLASSES}\0"
_RESULTS_DOMAIN = f"flopmarket class results {CLASSES}\0"


@dataclass(frozen=True, slots=True)
class ClassReport:
    """What class admission found. Digests are 64 hex digits.

    ``kernels`` covers generated sources and build options, ``results`` the bits of the results.
    Where the device is not ``deterministic`` the ``failures`` say what differed or did not run, and
    the digests name no class.
    """

    deterministic: bool
    kernels: str
    results: str
    failures: tuple[ProbeResult, ...]

    @property
    def reason(self) -> str:
        """Why the device has no class, for its owner; empty where it has one."""
        return "" if self.deterministic else f"{self.failures[0].name}: {self.failures[0].detail}"


def classify(device: Device) -> ClassReport:
    """Run the class suite on an open device. Never raises for what the device does wrong."""
    target = open_target(device, numerics=Numerics.FAST)
    options = build_options(device.info, Numerics.FAST)
    kernels = hashlib.sha256(_KERNELS_DOMAIN.encode())
    kernels.update("\0".join(options).encode() + b"\0")
    results = hashlib.sha256(_RESULTS_DOMAIN.encode())
    failures: list[ProbeResult] = []
    for name, make in class_programs(target).items():
        used = tiles.reached(target) if name == tiles.TILES else target
        try:
            source, first, second = _twice(device, used, make())
        except EngineError as error:
            failures.append(ProbeResult(name, False, str(error)[:_MAX_DETAIL_CHARACTERS]))
            continue
        kernels.update(f"{name}\0{source}\0".encode())
        results.update(f"{name} {suite.result_digest(name, first)}\0".encode())
        failures.extend(_differences(name, first, second))
    return ClassReport(not failures, kernels.hexdigest(), results.hexdigest(), tuple(failures))


def class_programs(target: Target) -> dict[str, Callable[[], Golden]]:
    """The suite by name, in its order; a GPU's has the products that reach all its tiles."""
    golden = suite.programs()
    rows = {name: golden[name] for name in SUITE}
    return rows if target.is_cpu else {**rows, tiles.TILES: tiles.program}


def _twice(device: Device, target: Target, golden: Golden) -> tuple[str, list[Array], list[Array]]:
    """The generated source, and the results of two runs from differently poisoned memory."""
    source = ""
    runs: list[list[Array]] = []
    for poison in _POISONS:
        options = CompileOptions(poison=True, poison_byte=poison, numerics=Numerics.FAST)
        prepared = Prepared(golden.nodes, device, target, options)
        try:
            values = prepared.run(golden.leaves)
        finally:
            prepared.release()
        source = prepared.plan.source
        runs.append([values[node] for node in golden.nodes])
    return source, runs[0], runs[1]


def _differences(name: str, first: list[Array], second: list[Array]) -> list[ProbeResult]:
    """The results of a program that did not come out twice alike."""
    found = (compare(name, one, other) for one, other in zip(first, second, strict=True))
    return [
        replace(result, detail=f"two runs: {result.detail}"[:_MAX_DETAIL_CHARACTERS])
        for result in found
        if not result.passed
    ]
