"""ai.onnx.ml: linear models and support vector machines."""

from __future__ import annotations

from math import comb

import numpy as np

from flopmarket.engine import arithmetic, compose, elementary, graph
from flopmarket.engine.compose import like
from flopmarket.engine.dtypes import float32, int64
from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.ops.features import ML, floats, row
from flopmarket.engine.formats.onnx.ops.scores import (
    class_labels,
    columns,
    first_largest,
    labelled,
    transformed,
)
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op
from flopmarket.engine.tensor import Tensor


def _rows(x: Value) -> Tensor:
    """[N, F] of features; a vector is one row."""
    value = floats(x)
    if value.ndim not in (1, 2):
        raise OnnxIllegal(f"features of shape {list(value.shape)}")
    return value.reshape(1, -1) if value.ndim == 1 else value


def _affine(node: OpNode, x: Tensor, targets: int) -> Tensor:
    """[N, targets]: coefficients [targets, F] and intercepts on rows."""
    weights = row(node.get("coefficients"), x.dtype).reshape(targets, -1)
    scores = x.matmul(weights.T)
    intercepts = node.get("intercepts")
    return scores + row(intercepts, x.dtype) if intercepts else scores


@op("LinearRegressor", domain=ML)
def linear_regressor(node: OpNode, x: Value) -> Tensor:
    """[N, targets] float32."""
    scores = _affine(node, _rows(x), int(node.get("targets", 1)))
    return transformed(scores.to(float32), node.get("post_transform", "NONE"))


@op("LinearClassifier", domain=ML)
def linear_classifier(node: OpNode, x: Value) -> tuple[Value, Tensor]:
    """Labels [N] and scores [N, classes]; one score of two classes stands for both."""
    rows = _rows(x)
    labels = class_labels(node)
    count = len(node.get("coefficients")) // rows.shape[1]
    scores = _affine(node, rows, count).to(float32)
    transform = node.get("post_transform", "NONE")
    if count == 1 and labels is not None and len(labels) == 2:
        only = scores.reshape(-1)
        scores = columns(-only, only)
    scores = transformed(scores, transform)
    if scores.shape[1] > 1:
        return labelled(node, first_largest(scores), labels), scores
    above = (scores.reshape(-1) >= (0.0 if transform == "NONE" else 0.5)).to(int64)
    if labels is None:
        return above, scores
    single: list[object] = ["", labels[0]] if isinstance(labels[0], str) else [0, labels[0]]
    return labelled(node, above, single), scores


# ---------------------------------------------------------------- support vector machines


def _kernel(node: OpNode, x: Tensor, vectors: Tensor) -> Tensor:
    """[N, S]: the kernel of every row with every support vector [S, F]."""
    kind = node.get("kernel_type", "LINEAR")
    gamma, offset, degree = (*(node.get("kernel_params") or (0.0, 0.0, 0.0)),)[:3]
    if kind == "RBF":
        shape = (x.shape[0], *vectors.shape)
        apart = (x.unsqueeze(1) - vectors).expand(*shape).node
        distance = Tensor(graph.reduce("sumprod", apart, (2,), apart), device=x.device)
        return (distance * -float(gamma)).exp()
    product = x.matmul(vectors.T)
    if kind == "LINEAR":
        return product
    inner = product * float(gamma) + float(offset)
    if kind == "SIGMOID":
        return inner.tanh()
    if kind != "POLY":
        raise OnnxIllegal(f"no kernel is called {kind!r}")
    if degree == int(degree) and 0 <= degree <= 16:
        return Tensor(arithmetic.power(inner.node, int(degree)), device=x.device)
    exponent = like(float(degree), inner.node)
    return Tensor(elementary.power(inner.node, exponent), device=x.device)


@op("SVMRegressor", domain=ML)
def svm_regressor(node: OpNode, x: Value) -> Tensor:
    """[N, 1] float32; +-1 for a one-class machine."""
    rows = _rows(x).to(float32)
    supports = int(node.get("n_supports", 0))
    coefficients = row(node.get("coefficients"), float32)
    if supports:
        vectors = row(node.get("support_vectors"), float32).reshape(supports, -1)
        rows = _kernel(node, rows, vectors)
    scores = rows.matmul(coefficients.reshape(-1, 1)) + float(node.get("rho")[0])
    if node.get("one_class", 0):
        sign = (scores > 0.0).to(float32)
        return sign * 2.0 - 1.0
    return transformed(scores, node.get("post_transform", "NONE"))


