"""Tensors that stay on the reference: small, quick, and independent of any OpenCL runtime."""

from __future__ import annotations

from typing import Any

import numpy as np

from flopmarket.engine import reference, rewrite
from flopmarket.engine.buffers import collect
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor


def tensor(data: Any, dtype: DType | None = None) -> Tensor:
    """A tensor whose results are computed by the reference."""
    return Tensor(data, dtype, device="reference")


def value(node: Node) -> np.ndarray[Any, Any]:
    """The value of a node, by the reference."""
    outputs = rewrite.canonicalise([node])
    (array,) = reference.evaluate(outputs, collect(outputs))
    return array
