"""If, Loop and Scan.

A condition or trip count that is known while the graph is built decides there: one branch is taken,
the iterations are written out, or, where there are many of one form, become one loop of the engine.
A computed condition of an If becomes a choice between both branches' results where these have equal
forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flopmarket.engine import creation
from flopmarket.engine import limits as engine_limits
from flopmarket.engine.compose import axis_of
from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxDataDependent, OnnxIllegal
from flopmarket.engine.formats.onnx.ops.movement import joined
from flopmarket.engine.formats.onnx.parsed import ValueSpec
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.formats.onnx.values import as_value, literal_of
from flopmarket.engine.functional import control
from flopmarket.engine.tensor import Tensor


@op("If")
def if_(node: OpNode, condition: Value) -> tuple[Value, ...]:
    known = node.interpreter.known(tensor(condition))
    if known is None and node.interpreter.decidable(tensor(condition)):
        known = node.host(condition, "the condition")
    if known is not None:
        if known.size != 1:
            raise OnnxIllegal(f"its condition has {known.size} elements")
        return tuple(node.graph("then_branch" if known.reshape(()) else "else_branch")())
    try:
        branches = [node.graph(name)() for name in ("then_branch", "else_branch")]
        chosen = [_chosen(tensor(condition), a, b) for a, b in zip(*branches, strict=True)]
    except EngineError as error:
        _undecidable(node, condition, error)
    return tuple(chosen)


def _chosen(condition: Tensor, a: Value, b: Value) -> Value:
    left, right = tensor(a), tensor(b)
    if left.shape != right.shape or left.dtype is not right.dtype:
        raise OnnxIllegal(
            f"its branches give {left.dtype}{list(left.shape)} and {right.dtype}{list(right.shape)}"
        )
    return left.where(condition.reshape(()), right)


def _undecidable(node: OpNode, condition: Value, error: EngineError) -> None:
    """Both branches could not be joined: the condition has to be known."""
    try:
        node.host(condition, "the condition")
    except OnnxDataDependent as reason:
        raise reason from error
    raise error


# ---------------------------------------------------------------- Loop

LOOP_TRIPS = 16
"""Iterations from which a body becomes a loop of the engine instead of being written out."""


def _whole_loop(node: OpNode, count: int, state: list[Value]) -> tuple[Value, ...] | None:
    """All iterations of a Loop as one loop of the engine, or None where the body does not allow it:
    it ends early, changes a shape, or wants a number that is another in every turn."""
    body = node.graph("body")
    true = Tensor(np.asarray(True))

    def turn(carried: Sequence[Tensor], items: Sequence[Tensor]) -> Any:
        results = body(items[0], true, *carried)
        going = node.interpreter.known(tensor(results[0]))
        if going is None or not going.all():
            raise OnnxDataDependent("the body decides when to stop")
        return results[1 : 1 + len(state)], results[1 + len(state) :]

    return _as_one(turn, state, [creation.arange(count)])


def _as_one(
    turn: Callable[[Sequence[Tensor], Sequence[Tensor]], Any],
    state: Sequence[Value],
    items: Sequence[Tensor],
) -> tuple[Value, ...] | None:
    if not all(isinstance(value, Tensor) for value in state):
        return None
    try:
        last, stacked = control.scan(turn, tuple(state), tuple(items))
    except (EngineError, AttributeError, TypeError):  # written out, it says what is wrong
        return None
    return (*last, *stacked)


@op("Loop")
def loop(node: OpNode, trips: Value, condition: Value, *carried: Value) -> tuple[Value, ...]:
    body = node.graph("body")
    count = None if trips is None else node.host_ints(trips, "the trip count")[0]
    going = condition is None or bool(node.host(condition, "the condition").reshape(()))
    state = list(carried)
    if going and count is not None and LOOP_TRIPS <= count <= engine_limits.MAX_LOOP_TURNS:
        whole = _whole_loop(node, count, state)
        if whole is not None:
            return whole
    collected: list[list[Value]] = [[] for _ in body.graph.outputs[1 + len(state) :]]
    true = Tensor(np.asarray(True))
    at = 0
    while going and (count is None or at < count):
        results = list(body(Tensor(np.asarray(at, dtype=np.int64)), true, *state))
        at += 1
        on_host = not _is_literal(results[0])
        if on_host:
            # Decided by values: compute what the loop carries on, or each turn repeats the last.
            going = bool(node.host(results[0], "the condition of its body").reshape(()))
            results = node.interpreter.settle(results)
        else:
            going = bool(node.host(results[0], "the condition of its body").reshape(()))
        limit = limits.MAX_HOST_TRIPS if on_host else limits.MAX_UNROLLED_TRIPS
        if at > limit:
            raise OnnxIllegal(f"more than {limit} iterations", code="ONNX_LIMIT")
        state = results[1 : 1 + len(state)]
        for column, value in zip(collected, results[1 + len(state) :], strict=True):
            column.append(value)
    specs = body.graph.outputs[1 + len(state) :]
    return (*state, *(_stacked(c, s, 0) for c, s in zip(collected, specs, strict=True)))


def _is_literal(value: Value) -> bool:
    return not isinstance(value, Tensor) or literal_of(value) is not None


def _stacked(values: Sequence[Value], spec: ValueSpec, axis: int) -> Value:
    """Values of all iterations along a new axis; of none, an empty tensor of the declared form."""
    if values:
        if all(isinstance(value, Tensor) for value in values):
            return creation.stack(list(values), axis)
        return np.stack(list(values), axis)
    inner = [n if isinstance(n, int) else 0 for n in spec.type.shape or ()]
    inner.insert(axis_of(axis, len(inner) + 1), 0)
    return as_value(np.zeros(inner, dtype=spec.type.dtype or np.dtype(np.float32)))


# ---------------------------------------------------------------- Scan


def _scanned(node: OpNode, values: Sequence[Value]) -> int:
    """How many of a Scan's values it scans."""
    count = int(node.get("num_scan_inputs"))
    kept = len(values) - count
    if count < 1 or not 0 <= kept <= len(node.graph("body").graph.outputs):
        raise OnnxIllegal(f"it scans {count} of {len(values)} values")
    return count


