"""Small questions to a device, asked in OpenCL C and answered by comparing bits.

The first part of admission (docs/numerics.md §4): each probe is one tiny loop over inputs chosen so
that a device or compiler that departs from FX1 gives other bits, and compares with expectations
computed here. Flags that a driver reports are not consulted. :mod:`flopmarket.engine.admission`
runs them all; opening a device asks :func:`contraction_is_exact` alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine import dtypes, reference, samples
from flopmarket.engine.codegen.opencl import OPAQUE, Target
from flopmarket.engine.codegen.prelude import prelude
from flopmarket.engine.errors import EngineError
from flopmarket.engine.numerics import FAST_OPTIONS, Numerics
from flopmarket.engine.runtime.devices import DeviceInfo
from flopmarket.engine.runtime.launches import Module
from flopmarket.engine.runtime.memory import Buffer
from flopmarket.engine.runtime.opencl import Device

Array = np.ndarray[Any, Any]
Inputs = Callable[[], tuple[Array, Array, Array, Array]]

ELEMENTS = 4096
CONTRACTING_FAMILIES = frozenset(["PoCL"])
"""Drivers whose compiler turns ``a * b + c`` under contraction into one operation for good."""
_PER_ITEM = 64


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One answer: ``detail`` names the first wrong element, or the error, where it did not pass."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Probe:
    """``body`` assigns ``out[i]`` from floats ``a[i]``..``d[i]``; ``expect`` says what must be.

    Which NaN comes out is the device's business, unless the body makes it canonical itself.
    """

    name: str
    body: str
    expect: Callable[[Array, Array, Array, Array], Array]
    inputs: Inputs
    is_canonical: bool = False


def build_options(info: DeviceInfo, numerics: Numerics = Numerics.EXACT) -> tuple[str, ...]:
    """What every source of a law is built with on this device, probes included.

    LLVM narrows a float64 division of two widened floats to a float32 one, which is exact where
    that one is correctly rounded. NVIDIA's is not, unless it is asked for. Nobody asks under FAST.
    """
    if numerics is Numerics.FAST:
        return FAST_OPTIONS
    if "correctly_rounded_divide_sqrt" in info.float_flags:
        return ("-cl-fp32-correctly-rounded-divide-sqrt",)
    return ()


def contraction_is_exact(device: Device) -> bool:
    """Whether ``a * b + c`` with contraction ON may stand for ``fma()`` on this device.

    False is no failure: FMA is then rendered as ``fma()``. Contraction is a compiler's right and
    no duty, so bits alone prove little: Intel's CPU runtime contracts every small kernel and then
    multiplies in vectors and adds one by one in a longer loop. PoCL's clang makes one indivisible
    operation of the statement, and its ``fma()`` is a library call, ten times slower: there, and
    only there, the helper is asked for. Elsewhere ``fma()`` is one instruction anyway.
    """
    if device.info.family not in CONTRACTING_FAMILIES:
        return False
    target = Target(contract_helper=True, has_fp64=device.info.has_fp64)
    try:
        return all(result.passed for result in _answers(device, target, HELPERS))
    except EngineError:
        return False


def run_probes(device: Device) -> list[ProbeResult]:
    """Every probe's answer, in a fixed order; a device that cannot even run one has failed it.

    Probes of the same inputs are one kernel, because a kernel costs a driver a twentieth of a
    second. Where that does not build or run, each is a kernel of its own, so that the answers name
    what this compiler cannot take.
    """
    target = Target(contract_helper=False, has_fp64=device.info.has_fp64)
    try:
        return _answers(device, target, PROBES)
    except EngineError:
        return [_alone(device, target, probe) for probe in PROBES]


def _answers(device: Device, target: Target, probes: Sequence[Probe]) -> list[ProbeResult]:
    """The answers from one source, with a kernel for each kind of inputs."""
    groups: dict[Inputs, list[Probe]] = {}
    for probe in probes:
        groups.setdefault(probe.inputs, []).append(probe)
    kernels = [_kernel(f"probe{at}", group) for at, group in enumerate(groups.values())]
    source = prelude(target) + _FUNCTIONS + "".join(kernels)
    module = device.compile(source, options=build_options(device.info))
    found: dict[str, ProbeResult] = {}
    for at, (inputs, group) in enumerate(groups.items()):
        for result in _run(device, module, f"probe{at}", inputs(), group):
            found[result.name] = result
    return [found[probe.name] for probe in probes]


def _alone(device: Device, target: Target, probe: Probe) -> ProbeResult:
    try:
        return _answers(device, target, [probe])[0]
    except EngineError as error:
        return ProbeResult(probe.name, False, str(error)[:300])


def _kernel(entry: str, probes: Sequence[Probe]) -> str:
    """The kernel that asks ``probes`` one after the other; each writes a result of its own."""
    parameters = [f"__global const float* restrict {name}" for name in "abcd"]
    parameters += [f"__global float* restrict out{at}" for at in range(len(probes))]
    loops = ""
    for at, probe in enumerate(probes):
        body = re.sub(r"\bout\b", f"out{at}", probe.body)
        loops += f"""
    for (int i = first; i < first + {_PER_ITEM}; i += 1) {{
        {body}
    }}"""
    return f"""
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void {entry}({", ".join(parameters)}, const uint {OPAQUE}) {{
    const int first = (int)get_global_id(0) * {_PER_ITEM};{loops}
}}
"""


def _run(
    device: Device, module: Module, entry: str, given: tuple[Array, ...], probes: Sequence[Probe]
) -> list[ProbeResult]:
    """What the kernel ``entry`` answers to ``probes``."""
    found = [np.empty_like(given[0]) for _ in probes]
    buffers: list[Buffer] = []
    try:
        buffers.extend(device.alloc(array.nbytes) for array in (*given, *found))
        for buffer, array in zip(buffers, given, strict=False):
            device.upload(buffer, array)
        size = (given[0].size // _PER_ITEM,)
        arguments: list[Buffer | np.generic] = [*buffers, np.uint32(0)]
        device.run([module.launch(entry, arguments, size, (1,))])
        device.download_all(zip(buffers[len(given) :], found, strict=True))
    finally:
        for buffer in buffers:
            buffer.release()
    results = []
    for probe, values in zip(probes, found, strict=True):
        with np.errstate(all="ignore"):
            expected = dtypes.canonical(probe.expect(*given).astype(np.float32))
        have = values if probe.is_canonical else dtypes.canonical(values)
        results.append(compare(probe.name, expected, have))
    return results


def compare(name: str, expected: Array, values: Array) -> ProbeResult:
    """Equal bits, or the first element that differs."""
    width = f"u{expected.itemsize}"
    want, have = expected.reshape(-1).view(width), values.reshape(-1).view(width)
    wrong = np.flatnonzero(want != have)
    if not wrong.size:
        return ProbeResult(name, True, f"{want.size} values")
    at = int(wrong[0])
    detail = (
        f"{wrong.size} of {want.size} differ; element {at} is {values.reshape(-1)[at]!r} "
        f"(0x{int(have[at]):x}) and should be {expected.reshape(-1)[at]!r} (0x{int(want[at]):x})"
    )
    return ProbeResult(name, False, detail)


# ---------------------------------------------------------------- the probes


def _chain(a: Array, b: Array, c: Array, d: Array) -> Array:
    total = c.copy()
    for _ in range(4):
        total = total + a * b
        a = np.multiply(a, np.float32(0.5))
    return total


def _fused_chain(a: Array, b: Array, c: Array, d: Array) -> Array:
    """Element i: the FMA chain over the elements of its work-item, a rotated by i."""
    rows, columns = (x.reshape(-1, _PER_ITEM) for x in (a, b))
    total = c.reshape(-1, _PER_ITEM).copy()
    for k in range(_PER_ITEM):
        total = reference.fma32(np.roll(rows, -k, axis=1), columns[:, k, None], total)
    return total.reshape(-1)


def _adversarial() -> tuple[Array, Array, Array, Array]:
    return samples.adversarial(ELEMENTS)


def _subnormal() -> tuple[Array, Array, Array, Array]:
    return samples.subnormal(ELEMENTS)


def _plain(name: str, body: str, expect: Callable[[Array, Array, Array, Array], Array]) -> Probe:
    return Probe(name, body, expect, _adversarial)


def _tiny(name: str, body: str, expect: Callable[[Array, Array, Array, Array], Array]) -> Probe:
    return Probe(name, body, expect, _subnormal)


HELPERS: tuple[Probe, ...] = (
    _plain(
        "contracted helper",
        "out[i] = fx1_fma(a[i], b[i], c[i]);",
        lambda a, b, c, d: reference.fma32(a, b, c),
    ),
    _plain(
        "contracted helper: a chain",
        f"float s = c[i]; for (int k = 0; k < {_PER_ITEM}; k += 1) "
        f"s = fx1_fma(a[first + (i + k) % {_PER_ITEM}], b[first + k], s); out[i] = s;",
        _fused_chain,
    ),
)

_FUNCTIONS = """\
static inline float probe_multiply(float x, float y) { return x * y; }
static inline float probe_small(float x) { return x > -60000.0f && x < 60000.0f ? x : 0.5f; }
"""
_NEGATIVE_ZERO = f"as_float(0x80000000u ^ {OPAQUE})"
_ZERO = f"as_float(0u ^ {OPAQUE})"
_SUBNORMAL = f"as_float(0x000116c2u ^ {OPAQUE})"  # 1e-40

PROBES: tuple[Probe, ...] = (
    _tiny("flush: product", "out[i] = a[i] * b[i];", lambda a, b, c, d: a * b),
    _tiny("flush: sum", "out[i] = c[i] + d[i];", lambda a, b, c, d: c + d),
    _tiny("flush: load and store", "out[i] = a[i];", lambda a, b, c, d: a),
    _tiny(
        "flush: comparison",
        "out[i] = a[i] > 0.0f ? 1.0f : 2.0f;",
        lambda a, b, c, d: np.where(a > 0, 1, 2),
    ),
    _tiny(
        "flush: fma",
        "out[i] = fma(a[i], b[i], a[i]);",
        lambda a, b, c, d: reference.fma32(a, b, a),
    ),
    _plain("no contraction: a*b+c", "out[i] = a[i] * b[i] + c[i];", lambda a, b, c, d: a * b + c),
    _plain(
        "no contraction: a*b-c*d",
        "out[i] = a[i] * b[i] - c[i] * d[i];",
        lambda a, b, c, d: a * b - c * d,
    ),
    _plain(
        "no contraction: carried by a loop",
        "float s = c[i]; float x = a[i]; for (int k = 0; k < 4; k += 1) "
        "{ s = s + x * b[i]; x = x * 0.5f; } out[i] = s;",
        _chain,
    ),
    _plain(
        "no contraction: through a function",
        "out[i] = probe_multiply(a[i], b[i]) + c[i];",
        lambda a, b, c, d: a * b + c,
    ),
    _plain(
        "no contraction: through a select",
        "out[i] = (d[i] > 0.0f ? a[i] * b[i] : d[i]) + c[i];",
        lambda a, b, c, d: np.where(d > 0, a * b, d) + c,
    ),
    _plain(
        "no contraction: through an array",
        "float t[2]; t[0] = a[i] * b[i]; t[1] = d[i]; out[i] = t[0] + c[i];",
        lambda a, b, c, d: a * b + c,
    ),
    _plain(
        "no contraction: through memory",
        "out[i] = a[i] * b[i]; out[i] = out[i] + c[i];",
        lambda a, b, c, d: a * b + c,
    ),
    _plain(
        "no contraction: through a vector",
        "float4 v = (float4)(a[i], b[i], d[i], a[i]) * b[i]; out[i] = v.x + c[i];",
        lambda a, b, c, d: a * b + c,
    ),
    _plain("fma()", "out[i] = fma(a[i], b[i], c[i]);", lambda a, b, c, d: reference.fma32(a, b, c)),
    _plain("division", "out[i] = fx1_div(a[i], b[i]);", lambda a, b, c, d: a / b),
    _plain("square root", "out[i] = fx1_sqrt(a[i]);", lambda a, b, c, d: np.sqrt(a)),
    _plain(
        "maximum",
        "out[i] = fx1_max(a[i], c[i], fx1_zero);",
        lambda a, b, c, d: reference.maximum(a, c),
    ),
    _plain(
        "minimum",
        "out[i] = fx1_min(a[i], c[i], fx1_zero);",
        lambda a, b, c, d: reference.minimum(a, c),
    ),
    _plain(
        "literal: times zero",
        f"out[i] = a[i] * {_ZERO};",
        lambda a, b, c, d: a * np.float32(0),
    ),
    _plain("literal: plus zero", f"out[i] = a[i] + {_ZERO};", lambda a, b, c, d: a + np.float32(0)),
    _plain(
        "literal: plus negative zero",
        f"out[i] = a[i] + {_NEGATIVE_ZERO};",
        lambda a, b, c, d: a + np.float32(-0.0),
    ),
    _plain(
        "literal: subnormal",
        f"out[i] = a[i] * {_SUBNORMAL} + fma({_SUBNORMAL}, 1.0f, {_ZERO});",
        lambda a, b, c, d: a * np.float32(1e-40) + np.float32(1e-40),
    ),
    _plain(
        "signed zero",
        f"out[i] = a[i] * {_ZERO} + b[i] * {_NEGATIVE_ZERO} - d[i] * {_ZERO};",
        lambda a, b, c, d: a * np.float32(0) + b * np.float32(-0.0) - d * np.float32(0),
    ),
    _plain(
        "conversion: integer to float",
        "out[i] = (float)as_int(a[i]) + (float)as_uint(b[i]);",
        lambda a, b, c, d: (
            a.view(np.int32).astype(np.float32) + b.view(np.uint32).astype(np.float32)
        ),
    ),
    _plain(
        "conversion: float to integer",
        "const float x = probe_small(a[i]); out[i] = (float)((int)x) - (float)((uint)(x * x));",
        lambda a, b, c, d: _truncated(a),
    ),
    Probe(
        "NaN is canonical",
        f"out[i] = fx1_canonical(d[i] > 0.0f ? a[i] - a[i] : a[i] * {_ZERO} - c[i], {OPAQUE});",
        lambda a, b, c, d: np.where(d > 0, a - a, a * np.float32(0) - c),
        _adversarial,
        is_canonical=True,
    ),
    _plain(
        "NaN compares false",
        "out[i] = (a[i] == a[i] ? 1.0f : 0.0f) + (a[i] < b[i] ? 2.0f : 0.0f);",
        lambda a, b, c, d: (a == a) * np.float32(1) + (a < b) * np.float32(2),
    ),
)


def _truncated(a: Array) -> Array:
    x = np.where((a > -60000) & (a < 60000), a, np.float32(0.5)).astype(np.float32)
    squared = np.trunc(np.asarray(x * x, dtype=np.float64)).astype(np.uint32)
    return x.astype(np.int32).astype(np.float32) - squared.astype(np.float32)
