"""What onnx declares about operators, and whether nodes keep to it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.names import attributes_of, title_of

OLDEST_OPSET = 6
"""Models older than this are read where their operators have not changed since."""


@lru_cache(maxsize=4096)
def schema_of(op_type: str, domain: str, opset: int) -> Any | None:
    """onnx's definition of an operator at an opset version, or None."""
    import onnx

    try:
        return onnx.defs.get_schema(op_type, opset, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return None


@lru_cache(maxsize=4096)
def _attribute_kinds(op_type: str, domain: str, opset: int) -> dict[str, str] | None:
    schema = schema_of(op_type, domain, opset)
    if schema is None:
        return None
    return {name: attribute.type.name for name, attribute in schema.attributes.items()}


def check_signature(proto: Any, domain: str, opset: int | None) -> None:
    """Raise OnnxIllegal unless inputs and attributes are what the operator declares.

    Calls of functions and operators that onnx does not define are not checked here.
    """
    import onnx

    if opset is None:
        return
    schema = schema_of(proto.op_type, domain, opset)
    kinds = _attribute_kinds(proto.op_type, domain, opset)
    if schema is None or kinds is None:
        return
    if domain == "ai.onnx" and opset < OLDEST_OPSET:
        later = schema_of(proto.op_type, domain, OLDEST_OPSET)
        if later is None or later.since_version != schema.since_version:
            raise OnnxUnsupported(
                f"{title_of(proto)} is of opset {opset}, before {OLDEST_OPSET} and unlike it",
                code="ONNX_OPSET",
                hint="onnx.version_converter rewrites old models",
            )
    if not schema.min_input <= len(proto.input) <= schema.max_input:
        raise OnnxIllegal(
            f"{title_of(proto)} has {len(proto.input)} inputs, its operator takes "
            f"{schema.min_input} to {schema.max_input}",
            code="ONNX_NODE",
        )
    if not len(proto.output) <= schema.max_output:
        raise OnnxIllegal(
            f"{title_of(proto)} has {len(proto.output)} outputs, its operator gives "
            f"{schema.max_output}",
            code="ONNX_NODE",
        )
    for attribute in attributes_of(proto):
        if attribute.ref_attr_name:
            continue
        kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
        if kinds.get(attribute.name) != kind:
            raise OnnxIllegal(
                f"{title_of(proto)} has attribute {attribute.name!r} of kind {kind}, its operator "
                f"wants {kinds.get(attribute.name, 'none of that name')}",
                code="ONNX_NODE",
            )
    for name, declared in schema.attributes.items():
        if declared.required and all(a.name != name for a in proto.attribute):
            raise OnnxIllegal(f"{title_of(proto)} lacks attribute {name!r}", code="ONNX_NODE")
