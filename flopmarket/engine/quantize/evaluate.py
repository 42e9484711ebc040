"""What quantisation costs in the terms of the task, measured before and after on the caller's data.

A metric gets ``predict`` (inputs to the model's result as arrays) and gives one number, more being
better. Accuracy and the ranking of embeddings are here; any callable will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from flopmarket.engine.errors import EngineError
from flopmarket.engine.quantize.source import Predict

Array = np.ndarray[Any, Any]


class Metric(Protocol):
    """A named measure of a model; ``figures`` may hold more numbers about the last call."""

    name: str

    def __call__(self, predict: Predict) -> float: ...


@dataclass(slots=True)
class Accuracy:
    """Share of rows [N] whose largest score of the model's result [N, C] is at the label."""

    inputs: Any
    labels: Any
    name: str = "accuracy"

    def __call__(self, predict: Predict) -> float:
        scores, labels = only(predict(self.inputs)), np.asarray(self.labels)
        if scores.ndim != 2 or labels.shape != scores.shape[:1]:
            raise EngineError(
                f"scores {list(scores.shape)} for labels {list(labels.shape)}",
                code="QUANTIZE_EVALUATE",
                hint="accuracy wants scores [N, C] and labels [N]; pass a callable otherwise",
            )
        return float(np.mean(scores.argmax(1) == labels))


@dataclass(slots=True)
class Ranking:
    """How far embeddings [N, D] keep the order of similarities that the float model gives.

    The figure is Spearman's rank correlation over the cosines of all pairs; ``kept`` is the share
    of every row's ``top`` nearest neighbours that stay among them.
    """

    inputs: Any
    top: int = 3
    name: str = "rank correlation of similarities"
    kept: float = math.nan
    _wanted: Array | None = field(default=None, repr=False)

    def __call__(self, predict: Predict) -> float:
        vectors = only(predict(self.inputs)).astype(np.float64)
        if vectors.ndim != 2 or len(vectors) < 3:
            raise EngineError(
                f"a ranking wants embeddings [N, D] of at least 3 rows, not {list(vectors.shape)}",
                code="QUANTIZE_EVALUATE",
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        similar = (vectors / np.maximum(lengths, 1e-30)) @ (vectors / np.maximum(lengths, 1e-30)).T
        if self._wanted is None:
            self._wanted = similar
        upper = np.triu_indices(len(vectors), 1)
        self.kept = _neighbours_kept(self._wanted, similar, min(self.top, len(vectors) - 1))
        return spearman(self._wanted[upper], similar[upper])


@dataclass(slots=True)
class _Called:
    """A caller's function as a metric."""

    function: Callable[[Predict], float]
    name: str

    def __call__(self, predict: Predict) -> float:
        return float(self.function(predict))


def metric_of(evaluate: Any) -> Metric:
    """A metric from what ``quantize`` was given.

    (inputs, labels) is the accuracy; a callable is itself. Raises EngineError (QUANTIZE_UNEVALUATED
    for None, QUANTIZE_EVALUATE for anything else).
    """
    if evaluate is None:
        raise EngineError(
            "quantisation changes results, and nothing was given to measure by how much",
            code="QUANTIZE_UNEVALUATED",
            hint="evaluate=(inputs, labels), Ranking(inputs), or a function of predict",
        )
    if isinstance(evaluate, Accuracy | Ranking):
        return evaluate
    if isinstance(evaluate, tuple) and len(evaluate) == 2:
        return Accuracy(*evaluate)
    if callable(evaluate):
        return _Called(evaluate, getattr(evaluate, "name", getattr(evaluate, "__name__", "figure")))
    raise EngineError(
        f"no way to evaluate by {type(evaluate).__name__}",
        code="QUANTIZE_EVALUATE",
        hint="evaluate=(inputs, labels), Ranking(inputs), or a function of predict",
    )


def only(result: Any) -> Array:
    """The one array of a result; raises EngineError (QUANTIZE_EVALUATE) if there are several."""
    if isinstance(result, Mapping) and len(result) == 1:
        (result,) = result.values()
    if not isinstance(result, np.ndarray):
        raise EngineError(
            "the model gives several results",
            code="QUANTIZE_EVALUATE",
            hint="pass a function that picks from predict(inputs)",
        )
    return result


def spearman(a: Array, b: Array) -> float:
    """Rank correlation of two vectors, ties sharing their mean rank; NaN if one is constant."""
    first, second = _ranks(a), _ranks(b)
    first, second = first - first.mean(), second - second.mean()
    length = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / length if length else math.nan


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _neighbours_kept(wanted: Array, found: Array, top: int) -> float:
    def nearest(similar: Array) -> list[set[int]]:
        alone = similar.copy()
        np.fill_diagonal(alone, -np.inf)
        return [set(row) for row in np.argsort(-alone, axis=1, kind="stable")[:, :top].tolist()]

    pairs = zip(nearest(wanted), nearest(found), strict=True)
    return float(np.mean([len(a & b) / top for a, b in pairs]))
