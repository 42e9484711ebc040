"""Exponentials and logarithms, and the sigmoid and softplus built on them."""

from __future__ import annotations

from flopmarket.engine import graph
from flopmarket.engine.dtypes import float32, uint32
from flopmarket.engine.graph import Node
from flopmarket.engine.macros.parts import (
    INFINITY,
    NAN,
    ROUND_AND_BIAS,
    SQRT_HALF_BITS,
    below,
    clamp,
    exp_less_one,
    exp_parts,
    exp_rest,
    literal,
    log_of_parts,
    log_specials,
    magnitude,
    negative,
    plus,
    polynomial,
    power_of_two,
    scale,
    split,
    times,
    with_sign_of,
    word,
)

_LOG2_E_HIGH = 1.4426950216293335
_LOG10_E_HIGH = 0.4342944920063019
_LOG10_2_SHORT = 0.301025390625  # 14 bits: its product with any exponent is exact
_LOG10_2_SHORT_REST = 4.605039066518657e-06

_EXP2 = (
    *(1.0, 6.931472e-01, 2.4022648e-01, 5.5503596e-02, 9.618499e-03, 1.3390969e-03),
    1.5329264e-04,
)
# log2(1 + f) / f - log2(e) and log10(1 + f) / f - log10(e) on [sqrt(1/2) - 1, sqrt(2) - 1].
_LOG2 = (
    *(1.9200096e-08, -7.2134733e-01, 4.808982e-01, -3.606985e-01, 2.8857192e-01, -2.3957704e-01),
    *(2.0448032e-01, -1.9126618e-01, 1.8705855e-01, -1.1058253e-01),
)
_LOG10 = (
    *(-9.825869e-09, -0.21714725, 0.14476474, -0.108573295, 0.0868674, -0.0723966),
    *(0.061774388, -0.053802673, 0.051445384, -0.050916124, 0.029835176),
)


def exp2(x: Node) -> Node:
    """2**x, any shape."""
    x = clamp(x, -151.0, 129.0)
    shifted = graph.add(x, literal(ROUND_AND_BIAS, x))
    whole = graph.add(shifted, literal(-ROUND_AND_BIAS, x))
    rest = graph.fma(whole, literal(-1.0, x), x)
    return scale(polynomial(_EXP2, rest), shifted)


def exp(x: Node) -> Node:
    """e**x, any shape."""
    x = clamp(x, -104.5, 89.5)
    return scale(*exp_parts(x))


def expm1(x: Node) -> Node:
    """e**x - 1, accurate near 0 as well."""
    limited = clamp(x, -18.0, 89.0)
    rest, shifted = exp_rest(limited)
    # 2^(n-1) * (e^r - 1) + (2^(n-1) - 1/2), doubled: 2^(n-1) is normal up to n = 128.
    half = power_of_two(shifted, 126 - 254)
    grown = graph.fma(half, exp_less_one(rest), plus(half, -0.5))
    near = below(magnitude(x), 0.34375)
    small = exp_less_one(graph.where(near, x, literal(0.0, x)))
    return with_sign_of(x, graph.where(near, small, graph.add(grown, grown)))


def log2(x: Node) -> Node:
    """Base-2 logarithm; -inf at zeros, NaN below; exact at powers of 2."""
    exponent, fraction = split(x)
    tail = graph.mul(fraction, polynomial(_LOG2, fraction))
    near = graph.fma(fraction, literal(_LOG2_E_HIGH, x), tail)
    return log_specials(x, graph.add(near, exponent))


def log(x: Node) -> Node:
    """Natural logarithm; -inf at zeros, NaN below; log(1) = +0."""
    exponent, fraction = split(x)
    return log_specials(x, log_of_parts(exponent, fraction))


def log10(x: Node) -> Node:
    """Base-10 logarithm; -inf at zeros, NaN below; log10(1) = +0."""
    exponent, fraction = split(x)
    tail = graph.mul(fraction, polynomial(_LOG10, fraction))
    tail = graph.fma(exponent, literal(_LOG10_2_SHORT_REST, x), tail)
    near = graph.fma(fraction, literal(_LOG10_E_HIGH, x), tail)
    return log_specials(x, graph.fma(exponent, literal(_LOG10_2_SHORT, x), near))


def log1p(x: Node) -> Node:
    """log(1 + x), accurate near 0 as well; -inf at -1, NaN below."""
    return with_sign_of(x, log1p_scaled(x, literal(0.0, x)))


def log1p_scaled(x: Node, exponent: Node) -> Node:
    """log(1 + x) + exponent * ln(2); -inf at -1, NaN below. The sign of a zero may be lost."""
    finite = below(x, INFINITY)
    # The selection also stands between the sum and an x that is a product, which it would absorb.
    near_one = plus(graph.where(finite, x, literal(1.0, x)), 1.0)
    bits = graph.add(graph.bitcast(near_one, uint32), word(0x3F800000 - SQRT_HALF_BITS, x))
    biased = graph.bit("shr", bits, word(23, x))
    # 1 + x = 2^e * (1 + f): f is one FMA away from x. 4 * 2^-e is normal where 2^-e may not be.
    missing = graph.add(graph.mul(biased, word(0xFFFFFFFF, x)), word(256, x))
    four = graph.bitcast(graph.bit("shl", missing, word(23, x)), float32)
    scaled = graph.fma(times(x, 0.25), four, graph.fma(four, literal(0.25, x), literal(-1.0, x)))
    fraction = graph.where(graph.cmp("eq", biased, word(127, x)), x, scaled)
    exponent = graph.add(plus(graph.cast(biased, float32), -127.0), exponent)
    value = log_of_parts(exponent, fraction)
    infinite = graph.where(finite, value, x)
    ends = graph.where(graph.cmp("eq", x, literal(-1.0, x)), literal(-INFINITY, x), literal(NAN, x))
    return graph.where(graph.cmp("lt", literal(-1.0, x), x), infinite, ends)


def sigmoid(x: Node) -> Node:
    """1 / (1 + e**-x), any shape, subnormal results included."""
    falling = below(x, 0.0)
    decayed = exp(graph.where(falling, x, negative(x)))
    # With z = e**-|x| and t = z / (1 + z) both sides are b - b * t, where b is z or 1: the error
    # of t counts less than that of z / (1 + z). The FMA is what canonicalisation makes of 1 + z.
    grown = graph.fma(decayed.src[0], decayed.src[1], literal(1.0, x))
    base = graph.where(falling, decayed, literal(1.0, x))
    return graph.fma(base, negative(graph.div(decayed, grown)), base)


def softplus(x: Node) -> Node:
    """log(1 + e**x) without overflow."""
    decayed = exp(negative(magnitude(x)))
    return graph.add(graph.max_(x, literal(0.0, x)), log1p_scaled(decayed, literal(0.0, x)))
