"""Which initialisers of a model are parameters, which are fixed tensors, which are literals.

- A *parameter* is a float initialiser of more than one element that training may change.
- A *buffer* is any other initialiser too large for a literal, and the statistics of normalisation
  and scales of quantisation, which are part of the model but never trained.
- Everything else is a literal of the program: shapes, axes, small constants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flopmarket.engine import limits as engine_limits
from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.parsed import Graph, ParsedModel, Step
from flopmarket.engine.formats.onnx.values import engine_dtype

Array = np.ndarray[Any, Any]

_FIXED_INPUTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (3, 4),
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}
"""Inputs that are statistics, scales or shapes: float, but not what training changes."""

_LONGEST_NAME = engine_limits.MAX_NAME_BYTES - 20
"""Leaves room for the prefix under which a training job keeps a parameter in its state."""


@dataclass(frozen=True, slots=True)
class Member:
    """An initialiser that is a tensor of the model: its name in programs and its value."""

    name: str
    value: Array
    trainable: bool


def hoisted(model: ParsedModel) -> ParsedModel:
    """The model with every weight as an initialiser of its main graph.

    Some exporters write weights as Constant nodes (what is large, or float and more than one
    number, counts as one), and branches and loop bodies have initialisers of their own; those are
    called after the node that holds them.
    """
    found: dict[str, Array] = {}
    graph = _without_weights(model.graph, "", found, set(model.graph.initialisers))
    return replace(model, graph=replace(graph, initialisers=graph.initialisers | found))


def _without_weights(graph: Graph, path: str, found: dict[str, Array], taken: set[str]) -> Graph:
    """``graph`` reading its weights from outside; nesting was bounded when it was read."""
    steps: list[Step] = []
    kept: dict[str, Array] = {}

    def move(name: str, value: Array) -> None:
        outer = name if not path else _unused(f"{path}.{name}", taken)
        taken.add(outer)
        found[outer] = value
        if path:
            steps.append(Step("Identity", "ai.onnx", "", "", (outer,), (name,), {}))

    for name, array in graph.initialisers.items():
        if path and _is_weight(array):
            move(name, array)
        else:
            kept[name] = array
    for step in graph.steps:
        value = step.attributes.get("value")
        constant = (step.op_type, step.domain) == ("Constant", "ai.onnx")
        if constant and isinstance(value, np.ndarray) and _is_weight(value):
            move(step.outputs[0], value)
            continue
        label = step.name or next((name for name in step.outputs if name), step.op_type)
        attributes = {
            name: _without_weights(inner, f"{path}.{label}" if path else label, found, taken)
            if isinstance(inner, Graph)
            else inner
            for name, inner in step.attributes.items()
        }
        steps.append(replace(step, attributes=attributes))
    return replace(graph, initialisers=kept, steps=tuple(steps))


def _unused(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}~{number}"
    return free


def _is_weight(value: Array) -> bool:
    dtype = engine_dtype(value.dtype)
    floats = dtype is not None and dtype.is_float and value.size > 1
    return floats or value.nbytes > limits.MAX_LITERAL_BYTES


def members(graph: Graph) -> dict[str, Member]:
    """Initialisers that are parameters or buffers, by their names in the file."""
    fixed = {
        step.inputs[at]
        for step in graph.steps
        for at in _FIXED_INPUTS.get(step.op_type, ())
        if at < len(step.inputs)
    }
    found: dict[str, Member] = {}
    taken: set[str] = set()
    for name, array in graph.initialisers.items():
        dtype = engine_dtype(array.dtype)
        if dtype is None:
            continue
        trainable = dtype.is_float and array.size > 1 and name not in fixed
        if trainable or array.nbytes > limits.MAX_LITERAL_BYTES:
            found[name] = Member(program_name(name, taken), array, trainable)
    return found


def program_name(name: str, taken: set[str]) -> str:
    """A name that a program may carry: ``name`` itself, or one made from its hash.

    Programs limit names in length and reserve leading underscores. Adds the name to ``taken``.
    """
    long = len(name.encode("utf-8", "replace")) > _LONGEST_NAME
    if not name or long or name.startswith("__") or name in taken or not name.isprintable():
        name = "tensor_" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:24]
    taken.add(name)
    return name


def program_names(names: Iterable[str]) -> Mapping[str, str]:
    """Names that a program may carry for these, in order."""
    taken: set[str] = set()
    return {name: program_name(name, taken) for name in names}
