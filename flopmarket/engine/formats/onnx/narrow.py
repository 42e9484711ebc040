"""Number formats of 8 bits and fewer: float8, float6, float4 and integers of 4 and 2 bits.

The engine has no dtype for them. A :class:`Narrow` holds their codes in a tensor of bytes; decoding
and encoding are graphs, exact, so that they fuse into whatever uses the numbers. Outside the engine
such arrays have the types of ml_dtypes; :func:`from_host` and :func:`to_host` are the border.

Formats: OCP Microscaling Formats 1.0 (e4m3fn, e5m2, e8m0, e2m3, e3m2, e2m1), and the "fnuz" ones of
Noune et al., "8-bit numerical formats for deep neural networks", 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import float32, int8, int32, uint8, uint32, uint64
from flopmarket.engine.formats.onnx.errors import OnnxUnsupported
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """One narrow format.

    ``code`` is ONNX's number of it. Integers have no exponent bits. ``nan`` is the code of NaN
    (without its sign), None where there is none; ``infinity`` likewise. ``highest`` is the code of
    the largest finite value. ``unsigned_zero`` formats spend the code of -0 on NaN.
    """

    name: str
    code: int
    bits: int
    exponent_bits: int
    mantissa_bits: int
    bias: int
    numpy: np.dtype[Any]
    highest: int
    nan: int | None = None
    infinity: int | None = None
    signed: bool = True
    unsigned_zero: bool = False

    @property
    def is_float(self) -> bool:
        """Whether codes are floats; integers are their own codes."""
        return self.exponent_bits > 0

    @property
    def is_scale(self) -> bool:
        """Whether it is e8m0: powers of 2, neither sign nor zero."""
        return self.exponent_bits == 8

    @property
    def largest(self) -> float:
        """The largest finite value."""
        if not self.is_float:
            return float(self.highest)
        fraction = 1 + (self.highest % 2**self.mantissa_bits) / 2**self.mantissa_bits
        return float(fraction * 2.0 ** ((self.highest >> self.mantissa_bits) - self.bias))


def _float(name: str, code: int, shape: tuple[int, int], bias: int, **more: Any) -> Format:
    exponent_bits, mantissa_bits = shape
    bits = 8 if exponent_bits == 8 else 1 + exponent_bits + mantissa_bits
    return Format(
        *(name, code, bits, exponent_bits, mantissa_bits, bias),
        np.dtype(getattr(ml_dtypes, name)),
        **more,
    )


def _integer(name: str, code: int, bits: int, signed: bool) -> Format:
    highest = 2 ** (bits - signed) - 1
    twin = np.dtype(getattr(ml_dtypes, name))
    return Format(name, code, bits, 0, 0, 0, twin, highest, signed=signed)


_ALL = (
    _float("float8_e4m3fn", 17, (4, 3), 7, highest=0x7E, nan=0x7F),
    _float("float8_e4m3fnuz", 18, (4, 3), 8, highest=0x7F, nan=0x80, unsigned_zero=True),
    _float("float8_e5m2", 19, (5, 2), 15, highest=0x7B, nan=0x7E, infinity=0x7C),
    _float("float8_e5m2fnuz", 20, (5, 2), 16, highest=0x7F, nan=0x80, unsigned_zero=True),
    _integer("uint4", 21, 4, False),
    _integer("int4", 22, 4, True),
    _float("float4_e2m1fn", 23, (2, 1), 1, highest=0x7),
    _float("float8_e8m0fnu", 24, (8, 0), 127, highest=0xFE, nan=0xFF, signed=False),
    _integer("uint2", 25, 2, False),
    _integer("int2", 26, 2, True),
    _float("float6_e2m3fn", 27, (2, 3), 1, highest=0x1F),
    _float("float6_e3m2fn", 28, (3, 2), 3, highest=0x1F),
)
FORMATS: dict[int, Format] = {each.code: each for each in _ALL}
"""Every narrow format by its number in ONNX's TensorProto.DataType."""

_BY_NUMPY = {each.numpy: each for each in _ALL}


@dataclass(frozen=True, slots=True)
class Narrow:
    """A tensor of a narrow format: codes in a uint8 tensor (int8 for signed integers, which are
    their own codes)."""

    codes: Tensor
    format: Format

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self.codes.shape

    def map(self, movement: Callable[[Tensor], Tensor]) -> Narrow:
        """The same numbers moved about: reshaped, sliced, gathered."""
        return Narrow(movement(self.codes), self.format)

    def decode(self) -> Tensor:
        """The values: float32 for floats, int8 or uint8 for integers. Exact."""
        if not self.format.is_float:
            return self.codes
        return Tensor(_decode(self.codes.node, self.format), device=self.codes.device)


