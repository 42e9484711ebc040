"""Element types: their names, widths, numpy twins and canonical NaN.

The order of :data:`DTYPES` is part of the program codec; append, never reorder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine.errors import GraphError


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    ``kind`` is 'b' (bool), 'u' (unsigned), 'i' (signed) or 'f' (float); ``c_name`` is the OpenCL C
    spelling of a value in registers and in buffers (bool is stored as one ``uchar`` of 0 or 1).
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


def _dtype(code: int, name: str, kind: str, numpy: str, c_name: str) -> DType:
    twin = np.dtype(numpy)
    return DType(name, kind, twin.itemsize, twin, c_name, code)


bool_ = _dtype(0, "bool", "b", "bool", "uchar")
uint8 = _dtype(1, "uint8", "u", "uint8", "uchar")
int8 = _dtype(2, "int8", "i", "int8", "char")
int32 = _dtype(3, "int32", "i", "int32", "int")
uint32 = _dtype(4, "uint32", "u", "uint32", "uint")
int64 = _dtype(5, "int64", "i", "int64", "long")
uint64 = _dtype(6, "uint64", "u", "uint64", "ulong")
float32 = _dtype(7, "float32", "f", "float32", "float")

DTYPES: tuple[DType, ...] = (bool_, uint8, int8, int32, uint32, int64, uint64, float32)
"""Every type of profile FX1 that this version computes, by codec number."""

BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in DTYPES}

CANONICAL_NAN_FLOAT32 = 0x7FC00000
"""The one NaN that leaves an FX1 kernel (docs/numerics.md §3)."""


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
        nan = np.isnan(array)
        if nan.any():
            bits = array.view(np.uint32)
            array = np.where(nan, np.uint32(CANONICAL_NAN_FLOAT32), bits).view(np.float32)
    return array
