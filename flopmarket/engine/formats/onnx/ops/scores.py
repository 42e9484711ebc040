"""What the classifiers and regressors of ai.onnx.ml share: transforms of scores, and labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import float32, int64
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.registry import OpNode, Value
from flopmarket.engine.tensor import Tensor

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
"""Names by the numbers that the newest operators use for them."""


def transformed(scores: Tensor, name: str) -> Tensor:
    """[N, E] scores after the ``post_transform`` called ``name``, rows on their own."""
    if name == "NONE":
        return scores
    scores = scores.to(float32)
    if name == "LOGISTIC":
        return scores.sigmoid()
    if name == "SOFTMAX":
        return scores.softmax(scores.ndim - 1)
    if name == "SOFTMAX_ZERO":
        return _softmax_zero(scores)
    if name == "PROBIT":
        return _probit(scores)
    raise OnnxIllegal(f"no transform is called {name!r}")


def _softmax_zero(scores: Tensor) -> Tensor:
    """Softmax over the scores that are not 0; the zeros stay 0, and rows of zeros become 0.5."""
    axis = scores.ndim - 1
    counts = scores.abs() > 1e-7
    grown = (scores - scores.amax(axis, keepdim=True).detach()).exp()
    grown = grown.where(counts, 0.0)
    total = grown.sum(axis, keepdim=True)
    some = total > 0.0
    return (grown / total.where(some, 1.0)).where(some, 0.5)


def _probit(scores: Tensor) -> Tensor:
    """The normal quantile by Winitzki's approximation of the inverse error function (2008)."""
    x = scores * 2.0 - 1.0
    logarithm = ((1.0 - x) * (1.0 + x)).log()
    middle = logarithm * 0.5 + 2.0 / (np.pi * 0.147)
    root = ((middle * middle - logarithm * (1.0 / 0.147)).sqrt() - middle).sqrt()
    return root * x.sign() * float(np.sqrt(2.0))


def columns(*parts: Tensor) -> Tensor:
    """Vectors [N] as the columns of [N, count]."""
    nodes = [graph.reshape(part.node, (part.shape[0], 1)) for part in parts]
    return Tensor(graph.concat(nodes, 1), device=parts[0].device)


def class_labels(node: OpNode, integers: str = "classlabels_ints") -> list[Any] | None:
    """The labels of a classifier: strings, or integers, or None where it has none."""
    words = node.get("classlabels_strings")
    if words:
        return [str(word) for word in words]
    numbers = node.get(integers)
    return [int(number) for number in numbers] if numbers else None


def labelled(node: OpNode, choice: Tensor, labels: list[Any] | None) -> Value:
    """Class numbers [N] as labels: an int64 tensor, or strings (computed on the host)."""
    if labels is None:
        return choice.to(int64)
    if isinstance(labels[0], str):
        numbers = node.host(choice, "the class, whose label is text")
        return np.array([labels[int(at)] for at in numbers.reshape(-1)], dtype=object)
    table = graph.const(np.array(labels, np.int64), int64, (len(labels),))
    return Tensor(graph.gather(table, choice.to(int64).node, 0), device=choice.device)


def first_largest(scores: Tensor) -> Tensor:
    """int64 [N]: the column of each row's first largest score."""
    x = scores.node
    top = compose.fold("max", x, (1,), keep=True)
    place = compose.first_extreme(x, (1,), top)
    return Tensor(graph.reshape(graph.cast(place, int64), (x.shape[0],)), device=scores.device)
