"""The functions of analysis, softmax, attention and recurrent networks in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.engine.functional.case import Cases, Maker

CASES = Cases()
CLOSE = {"rtol": 4e-14, "atol": 1e-15}

LINE = [*np.linspace(-6, 6, 41), 0.5, -0.5, 20.0, -20.0, 1e-8, -1e-8, 1e-150]
POSITIVE = [*np.linspace(0.05, 6, 20), 1 - 1e-9, 1 + 1e-9, 1e-150, 1e150]
INSIDE = [*np.linspace(-0.95, 0.95, 20), 1e-9, -1e-9]


def add(name: str, call: Any, *inputs: Maker) -> None:
    CASES.add(f"float64 {name}", call, *inputs, **CLOSE)


def doubles(*shape: int, low: float = -1.0, high: float = 1.0) -> Maker:
    """float64 in [low, high)."""
    return lambda random: random.uniform(low, high, shape)


def these(values: Any) -> Maker:
    """These very values."""
    return lambda random: np.array(values, dtype=np.float64)


for values, names in (
    (LINE, ("exp", "exp2", "tanh", "sigmoid", "erf", "erfc", "sin", "cos", "tan", "expm1")),
    (LINE, ("sinh", "cosh", "asinh", "atan")),
    (POSITIVE, ("log", "log2", "log10", "log1p", "sqrt", "rsqrt")),
    (INSIDE, ("asin", "acos", "atanh")),
    ([1 + x for x in POSITIVE], ("acosh",)),
):
    for name in names:
        add(name, lambda F, x, n=name: getattr(x, n)(), these(values))
for name in ("gelu", "softplus", "silu", "mish", "elu", "logsigmoid"):
    add(name, lambda F, x, n=name: getattr(F, n)(x), these(LINE))
for name in ("atan2", "hypot", "logaddexp"):
    add(name, lambda F, x, y, n=name: getattr(x, n)(y), doubles(5, 4), doubles(5, 4))
add("pow", lambda F, x, y: x**y, doubles(5, 4, low=0.1, high=9), doubles(5, 4, low=-3, high=3))
add("pow of a number", lambda F, x: 2.5**x + x.exp() ** -1.5, doubles(5, 4))
for name in ("softmax", "log_softmax"):
    add(name, lambda F, x, n=name: getattr(F, n)(x, 1), doubles(2, 6, 4, low=-9, high=9))
add("logsumexp", lambda F, x: x.logsumexp(1), doubles(2, 6, low=-9, high=9))
add("logcumsumexp", lambda F, x: x.logcumsumexp(1), doubles(2, 6, low=-9, high=9))
add("product", lambda F, x: x.prod(1), doubles(3, 100, low=0.5, high=1.5))
add("cross_entropy", lambda F, x: F.cross_entropy(x, x.detach().argmax(1)), doubles(4, 7))

Q, K = doubles(2, 3, 5, 8), doubles(2, 3, 7, 8)
add("attention", lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v), Q, K, K)
add(
    "attention, causal",
    lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    *(Q, Q, Q),
)
add(
    "attention, masked",
    lambda F, q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
    *(Q, K, K, doubles(5, 7)),
)

for name, gates in (("rnn_tanh", 1), ("lstm", 4), ("gru", 3)):
    add(
        name,
        lambda F, x, h, *w, n=name: F.recurrent(n, x, h, w),
        *(doubles(6, 2, 3), doubles(1, 2, 4)),
        *(doubles(gates * 4, 3), doubles(gates * 4, 4), doubles(gates * 4), doubles(gates * 4)),
    )
