"""A model as graphs over leaves of its own: what calibration measures and quantisation rewrites.

Its values are leaves under numbers, its inputs placeholders, so that the graph of one set of input
shapes is the same object every time and a product is recognised by the node of its weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine import buffers, compose, dtypes, graph, rewrite
from flopmarket.engine.dtypes import DType
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Op, Shape
from flopmarket.engine.nn import Module
from flopmarket.engine.quantize import limits
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
Form = tuple[tuple[str, DType, Shape], ...]
"""Name, dtype and shape of every input; a single tensor is called "x"."""

Feed = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Traced:
    """The float graph for one form: ``result`` is what the model gave, over ``placeholders``."""

    result: Any
    nodes: tuple[Node, ...]
    placeholders: Mapping[str, Node]


class Source:
    """``model`` with the values that it holds."""

    def __init__(self, model: Module) -> None:
        self.model = model
        self.arrays: dict[str, Array] = {
            name: dtypes.canonical(array) for name, array in model.state_dict().items()
        }
        self.leaves: dict[str, Node] = {
            name: graph.input_(
                "frozen", f"unquantised {at}", dtypes.from_numpy(array.dtype), array.shape
            )
            for at, (name, array) in enumerate(self.arrays.items())
        }
        self.names: dict[Node, str] = {leaf: name for name, leaf in self.leaves.items()}
        self._traced: OrderedDict[Form, Traced] = OrderedDict()

    def trace(self, form: Form) -> Traced:
        """The graph for inputs of ``form``; what the model raises on them, this raises."""
        found = self._traced.get(form)
        if found is None:
            placeholders = {
                name: graph.input_("input", f"given {name}", dtype, shape)
                for name, dtype, shape in form
            }
            tensors: Any = {name: Tensor(node) for name, node in placeholders.items()}
            values = {name: Tensor(leaf) for name, leaf in self.leaves.items()}
            given = tensors["x"] if set(tensors) == {"x"} else tensors
            result, _ = self.model.apply(values, given, training=False)
            nodes = tuple(tensor.node for tensor in tensors_of(result))
            found = self._traced[form] = Traced(result, nodes, placeholders)
            while len(self._traced) > limits.MAX_KEPT_TRACES:
                self._traced.popitem(last=False)
        self._traced.move_to_end(form)
        return found

    @property
    def known(self) -> dict[Node, Array]:
        """Data of the model's leaves."""
        return {leaf: self.arrays[name] for name, leaf in self.leaves.items()}

    def leaf_arrays(self, feed: Mapping[str, Array], traced: Traced) -> dict[Node, Array]:
        """Data of the model's leaves and of the placeholders."""
        return self.known | {node: feed[name] for name, node in traced.placeholders.items()}

    def run(self, feed: Mapping[str, Array], device: str | None) -> Any:
        """The float model's result as arrays."""
        traced = self.trace(form_of(feed))
        found = realise(traced.nodes, self.leaf_arrays(feed, traced), device)
        return rebuilt(traced.result, found)


def realise(nodes: Sequence[Node], leaves: Mapping[Node, Array], device: str | None) -> list[Array]:
    """Values of ``nodes``; realised tensors among the leaves bring their own data."""
    from flopmarket.engine.runtime import realise as runtime  # opens OpenCL: only when asked to

    outputs = rewrite.canonicalise(nodes)
    given = dict(leaves)
    for node in graph.topological(outputs):
        if node.op is Op.INPUT and node not in given:
            array = buffers.array_of(node)
            if array is not None:
                given[node] = array
    return runtime.realise(outputs, given, device)


# ---------------------------------------------------------------- inputs


def feeds_of(data: Any) -> list[Feed]:
    """Calibration data as batches: an array or a mapping of arrays is one, a list of them several.

    Raises EngineError (QUANTIZE_CALIBRATION) when there is nothing in it.
    """
    several = isinstance(data, list | tuple) and all(
        isinstance(item, Mapping | np.ndarray | Tensor) for item in data
    )
    feeds = [feed_of(item) for item in (data if several else [data])]
    if not feeds or any(array.size == 0 for feed in feeds for array in feed.values()):
        raise EngineError(
            "the calibration data is empty",
            code="QUANTIZE_CALIBRATION",
            hint="some tens of typical inputs are enough",
        )
    return feeds


def feed_of(data: Any) -> Feed:
    """One batch of inputs by name. NumPy's float64 narrows to float32, a tensor's stays."""
    if isinstance(data, Mapping):
        if not data:
            raise EngineError("a batch without inputs", code="QUANTIZE_CALIBRATION")
        return {str(name): _array(value) for name, value in data.items()}
    return {"x": _array(data)}


def form_of(feed: Mapping[str, Array]) -> Form:
    """Names, dtypes and shapes of a batch."""
    return tuple(
        (name, dtypes.from_numpy(array.dtype), array.shape) for name, array in feed.items()
    )


def _array(value: Any) -> Array:
    if isinstance(value, Tensor):
        return value.numpy()
    array = compose.as_array(value, None)
    return dtypes.canonical(array.astype(np.float32) if array.dtype == np.float64 else array)


# ---------------------------------------------------------------- results


def tensors_of(result: Any) -> list[Tensor]:
    """Every tensor of a result: a tensor, or tuples, lists and mappings of them."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Mapping):
        return [tensor for item in result.values() for tensor in tensors_of(item)]
    if isinstance(result, tuple | list):
        return [tensor for item in result for tensor in tensors_of(item)]
    return []


def rebuilt(result: Any, values: Sequence[Any]) -> Any:
    """``result`` with its tensors exchanged for ``values``, in the order of :func:`tensors_of`."""
    iterator = iter(values)

    def walk(item: Any) -> Any:
        if isinstance(item, Tensor):
            return next(iterator)
        if isinstance(item, Mapping):
            return {name: walk(value) for name, value in item.items()}
        if isinstance(item, tuple | list):
            return type(item)(walk(value) for value in item)
        return item

    return walk(result)


Predict = Callable[[Any], Any]
"""Inputs (an array, or a mapping by name) to the model's result as arrays."""
