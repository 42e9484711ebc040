"""Elementary functions in graph primitives: float32 in, float32 out, the same bits everywhere.

Each function builds FMA polynomials on an integer range reduction, is total (NaN, infinities,
signed zeros and subnormals included) and stays within 2 ulp of the exact value. Its docstring
states the largest error measured on :func:`reference.evaluate` after canonicalisation (every
exponent with thousands of mantissas, dense where it is hard; all 2^32 inputs are for a GPU).
No vendor builtin is involved. ``tensor.py`` calls these; ``grad.py`` finds them again in a graph
through :func:`recognise`, because their primitives have no useful derivatives of their own.

Coefficients are weighted minimax fits whose lowest terms were rounded to float32 first and the rest
fitted again. The range reductions follow the usual ones (Muller et al., Handbook of Floating-Point
Arithmetic, 2nd ed., chapter 10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from flopmarket.engine import graph
from flopmarket.engine.dtypes import float32, uint32
from flopmarket.engine.graph import Node, Op

_INFINITY = float("inf")
_NAN = float("nan")

# 1.5 * 2^23 + 254: adding it rounds a small float to an integer n and leaves n + 254 in the low
# mantissa bits, from where two shifts make the float32 scales 2^floor(n/2) and 2^ceil(n/2).
_ROUND_AND_BIAS = 12583166.0
_LOG2_E = 1.4426950408889634
_LN2_SHORT = 0.693145751953125  # 16 bits: its product with any exponent is exact
_LN2_SHORT_REST = 1.4286068203094172e-06
_LN2 = 0.6931471824645996  # float32 of ln 2, and what is missing
_LN2_REST = -1.904654323148236e-09
_LOG2_E_HIGH = 1.4426950216293335
_SQRT_HALF_BITS = 0x3F3504F3
_SMALLEST_NORMAL = 1.1754943508222875e-38

_EXP = (1.0, 1.0, 4.9999994e-01, 1.6666521e-01, 4.1668274e-02, 8.368686e-03, 1.3820136e-03)
_EXP2 = (
    *(1.0, 6.931472e-01, 2.4022648e-01, 5.5503596e-02, 9.618499e-03, 1.3390969e-03),
    1.5329264e-04,
)
# (log(1 + f) - f) / f^2 and log2(1 + f) / f - log2(e), both on [sqrt(1/2) - 1, sqrt(2) - 1].
_LOG = (
    *(-4.9999988e-01, 3.3333325e-01, -2.50016e-01, 2.000196e-01, -1.6608717e-01, 1.4182329e-01),
    *(-1.3246424e-01, 1.2900986e-01, -7.608474e-02),
)
_LOG2 = (
    *(1.9200096e-08, -7.2134733e-01, 4.808982e-01, -3.606985e-01, 2.8857192e-01, -2.3957704e-01),
    *(2.0448032e-01, -1.9126618e-01, 1.8705855e-01, -1.1058253e-01),
)
# (tanh x - x) / x^3 in x^2, up to |x| = 0.625.
_TANH_FROM = 0.625
_TANH = (-3.333328e-01, 1.333141e-01, -5.3737268e-02, 2.0631723e-02, -5.697346e-03)
# erf(x) / x - 1 in x^2 up to |x| = 1; -log(erfc x) above, to where erf rounds to 1.
_ERF_FROM = 1.0
_ERF_TO = 3.95
_ERF = (
    *(1.2837917e-01, -3.7612626e-01, 1.1283579e-01, -2.6853347e-02, 5.187162e-03, -7.997853e-04),
    7.806903e-05,
)
_LOG_ERFC = (
    *(3.4151296e-04, 1.1270893e00, 6.381447e-01, 1.03106916e-01, -2.1838142e-02, 2.9476746e-03),
    -1.8638017e-04,
)


def exp2(x: Node) -> Node:
    """2**x, any shape. Measured: 0.88 ulp."""
    x = _clamp(x, -151.0, 129.0)
    shifted = graph.add(x, _literal(_ROUND_AND_BIAS, x))
    whole = graph.add(shifted, _literal(-_ROUND_AND_BIAS, x))
    rest = graph.fma(whole, _literal(-1.0, x), x)
    return _scale(_polynomial(_EXP2, rest), shifted)


def exp(x: Node) -> Node:
    """e**x, any shape. Measured: 0.90 ulp."""
    x = _clamp(x, -104.5, 89.5)
    return _scale(*_exp_parts(x))


def log2(x: Node) -> Node:
    """Base-2 logarithm; -inf at zeros, NaN below. Measured: 0.93 ulp; exact at powers of 2."""
    exponent, fraction = _split(x)
    tail = graph.mul(fraction, _polynomial(_LOG2, fraction))
    near = graph.fma(fraction, _literal(_LOG2_E_HIGH, x), tail)
    return _log_specials(x, graph.add(near, exponent))


def log(x: Node) -> Node:
    """Natural logarithm; -inf at zeros, NaN below. Measured: 0.84 ulp; log(1) = +0."""
    exponent, fraction = _split(x)
    square = graph.mul(fraction, fraction)
    low = graph.mul(exponent, _literal(_LN2_REST, x))
    near = graph.add(fraction, graph.fma(square, _polynomial(_LOG, fraction), low))
    return _log_specials(x, graph.fma(exponent, _literal(_LN2, x), near))


def tanh(x: Node) -> Node:
    """Hyperbolic tangent, any shape. Measured: 1.37 ulp."""
    size = _magnitude(x)
    # From 9.02 on tanh rounds to 1; stopping at 10 keeps the scale of the exponential normal.
    twice = _at_most(graph.add(size, size), 20.0)
    polynomial, shifted = _exp_parts(twice)
    grown = graph.fma(polynomial, _power_of_two(shifted, 127 - 254), _literal(1.0, x))
    large = graph.fma(graph.div(_literal(2.0, x), grown), _literal(-1.0, x), _literal(1.0, x))
    square = graph.mul(size, size)
    cubic = graph.mul(square, _polynomial(_TANH, square))
    small = graph.fma(cubic, size, size)
    return _with_sign_of(x, graph.where(_below(size, _TANH_FROM), small, large))


def sigmoid(x: Node) -> Node:
    """1 / (1 + e**-x), any shape, subnormal results included. Measured: 1.58 ulp."""
    negative = _below(x, 0.0)
    decayed = exp(graph.where(negative, x, _negative(x)))
    # With z = e**-|x| and t = z / (1 + z) both sides are b - b * t, where b is z or 1: the error
    # of t counts less than that of z / (1 + z). The FMA is what canonicalisation makes of 1 + z.
    grown = graph.fma(decayed.src[0], decayed.src[1], _literal(1.0, x))
    base = graph.where(negative, decayed, _literal(1.0, x))
    return graph.fma(base, _negative(graph.div(decayed, grown)), base)


def erf(x: Node) -> Node:
    """Error function, any shape. Measured: 1.08 ulp."""
    size = _magnitude(x)
    polynomial, shifted = _exp_parts(_negative(_polynomial(_LOG_ERFC, _at_most(size, _ERF_TO))))
    scale = _power_of_two(shifted, 127 - 254)
    large = graph.fma(graph.mul(polynomial, _literal(-1.0, x)), scale, _literal(1.0, x))
    small = graph.fma(size, _polynomial(_ERF, graph.mul(size, size)), size)
    return _with_sign_of(x, graph.where(_below(size, _ERF_FROM), small, large))


# ---------------------------------------------------------------- parts


def _literal(value: float, like: Node) -> Node:
    return graph.filled(value, like.dtype, like.shape)


def _word(value: int, like: Node) -> Node:
    return graph.filled(value, uint32, like.shape)


def _below(x: Node, limit: float) -> Node:
    return graph.cmp("lt", x, _literal(limit, x))


def _negative(x: Node) -> Node:
    return graph.mul(x, _literal(-1.0, x))


def _at_most(x: Node, high: float) -> Node:
    """min(x, high) that keeps NaN."""
    limit = _literal(high, x)
    return graph.where(graph.cmp("lt", limit, x), limit, x)


def _clamp(x: Node, low: float, high: float) -> Node:
    """x limited to [low, high]; NaN stays NaN."""
    return graph.max_(_at_most(x, high), _literal(low, x))


def _polynomial(coefficients: Sequence[float], x: Node) -> Node:
    """Horner's rule, lowest coefficient first, one FMA a step."""
    total = _literal(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        total = graph.fma(total, x, _literal(coefficient, x))
    return total


def _exp_parts(x: Node) -> tuple[Node, Node]:
    """(p, shifted) with e**x = p * 2**n, p near [0.7, 1.42], n in the low bits of ``shifted``."""
    shifted = graph.fma(x, _literal(_LOG2_E, x), _literal(_ROUND_AND_BIAS, x))
    whole = graph.add(shifted, _literal(-_ROUND_AND_BIAS, x))
    rest = graph.fma(whole, _literal(-_LN2_SHORT, x), x)
    rest = graph.fma(whole, _literal(-_LN2_SHORT_REST, x), rest)
    return _polynomial(_EXP, rest), shifted


def _power_of_two(shifted: Node, bias: int) -> Node:
    """2**n as a float, for n whose float32 exponent is normal."""
    bits = graph.add(graph.bitcast(shifted, uint32), _word(bias % 2**32, shifted))
    return graph.bitcast(graph.bit("shl", bits, _word(23, shifted)), float32)


def _scale(x: Node, shifted: Node) -> Node:
    """x * 2**n in two steps, so that only the last multiplication rounds, once, into subnormals."""
    bits = graph.bitcast(shifted, uint32)
    one, places = _word(1, x), _word(23, x)
    lower = graph.bit("shr", bits, one)
    upper = graph.bit("shr", graph.add(bits, one), one)
    for half in (lower, upper):
        x = graph.mul(x, graph.bitcast(graph.bit("shl", half, places), float32))
    return x


def _split(x: Node) -> tuple[Node, Node]:
    """(e, f) with x = 2**e * (1 + f), f in [sqrt(1/2) - 1, sqrt(2) - 1), for x > 0 and finite."""
    tiny = _below(x, _SMALLEST_NORMAL)
    normal = graph.where(tiny, graph.mul(x, _literal(2.0**23, x)), x)
    offset = _word(0x3F800000 - _SQRT_HALF_BITS, x)
    bits = graph.add(graph.bitcast(normal, uint32), offset)
    biased = graph.cast(graph.bit("shr", bits, _word(23, x)), float32)
    missing = graph.where(tiny, _literal(-127.0 - 23.0, x), _literal(-127.0, x))
    mantissa = graph.add(graph.bit("and", bits, _word(0x7FFFFF, x)), _word(_SQRT_HALF_BITS, x))
    fraction = graph.add(graph.bitcast(mantissa, float32), _literal(-1.0, x))
    return graph.add(biased, missing), fraction


def _log_specials(x: Node, value: Node) -> Node:
    zero = _literal(0.0, x)
    infinite = graph.where(graph.cmp("lt", x, _literal(_INFINITY, x)), value, x)
    at_most_zero = graph.where(graph.cmp("eq", x, zero), _literal(-_INFINITY, x), _literal(_NAN, x))
    return graph.where(graph.cmp("lt", zero, x), infinite, at_most_zero)


def _magnitude(x: Node) -> Node:
    return graph.bitcast(graph.bit("and", graph.bitcast(x, uint32), _word(0x7FFFFFFF, x)), float32)


def _with_sign_of(x: Node, size: Node) -> Node:
    sign = graph.bit("and", graph.bitcast(x, uint32), _word(0x80000000, x))
    return graph.bitcast(graph.bit("or", graph.bitcast(size, uint32), sign), float32)


# ---------------------------------------------------------------- recognition


MACROS: dict[str, Callable[[Node], Node]] = {
    "exp2": exp2,
    "exp": exp,
    "log2": log2,
    "log": log,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "erf": erf,
}
"""Every elementary function by name."""


def recognise(node: Node) -> tuple[str, Node] | None:
    """(name, argument) if ``node`` is one of :data:`MACROS` applied to a node, else None.

    Equal graphs are the same object, so the test is to build the function on the candidate again
    and compare identities; it holds for decoded programs as for fresh ones.
    """
    for name, macro in MACROS.items():
        argument = _argument(node, _descent(name))
        if argument is not None and macro(argument) is node:
            return name, argument
    return None


@cache
def _descent(name: str) -> tuple[tuple[Op, int], ...]:
    """Operation and source index of each step from a macro's result down to its argument."""
    probe = graph.input_("input", "probe", float32, (1,))
    paths: dict[Node, tuple[tuple[Op, int], ...]] = {MACROS[name](probe): ()}
    frontier = list(paths)
    while probe not in paths:
        node = frontier.pop(0)
        for index, source in enumerate(node.src):
            if source not in paths:
                paths[source] = (*paths[node], (node.op, index))
                frontier.append(source)
    return paths[probe]


def _argument(node: Node, descent: tuple[tuple[Op, int], ...]) -> Node | None:
    shape = node.shape
    for op, index in descent:
        if node.op is not op:
            return None
        node = node.src[index]
    return node if node.dtype is float32 and node.shape == shape else None
