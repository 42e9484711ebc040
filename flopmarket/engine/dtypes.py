"""Element types: their names, widths, numpy twins and canonical NaN.

The order of :data:`DTYPES` is part of the program codec; append, never reorder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from flopmarket.engine.errors import GraphError


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    ``kind`` is 'b' (bool), 'u' (unsigned), 'i' (signed) or 'f' (float); ``c_name`` is the OpenCL C
    spelling of a value in a buffer: bool is stored as one ``uchar`` of 0 or 1, a 16-bit float as
    the ``ushort`` of its bits. How values live in registers is ``codegen/opencl.py``'s business.
    """

    name: str
    kind: str
    size_bytes: int
    numpy: np.dtype[Any]
    c_name: str
    code: int

    def __repr__(self) -> str:
        return self.name

    @property
    def bits(self) -> int:
        """Width in bits."""
        return 8 * self.size_bytes

    @property
    def is_float(self) -> bool:
        """Whether arithmetic is IEEE; otherwise it wraps."""
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        """Signed or unsigned integer, bool not among them."""
        return self.kind in "ui"

    @property
    def is_narrow_float(self) -> bool:
        """Whether this is a 16-bit float: its arithmetic is float32's, rounded once more."""
        return self.kind == "f" and self.size_bytes == 2


def _dtype(code: int, name: str, kind: str, numpy: Any, c_name: str) -> DType:
    twin: np.dtype[Any] = np.dtype(numpy)
    return DType(name, kind, twin.itemsize, twin, c_name, code)


bool_ = _dtype(0, "bool", "b", "bool", "uchar")
uint8 = _dtype(1, "uint8", "u", "uint8", "uchar")
int8 = _dtype(2, "int8", "i", "int8", "char")
int32 = _dtype(3, "int32", "i", "int32", "int")
uint32 = _dtype(4, "uint32", "u", "uint32", "uint")
int64 = _dtype(5, "int64", "i", "int64", "long")
uint64 = _dtype(6, "uint64", "u", "uint64", "ulong")
float32 = _dtype(7, "float32", "f", "float32", "float")

float16 = _dtype(8, "float16", "f", "float16", "ushort")
bfloat16 = _dtype(9, "bfloat16", "f", ml_dtypes.bfloat16, "ushort")
float64 = _dtype(10, "float64", "f", "float64", "double")
int16 = _dtype(11, "int16", "i", "int16", "short")
uint16 = _dtype(12, "uint16", "u", "uint16", "ushort")

DTYPES: tuple[DType, ...] = (
    *(bool_, uint8, int8, int32, uint32, int64, uint64, float32),
    *(float16, bfloat16, float64, int16, uint16),
)
"""Every type of profile FX1, by codec number."""

BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in DTYPES}

CANONICAL_NAN_FLOAT32 = 0x7FC00000
"""The one float32 NaN that leaves an FX1 kernel (docs/numerics.md §3)."""

CANONICAL_NAN: dict[DType, int] = {
    float16: 0x7E00,
    bfloat16: 0x7FC0,
    float32: CANONICAL_NAN_FLOAT32,
    float64: 0x7FF8000000000000,
}
"""Bits of the one NaN of each float type."""

_UNSIGNED = {1: uint8, 2: uint16, 4: uint32, 8: uint64}


def unsigned_of(dtype: DType) -> DType:
    """The unsigned type of equal width: what a value's bits are looked at in."""
    return _UNSIGNED[dtype.size_bytes]


def from_name(name: str) -> DType:
    """The type called ``name``; raises GraphError (DTYPE_UNKNOWN) for any other word."""
    try:
        return BY_NAME[name]
    except KeyError:
        known = ", ".join(BY_NAME)
        raise GraphError(f"unknown dtype {name!r}; known: {known}", code="DTYPE_UNKNOWN") from None


def from_numpy(dtype: np.dtype[Any]) -> DType:
    """The type whose numpy twin is ``dtype``; raises GraphError (DTYPE_UNKNOWN) if none is."""
    return from_name(np.dtype(dtype).name)


def canonical(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``array`` in canonical form: C order, little-endian, one NaN. Copies only when it must.

    Any shape, any dtype of the table. The result has the bytes that digests are taken over.
    """
    dtype = from_numpy(array.dtype)
    array = np.asarray(array, dtype=dtype.numpy.newbyteorder("<"), order="C")
    if dtype.is_float:
        with np.errstate(invalid="ignore"):  # bfloat16's test compares, a signalling NaN warns
            nan = np.isnan(array)
        if nan.any():
            bits = array.view(unsigned_of(dtype).numpy)
            array = np.where(nan, bits.dtype.type(CANONICAL_NAN[dtype]), bits).view(dtype.numpy)
    return array


# ---------------------------------------------------------------- what a contraction gives


def contraction(a: DType, b: DType, terms: int) -> DType | None:
    """The dtype of a DOT over ``terms`` terms of operands of dtypes ``a`` and ``b``; None if none.

    Floats of at most 32 bits, mixed or not, give float32; two float64 give float64. Integers of 8
    and 16 bits, mixed or not, give int32 where no sum of ``terms`` products can leave it, else
    int64. An int32 operand beside any of them, or beside another int32, gives an int32 that wraps.
    """
    if a.is_float and b.is_float:
        if float64 in (a, b):
            return float64 if a is b else None
        return float32
    if not (a.is_integer and b.is_integer):
        return None
    if any(d.size_bytes > 2 and d is not int32 for d in (a, b)):
        return None
    largest = terms * largest_magnitude(a) * largest_magnitude(b)
    if int32 in (a, b) or largest < 2**31:
        return int32
    return int64 if largest < 2**63 else None


def largest_magnitude(dtype: DType) -> int:
    """The largest magnitude of an integer type."""
    return int(2**dtype.bits - 1) if dtype.kind == "u" else int(2 ** (dtype.bits - 1))
