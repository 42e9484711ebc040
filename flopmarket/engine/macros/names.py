"""The functions by name."""

from __future__ import annotations

from collections.abc import Callable

from flopmarket.engine.graph import Node
from flopmarket.engine.macros import circular, exponential, gaussian, hyperbolic

MACROS: dict[str, Callable[[Node], Node]] = {
    "exp2": exponential.exp2,
    "exp": exponential.exp,
    "log2": exponential.log2,
    "log": exponential.log,
    "tanh": hyperbolic.tanh,
    "sigmoid": exponential.sigmoid,
    "erf": gaussian.erf,
    "erfc": gaussian.erfc,
    "sin": circular.sin,
    "cos": circular.cos,
    "tan": circular.tan,
    "expm1": exponential.expm1,
    "log1p": exponential.log1p,
    "log10": exponential.log10,
    "softplus": exponential.softplus,
    "sinh": hyperbolic.sinh,
    "cosh": hyperbolic.cosh,
    "asin": circular.asin,
    "acos": circular.acos,
    "atan": circular.atan,
    "asinh": hyperbolic.asinh,
    "acosh": hyperbolic.acosh,
    "atanh": hyperbolic.atanh,
    "normal_cdf": gaussian.normal_cdf,
    "gelu": gaussian.gelu,
}
"""Every elementary function by name."""

LAW = tuple(MACROS)[:11]
"""The functions that profile FX1 holds to 2 ulp over all inputs (docs/numerics.md §1)."""
