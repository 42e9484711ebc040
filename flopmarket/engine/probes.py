"""Small questions to a device, asked in OpenCL C and answered by comparing bits.

The first part of admission (docs/numerics.md §4): each probe runs one tiny kernel on inputs chosen
so that a device or compiler that departs from FX1 gives other bits, and compares with expectations
computed here. Flags that a driver reports are not consulted. :mod:`flopmarket.engine.admission`
runs them all; opening a device asks :func:`contraction_is_exact` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine import dtypes, reference
from flopmarket.engine.codegen.opencl import OPAQUE, Target, prelude
from flopmarket.engine.errors import EngineError
from flopmarket.engine.runtime.devices import DeviceInfo
from flopmarket.engine.runtime.opencl import Buffer, Device, Module

Array = np.ndarray[Any, Any]

ELEMENTS = 4096
_PER_ITEM = 64


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One answer: ``detail`` names the first wrong element, or the error, where it did not pass."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Probe:
    """``body`` assigns ``out[i]`` from floats ``a[i]``..``d[i]``; ``expect`` says what must be."""

    name: str
    body: str
    expect: Callable[[Array, Array, Array, Array], Array]
    inputs: Callable[[], tuple[Array, Array, Array, Array]]


def build_options(info: DeviceInfo) -> tuple[str, ...]:
    """What every source is built with on this device, probes included.

    LLVM narrows a float64 division of two widened floats to a float32 one, which is exact where
    that one is correctly rounded. NVIDIA's is not, unless it is asked for.
    """
    if "correctly_rounded_divide_sqrt" in info.float_flags:
        return ("-cl-fp32-correctly-rounded-divide-sqrt",)
    return ()


def contraction_is_exact(device: Device) -> bool:
    """Whether ``a * b + c`` with contraction ON has the bits of ``fma()`` on this device.

    False is no failure: FMA is then rendered as ``fma()``.
    """
    target = Target(contract_helper=True, has_fp64=device.info.has_fp64)
    return _ask(device, _question(HELPER, target, "probe")).passed


def run_probes(device: Device) -> list[ProbeResult]:
    """Every probe's answer, in a fixed order; a device that cannot even run one has failed it.

    All kernels are one source, because a build costs a driver a tenth of a second. Where that does
    not build, each is built alone, so that the answers name what this compiler cannot take.
    """
    plain = Target(contract_helper=False, has_fp64=device.info.has_fp64)
    questions = [_question(probe, plain, f"probe{at}") for at, probe in enumerate(PROBES)]
    questions.extend(_half_storage())
    kernels = "".join(question.kernel for question in questions)
    try:
        together = _build(device, _head(plain) + kernels)
    except EngineError:
        together = None
    return [_ask(device, question, together) for question in questions]


@dataclass(frozen=True, slots=True)
class _Question:
    """A probe as it is put to a device.

    The kernel called ``entry`` takes ``given``, a buffer like ``expected`` and ``scalars``; each
    work-item computes 64 elements. ``head`` is what the kernel needs above it when built alone.
    """

    name: str
    entry: str
    head: str
    kernel: str
    given: tuple[Array, ...]
    expected: Array
    scalars: tuple[np.generic, ...]


def _head(target: Target) -> str:
    multiply = "static inline float probe_multiply(float x, float y) { return x * y; }\n"
    return prelude(target) + multiply


def _question(probe: Probe, target: Target, entry: str) -> _Question:
    given = probe.inputs()
    with np.errstate(all="ignore"):
        expected = dtypes.canonical(probe.expect(*given).astype(np.float32))
    inputs = ", ".join(f"__global const float* restrict {name}" for name in "abcd")
    parameters = f"{inputs}, __global float* restrict out, const uint {OPAQUE}"
    kernel = _kernel(entry, parameters, probe.body)
    scalars = (np.uint32(0),)
    return _Question(probe.name, entry, _head(target), kernel, given, expected, scalars)


def _kernel(entry: str, parameters: str, body: str) -> str:
    return f"""
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void {entry}({parameters}) {{
    const int first = (int)get_global_id(0) * {_PER_ITEM};
    for (int i = first; i < first + {_PER_ITEM}; i += 1) {{
        {body}
    }}
}}
"""


def _build(device: Device, source: str) -> Module:
    return device.compile(source, options=build_options(device.info))


def _ask(device: Device, question: _Question, together: Module | None = None) -> ProbeResult:
    """Run one probe, from the module that holds them all or from one of its own."""
    try:
        module = together or _build(device, question.head + question.kernel)
        values = _run(device, module, question)
    except EngineError as error:
        return ProbeResult(question.name, False, str(error)[:300])
    if values.dtype == np.float32:
        values = dtypes.canonical(values)
    return compare(question.name, question.expected, values)


def _run(device: Device, module: Module, question: _Question) -> Array:
    """What the kernel of ``question`` wrote."""
    given, like = question.given, question.expected
    buffers: list[Buffer] = []
    try:
        buffers.extend(device.alloc(array.nbytes) for array in (*given, like))
        for buffer, array in zip(buffers, given, strict=False):
            device.upload(buffer, array)
        size = (like.size // _PER_ITEM,)
        arguments: list[Buffer | np.generic] = [*buffers, *question.scalars]
        device.run([module.launch(question.entry, arguments, size, (1,))])
        values = np.empty_like(like)
        device.download(buffers[-1], values)
    finally:
        for buffer in buffers:
            buffer.release()
    return values


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


# ---------------------------------------------------------------- inputs


def adversarial(count: int = ELEMENTS, seed: int = 1) -> tuple[Array, Array, Array, Array]:
    """Quadruples for which one rounding and two give different sums, over wide exponents.

    c is close to -a*b (so that the rounding of the product shows), or 2^-60 beside a double
    rounding trap, or random; a tenth of everything is special.
    """
    rng = np.random.default_rng(seed)
    a, b, d = (_wide(rng, count) for _ in range(3))
    c = (-(a.astype(np.float64) * b)).astype(np.float32)
    c = np.where(rng.random(count) < 0.3, _wide(rng, count), c)
    trap = rng.random(count) < 0.1
    a = np.where(trap, np.float32(1 + 2.0**-12), a)
    b = np.where(trap, np.float32(1 + 2.0**-12), b)
    c = np.where(trap, np.float32(2.0**-60), c)
    special = np.array(
        [0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 1.1754944e-38, 3.4028235e38, 1, -1],
        dtype=np.float32,
    )

    def mixed(x: Array) -> Array:
        return np.where(rng.random(count) < 0.02, rng.choice(special, count), x).astype(np.float32)

    return mixed(a), mixed(b), mixed(c), mixed(d)


def _wide(rng: np.random.Generator, count: int) -> Array:
    scale = rng.integers(-20, 20, count)
    return np.ldexp(rng.standard_normal(count), scale).astype(np.float32)


def subnormal(count: int = ELEMENTS) -> tuple[Array, Array, Array, Array]:
    """Operands whose sums, products and quotients are subnormal, or that are so themselves."""
    rng = np.random.default_rng(2)
    tiny = rng.integers(1, 2**23, count).astype(np.uint32).view(np.float32)
    normal = np.ldexp(1 + rng.random(count), rng.integers(-126, -100, count)).astype(np.float32)
    small = np.ldexp(1 + rng.random(count), rng.integers(-24, 3, count)).astype(np.float32)
    return tiny, small, normal, -normal[::-1].copy()


# ---------------------------------------------------------------- the probes


def _chain(a: Array, b: Array, c: Array, d: Array) -> Array:
    total = c.copy()
    for _ in range(4):
        total = total + a * b
        a = np.multiply(a, np.float32(0.5))
    return total


def _plain(name: str, body: str, expect: Callable[[Array, Array, Array, Array], Array]) -> Probe:
    return Probe(name, body, expect, adversarial)


HELPER = _plain(
    "contracted helper",
    "out[i] = fx1_fma(a[i], b[i], c[i]);",
    lambda a, b, c, d: reference.fma32(a, b, c),
)

_NEGATIVE_ZERO = f"as_float(0x80000000u ^ {OPAQUE})"
_ZERO = f"as_float(0u ^ {OPAQUE})"
_SUBNORMAL = f"as_float(0x000116c2u ^ {OPAQUE})"  # 1e-40

PROBES: tuple[Probe, ...] = (
    Probe("flush: product", "out[i] = a[i] * b[i];", lambda a, b, c, d: a * b, subnormal),
    Probe("flush: sum", "out[i] = c[i] + d[i];", lambda a, b, c, d: c + d, subnormal),
    Probe("flush: load and store", "out[i] = a[i];", lambda a, b, c, d: a, subnormal),
    Probe(
        "flush: comparison",
        "out[i] = a[i] > 0.0f ? 1.0f : 2.0f;",
        lambda a, b, c, d: np.where(a > 0, 1, 2),
        subnormal,
    ),
    Probe(
        "flush: fma",
        "out[i] = fma(a[i], b[i], a[i]);",
        lambda a, b, c, d: reference.fma32(a, b, a),
        subnormal,
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
        "NaN is canonical",
        f"out[i] = fx1_canonical(a[i] - a[i], {OPAQUE});",
        lambda a, b, c, d: a - a,
    ),
    _plain(
        "NaN compares false",
        "out[i] = (a[i] == a[i] ? 1.0f : 0.0f) + (a[i] < b[i] ? 2.0f : 0.0f);",
        lambda a, b, c, d: (a == a) * np.float32(1) + (a < b) * np.float32(2),
    ),
)


def _half_storage() -> list[_Question]:
    """All 65536 halves to float, and floats around every half boundary back."""
    bits = np.arange(65536, dtype=np.uint32).astype(np.uint16)
    wide = bits.view(np.float16).astype(np.float32)
    finite = np.where(np.isfinite(wide), wide, np.float32(1))
    around = np.nextafter(finite, np.float32(np.inf), dtype=np.float32) * np.float32(1.0005)
    with np.errstate(over="ignore"):
        back = around.astype(np.float16).view(np.uint16)
    load = _half_kernel(
        "probe_load", "ushort", "float", "out[i] = vload_half(i, (__global const half*)a);"
    )
    store = _half_kernel(
        "probe_store", "float", "ushort", "vstore_half_rte(a[i], i, (__global half*)out);"
    )
    head = "#pragma OPENCL FP_CONTRACT OFF\n"
    halves = dtypes.canonical(wide)
    return [
        _Question("half: load", "probe_load", head, load, (bits,), halves, ()),
        _Question("half: store", "probe_store", head, store, (around,), back, ()),
    ]


def _half_kernel(entry: str, given: str, out: str, body: str) -> str:
    parameters = f"__global const {given}* restrict a, __global {out}* restrict out"
    return _kernel(entry, parameters, body)
