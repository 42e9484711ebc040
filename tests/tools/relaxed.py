"""Exact mode's kernels, built by compilers that may round as they like.

What a device of tolerance mode is: sources, schedule and order of sums are FX1's, contraction,
division, subnormals and compiler options are not. Made of any OpenCL device by rewriting sources
on their way to its compiler.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from flopmarket.engine.program import Program
from flopmarket.engine.runtime.cache import KernelCache
from flopmarket.engine.runtime.devices import DeviceInfo
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device, open_device
from flopmarket.engine.runtime.replay import OpenCLSession
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.jobs.tracing import OnDevice
from tests.engine.law.mutants import MutatedDevice

_PRAGMA = re.compile(r"#pragma OPENCL FP_CONTRACT (?:ON|OFF)")
_FMA = re.compile(r"(fx1_fma\w*\((\w+) a, \w+ b, \w+ c\)) \{[^}]*\}")
_DIVISION = re.compile(r"\{ return \(float\)\(\(double\)a / \(double\)b\); \}")
_ROOT = re.compile(r"\{ return \(float\)sqrt\(\(double\)x\); \}")


@dataclass(frozen=True, slots=True)
class Variant:
    """How a compiler departs from FX1. ``options`` replace those of exact mode."""

    name: str
    contracts: bool
    quotient: str = "a / b"
    root: str = "sqrt(x)"
    options: tuple[str, ...] = ()

    def rewrite(self, source: str) -> str:
        """The source that this compiler is given instead."""
        switch = "ON" if self.contracts else "OFF"
        source = _PRAGMA.sub(f"#pragma OPENCL FP_CONTRACT {switch}", source)
        source = _FMA.sub(r"\1 { return a * b + c; }", source)
        source = _DIVISION.sub(f"{{ return {self.quotient}; }}", source)
        return _ROOT.sub(f"{{ return {self.root}; }}", source)


FLUSHING = Variant("subnormals are zero", True, options=("-cl-denorms-are-zero",))
CONTRACTING = Variant("contraction", True, options=("-cl-mad-enable",))
SPLITTING = Variant("no fused multiply-add", False)
NATIVE = Variant("native division", True, "native_divide(a, b)", "native_sqrt(x)")
RECIPROCAL = Variant("reciprocals", True, "a * (1.0f / b)")
FAST = Variant(
    "fast math",
    True,
    options=("-cl-fast-relaxed-math", "-cl-mad-enable", "-cl-denorms-are-zero"),
)
VARIANTS = (FLUSHING, CONTRACTING, SPLITTING, NATIVE, RECIPROCAL, FAST)


class RelaxedDevice(MutatedDevice):
    """A device behind a compiler of some variant; exact mode's build options are left out."""

    variant: Variant = CONTRACTING

    def _build(self, source: str, options: tuple[str, ...]) -> object:
        return super()._build(source, self.variant.options)


def relaxed_device(
    info: DeviceInfo, variant: Variant, options: CompileOptions | None = None
) -> Device:
    """The device of a card, behind such a compiler. Close it after use."""
    cache = KernelCache(options.cache_dir) if options is not None and options.cache_dir else None
    plain = open_device(info, cache=cache)
    device = RelaxedDevice(plain.info, plain.handle, plain.context, plain.queue, cache)
    device.variant = variant
    device.rewrite = variant.rewrite
    device.extra_options = variant.options
    return device


def session_on(device: Device, fusion: bool, program: Program) -> OpenCLSession:
    """A session that leaves the device open."""
    options = CompileOptions(fusion=fusion)
    return OpenCLSession(program, device, open_target(device, contract_helper=False), options)


def opener(device: Device, *, fusion: bool = True) -> Callable[[Program], OpenCLSession]:
    """Sessions on an open device."""
    return partial(session_on, device, fusion)


def by_operations(device: Device) -> OnDevice:
    """Operations one by one on an open device."""
    return OnDevice(opener(device))
