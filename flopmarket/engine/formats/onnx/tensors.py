"""Tensors of an ONNX file as numpy arrays: typed fields, raw bytes, sparse, external files.

Everything is checked before anything is allocated: shapes against the limits, the amount of data
against the shape, an external file's place against the model's folder.
"""

from __future__ import annotations

from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported

Array = np.ndarray[Any, Any]


def numpy_type(elem_type: int) -> np.dtype[Any]:
    """The numpy (or ml_dtypes) type of an ONNX element type; strings are object.

    Raises OnnxIllegal for a number that ONNX does not define.
    """
    import onnx

    if elem_type == onnx.TensorProto.STRING:
        return np.dtype(object)
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except (KeyError, ValueError):
        raise OnnxIllegal(f"unknown element type {elem_type}", code="ONNX_TYPE") from None


class TensorReader:
    """Decodes the tensors of one model and counts their bytes.

    ``folder`` is where external data lives; None refuses external data.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder.resolve()
        self._bytes = 0
        self._sparse_bytes = 0

    def dense(self, proto: Any, label: str) -> Array:
        """The value of a TensorProto.

        Raises OnnxIllegal (ONNX_TENSOR, ONNX_LIMIT, ONNX_EXTERNAL_DATA) that names ``label``.
        """
        import onnx

        shape = self._shape(proto.dims, label)
        elements = prod(shape)
        dtype = numpy_type(proto.data_type)
        if proto.HasField("segment"):
            raise OnnxUnsupported(f"tensor {label!r} is a segment of a tensor")
        size = _packed_size(elements, proto.data_type, dtype)
        self._count(size, label)
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            data = self._external(proto, label, size)
            return _from_bytes(proto.data_type, shape, data, label)
        if proto.HasField("raw_data"):
            if len(proto.raw_data) != size:
                raise OnnxIllegal(
                    f"tensor {label!r} of shape {list(shape)} has {len(proto.raw_data)} bytes, "
                    f"wants {size}",
                    code="ONNX_TENSOR",
                )
            return _from_bytes(proto.data_type, shape, proto.raw_data, label)
        _check_typed_field(proto, elements, size, label)
        try:
            array = np.asarray(onnx.numpy_helper.to_array(proto))
        except (ValueError, TypeError, OverflowError) as error:
            raise OnnxIllegal(f"tensor {label!r}: {error}", code="ONNX_TENSOR") from None
        if array.dtype == object:
            return _decoded_strings(proto, shape)
        return array.reshape(shape)

    def sparse(self, proto: Any, label: str) -> Array:
        """The dense value of a SparseTensorProto."""
        shape = self._shape(proto.dims, label)
        values = self.dense(proto.values, label)
        indices = self.dense(proto.indices, label)
        if values.dtype == object or values.ndim != 1 or indices.dtype != np.int64:
            raise OnnxIllegal(f"sparse tensor {label!r} is malformed", code="ONNX_TENSOR")
        elements = prod(shape)
        self._sparse_bytes += elements * values.dtype.itemsize
        if self._sparse_bytes > limits.MAX_SPARSE_BYTES:
            raise OnnxIllegal(
                f"sparse tensors up to {label!r} have more than {limits.MAX_SPARSE_BYTES} bytes",
                code="ONNX_LIMIT",
            )
        if indices.ndim == 2 and indices.shape == (len(values), len(shape)):
            inside = bool(((indices >= 0) & (indices < np.asarray(shape))).all())
            strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
            flat = indices @ np.asarray(strides, dtype=np.int64)
        else:
            inside = indices.shape == values.shape
            flat = indices
        if not inside or (flat.size and (flat.min() < 0 or flat.max() >= elements)):
            raise OnnxIllegal(
                f"sparse tensor {label!r} has indices out of range", code="ONNX_TENSOR"
            )
        dense = np.zeros(elements, dtype=values.dtype)
        dense[flat] = values
        return dense.reshape(shape)

    def _shape(self, dims: Any, label: str) -> tuple[int, ...]:
        if len(dims) > limits.MAX_RANK:
            raise OnnxIllegal(
                f"tensor {label!r} has {len(dims)} axes, at most {limits.MAX_RANK}",
                code="ONNX_LIMIT",
            )
        shape = tuple(int(n) for n in dims)
        if min(shape, default=0) < 0:
            raise OnnxIllegal(f"tensor {label!r} has shape {list(shape)}", code="ONNX_TENSOR")
        # Axes of length 0 are left out, so that no empty tensor has axes beyond any index.
        if prod(n for n in shape if n) > limits.MAX_TENSOR_ELEMENTS:
            raise OnnxIllegal(
                f"tensor {label!r} of shape {list(shape)} has more than "
                f"{limits.MAX_TENSOR_ELEMENTS} elements",
                code="ONNX_LIMIT",
            )
        return shape

    def _count(self, size: int, label: str) -> None:
        self._bytes += size
        if self._bytes > limits.MAX_INITIALISER_BYTES:
            raise OnnxIllegal(
                f"tensors up to {label!r} have more than {limits.MAX_INITIALISER_BYTES} bytes",
                code="ONNX_LIMIT",
            )

    def _external(self, proto: Any, label: str, size: int) -> bytes:
        entries = {str(entry.key): entry.value for entry in proto.external_data}
        if not all(isinstance(value, str) for value in entries.values()):
            raise _external_error(label, "its description is no UTF-8")
        path = self._confined(entries.get("location", ""), label)
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        except ValueError:
            raise _external_error(label, "its offset or length is no number") from None
        available = path.stat().st_size
        if offset < 0 or length != size or offset + length > available:
            raise _external_error(
                label, f"bytes {offset}..{offset + length} of a file of {available}, wants {size}"
            )
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise _external_error(label, f"{len(data)} of {length} bytes could be read")
        return data

    def _confined(self, location: str, label: str) -> Path:
        if self._folder is None:
            raise _external_error(label, "a model that is no file has no folder for it")
        for pure in (PurePosixPath(location), PureWindowsPath(location)):
            if not location or "\x00" in location or pure.anchor or ".." in pure.parts:
                raise _external_error(label, f"{location!r} is not a path inside the folder")
        try:
            path = (self._folder / location).resolve(strict=True)
        except (OSError, RuntimeError):
            raise _external_error(label, f"there is no file {location!r}") from None
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise _external_error(label, f"{location!r} leads out of the model's folder")
        return path


def _external_error(label: str, why: str) -> OnnxIllegal:
    return OnnxIllegal(f"external data of tensor {label!r}: {why}", code="ONNX_EXTERNAL_DATA")


def _bits(elem_type: int, dtype: np.dtype[Any]) -> int:
    """Bits of one element in packed data: 2, 4, or whole bytes."""
    name = dtype.name
    if name.startswith(("int4", "uint4", "float4")):
        return 4
    if name.startswith(("int2", "uint2")):
        return 2
    return 8 * dtype.itemsize


def _packed_size(elements: int, elem_type: int, dtype: np.dtype[Any]) -> int:
    return -(-elements * _bits(elem_type, dtype) // 8)


def _from_bytes(elem_type: int, shape: tuple[int, ...], data: bytes, label: str) -> Array:
    import onnx

    dtype = numpy_type(elem_type)
    if dtype.kind == "O":
        raise OnnxIllegal(f"tensor {label!r} holds strings as raw bytes", code="ONNX_TENSOR")
    if _bits(elem_type, dtype) < 8:
        proto = onnx.TensorProto(data_type=elem_type, dims=shape, raw_data=data)
        return np.asarray(onnx.numpy_helper.to_array(proto)).reshape(shape)
    if dtype == np.bool_:
        return np.asarray(np.frombuffer(data, dtype=np.uint8) != 0).reshape(shape)
    array = np.frombuffer(data, dtype=dtype.newbyteorder("<"))
    return np.asarray(array.astype(dtype, copy=False)).reshape(shape)


def _check_typed_field(proto: Any, elements: int, size: int, label: str) -> None:
    """Raise unless the typed field that this element type uses has exactly the data."""
    import onnx

    field = onnx.helper.tensor_dtype_to_field(proto.data_type)
    held = len(getattr(proto, field))
    bits = _bits(proto.data_type, numpy_type(proto.data_type))
    if proto.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        wanted = {2 * elements}
    elif bits < 8:
        # Writers disagree: packed several in one int32, or one byte's worth in each.
        wanted = {size, -(-elements * bits // 32)}
    else:
        wanted = {elements}
    if held not in wanted:
        raise OnnxIllegal(
            f"tensor {label!r} of shape {list(proto.dims)} has {held} entries in {field}",
            code="ONNX_TENSOR",
        )


def _decoded_strings(proto: Any, shape: tuple[int, ...]) -> Array:
    """String data as an object array of str; bytes that are no UTF-8 stay bytes."""
    array = np.empty(len(proto.string_data), dtype=object)
    for at, text in enumerate(proto.string_data):
        array[at] = decoded(text)
    return array.reshape(shape)


def decoded(text: bytes) -> str | bytes:
    """Text, or the bytes themselves where they are no UTF-8."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text
