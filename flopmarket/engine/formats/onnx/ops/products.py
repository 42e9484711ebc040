"""Matrix products, Einstein summation, determinants, and the gradient of a value in the graph."""

from __future__ import annotations

from flopmarket.engine import creation
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional import sequences
from flopmarket.engine.grad import grad
from flopmarket.engine.tensor import Tensor

MAX_DETERMINANT = 64
"""Rows of a matrix whose determinant is taken; the elimination is written out."""


@op("MatMul")
def matmul(node: OpNode, a: Value, b: Value) -> Tensor:
    left, right = tensor(a), tensor(b)
    return left.matmul(right).to(left.dtype)


@op("Gemm")
def gemm(node: OpNode, a: Value, b: Value, c: Value = None) -> Tensor:
    """alpha * A' B' + beta * C."""
    left, right = tensor(a), tensor(b)
    left = left.T if node.get("transA", 0) else left
    right = right.T if node.get("transB", 0) else right
    result = _scaled(left.matmul(right).to(left.dtype), node.get("alpha", 1.0))
    if c is None:
        return result
    return (result + _scaled(tensor(c), node.get("beta", 1.0))).to(left.dtype)


def _scaled(x: Tensor, factor: float) -> Tensor:
    if factor == 1.0:
        return x
    if not x.dtype.is_float and int(factor) == factor:
        return x * int(factor)
    return (x * factor).to(x.dtype)


@op("Einsum", since=12)
def einsum(node: OpNode, *operands: Value) -> Tensor:
    return sequences.einsum(node.get("equation", ""), *(tensor(value) for value in operands))


@op("Det", since=11)
def determinant(node: OpNode, x: Value) -> Tensor:
    """Gaussian elimination with the largest pivot of each column, over leading batch axes."""
    matrix = tensor(x)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise OnnxIllegal(f"shape {list(matrix.shape)} is no square matrix")
    size, batch = matrix.shape[-1], matrix.shape[:-2]
    if size > MAX_DETERMINANT:
        raise OnnxUnsupported(f"a determinant of {size} rows, at most {MAX_DETERMINANT}")
    rest = matrix.reshape(-1, size, size)
    result = creation.ones(rest.shape[0], dtype=matrix.dtype)
    for left in range(size, 0, -1):
        at = rest[:, :, 0].abs().argmax(1)
        mine = at.unsqueeze(1) == creation.arange(left)
        row = rest.masked_fill(~mine.unsqueeze(2), 0).sum(1)
        # The first row takes the pivot's place; its sign changes when they are two rows.
        rest = rest[:, :1].where(mine.unsqueeze(2), rest)[:, 1:]
        pivot = row[:, 0]
        result = result * pivot.where(at == 0, -pivot)
        safe = pivot.masked_fill(pivot == 0, 1)
        factors = rest[:, :, 0] / safe.unsqueeze(1)
        rest = rest[:, :, 1:] - factors.unsqueeze(2) * row[:, 1:].unsqueeze(1)
    return result.reshape(batch)


@op("Gradient", domain="ai.onnx.preview.training")
def gradient(node: OpNode, *values: Value) -> tuple[Tensor, ...]:
    """Derivatives of the value that ``y`` names with respect to the inputs.

    The inputs are the very values that ``xs`` and ``zs`` name: the graph is not evaluated anew at
    another point.
    """
    if node.get("xs") is None or len(values) < len(node.attributes["xs"]):
        raise OnnxIllegal("one input for every name of xs")
    points = [tensor(value) for value in values[: len(node.attributes["xs"])]]
    return tuple(grad(tensor(node.attributes["y"]).sum(), points))
