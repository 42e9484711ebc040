"""The head of every generated source: pragmas, then the helpers of FX1 that kernels call.

The first part is the same in every source of a target; helpers of the other element types follow
where a kernel calls them. Everything is exact by construction (docs/numerics.md §1 and §3): 16-bit
floats are rounded, widened and packed with integers, and division and square root of devices
without float64 decide their last bit by an integer remainder. Under FAST contraction is on
everywhere, and division and square root are the device's own.
"""

from __future__ import annotations

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.codegen.opencl import CANONICAL_NAN, OPAQUE, Target, integer_literal
from flopmarket.engine.dtypes import DType
from flopmarket.engine.numerics import contraction_pragma

_FIRST_INTEGERS = (
    dtypes.uint8,
    dtypes.int8,
    dtypes.int32,
    dtypes.uint32,
    dtypes.int64,
    dtypes.uint64,
)
"""Types whose division is part of every source."""


def prelude(target: Target, kernels: str = "") -> str:
    """The head of a source that holds ``kernels``."""
    parts = [contraction_pragma(target.numerics)]
    if target.has_fp64:
        parts.append("#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n")
    parts.append(_fma("fx1_fma", "float", target.contract_helper))
    parts.append(_COMPARISONS)
    parts.append(_division(target))
    parts.extend(_integer_division(d) for d in _FIRST_INTEGERS)
    helpers = {
        **_SIXTEEN_BITS,
        **{f"fx1_div_{d.name}": _integer_division(d) for d in (dtypes.int16, dtypes.uint16)},
    }
    if target.has_fp64:
        helpers["fx1_fma_double"] = _fma("fx1_fma_double", "double", target.contract_helper_double)
        helpers.update(_DOUBLE)
    parts.extend(text for name, text in helpers.items() if f"{name}(" in kernels)
    return "".join(parts)


def _division(target: Target) -> str:
    if target.is_fast:
        return _DIVISION_OF_DEVICE
    return _DIVISION if target.has_fp64 else _DIVISION_IN_INTEGERS


def _fma(name: str, c: str, contracted: bool) -> str:
    if contracted:
        body = "\n#pragma OPENCL FP_CONTRACT ON\n    return a * b + c;\n"
    else:
        body = " return fma(a, b, c); "
    return f"static inline {c} {name}({c} a, {c} b, {c} c) {{{body}}}\n"


_COMPARISONS = f"""\
static inline float fx1_canonical(float x, uint {OPAQUE}) {{
    return x == x ? x : {CANONICAL_NAN};
}}
static inline float fx1_max(float a, float b, uint {OPAQUE}) {{
    const float equal = as_float(as_uint(a) & as_uint(b));
    const float larger = a > b ? a : b;
    const float ordered = a == b ? equal : larger;
    return a == a && b == b ? ordered : {CANONICAL_NAN};
}}
static inline float fx1_min(float a, float b, uint {OPAQUE}) {{
    const float equal = as_float(as_uint(a) | as_uint(b));
    const float smaller = a < b ? a : b;
    const float ordered = a == b ? equal : smaller;
    return a == a && b == b ? ordered : {CANONICAL_NAN};
}}
"""

_DIVISION = """\
static inline float fx1_div(float a, float b) { return (float)((double)a / (double)b); }
static inline float fx1_sqrt(float x) { return (float)sqrt((double)x); }
"""

_DIVISION_OF_DEVICE = """\
static inline float fx1_div(float a, float b) { return a / b; }
static inline float fx1_sqrt(float x) { return sqrt(x); }
"""

