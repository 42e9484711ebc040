"""Elementary functions in graph primitives: float32 in, float32 out, the same bits everywhere.

Each function builds FMA polynomials on an integer range reduction and is total: NaN, infinities,
signed zeros and subnormals included. How far each is from the exact value has been measured over
all 2^32 inputs (``golden/macros.json``, table in docs/numerics.md): the eleven that profile FX1
names stay within 2 ulp, and so do nearly all the others. No vendor builtin is involved.

``parts`` holds what they are built from; ``exponential``, ``circular``, ``hyperbolic`` and
``gaussian`` hold the functions. ``tensor`` calls these; ``grad.py`` finds them again in a graph
(``analytic.py``), because their primitives have no useful derivatives of their own.

Coefficients are weighted minimax fits whose lowest terms were rounded to float32 first and the rest
fitted again. The range reductions follow the usual ones (Muller et al., Handbook of Floating-Point
Arithmetic, 2nd ed., chapter 10).
"""

from __future__ import annotations

from flopmarket.engine.macros.circular import acos, asin, atan, cos, sin, tan
from flopmarket.engine.macros.exponential import (
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
from flopmarket.engine.macros.gaussian import erf, erfc, gelu, normal_cdf
from flopmarket.engine.macros.hyperbolic import acosh, asinh, atanh, cosh, sinh, tanh
from flopmarket.engine.macros.names import LAW, MACROS

__all__ = [
    "LAW",
    "MACROS",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "cos",
    "cosh",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "gelu",
    "log",
    "log1p",
    "log2",
    "log10",
    "normal_cdf",
    "sigmoid",
    "sin",
    "sinh",
    "softplus",
    "tan",
    "tanh",
]
