"""Cast, CastLike and BitCast among all element types, strings and narrow formats included."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from flopmarket.engine.dtypes import DType, bool_, from_name, uint8
from flopmarket.engine.formats.onnx import narrow
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.narrow import Format, Narrow, is_narrow, narrow_of
from flopmarket.engine.formats.onnx.ops.operands import is_text
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor

STRING = 8
"""TensorProto.STRING."""

_NAMES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
"""Names of the engine's dtypes by TensorProto.DataType."""


def element_type(code: int) -> DType | Format | None:
    """What TensorProto.DataType ``code`` is here; None for strings.

    Raises OnnxUnsupported for complex numbers, OnnxIllegal for no type at all.
    """
    if code == STRING:
        return None
    if code in narrow.FORMATS:
        return narrow.FORMATS[code]
    if code in _NAMES:
        return from_name(_NAMES[code])
    if code in (14, 15):
        raise OnnxUnsupported("complex numbers")
    raise OnnxIllegal(f"no element type has the number {code}")


def engine_type(code: int) -> DType:
    """The engine's dtype for TensorProto.DataType ``code``.

    Raises OnnxUnsupported where numbers of that type are only stored, not computed with.
    """
    found = element_type(code)
    if not isinstance(found, DType):
        raise OnnxUnsupported(f"numbers of type {'string' if found is None else found.name} here")
    return found


def convert(
    node: OpNode,
    x: Value,
    target: DType | Format | None,
    saturate: bool = True,
    round_mode: str = "up",
) -> Value:
    """``x`` under another element type, as ONNX's Cast has it."""
    if target is None:
        return _as_text(node, x)
    if is_text(x):
        x = _numbers_of(x, target)
    elif is_narrow(x):
        x = narrow_of(x).decode()
    value = tensor(x)
    if isinstance(target, Format):
        return narrow.encode(value, target, saturate, round_mode)
    return value.to(target)


def _as_text(node: OpNode, x: Value) -> np.ndarray[Any, Any]:
    """Numbers in the shortest form that reads back as the same number of their type."""
    if is_text(x):
        return np.asarray(x, object)
    values = node.host(narrow_of(x).decode() if is_narrow(x) else x, "what becomes text")
    if values.dtype == ml_dtypes.bfloat16:
        values = values.astype(np.float32)
    flat = [str(value) for value in values.reshape(-1)]
    return np.array([_WORDS.get(text, text) for text in flat], dtype=object).reshape(values.shape)


_WORDS = {"nan": "NaN", "inf": "INF", "-inf": "-INF", "True": "1", "False": "0"}


def _numbers_of(x: np.ndarray[Any, Any], target: DType | Format) -> np.ndarray[Any, Any]:
    """Text read as numbers of the target's kind."""
    try:
        if isinstance(target, DType) and target.is_integer:
            values = [_integer(str(text)) for text in x.reshape(-1)]
            return np.array(values, dtype=object).astype(target.numpy).reshape(x.shape)
        floats = np.array([float(str(text)) for text in x.reshape(-1)], dtype=np.float64)
    except ValueError as error:
        raise OnnxIllegal(f"text that is no number: {error}") from None
    with np.errstate(over="ignore"):
        if isinstance(target, DType):
            return floats.astype(target.numpy).reshape(x.shape)
        return floats.astype(np.float32).reshape(x.shape)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return int(float(text))


@op("Cast")
def cast(node: OpNode, x: Value) -> Value:
    """To the element type ``to``."""
    target = element_type(int(node.get("to")))
    return convert(node, x, target, bool(node.get("saturate", 1)), node.get("round_mode", "up"))


@op("CastLike")
def cast_like(node: OpNode, x: Value, like: Value) -> Value:
    """To the element type of another value."""
    target: DType | Format | None
    if is_text(like):
        target = None
    elif is_narrow(like):
        target = narrow_of(like).format
    else:
        target = tensor(like).dtype
    return convert(node, x, target, bool(node.get("saturate", 1)), node.get("round_mode", "up"))


@op("BitCast")
def bit_cast(node: OpNode, x: Value) -> Value:
    """The same bits under another type of equal width; NaNs become the canonical one."""
    target = element_type(int(node.get("to")))
    if target is None or is_text(x):
        raise OnnxIllegal("strings have no bits to reinterpret")
    source = narrow_of(x).format if is_narrow(x) else tensor(x).dtype
    if source.bits != target.bits:
        raise OnnxIllegal(f"{source} and {target} differ in width")
    bits = narrow_of(x).codes if is_narrow(x) else tensor(x)
    if isinstance(target, DType):
        if bits.dtype is bool_:
            bits = bits.to(uint8)
        return bits.to(bool_) if target is bool_ else bits.bitcast(target)
    if target.bits < 8:  # both narrow: signed integers are kept sign-extended, the others not
        low = bits.bitcast(uint8) & (2**target.bits - 1)
        return narrow.encode(low, target) if not target.is_float else Narrow(low, target)
    return Narrow(bits.to(uint8) if bits.dtype is bool_ else bits.bitcast(uint8), target)