_DIVISION_IN_INTEGERS = """\
static inline uint fx1_div_normal(uint size) {
    const uint shift = size == 0u ? 0u : clz(size) - 8u;
    return size < 0x800000u ? (size << shift) & 0x7fffffu : size & 0x7fffffu;
}
static inline int fx1_div_exponent(uint size) {
    const int shift = size == 0u ? 0 : (int)clz(size) - 8;
    return size < 0x800000u ? 1 - shift : (int)(size >> 23);
}
static inline float fx1_div(float a, float b) {
    const uint size_a = as_uint(a) & 0x7fffffffu;
    const uint size_b = as_uint(b) & 0x7fffffffu;
    const uint sign = (as_uint(a) ^ as_uint(b)) & 0x80000000u;
    const uint m = fx1_div_normal(size_a) | 0x800000u;
    const uint n = fx1_div_normal(size_b) | 0x800000u;
    // The quotient of two significands in 26 or 27 bits: an estimate, then its exact remainder.
    const float inverse = 1.0f / as_float((n & 0x7fffffu) | 0x3f800000u);
    const float guess = as_float((m & 0x7fffffu) | 0x3f800000u) * inverse;
    long quotient = (long)(guess * 67108864.0f);
    long rest = ((long)m << 26) - quotient * (long)n;
    const long step = (long)((float)rest * inverse * 0x1p-23f);
    quotient += step;
    rest -= step * (long)n;
    for (int turn = 0; turn < 4; turn += 1) {
        const long move = rest < 0L ? -1L : rest >= (long)n ? 1L : 0L;
        quotient += move;
        rest -= move * (long)n;
    }
    const int exponent = fx1_div_exponent(size_a) - fx1_div_exponent(size_b);
    const int is_small = quotient < 0x4000000L ? 1 : 0;
    // What the result cannot hold of the quotient: 3 bits of 27 or 2 of 26, more if subnormal.
    const int biased = exponent + 127 - is_small;
    const int lost = biased < 1 ? 1 - biased : 0;
    const int drop = (3 - is_small) + (lost > 26 ? 26 : lost);
    const ulong whole = ((ulong)quotient << 1) | (rest != 0L ? 1UL : 0UL);
    const ulong half_place = (1UL << drop) - 1UL;
    const ulong rounded = (whole + half_place + ((whole >> (drop + 1)) & 1UL)) >> (drop + 1);
    // A carry out of the significand is one in the exponent, as it should be.
    const int base = biased < 1 ? 0 : biased - 1;
    const uint packed = base > 253 ? 0x7f800000u : ((uint)base << 23) + (uint)rounded;
    const uint limited = packed > 0x7f800000u ? 0x7f800000u : packed;
    const bool a_is_large = size_a >= 0x7f800000u;
    const bool b_is_large = size_b >= 0x7f800000u;
    const bool gives_zero = size_a == 0u || b_is_large;
    const bool gives_infinity = size_b == 0u || a_is_large;
    const bool gives_nan = a != a || b != b || (gives_zero && gives_infinity);
    const uint special = gives_zero ? 0u : gives_infinity ? 0x7f800000u : limited;
    return as_float(gives_nan ? 0x7fc00000u : sign | special);
}
static inline float fx1_sqrt(float x) {
    const uint size = as_uint(x) & 0x7fffffffu;
    const int exponent = fx1_div_exponent(size) - 127;
    const int odd = exponent & 1;
    const ulong m = (ulong)(fx1_div_normal(size) | 0x800000u) << odd;
    // The root of a significand in [1, 4) in 26 bits: an estimate, then its exact remainder.
    const float guess = sqrt((float)m * 0x1p-23f);
    long root = (long)(guess * 33554432.0f);
    const long square = (long)(m << 27);
    long rest = square - root * root;
    root += (long)((float)rest * (1.0f / guess) * 0x1p-26f);
    for (int turn = 0; turn < 4; turn += 1) {
        rest = square - root * root;
        root += rest < 0L ? -1L : rest > 2L * root ? 1L : 0L;
    }
    rest = square - root * root;
    const uint whole = ((uint)root << 1) | (rest != 0L ? 1u : 0u);
    const uint rounded = (whole + 3u + ((whole >> 3) & 1u)) >> 3;
    const int half_exponent = (exponent - odd) / 2;
    const uint packed = ((uint)(half_exponent + 126) << 23) + rounded;
    const uint special = size == 0u || as_uint(x) == 0x7f800000u ? as_uint(x) : packed;
    return as_float(x != x || (size != 0u && x < 0.0f) ? 0x7fc00000u : special);
}
"""

