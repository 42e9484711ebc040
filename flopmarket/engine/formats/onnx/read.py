"""From ONNX bytes to a :class:`ParsedModel`: the room where hostile files are met.

The ``onnx`` package parses protobuf; everything it does not promise is checked here and next door:
names defined once and before use, no cycles (:mod:`graphs`, :mod:`order`), attributes of the kinds
that operators declare (:mod:`signatures`), bounded function expansion (:mod:`expansion`), tensors
that hold what they say (:mod:`tensors`). Every refusal is an OnnxIllegal or OnnxUnsupported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.expansion import check_expansion
from flopmarket.engine.formats.onnx.graphs import GraphReader, opsets_of
from flopmarket.engine.formats.onnx.names import over
from flopmarket.engine.formats.onnx.parsed import Function, FunctionKey, ParsedModel
from flopmarket.engine.formats.onnx.tensors import TensorReader

Source = str | os.PathLike[str] | bytes | Any
"""A path, the bytes of a file, an open binary file, or an onnx.ModelProto."""


def read(source: Source) -> ParsedModel:
    """The checked model of a file, bytes, an open binary file or a ModelProto.

    External data is looked for in the folder of the file. Raises OnnxIllegal (ONNX_MALFORMED,
    ONNX_LIMIT, ONNX_NAME, ONNX_CYCLE, ONNX_NODE, ONNX_TENSOR, ONNX_EXTERNAL_DATA, ONNX_FUNCTION)
    or OnnxUnsupported (ONNX_OPSET, ONNX_UNSUPPORTED).
    """
    proto, folder = _proto(source)
    if not proto.HasField("graph"):
        raise OnnxIllegal("the model has no graph", code="ONNX_MALFORMED")
    opsets = opsets_of(proto.opset_import, "the model")
    if len(proto.functions) > limits.MAX_FUNCTIONS:
        over("functions", len(proto.functions), limits.MAX_FUNCTIONS)
    reader = GraphReader(TensorReader(folder))
    functions: dict[FunctionKey, Function] = {}
    for function in proto.functions:
        parsed = reader.function(function)
        if parsed.key in functions:
            raise OnnxIllegal(f"two functions are called {parsed.key}", code="ONNX_FUNCTION")
        functions[parsed.key] = parsed
    graph = reader.graph(proto.graph, frozenset(), opsets, depth=0)
    model = ParsedModel(
        graph,
        functions,
        opsets,
    )
    check_expansion(model)
    return model


def read_function(proto: Any) -> Function:
    """A checked function body from onnx's own operator definitions.

    These leave out outputs that the call did not ask for.
    """
    return GraphReader(TensorReader(None)).function(proto, partial=True)


def _proto(source: Source) -> tuple[Any, Path | None]:
    import onnx

    if isinstance(source, onnx.ModelProto):
        return source, None
    folder: Path | None = None
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            if path.exists() and not path.is_file():
                raise OnnxIllegal(f"{str(path)!r} is no file", code="ONNX_FILE")
            size = path.stat().st_size
            if size > limits.MAX_MODEL_BYTES:
                over("bytes of the model file", size, limits.MAX_MODEL_BYTES)
            data = path.read_bytes()
        except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
            raise OnnxIllegal(f"the model cannot be read: {error}", code="ONNX_FILE") from None
        folder = path.parent
    elif hasattr(source, "read"):
        try:
            data = source.read(limits.MAX_MODEL_BYTES + 1)
        except OSError as error:
            raise OnnxIllegal(f"the model cannot be read: {error}", code="ONNX_FILE") from None
    else:
        data = source
    if not isinstance(data, bytes | bytearray | memoryview):
        raise OnnxIllegal(
            f"no model in a {type(source).__name__}: give a path, bytes or a ModelProto",
            code="ONNX_FILE",
        )
    if len(data) > limits.MAX_MODEL_BYTES:
        over("bytes of the model", len(data), limits.MAX_MODEL_BYTES)
    try:
        return onnx.load_model_from_string(bytes(data)), folder
    except Exception as error:  # protobuf's error class is not the engine's to import
        raise OnnxIllegal(f"not an ONNX model: {error}", code="ONNX_MALFORMED") from None
