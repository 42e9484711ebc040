"""``fm.quantize`` in steps: find products, watch activations, decide, rewrite, measure, judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flopmarket.engine import buffers, compose, graph
from flopmarket.engine.dtypes import float32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.nn import Module
from flopmarket.engine.quantize import limits, lower
from flopmarket.engine.quantize.evaluate import Ranking, metric_of
from flopmarket.engine.quantize.model import Quantized
from flopmarket.engine.quantize.plan import Decision, Plan, decide
from flopmarket.engine.quantize.products import WEIGHT_LEFT, Found, Key, Left, Product, find
from flopmarket.engine.quantize.ranges import METHODS, Method, Observer
from flopmarket.engine.quantize.report import Layer, Report
from flopmarket.engine.quantize.source import Feed, Source, feed_of, feeds_of, form_of, realise

Array = np.ndarray[Any, Any]


def quantize(
    model: Module,
    calibration: Any,
    *,
    evaluate: Any = None,
    max_loss: float = 0.01,
    bits: Literal[8, 4] = 8,
    group: int = 32,
    activations: Literal["static", "dynamic"] = "static",
    ranges: Method = "mse",
    tables: bool = True,
    skip: Sequence[str] = (),
    device: str | None = None,
) -> Quantized:
    """``model`` with its products by constant weights computed in integers, and proof of the cost.

    ``model``: any module, or an ONNX model, with loaded values. ``calibration``: typical inputs, an
    array [N, ...] or a mapping of arrays by input name; a list of such is several batches.

    ``evaluate`` measures the float and the quantised model on data of yours: (inputs, labels) is
    accuracy, ``Ranking(inputs)`` the order of similarities of embeddings, and a function gets
    ``predict`` (inputs to arrays) and returns a number, more being better. ``max_loss``: how much
    of that figure may be lost. A model beyond it is refused, and so is one that nobody measures.

    ``bits``: of the weights: 8 with a scale for every output channel, or 4 with one for every
    ``group`` terms, two codes a byte. Activations have 8 bits: "static" with one scale per tensor
    from the calibration, its range chosen by ``ranges`` ("mse", "percentile" or "minmax"), or
    "dynamic" with one per row when the program runs. ``tables``: whether embedding tables are
    stored in 8 bits, a scale for every row. ``skip``: shell patterns of names to leave in floats.

    ``device`` is where calibration and evaluation run. The result is a module of its own, with a
    ``report``; its bits are the same on every device, as those of any program.

    Raises EngineError: QUANTIZE_LOSS with the figures, QUANTIZE_UNEVALUATED, QUANTIZE_CALIBRATION
    (no data), QUANTIZE_VALUES (weights or activations that are not finite), QUANTIZE_NOTHING (no
    product has constant weights), QUANTIZE_OPTION, and what the model raises on the inputs.
    """
    options = _Options(bits, group, activations, ranges, tables, tuple(skip), device)
    options.check(max_loss)
    metric = metric_of(evaluate)
    feeds = feeds_of(calibration)
    source = Source(model)
    quantised, layers, found = _quantised(source, feeds, options)

    before = metric(lambda inputs: _named(model, source.run(feed_of(inputs), device)))
    after = metric(lambda inputs: quantised.run(inputs, device))
    integers = sum(layer.operations for layer in layers)
    total = integers + sum(left.operations for left in found.left)
    report = Report(
        metric.name,
        before,
        after,
        max_loss,
        tuple(layers),
        found.left,
        _stored_bytes(source, feeds[0]),
        sum(array.nbytes for array in quantised.state_dict().values()),
        integers / total if total else 0.0,
        metric.kept if isinstance(metric, Ranking) else None,
    )
    if not report.accepted:
        raise EngineError(
            f"quantisation costs too much: {report.summary()}",
            code="QUANTIZE_LOSS",
            hint='more bits, activations="dynamic", or skip the worst layers: '
            + ", ".join(layer.name for layer in _worst(layers)),
        )
    object.__setattr__(quantised, "report", report)
    return quantised


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments that decide what becomes of a product."""

    bits: int
    group: int
    activations: str
    ranges: Method
    tables: bool
    skip: tuple[str, ...]
    device: str | None

    def check(self, max_loss: float) -> None:
        """Raise EngineError (QUANTIZE_OPTION) for a value that means nothing."""
        for name, value, allowed in (
            ("bits", self.bits, (8, 4)),
            ("activations", self.activations, ("static", "dynamic")),
            ("ranges", self.ranges, METHODS),
        ):
            if value not in allowed:
                raise EngineError(
                    f"{name} is one of {', '.join(map(repr, allowed))}, not {value!r}",
                    code="QUANTIZE_OPTION",
                )
        if self.group < 2 or self.group % 2 or self.group > limits.MAX_GROUP:
            raise EngineError(
                f"a group has an even number of terms up to {limits.MAX_GROUP}, not {self.group}",
                code="QUANTIZE_OPTION",
            )
        if math.isnan(max_loss):
            raise EngineError("max_loss is not a number", code="QUANTIZE_OPTION")


def _quantised(
    source: Source, feeds: list[Feed], options: _Options
) -> tuple[Quantized, list[Layer], Found]:
    found = _found(source, feeds[0], options)
    if not found.products:
        reasons = "; ".join(f"{left.name} {left.reason}" for left in found.left[:8])
        raise EngineError(
            "the model has no product with constant weights" + (f": {reasons}" if reasons else ""),
            code="QUANTIZE_NOTHING",
        )
    observers = _observed(source, feeds, found, options)
    arrays: dict[str, Array] = {}
    decisions: list[Decision] = []
    shared: dict[tuple[Node, int, int], str] = {}
    for product in found.products:
        coding = None
        if product.key in observers:
            coding = observers[product.key].coding(options.ranges, len(product.node.src) == 3)
        decision, more = decide(source, product, coding, options.bits, options.group, shared)
        decisions.append(decision)
        arrays |= more
    plan = Plan(source, decisions)
    arrays |= _kept(source, plan, feeds, arrays)
    quantised = Quantized(source, plan, arrays)
    return quantised, _layers(source, plan, feeds[0], arrays, options), found


