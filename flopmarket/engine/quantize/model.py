"""A quantised model: a module whose stored values are integers and whose products are too."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from flopmarket.engine import compose, dtypes, graph, nn
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.nn import Module
from flopmarket.engine.quantize import limits
from flopmarket.engine.quantize.plan import Plan
from flopmarket.engine.quantize.report import Report
from flopmarket.engine.quantize.source import (
    Form,
    Source,
    feed_of,
    form_of,
    realise,
    rebuilt,
)
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]


class Quantized(Module):
    """What :func:`flopmarket.quantize` gives: call it, ``run`` it, or hand it to an InferenceJob.

    Its values are fixed: integer codes and scales, and what stayed in floats under the names that
    it had. ``report`` says what was done and what it cost. Raises EngineError (QUANTIZE_GRAPH) for
    inputs of shapes under which the model has other products than the calibrated ones.
    """

    report: Report

    def __init__(self, source: Source, plan: Plan, arrays: Mapping[str, Array]) -> None:
        self._source, self._plan = source, plan
        self._rewritten: OrderedDict[Form, list[Node]] = OrderedDict()
        self._stand_ins = {
            name: graph.input_("frozen", f"quantised {at}", dtypes.from_numpy(a.dtype), a.shape)
            for at, (name, a) in enumerate(arrays.items())
        }
        for name, array in arrays.items():
            self._members[name] = nn.Buffer(
                array.shape, nn.constant(0.0), dtypes.from_numpy(array.dtype), fixed=True
            )
        self._arrays = dict(arrays)

    def init(self, seed: int, device: str | None = None) -> dict[str, Array]:
        """The stored values, whatever the seed."""
        return self.state_dict()

    def state_dict(self) -> dict[str, Array]:
        """The stored values by name."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def load_state_dict(self, state: Mapping[str, Array | Tensor]) -> Quantized:
        """Take other values of the same forms, such as those of a saved quantised model."""
        super().load_state_dict(state)
        for name, value in state.items():
            array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
            self._arrays[name] = dtypes.canonical(array)
        return self

    def forward(self, *inputs: Any) -> Any:
        """What the float model gives for a tensor "x", or for one mapping of inputs by name."""
        if len(inputs) != 1 or not isinstance(inputs[0], Mapping | Tensor):
            raise EngineError(
                "a quantised model takes one tensor, or one mapping of tensors by name",
                code="QUANTIZE_INPUT",
            )
        given = dict(inputs[0]) if isinstance(inputs[0], Mapping) else {"x": inputs[0]}
        form = tuple((name, tensor.dtype, tensor.shape) for name, tensor in given.items())
        traced = self._source.trace(form)
        by = {node: given[name].node for name, node in traced.placeholders.items()}
        values = {
            node: Module.__getattr__(self, name).node for name, node in self._stand_ins.items()
        }
        nodes = compose.replace(self._nodes(form), by | values)
        return rebuilt(traced.result, [Tensor(node) for node in nodes])

    def run(self, inputs: Any, device: str | None = None) -> Any:
        """Results as numpy arrays for an array, or for a mapping of arrays by name.

        An ONNX model gives a mapping by output name, as its own ``run`` does.
        """
        feed = feed_of(inputs)
        form = form_of(feed)
        traced = self._source.trace(form)
        leaves = {node: feed[name] for name, node in traced.placeholders.items()}
        leaves |= {node: self._arrays[name] for name, node in self._stand_ins.items()}
        result = rebuilt(traced.result, realise(self._nodes(form), leaves, device))
        outputs = getattr(self._source.model, "outputs", None)
        if outputs is not None and not isinstance(result, Mapping):
            return {outputs[0].name: result}
        return result

    def _nodes(self, form: Form) -> list[Node]:
        """The rewritten graph for ``form`` over placeholders and stand-ins."""
        found = self._rewritten.get(form)
        if found is None:
            traced = self._source.trace(form)
            done = self._plan.rewritten(traced, self._stand_ins)
            found = [done[node] for node in traced.nodes]
            for node in graph.topological(found):
                if node.op is Op.INPUT and node in self._source.names:
                    raise EngineError(
                        f"these inputs need {self._source.names[node]!r}, which is not kept",
                        code="QUANTIZE_GRAPH",
                        hint="calibrate with inputs of these shapes",
                    )
            self._rewritten[form] = found
            while len(self._rewritten) > limits.MAX_KEPT_TRACES:
                self._rewritten.popitem(last=False)
        self._rewritten.move_to_end(form)
        return found
