"""Devices that break FX1 in one way each, made of a good one.

The seams are ``Device.compile`` and the downloads: a compiler that does something else than the
source says is a rewriting of the source before the real compiler sees it, a flag that somebody set
is an option added behind the lint, and memory that spoils values is a change of what comes back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine.errors import EngineError
from flopmarket.engine.exact import DOT_CHUNK
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.runtime.cache import KernelCache
from flopmarket.engine.runtime.launches import Module
from flopmarket.engine.runtime.memory import Buffer
from flopmarket.engine.runtime.opencl import Device

Array = np.ndarray[Any, Any]
Rewrite = Callable[[str], str]


def _unchanged(source: str) -> str:
    return source


def _same(array: Array) -> Array:
    return array


class MutatedDevice(Device):
    """A device whose compiler, options or memory do something else than they should.

    ``touched`` counts the sources that the mutation changed.
    """

    rewrite: Rewrite = staticmethod(_unchanged)
    spoil: Callable[[Array], Array] = staticmethod(_same)
    extra_options: tuple[str, ...] = ()
    touched = 0

    def compile(
        self,
        source: str,
        *,
        options: tuple[str, ...] = (),
        numerics: Numerics | None = Numerics.EXACT,
    ) -> Module:
        changed = self.rewrite(source)
        self.touched += changed != source
        is_plain = changed == source and not self.extra_options
        return super().compile(
            changed,
            options=(*options, *self.extra_options),
            numerics=numerics if is_plain else None,
        )

    def download(self, buffer: Buffer, array: Array, offset: int = 0) -> None:
        super().download(buffer, array, offset)
        array[...] = self.spoil(array)

    def download_all(self, pairs: Iterable[tuple[Buffer, Array]]) -> None:
        kept = list(pairs)
        super().download_all(kept)
        for _, array in kept:
            array[...] = self.spoil(array)


def mutated(plain: Device) -> MutatedDevice:
    """A device to be mutated, on the context of a good one."""
    cache = None
    with suppress(EngineError):
        cache = KernelCache(None)
    return MutatedDevice(plain.info, plain.handle, plain.context, plain.queue, cache)


@dataclass(frozen=True, slots=True)
class Mutation:
    """What is broken, and where admission has to notice: ``programs`` are the golden programs to
    run, each of which must fail, as must the ``probes``."""

    name: str
    rewrite: Rewrite = _unchanged
    spoil: Callable[[Array], Array] = _same
    options: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


def substituted(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Rewrite:
    """Every match of a regular expression replaced."""
    compiled = re.compile(pattern)
    return lambda source: compiled.sub(replacement, source)


_OFF = "#pragma OPENCL FP_CONTRACT OFF\n"
_SLOPPY_FMA = """\
static inline float sloppy(float a, float b, float c) { const float p = a * b; return p + c; }
"""


def _fma_in_two_steps(source: str) -> str:
    """``fma()`` is a product and a sum, and nothing is contracted either."""
    source = source.replace("#pragma OPENCL FP_CONTRACT ON\n", "")
    source = re.sub(r"\bfma\(", "sloppy(", source)
    return source.replace(_OFF, _OFF + _SLOPPY_FMA, 1)


def _contracted_across_statements(source: str) -> str:
    """A product in a variable becomes part of the sum that reads it, kernel by kernel."""
    kernels = source.split("__kernel")
    for at, text in enumerate(kernels):
        for name, a, b in re.findall(
            r"const (?:float|double) (v\d+) = \((v\d+) \* (v\d+)\);", text
        ):
            text = re.sub(rf"\({name} \+ (v\d+)\)", rf"fma({a}, {b}, \1)", text)
            text = re.sub(rf"\((v\d+) \+ {name}\)", rf"fma({a}, {b}, \1)", text)
        kernels[at] = text
    return "__kernel".join(kernels)


_FLUSH = """\
static inline float flushed(float x) {
    return (as_uint(x) & 0x7f800000u) == 0u ? as_float(as_uint(x) & 0x80000000u) : x;
}
"""


def _flush_in_kernels(source: str) -> str:
    """Stores of floats flush subnormals to zero."""
    source = re.sub(r"(\bout\d+\[i\] = )([^;]+);", r"\1flushed(\2);", source)
    source = re.sub(r"fx1_canonical\((\w+), fx1_zero\);", r"flushed(\1);", source)
    return source.replace(_OFF, _OFF + _FLUSH, 1)


def flush_downloads(array: Array) -> Array:
    """Float32 results flushed to zero on their way back."""
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


def _rounded_by(half: str, bfloat_carry: str) -> Rewrite:
    """16-bit floats whose last bit is decided by another rule than nearest even."""
    return lambda source: source.replace("as_uint((as_float(size) + place) - place)", half).replace(
        "0x7fffu + ((bits >> 16) & 1u)", bfloat_carry
    )


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "fma in two roundings",
        rewrite=_fma_in_two_steps,
        probes=("fma()", "flush: fma"),
        programs=("arithmetic float32", "dot float32"),
    ),
    Mutation(
        "contraction switched on",
        rewrite=lambda source: source.replace("FP_CONTRACT OFF", "FP_CONTRACT ON"),
        probes=("no contraction: a*b+c", "no contraction: a*b-c*d"),
    ),
    Mutation(
        "contraction across statements",
        rewrite=_contracted_across_statements,
        programs=("contraction", "contraction float64"),
    ),
    Mutation(
        "fast relaxed math",
        options=("-cl-fast-relaxed-math",),
        probes=("division", "maximum", "NaN is canonical", "NaN compares false"),
        programs=("arithmetic float32", "literals"),
    ),
    Mutation(
        "subnormals are zero",
        options=("-cl-denorms-are-zero",),
        probes=("flush: product", "flush: sum", "flush: comparison", "flush: fma"),
        programs=("arithmetic float32", "literals"),
    ),
    Mutation(
        "finite math",
        options=("-cl-finite-math-only",),
        probes=("maximum", "NaN is canonical"),
        programs=("arithmetic float32",),
    ),
    Mutation(
        "no signed zeros",
        options=("-cl-no-signed-zeros",),
        programs=("literals",),
    ),
    Mutation(
        "flush to zero in kernels",
        rewrite=_flush_in_kernels,
        probes=("flush: product", "flush: sum", "flush: load and store"),
        programs=("arithmetic float32",),
    ),
    Mutation(
        "flush to zero on the way back",
        spoil=flush_downloads,
        probes=("flush: product", "flush: fma"),
        programs=("arithmetic float32",),
    ),
    Mutation(
        "one wrong bit",
        spoil=lowest_bit,
        probes=("fma()", "division"),
        programs=("dot float32", "softmax"),
    ),
    Mutation(
        "chunks of half as many terms",
        rewrite=substituted(rf"\b(c|k0) \+= {DOT_CHUNK}\b", rf"\1 += {DOT_CHUNK // 2}"),
        programs=("dot float32",),
    ),
    Mutation(
        "a sum over other neighbours",
        rewrite=substituted(
            r"\(lane\[j\] \+ lane\[j \+ \d+\]\)", "(lane[2 * j] + lane[2 * j + 1])"
        ),
        programs=("reduce float32",),
    ),
    Mutation(
        "unsigned bytes for signed ones",
        rewrite=substituted(r"\bconst char (v\d+) = (p\d+\[)", r"const uchar \1 = (uchar)\2"),
        programs=("integer dot",),
    ),
    Mutation(
        "a product with zero folded",
        rewrite=substituted(
            r"\b(v\d+|a\[i\]) \* as_float\((?:0x0u|0u) \^ fx1_zero\)", "as_float(0u)"
        ),
        probes=("literal: times zero", "signed zero"),
        programs=("literals",),
    ),
    Mutation(
        "a sum with zero folded",
        rewrite=substituted(r"\b(v\d+|a\[i\]) \+ as_float\((?:0x0u|0u) \^ fx1_zero\)", r"\1"),
        probes=("literal: plus zero",),
        programs=("literals",),
    ),
    Mutation(
        "a subnormal literal read as zero",
        rewrite=substituted(r"as_float\(0x(?:1|000116c2)u \^ fx1_zero\)", "as_float(0u)"),
        probes=("literal: subnormal",),
        programs=("literals",),
    ),
    Mutation(
        "NaN as it comes",
        rewrite=substituted(
            r"return x == x \? x : as_float\(0x7fc00000u \^ fx1_zero\);", "return x;"
        ),
        probes=("NaN is canonical",),
        programs=("arithmetic float32", "literals"),
    ),
    Mutation(
        "halves rounded toward zero",
        rewrite=_rounded_by("size & 0xffffe000u", "0u"),
        programs=("rounding", "arithmetic float16", "arithmetic bfloat16"),
    ),
    Mutation(
        "ties of halves away from zero",
        rewrite=_rounded_by("(size + 0x1000u) & 0xffffe000u", "0x8000u"),
        programs=("rounding",),
    ),
    Mutation(
        "NaN to integer is the lowest",
        rewrite=substituted(
            r"\(int\)\((v\d+) > as_float\(0xcf000000u\) && (.{1,60}?) \? \1 : 0\.0f\)",
            r"(\1 == \1 ? (int)(\1 > as_float(0xcf000000u) && \2 ? \1 : 0.0f) : (-2147483647 - 1))",
        ),
        programs=("conversions",),
    ),
    Mutation(
        "integers clamped one too low",
        rewrite=substituted(r"\(\(int\)2147483647\)", "((int)2147483646)"),
        programs=("conversions",),
    ),
    Mutation(
        "integers to float toward zero",
        rewrite=substituted(r"\(float\)(as_u?int\(\w\[i\]\)|v\d+\b)", r"convert_float_rtz(\1)"),
        probes=("conversion: integer to float",),
        programs=("conversions",),
    ),
    Mutation(
        "division by reciprocal",
        rewrite=lambda source: source.replace("(float)((double)a / (double)b)", "a * (1.0f / b)"),
        probes=("division",),
        programs=("arithmetic float32",),
    ),
    Mutation(
        "approximate square root",
        rewrite=lambda source: source.replace("(float)sqrt((double)x)", "x * rsqrt(x)"),
        probes=("square root",),
        programs=("arithmetic float32",),
    ),
    Mutation(
        "maximum that loses NaN",
        rewrite=substituted(r"return a == a && b == b \? ordered : [^;]+;", "return ordered;"),
        probes=("maximum", "minimum"),
        programs=("arithmetic float32",),
    ),
)