def _found(source: Source, feed: Feed, options: _Options) -> Found:
    found = find(source.trace(form_of(feed)).nodes, source.names, options.skip)
    tables = [p for p in found.products if p.is_table and not options.tables]
    left = [Left(p.name, 0, "tables are to stay") for p in tables]
    return Found(
        tuple(p for p in found.products if p not in tables),
        # What looks rows of numbers up that were computed is no product worth a line.
        (*(item for item in found.left if item.operations or "skipped" in item.reason), *left),
    )


def _observed(
    source: Source, feeds: list[Feed], found: Found, options: _Options
) -> dict[Key, Observer]:
    """What calibration shows of every activation that gets a static code."""
    if options.activations == "dynamic":
        return {}
    wanted = {p.key: Observer(p.name) for p in found.products if not p.is_table}
    for feed in feeds:
        traced = source.trace(form_of(feed))
        here = [p for p in _found(source, feed, options).products if p.key in wanted]
        sites = {p.key: lower.site(p.activation) for p in here}
        if set(sites) != set(wanted):
            raise EngineError(
                "the model has other products for one calibration batch than for the first",
                code="QUANTIZE_CALIBRATION",
                hint="give every batch the same shapes",
            )
        nodes = list(dict.fromkeys(sites.values()))
        values = realise(nodes, source.leaf_arrays(feed, traced), options.device)
        by_node = dict(zip(nodes, values, strict=True))
        for key, site in sites.items():
            wanted[key].see(by_node[site])
    return wanted


def _kept(
    source: Source, plan: Plan, feeds: list[Feed], arrays: dict[str, Array]
) -> dict[str, Array]:
    """The float values that the rewritten graph still reads."""
    stand_ins = _constants(arrays)
    kept: dict[str, Array] = {}
    for feed in feeds:
        traced = source.trace(form_of(feed))
        done = plan.rewritten(traced, stand_ins)
        for node in graph.topological([done[output] for output in traced.nodes]):
            if node in source.names:
                kept[source.names[node]] = source.arrays[source.names[node]]
    return {name: kept[name] for name in source.arrays if name in kept}


def _constants(arrays: dict[str, Array]) -> dict[str, Node]:
    """Leaves that hold the decided arrays, for graphs that are evaluated here."""
    return {name: buffers.leaf(array) for name, array in arrays.items()}


def _stored_bytes(source: Source, feed: Feed) -> int:
    """Bytes of the float values that the model reads."""
    below = graph.topological(source.trace(form_of(feed)).nodes)
    return sum(node.size_bytes for node in below if node in source.names)


# ---------------------------------------------------------------- per-layer error


def _layers(
    source: Source, plan: Plan, feed: Feed, arrays: dict[str, Array], options: _Options
) -> list[Layer]:
    """Every quantised product beside the float one on a calibration batch."""
    traced = source.trace(form_of(feed))
    values = _constants(arrays)
    done = plan.rewritten(traced, values)
    products = {p.key: p for p in find(traced.nodes, source.names).products}
    decisions = [_at(plan.decisions[key], products[key]) for key in plan.decisions]
    nodes: list[Node] = []
    for decision in decisions:
        float_node = decision.product.node
        alone = decision.lowered(float_node.src, values)
        nodes += _powers(float_node, alone, done[float_node])
    measured = realise(nodes, source.leaf_arrays(feed, traced), options.device)
    figures = np.array([float(value) for value in measured]).reshape(-1, 3)
    return [
        Layer(
            decision.product.name,
            decision.bits,
            decision.product.operations,
            _activation(decision),
            _decibels(signal, own),
            _decibels(signal, total),
        )
        for decision, (signal, own, total) in zip(decisions, figures, strict=True)
    ]


def _at(decision: Decision, product: Product) -> Decision:
    return Decision(product, decision.bits, decision.coding, decision.members)


def _powers(wanted: Node, alone: Node, inside: Node) -> list[Node]:
    """Sums of squares: of the signal, of the noise alone, of the noise inside the model."""

    def power(x: Node) -> Node:
        x = graph.cast(x, float32)
        return graph.reduce("sumprod", x, range(len(x.shape)), x)

    noise = [compose.subtract(wanted, found) for found in (alone, inside)]
    return [power(wanted), *map(power, noise)]


def _decibels(signal: float, noise: float) -> float | None:
    if not (signal > 0 and noise > 0 and math.isfinite(signal) and math.isfinite(noise)):
        return None
    return 10 * math.log10(signal / noise)


def _activation(decision: Decision) -> str:
    if decision.product.is_table:
        return "rows are looked up"
    side = " (weights on the left)" if decision.product.key.side == WEIGHT_LEFT else ""
    return ("int8 by row" if decision.coding is None else str(decision.coding)) + side


def _worst(layers: Sequence[Layer]) -> list[Layer]:
    measured = [layer for layer in layers if layer.own_db is not None]
    return sorted(measured, key=lambda layer: layer.own_db or 0.0)[:3]


def _named(model: Module, result: Any) -> Any:
    """An ONNX model's only output under its name, as its own ``run`` gives it."""
    outputs = getattr(model, "outputs", None)
    if outputs is not None and isinstance(result, np.ndarray):
        return {outputs[0].name: result}
    return result