def is_narrow(value: Any) -> bool:
    """Whether a value is a Narrow, or a host array of a narrow format."""
    return isinstance(value, Narrow) or (isinstance(value, np.ndarray) and value.dtype in _BY_NUMPY)


def narrow_of(value: Any) -> Narrow:
    """A value for which :func:`is_narrow` holds, as a Narrow."""
    return value if isinstance(value, Narrow) else from_host(value)


def from_host(array: Array) -> Narrow:
    """A host array of one of ml_dtypes' narrow types as codes.

    Raises OnnxUnsupported for any other type.
    """
    found = _BY_NUMPY.get(array.dtype)
    if found is None:
        raise OnnxUnsupported(f"{array.dtype} is no number format of 8 bits or fewer")
    codes = array.view(np.uint8) if found.is_float else array.astype(_bytes_of(found))
    return Narrow(Tensor(codes), found)


def to_host(codes: Array, format: Format) -> Array:
    """Computed codes as a host array of ml_dtypes."""
    codes = np.ascontiguousarray(codes)
    return codes.view(format.numpy) if format.is_float else codes.astype(format.numpy)


def _bytes_of(format: Format) -> np.dtype[Any]:
    return np.dtype(np.int8 if format.signed else np.uint8)


# ---------------------------------------------------------------- decoding


def _decode(codes: Node, format: Format) -> Node:
    """float32 values of uint8 codes.

    A code's exponent and mantissa shifted to float32's places are the value but for the bias, which
    a multiplication by a power of 2 repairs; both formats' subnormals agree.
    """
    word = graph.cast(codes, uint32)
    if format.is_scale:
        shifted = graph.bit("shl", word, like(23, word))
        lowest = like(1 << 22, word)  # 2^-127, which float32 holds as a subnormal
        bits = graph.where(graph.cmp("eq", word, like(0, word)), lowest, shifted)
        value = graph.bitcast(bits, float32)
    else:
        sign_bit = 1 << (format.bits - 1)
        size = graph.bit("and", word, like(sign_bit - 1, word))
        places = like(23 - format.mantissa_bits, word)
        small = graph.bitcast(graph.bit("shl", size, places), float32)
        value = graph.mul(small, like(2.0 ** (127 - format.bias), small))
        if format.infinity is not None:
            infinite = graph.cmp("eq", size, like(format.infinity, size))
            value = graph.where(infinite, like(float("inf"), value), value)
            beyond = graph.cmp("lt", like(format.infinity, size), size)
            value = graph.where(beyond, like(float("nan"), value), value)
        minus = graph.cmp("lt", like(sign_bit - 1, word), word)
        value = graph.where(minus, compose.negative(value), value)
        if format.infinity is None and format.nan is not None:
            word = word if format.unsigned_zero else size
    if format.nan is not None and format.infinity is None:
        missing = graph.cmp("eq", word, like(format.nan, word))
        value = graph.where(missing, like(float("nan"), value), value)
    return value


# ---------------------------------------------------------------- encoding


def encode(x: Tensor, format: Format, saturate: bool = True, round_mode: str = "up") -> Narrow:
    """Numbers of any dtype in a narrow format, one rounding to nearest even from their own dtype.

    ``saturate``: what passes the largest value becomes it; otherwise infinity, or NaN where there
    is none (formats without NaN always saturate, and NaN becomes -0 there). ``round_mode`` is
    e8m0's: 'up', 'down' or 'nearest' with ties up. Integers: numbers truncate and keep their low
    bits.
    """
    node = x.node
    if not format.is_float:
        return Narrow(Tensor(_encode_integer(node, format), device=x.device), format)
    if not node.dtype.is_float or node.dtype.size_bytes == 2:
        node = graph.cast(node, float32)
    if format.is_scale:
        codes = _encode_scale(graph.cast(node, float32), format, saturate, round_mode)
    else:
        codes = _encode_float(node, format, saturate)
    return Narrow(Tensor(codes, device=x.device), format)


