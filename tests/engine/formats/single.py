"""One ONNX operator on arrays, as a whole model on the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from flopmarket.engine.formats.onnx import load

Array = np.ndarray[Any, Any]

RANDOM = np.random.default_rng(11)


def run(
    op_type: str,
    *inputs: Array | None,
    outputs: int = 1,
    domain: str = "",
    opset: int = 23,
    **attributes: Any,
) -> Any:
    """The operator's output, or a tuple of several; None is an absent input.

    ``opset`` is that of the default domain; of ai.onnx.ml the fifth version is imported.
    """
    names = ["" if array is None else f"x{at}" for at, array in enumerate(inputs)]
    results = [f"y{at}" for at in range(outputs)]
    given = [(n, a) for n, a in zip(names, inputs, strict=True) if a is not None]
    specs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in given
    ]
    node = helper.make_node(op_type, names, results, domain=domain, **attributes)
    unknown = [onnx.ValueInfoProto(name=name) for name in results]
    versions = {"": opset, "com.microsoft": 1, "ai.onnx.ml": 5}
    imports = [helper.make_opsetid(name, version) for name, version in versions.items()]
    proto = helper.make_model(helper.make_graph([node], "g", specs, unknown), opset_imports=imports)
    found = load(proto).run(dict(given), device="reference")
    return found["y0"] if outputs == 1 else tuple(found[name] for name in results)


def integers(low: int, high: int, shape: tuple[int, ...], dtype: type) -> Array:
    """Random integers in [low, high)."""
    return RANDOM.integers(low, high, shape).astype(dtype)