@op("Scan", since=9)
def scan(node: OpNode, *values: Value) -> tuple[Value, ...]:
    scanned = _scanned(node, values)
    given = len(values) - scanned
    outputs = len(node.graph("body").graph.outputs) - given
    return _scan(
        node,
        values[:given],
        values[given:],
        node.ints("scan_input_axes", (0,) * scanned) or (),
        node.ints("scan_input_directions", (0,) * scanned) or (),
        node.ints("scan_output_axes", (0,) * outputs) or (),
        node.ints("scan_output_directions", (0,) * outputs) or (),
    )


@op("Scan", since=8)
def scan_batch(node: OpNode, lengths: Value, *values: Value) -> tuple[Value, ...]:
    """Opset 8: a batch axis first, the scanned axis second, maybe a length per example."""
    scanned = _scanned(node, values)
    given = len(values) - scanned
    directions = node.ints("directions", (0,) * scanned) or ()
    outputs = len(node.graph("body").graph.outputs) - given
    batch = values[0].shape[0]
    counts = None if lengths is None else node.host_ints(lengths, "the lengths")
    rows: list[tuple[Value, ...]] = []
    for example in range(batch):
        parts = [value[example] for value in values]
        longest = parts[given].shape[0]
        count = longest if counts is None else counts[example]
        cut = [part[:count] for part in parts[given:]]
        ends = (0,) * outputs
        found = _scan(node, parts[:given], cut, (0,) * scanned, directions, ends, ends)
        padded = [
            joined([x, _zeros_like(x, longest - count)], 0) if count < longest else x
            for x in found[given:]
        ]
        rows.append((*found[:given], *padded))
    return tuple(
        creation.stack([tensor(x) for x in column], 0) for column in zip(*rows, strict=True)
    )


def _zeros_like(x: Value, count: int) -> Value:
    return creation.zeros(count, *x.shape[1:], dtype=x.dtype)


def _scan(
    node: OpNode,
    initial: Sequence[Value],
    inputs: Sequence[Value],
    axes: Sequence[int],
    directions: Sequence[int],
    output_axes: Sequence[int],
    output_directions: Sequence[int],
) -> tuple[Value, ...]:
    body = node.graph("body")
    state: list[Value] = list(initial)
    moved = [
        _leading(tensor(x), axis, backward)
        for x, axis, backward in zip(inputs, axes, directions, strict=True)
    ]
    counts = {x.shape[0] for x in moved}
    if len(counts) != 1:
        raise OnnxIllegal(f"it scans axes of lengths {sorted(counts)}")
    count = counts.pop()
    if count > limits.MAX_UNROLLED_TRIPS:
        raise OnnxIllegal(
            f"{count} iterations, at most {limits.MAX_UNROLLED_TRIPS}", code="ONNX_LIMIT"
        )
    specs: Any = body.graph.outputs[len(state) :]
    if count >= LOOP_TRIPS:
        whole = _as_one(
            lambda carried, items: _split(body(*carried, *items), len(state)), state, moved
        )
        if whole is not None:
            columns = zip(whole[len(state) :], output_axes, output_directions, strict=True)
            return (*whole[: len(state)], *(_placed(x, axis, b) for x, axis, b in columns))
    collected: list[list[Value]] = [[] for _ in specs]
    for at in range(count):
        results = body(*state, *(x[at] for x in moved))
        state = list(results[: len(state)])
        for column, value in zip(collected, results[len(state) :], strict=True):
            column.append(value)
    stacked = [
        _stacked(list(reversed(column)) if backward else column, spec, axis)
        for column, spec, axis, backward in zip(
            collected, specs, output_axes, output_directions, strict=True
        )
    ]
    return (*state, *stacked)


def _split(results: tuple[Value, ...], count: int) -> tuple[Any, Any]:
    return results[:count], results[count:]


def _placed(x: Tensor, axis: int, backward: int) -> Tensor:
    """A stack of results with the stacked axis where it belongs."""
    at = axis_of(axis, x.ndim)
    order = list(range(1, x.ndim))
    order.insert(at, 0)
    return (x.flip(0) if backward else x).permute(*order)


def _leading(x: Tensor, axis: int, backward: int) -> Tensor:
    at = axis_of(axis, x.ndim)
    moved = x.permute(at, *(a for a in range(x.ndim) if a != at))
    return moved.flip(0) if backward else moved