def _encode_integer(x: Node, format: Format) -> Node:
    """The low bits, sign-extended where the format has a sign."""
    word = graph.bitcast(x if x.dtype is int32 else graph.cast(x, int32), uint32)
    low = graph.bit("and", word, like(2**format.bits - 1, word))
    if not format.signed:
        return graph.cast(low, uint8)
    middle = 1 << (format.bits - 1)
    flipped = graph.bitcast(graph.bit("xor", low, like(middle, low)), int32)
    return graph.cast(graph.add(flipped, like(-middle, flipped)), int8)


def _encode_float(x: Node, format: Format, saturate: bool) -> Node:
    """Codes of float32 or float64 values of a format with a sign and a zero.

    Adding 2^p times the last place wanted rounds to that place, once; what is left is a value of
    the format, whose float32 bits hold the code.
    """
    places, half_places, bits = (23, 127, uint32) if x.dtype is float32 else (52, 1023, uint64)
    size = compose.absolute(x)
    beyond = like(4.0 * format.largest, x)
    bounded = graph.where(graph.cmp("lt", beyond, size), beyond, size)
    word = graph.bitcast(bounded, bits)
    exponent = graph.bit("shr", word, like(places, word))
    exponent = graph.max_(exponent, like(half_places + 1 - format.bias, word))
    magic_bits = graph.add(exponent, like(places - format.mantissa_bits, word))
    magic = graph.bitcast(graph.bit("shl", magic_bits, like(places, word)), x.dtype)
    rounded = graph.add(graph.add(bounded, magic), compose.negative(magic))
    over = graph.cmp("lt", like(format.largest, x), rounded)
    scaled = graph.mul(graph.cast(rounded, float32), _power(format.bias - 127, x))
    shift = like(23 - format.mantissa_bits, _word(0, x))
    codes = graph.bit("shr", graph.bitcast(scaled, uint32), shift)
    codes = graph.where(over, _word(format.highest, x), codes)
    if not saturate and format.nan is not None:
        instead = format.nan if format.infinity is None else format.infinity
        codes = graph.where(over, _word(instead, x), codes)
    minus = _is_minus(x)
    sign = graph.where(minus, _word(1 << (format.bits - 1), x), _word(0, x))
    if format.unsigned_zero:
        sign = graph.where(graph.cmp("eq", codes, _word(0, x)), _word(0, x), sign)
    codes = graph.bit("or", codes, sign)
    no_number = _word(1 << (format.bits - 1) if format.nan is None else format.nan, x)
    return graph.cast(graph.where(graph.cmp("eq", x, x), codes, no_number), uint8)


def _encode_scale(x: Node, format: Format, saturate: bool, round_mode: str) -> Node:
    """Codes of e8m0 for float32 values >= 0."""
    # Scaled by 2^32 the subnormals down to 2^-127 have an exponent of their own to round.
    tiny = graph.cmp("lt", x, like(2.0**-100, x))
    lifted = graph.bitcast(graph.where(tiny, graph.mul(x, like(2.0**32, x)), x), uint32)
    if round_mode == "up":
        lifted = graph.add(lifted, like(2**23 - 1, lifted))
    elif round_mode == "nearest":
        lifted = graph.add(lifted, like(2**22, lifted))
    elif round_mode != "down":
        raise OnnxUnsupported(f"no rounding called {round_mode!r}")
    exponent = graph.bitcast(graph.bit("shr", lifted, like(23, lifted)), int32)
    exponent = graph.where(tiny, graph.add(exponent, like(-32, exponent)), exponent)
    low, high = like(0, exponent), like(format.highest, exponent)
    under = graph.cmp("lt", exponent, low)
    over = graph.cmp("lt", high, exponent)
    missing = like(format.nan or 0, exponent)
    codes = graph.where(under, low if saturate else missing, exponent)
    codes = graph.where(over, high if saturate else missing, codes)
    return graph.cast(graph.where(graph.cmp("eq", x, x), codes, missing), uint8)


def _word(value: int, x: Node) -> Node:
    return graph.filled(value, uint32, x.shape)


def _power(exponent: int, x: Node) -> Node:
    return graph.filled(2.0**exponent, float32, x.shape)


def _is_minus(x: Node) -> Node:
    """bool: whether the sign bit is set."""
    bits = uint32 if x.dtype is float32 else uint64
    word = graph.bitcast(x, bits)
    return graph.cmp("lt", graph.filled(2 ** (bits.bits - 1) - 1, bits, x.shape), word)
