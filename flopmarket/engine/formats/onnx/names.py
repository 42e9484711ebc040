"""Names, titles and types in protobuf messages, checked as they are taken out."""

from __future__ import annotations

from typing import Any, NoReturn

from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.parsed import ValueType
from flopmarket.engine.formats.onnx.registry import DOMAINS
from flopmarket.engine.formats.onnx.tensors import numpy_type


def over(what: str, count: int, limit: int) -> NoReturn:
    """Raise for a passed limit."""
    raise OnnxIllegal(f"{count} {what}, at most {limit}", code="ONNX_LIMIT")


def text(value: Any, what: str) -> str:
    """A protobuf string of bounded length; those that are no UTF-8 arrive as bytes.

    Raises OnnxIllegal (ONNX_LIMIT, ONNX_NAME).
    """
    if not isinstance(value, str):
        raise OnnxIllegal(f"{what} {value[:40]!r} is no UTF-8", code="ONNX_NAME")
    if len(value) > limits.MAX_NAME_BYTES or len(value.encode()) > limits.MAX_NAME_BYTES:
        raise OnnxIllegal(
            f"{what} ({value[:40]!r}...) has more than {limits.MAX_NAME_BYTES} bytes",
            code="ONNX_LIMIT",
        )
    return str(value)


def domain_of(value: Any) -> str:
    """A domain in its long spelling."""
    domain = text(value, "domain")
    return DOMAINS.get(domain, domain)


def checked_name(name: Any, what: str) -> str:
    """A name of bounded length; raises OnnxIllegal (ONNX_LIMIT, ONNX_NAME)."""
    return text(name, f"the name of a {what}")


def title_of(proto: Any) -> str:
    """How errors call a node."""
    label = proto.name or next((name for name in proto.output if name), "")
    return f"{proto.op_type} {label[:200]!r}"


def attributes_of(proto: Any) -> list[Any]:
    """Attributes that have a value: writers leave some in the file by name alone."""
    return [a for a in proto.attribute if a.type or a.ref_attr_name]


def value_type(proto: Any, label: str) -> ValueType:
    """The type of a TypeProto. Raises OnnxIllegal when types nest beyond the limit."""
    kinds: list[str] = []
    while (kind := proto.WhichOneof("value")) in ("sequence_type", "optional_type"):
        kinds.append(str(kind).removesuffix("_type"))
        if len(kinds) > limits.MAX_GRAPH_DEPTH:
            over(f"types inside each other in {label!r}", len(kinds), limits.MAX_GRAPH_DEPTH)
        proto = getattr(proto, kind).elem_type
    if kind == "tensor_type":
        tensor = proto.tensor_type
        dtype = numpy_type(tensor.elem_type) if tensor.elem_type else None
        shape = _dimensions(tensor, label) if tensor.HasField("shape") else None
        result = ValueType("tensor", dtype, shape)
    else:
        result = ValueType(str(kind or "unknown").removesuffix("_type"))
    for outer in reversed(kinds):
        result = ValueType(outer, element=result)
    return result


def _dimensions(tensor: Any, label: str) -> tuple[int | str | None, ...]:
    if len(tensor.shape.dim) > limits.MAX_RANK:
        over(f"axes of {label!r}", len(tensor.shape.dim), limits.MAX_RANK)
    shape: list[int | str | None] = []
    for dimension in tensor.shape.dim:
        kind = dimension.WhichOneof("value")
        if kind == "dim_value":
            # Exporters write 0 or a negative length for one they do not know.
            shape.append(int(dimension.dim_value) if dimension.dim_value >= 0 else None)
        else:
            name = text(dimension.dim_param, "dimension") if kind == "dim_param" else ""
            shape.append(None if name in ("", "?", "None") else name)
    return tuple(shape)
