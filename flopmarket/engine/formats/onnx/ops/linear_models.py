"""ai.onnx.ml: linear models and support vector machines."""

from __future__ import annotations

from math import comb

import numpy as np

from flopmarket.engine import arithmetic, elementary, graph
from flopmarket.engine.compose import like
from flopmarket.engine.creation import cat
from flopmarket.engine.dtypes import bool_, float32, int64
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
from flopmarket.engine.functional.control import scan
from flopmarket.engine.functional.tables import check_table
from flopmarket.engine.tensor import Tensor

_COUPLING_TURNS = 100
_COUPLING_TOLERANCE = 0.005
"""libsvm's: so many turns at most (or one a class), and this over the number of classes."""

Tensors = tuple[Tensor, ...]


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
        if classes < 2 or len(per_class) != classes or min(per_class) < 0:
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
    check_table((count + classes) * comb(classes, 2))
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
    return _coupled(pairwise, classes)


def _coupled(pairwise: Tensor, classes: int) -> Tensor:
    """Wu, Lin and Weng, "Probability estimates for multi-class classification", 2004, algorithm 2:
    the vector p of sum 1 that minimises their quadratic form p Q p, coordinate by coordinate.

    It stops where libsvm does, well before the minimum: those are the probabilities that the model
    was judged by when it was trained.
    """
    if classes > limits.MAX_COUPLED_CLASSES:
        raise OnnxUnsupported(f"probabilities of more than {limits.MAX_COUPLED_CLASSES} classes")
    form = _quadratic_form(pairwise, classes)
    rows = [form[:, t] for t in range(classes)]
    tolerance = _COUPLING_TOLERANCE / classes

    def turn(carry: Tensors, _: Tensors) -> tuple[Tensors, Tensors]:
        p, done = carry
        product = (form * p.unsqueeze(1)).sum(2)
        value = (p * product).sum(1, keepdim=True)
        done = done | ((product - value).abs().amax(1, keepdim=True) < tolerance)
        after = p
        for t, line in enumerate(rows):
            own, slope = line[:, t : t + 1], product[:, t : t + 1]
            step = (value - slope) / own
            scale = step + 1.0
            value = (value + step * (step * own + slope * 2.0)) / scale / scale
            product = (product + step * line) / scale
            after = cat([after[:, :t], after[:, t : t + 1] + step, after[:, t + 1 :]], 1) / scale
        return (p.where(done, after), done), ()

    count = pairwise.shape[0]
    start = Tensor(graph.filled(1.0 / classes, float32, (count, classes)), device=pairwise.device)
    open_ = Tensor(graph.filled(False, bool_, (count, 1)), device=pairwise.device)
    (found, _), _ = scan(turn, (start, open_), length=max(_COUPLING_TURNS, classes))
    return found


def _quadratic_form(pairwise: Tensor, classes: int) -> Tensor:
    """Q [N, classes, classes] of pairwise probabilities [N, pairs]: -r_jt r_tj, and on the diagonal
    the sum of the squares of r_jt over the others."""
    count, pairs = pairwise.shape[0], _pairs(classes)
    first, second = np.full((2, classes, classes), len(pairs), np.int64)
    for at, (i, j) in enumerate(pairs):
        first[i, j], second[j, i] = at, at
    nothing = Tensor(graph.filled(0.0, float32, (count, 1)), device=pairwise.device)
    given, rest = cat([pairwise, nothing], 1), cat([1.0 - pairwise, nothing], 1)
    places = (Tensor(table.reshape(-1)) for table in (first, second))
    above, below = (x.gather_rows(at, 1) for x, at in zip((given, rest), places, strict=True))
    r = (above + below).reshape(count, classes, classes)
    diagonal = Tensor(np.eye(classes, dtype=np.bool_))
    squares = (r * r).sum(1).unsqueeze(1).expand(count, classes, classes)
    return (-(r * r.mT)).where(~diagonal, squares)
