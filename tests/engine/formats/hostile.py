"""Models of one operator that want too much, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx import load
from tests.engine.formats.models import FLOAT, model, node

X = [("x", FLOAT, [2, 3])]
Y = [("y", FLOAT, None)]
DATA = np.ones((2, 3), np.float32)
ML = "ai.onnx.ml"
FAR = 2**62


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def run(source: Any, feed: Any = None) -> Any:
    return load(source).run({"x": DATA} if feed is None else feed, device="reference")


def refusal(source: Any, feed: Any = None) -> EngineError:
    """The error of an attack that must not be computed."""
    with pytest.raises(EngineError) as caught:
        run(source, feed)
    return caught.value


def survived(source: Any, feed: Any = None) -> str:
    """'computed', or the code of the refusal; anything else is a failure."""
    try:
        run(source, feed)
    except EngineError as error:
        assert len(str(error)) < 20_000
        return error.code
    return "computed"


def one(
    op_type: str,
    inputs: Sequence[str],
    constants: dict[str, Any] | None = None,
    *,
    opset: int = 21,
    domain: str = "",
    outputs: int = 1,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one operator whose other inputs are initialisers."""
    names = [f"y{at}" for at in range(outputs)]
    nodes = [node(op_type, inputs, names, domain=domain, **attributes)]
    m = model(nodes, X, [(name, FLOAT, None) for name in names], constants, opset=opset)
    for value in m.graph.output:
        value.ClearField("type")
    m.opset_import.add(domain=ML, version=3)
    return m
