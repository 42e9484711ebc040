"""Every elementary function in float64, by NumPy and SciPy: what the engine's are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

Array = np.ndarray[Any, Any]


def _gelu(x: Array) -> Array:
    return np.asarray(np.where(x == -np.inf, -0.0, x * special.ndtr(x)))


EXACT: dict[str, Callable[[Array], Array]] = {
    "exp2": np.exp2,
    "exp": np.exp,
    "log2": np.log2,
    "log": np.log,
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "erf": special.erf,
    "erfc": special.erfc,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "log10": np.log10,
    "softplus": lambda x: np.logaddexp(0.0, x),
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "normal_cdf": special.ndtr,
    "gelu": _gelu,
}
