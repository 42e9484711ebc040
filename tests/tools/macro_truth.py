"""The largest error of elementary functions, against a truth in float64 on an OpenCL device.

Vendor functions of OpenCL C in double, whose error of a few units of 2^-53 does not show in
float32's 2^-24; erf and erfc are summed here, from a series whose terms have one sign and from a
continued fraction. ``tests/engine/frontend/test_macro_golden.py`` compares with NumPy and SciPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flopmarket.engine.golden import macros as golden
from flopmarket.engine.runtime.memory import Buffer
from flopmarket.engine.runtime.opencl import Device

Array = np.ndarray[Any, Any]

PER_ITEM = 64  # inputs of one work-item
WRONG = 3.0e38  # reported as the error where one side is NaN, or a zero has the wrong sign

# Expressions of `double x`, OpenCL C.
TRUTH = {
    "exp2": "exp2(x)",
    "exp": "exp(x)",
    "log2": "log2(x)",
    "log": "log(x)",
    "tanh": "tanh(x)",
    "sigmoid": "(x < 0.0 ? exp(x) / (1.0 + exp(x)) : 1.0 / (1.0 + exp(-x)))",
    "erf": "sum_erf(x)",
    "erfc": "sum_erfc(x)",
    "sin": "sin(x)",
    "cos": "cos(x)",
    "tan": "tan(x)",
    "expm1": "expm1(x)",
    "log1p": "log1p(x)",
    "log10": "log10(x)",
    "softplus": "(fmax(x, 0.0) + log1p(exp(-fabs(x))))",
    "sinh": "sinh(x)",
    "cosh": "cosh(x)",
    "asin": "asin(x)",
    "acos": "acos(x)",
    "atan": "atan(x)",
    "asinh": "asinh(x)",
    "acosh": "acosh(x)",
    "atanh": "atanh(x)",
    "normal_cdf": "(0.5 * sum_erfc(x * -0.70710678118654752440))",
    "gelu": "(isinf(x) && x < 0.0 ? -0.0 : 0.5 * x * sum_erfc(x * -0.70710678118654752440))",
}

SOURCE = """
#pragma OPENCL EXTENSION cl_khr_fp64 : enable

// erf(x) = 2/sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (1 3 5 .. 2n+1): all terms of one sign.
double erf_series(double x)
{
    double square = x * x, term = x, total = x;
    for (int n = 1; n < 120 && fabs(term) > 1e-18 * fabs(total); n++) {
        term *= 2.0 * square / (2.0 * n + 1.0);
        total += term;
    }
    return 1.12837916709551257390 * exp(-square) * total;
}

// erfc(x) = e^(-x^2) / sqrt(pi) / (x + 1/2 / (x + 1 / (x + 3/2 / (x + ...)))), x > 0.
double erfc_fraction(double x)
{
    double below = x;
    for (int n = x > 4.0 ? 16 : 96; n > 0; n--)
        below = x + 0.5 * n / below;
    double high = x * x, low = fma(x, x, -high);
    return exp(-high) * (1.0 - low) * 0.56418958354775628695 / below;
}

double sum_erf(double x)
{
    if (isnan(x)) return x;
    if (fabs(x) < 2.0) return erf_series(x);
    double rest = fabs(x) > 27.0 ? 0.0 : erfc_fraction(fabs(x));
    return x < 0.0 ? rest - 1.0 : 1.0 - rest;
}

double sum_erfc(double x)
{
    if (isnan(x)) return x;
    // Up to 1/2 nothing cancels; beyond it the fraction takes over where it has converged.
    if (x < 0.5) return 1.0 - sum_erf(x);
    if (x > 27.0) return 0.0;
    if (x < 1.5) return 1.0 - erf_series(x);
    return erfc_fraction(x);
}

// |got - truth| in units in the last place of the truth in float32; beyond the range, 2^128 stands
// for infinity.
float error_in_ulp(float got, double truth)
{
    if (isnan(truth) || isnan(got)) return isnan(truth) && isnan(got) ? 0.0f : WRONG;
    if (truth == 0.0) return as_uint(got) == (signbit(truth) ? 0x80000000u : 0u) ? 0.0f : WRONG;
    double size = fabs(truth), limit = 0x1p128;
    int exponent = size < 0x1p-126 ? -126 : size >= limit ? 127 : ilogb(size);
    double distance = fabs(clamp((double)got, -limit, limit) - clamp(truth, -limit, limit));
    return (float)ldexp(distance, 23 - exponent);
}

uint input_bits(uint index, int shift)
{
    if (shift < 0) return index;
    uint at = index << shift;
    return (at << 8) + (((at & 255u) * ((at >> 8) | 1u) * 0x9E3779B1u) >> 24);
}
"""

KERNEL = """
__kernel void truth(__global const float* got, __global float* worst, __global uint* where,
                    uint start, int shift)
{
    size_t item = get_global_id(0), items = get_global_size(0);
    float most = -1.0f;
    uint place = 0;
    for (uint k = 0; k < PER_ITEM; k++) {
        size_t at = k * items + item;
        uint bits = input_bits(start + (uint)at, shift);
        double x = (double)as_float(bits);
        float error = error_in_ulp(got[at], EXPRESSION);
        if (error > most) { most = error; place = bits; }
    }
    worst[item] = most;
    where[item] = place;
}
"""


class Truth:
    """The largest error of results that lie on a device."""

    def __init__(self, device: Device, name: str, chunk: int, log2_count: int) -> None:
        source = SOURCE + KERNEL.replace("EXPRESSION", TRUTH[name])
        source = source.replace("PER_ITEM", str(PER_ITEM)).replace("WRONG", f"{WRONG}f")
        self._module = device.compile(source, numerics=None)
        self._device = device
        self._items = chunk // PER_ITEM
        self._shift = np.int32(-1 if log2_count == golden.ALL else golden.SAMPLE - log2_count)
        self._worst = device.alloc(4 * self._items)
        self._where = device.alloc(4 * self._items)
        self.results = device.alloc(4 * chunk)
        """For results that come from elsewhere."""

    def largest(self, results: Buffer, start: int) -> tuple[float, int]:
        """(ulp, bits of the input) over one chunk; ties go to the lowest bits."""
        arguments: list[Buffer | np.generic] = [
            results,
            self._worst,
            self._where,
            np.uint32(start),
            self._shift,
        ]
        self._device.run([self._module.launch("truth", arguments, (self._items,))])
        worst, where = np.empty(self._items, np.float32), np.empty(self._items, np.uint32)
        self._device.download(self._worst, worst)
        self._device.download(self._where, where)
        most = worst.max()
        return float(most), int(where[worst == most].min())

    def close(self) -> None:
        for buffer in (self._worst, self._where, self.results):
            buffer.release()
