"""Elementary functions of float64, for models that compute in it.

float64 in and out, any shape, total. They are plain: Taylor series on the usual range reductions,
many more operations than the macros of float32. Profile FX1 does not name them; errors in the
docstrings are the largest against 80-bit arithmetic over the ranges that the tests cover. What only
chooses a range or repairs rounding is detached, so that primitives alone have right first
derivatives; ``grad.py`` recognises the functions and uses rules.
"""

from __future__ import annotations

from collections.abc import Callable

from flopmarket.engine.doubles.circular import acos, asin, atan, cos, sin, tan
from flopmarket.engine.doubles.exponential import (
    exp,
    exp2,
    expm1,
    log,
    log1p,
    log2,
    log10,
    sigmoid,
    softplus,
)
from flopmarket.engine.doubles.gaussian import erf, erfc, gelu, normal_cdf
from flopmarket.engine.doubles.hyperbolic import acosh, asinh, atanh, cosh, sinh, tanh
from flopmarket.engine.doubles.powers import power
from flopmarket.engine.graph import Node

__all__ = ["FUNCTIONS", "power"]

FUNCTIONS: dict[str, Callable[[Node], Node]] = {
    function.__name__: function
    for function in (
        *(exp, exp2, expm1, log, log2, log10, log1p, sigmoid, softplus, tanh, sinh, cosh, asinh),
        *(acosh, atanh, sin, cos, tan, asin, acos, atan, erf, erfc, normal_cdf, gelu),
    )
}
"""Every elementary function by name."""