_SIXTEEN_BITS = {
    "fx1_widen_float16": """\
static inline float fx1_widen_float16(ushort half_bits) {
    const uint size = (uint)half_bits & 0x7fffu;
    const uint shifted = size << 13;
    const uint large = size < 0x7c00u ? shifted + 0x38000000u : shifted | 0x7f800000u;
    const uint small = as_uint((float)(int)size * 0x1p-24f);
    const uint chosen = size < 0x400u ? small : large;
    return as_float(chosen | (((uint)half_bits & 0x8000u) << 16));
}
""",
    "fx1_narrow_float16": """\
static inline ushort fx1_narrow_float16(float x) {
    const uint size = as_uint(x) & 0x7fffffffu;
    const uint sign = (as_uint(x) >> 16) & 0x8000u;
    const bool is_small = size < 0x38800000u;
    const uint small = (uint)(int)((is_small ? as_float(size) : 0.0f) * 0x1p24f);
    const uint finite = is_small ? small : (size - 0x38000000u) >> 13;
    const uint packed = sign | (size < 0x7f800000u ? finite : 0x7c00u);
    return (ushort)(x == x ? packed : 0x7e00u);
}
""",
    # A float added to 2^13 times its leading power of two keeps the 11 bits of a half, ties going
    # to even; below the smallest normal half that power stays, and with it the last place.
    "fx1_round_float16": """\
static inline float fx1_round_float16(float x) {
    const uint bits = as_uint(x);
    const uint size = bits & 0x7fffffffu;
    const uint exponent = bits & 0x7f800000u;
    const uint normal = exponent > 0x38800000u ? exponent : 0x38800000u;
    const float place = as_float(normal + 0x06800000u);
    const uint finite = as_uint((as_float(size) + place) - place);
    const uint infinite = size > 0x7f800000u ? size : 0x7f800000u;
    return as_float((size < 0x477ff000u ? finite : infinite) | (bits & 0x80000000u));
}
""",
    "fx1_widen_bfloat16": """\
static inline float fx1_widen_bfloat16(ushort upper_bits) {
    return as_float((uint)upper_bits << 16);
}
""",
    "fx1_narrow_bfloat16": """\
static inline ushort fx1_narrow_bfloat16(float x) {
    return (ushort)(x == x ? as_uint(x) >> 16 : 0x7fc0u);
}
""",
    "fx1_round_bfloat16": """\
static inline float fx1_round_bfloat16(float x) {
    const uint bits = as_uint(x);
    const uint rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    return as_float((bits & 0x7fffffffu) < 0x7f800000u ? rounded : bits);
}
""",
    # An integer's 24 leading bits, the last one being the or of all that follow: what is left has
    # one rounding before it, to 11 bits or fewer.
    "fx1_odd_integer": """\
static inline float fx1_odd_integer(ulong size) {
    const uint few = size >= 0x10000UL ? 4u : 0u;
    const uint some = size >= 0x10000000UL ? 16u : few;
    const uint more = size >= 0x10000000000UL ? 28u : some;
    const uint drop = size >= 0x10000000000000UL ? 40u : more;
    const ulong kept = size >> drop;
    const ulong odd = kept | ((kept << drop) != size ? 1UL : 0UL);
    return (float)(odd << drop);
}
""",
}
"""Helpers of 16-bit floats by name. A register holds such a value as a float, already rounded."""

_NAN_DOUBLE = f"as_double(0x{dtypes.CANONICAL_NAN[dtypes.float64]:x}UL ^ {OPAQUE})"

_DOUBLE = {
    "fx1_canonical_double": f"""\
static inline double fx1_canonical_double(double x, uint {OPAQUE}) {{
    return x == x ? x : {_NAN_DOUBLE};
}}
""",
    "fx1_max_double": f"""\
static inline double fx1_max_double(double a, double b, uint {OPAQUE}) {{
    const double equal = as_double(as_ulong(a) & as_ulong(b));
    const double larger = a > b ? a : b;
    const double ordered = a == b ? equal : larger;
    return a == a && b == b ? ordered : {_NAN_DOUBLE};
}}
""",
    "fx1_min_double": f"""\
static inline double fx1_min_double(double a, double b, uint {OPAQUE}) {{
    const double equal = as_double(as_ulong(a) | as_ulong(b));
    const double smaller = a < b ? a : b;
    const double ordered = a == b ? equal : smaller;
    return a == a && b == b ? ordered : {_NAN_DOUBLE};
}}
""",
    "fx1_div_double": """\
static inline double fx1_div_double(double a, double b) { return a / b; }
""",
    "fx1_sqrt_double": """\
static inline double fx1_sqrt_double(double x) { return sqrt(x); }
""",
    # float64 to float32 toward zero, the last bit set where that is inexact: one rounding is left.
    "fx1_odd_double": """\
static inline float fx1_odd_double(double x) {
    const float near = (float)x;
    const double back = (double)near;
    const double size = as_double(as_ulong(x) & 0x7fffffffffffffffUL);
    const double back_size = as_double(as_ulong(back) & 0x7fffffffffffffffUL);
    const uint below = as_uint(near) - (back_size > size ? 1u : 0u);
    return x != x || back == x ? near : as_float(below | 1u);
}
""",
}
"""Helpers of float64 by name."""


def _integer_division(dtype: DType) -> str:
    c = dtype.c_name
    name = f"fx1_div_{dtype.name}"
    if dtype.kind == "u":
        return (
            f"static inline {c} {name}({c} a, {c} b) "
            f"{{ return b == 0 ? ({c})0 : ({c})(a / (b == 0 ? ({c})1 : b)); }}\n"
        )
    low = integer_literal(int(np.iinfo(dtype.numpy).min), dtype)
    return f"""\
static inline {c} {name}({c} a, {c} b) {{
    const {c} safe = b == 0 || (a == {low} && b == -1) ? ({c})1 : b;
    const {c} quotient = ({c})(a / safe);
    const {c} left = ({c})(a % safe);
    const {c} floored = left != 0 && (left < 0) != (safe < 0) ? ({c})(quotient - 1) : quotient;
    return b == 0 ? ({c})0 : floored;
}}
"""