@op("SVMClassifier", domain=ML)
def svm_classifier(node: OpNode, x: Value) -> tuple[Value, Tensor]:
    """Labels [N] and scores: one per class, or per pair of classes where there are no
    probabilities and more than two classes."""
    rows = _rows(x).to(float32)
    labels = class_labels(node)
    classes = len(labels) if labels else 1
    transform = node.get("post_transform", "NONE")
    per_class = node.ints("vectors_per_class") or ()
    if not sum(per_class):
        weights = row(node.get("coefficients"), float32).reshape(classes, -1)
        scores = rows.matmul(weights.T) + float(node.get("rho")[0])
        votes = scores
    else:
        if classes < 2 or len(per_class) != classes:
            raise OnnxIllegal(f"{len(per_class)} groups of support vectors, {classes} classes")
        scores = _pair_scores(node, rows, per_class)
        votes = _votes(scores, classes)
    if sum(per_class) and node.get("prob_a"):
        scores = _probabilities(node, scores, classes)
        return labelled(node, first_largest(votes), labels), transformed(scores, transform)
    if scores.shape[1] == 1:
        only = scores.reshape(-1)
        choice = first_largest(votes) if votes.shape[1] > 1 else (only > 0.0).to(int64)
        positive = min(node.get("coefficients")) >= 0
        both = columns(1.0 - only, only) if positive and classes == 1 else columns(-only, only)
        return labelled(node, choice, labels), transformed(both, transform)
    return labelled(node, first_largest(votes), labels), transformed(scores, transform)


def _pairs(classes: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(classes) for j in range(i + 1, classes)]


def _pair_scores(node: OpNode, x: Tensor, per_class: tuple[int, ...]) -> Tensor:
    """[N, pairs]: the decision between every two classes, as one product with the kernels.

    Class i's vectors have their coefficients against class j in row j - 1 for i < j, row j else.
    """
    classes, count = len(per_class), sum(per_class)
    coefficients = np.asarray(node.get("coefficients"), np.float32).reshape(classes - 1, count)
    starts = np.concatenate([[0], np.cumsum(per_class)])
    weights = np.zeros((count, comb(classes, 2)), np.float32)
    for at, (i, j) in enumerate(_pairs(classes)):
        first, second = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        weights[first, at] = coefficients[j - 1, first]
        weights[second, at] = coefficients[i, second]
    vectors = row(node.get("support_vectors"), float32).reshape(count, -1)
    combined = graph.const(weights, float32, weights.shape)
    return _kernel(node, x, vectors).matmul(Tensor(combined)) + row(node.get("rho"), float32)


def _votes(scores: Tensor, classes: int) -> Tensor:
    """[N, classes]: how many pairs each class wins."""
    pairs = _pairs(classes)
    wins = (scores > 0.0).to(float32)
    matrix = np.zeros((len(pairs), classes), np.float32)
    lost = np.zeros(classes, np.float32)
    for at, (i, j) in enumerate(pairs):
        matrix[at, i], matrix[at, j] = 1.0, -1.0
        lost[j] += 1.0
    counted = wins.matmul(Tensor(graph.const(matrix, float32, matrix.shape)))
    return counted + row(lost.tolist(), float32)


def _probabilities(node: OpNode, scores: Tensor, classes: int) -> Tensor:
    """[N, classes] from pairwise probabilities (Platt's sigmoid of every decision)."""
    slope, offset = row(node.get("prob_a"), float32), row(node.get("prob_b"), float32)
    pairwise = (-(scores * slope + offset)).sigmoid().clamp(1e-7, 1.0 - 1e-7)
    if classes == 2:
        first = pairwise.reshape(-1)
        return columns(first, 1.0 - first)
    return _coupled(pairwise, classes)


def _coupled(pairwise: Tensor, classes: int) -> Tensor:
    """Wu, Lin and Weng, "Probability estimates for multi-class classification", 2004: the vector
    p that minimises their quadratic form p Q p among those of sum 1.

    It solves Q p = constant. Pairs that agree with each other make Q singular, so the square of the
    sum, constant too, is added to the form; the elimination then needs no pivoting.
    """
    if classes > limits.MAX_COUPLED_CLASSES:
        raise OnnxUnsupported(f"probabilities of more than {limits.MAX_COUPLED_CLASSES} classes")
    count = pairwise.shape[0]
    cells: dict[tuple[int, int], Tensor] = {}
    for at, (i, j) in enumerate(_pairs(classes)):
        value = Tensor(graph.reshape(compose.part(pairwise.node, 1, at, 1), (count,)))
        cells[i, j], cells[j, i] = value, 1.0 - value
    one = Tensor(graph.filled(1.0, float32, (count,)))
    zero = one * 0.0
    rows: list[list[Tensor]] = []
    for t in range(classes):
        square = zero
        for j in range(classes):
            if j != t:
                square = square + cells[j, t] * cells[j, t]
        line = [-(cells[j, t] * cells[t, j]) if j != t else square for j in range(classes)]
        rows.append([*(entry + 1.0 for entry in line), one])
    solution = _solved(rows)
    total = solution[0]
    for part in solution[1:]:
        total = total + part
    return columns(*(part / total for part in solution))


def _solved(rows: list[list[Tensor]]) -> list[Tensor]:
    """The solutions of a symmetric positive definite system [A | b] of tensors [N]."""
    size = len(rows)
    for pivot in range(size):
        for other in range(size):
            if other != pivot:
                factor = rows[other][pivot] / rows[pivot][pivot]
                rows[other] = [
                    a - factor * b if at > pivot else a
                    for at, (a, b) in enumerate(zip(rows[other], rows[pivot], strict=True))
                ]
    return [rows[at][size] / rows[at][at] for at in range(size)]
