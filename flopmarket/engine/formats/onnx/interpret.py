"""The walk over a model's graph: every node's handler is called once, on lazy tensors.

Nothing is computed here but what has to be known while the graph is built: the target of a Reshape,
the condition of an If. Such *host* values are evaluated at once where everything that they depend
on is known (constants, initialisers, realised inputs of a local run); a value that depends on a
placeholder of a traced program is refused with OnnxDataDependent. Small values of known things are
folded as soon as they appear, so that shape arithmetic costs nothing and ends in no program.

Subgraphs and functions are evaluated by the same walk with a scope of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flopmarket.engine import buffers, graph, reference, rewrite
from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx import defined, limits, ops, registry
from flopmarket.engine.formats.onnx.errors import OnnxDataDependent, OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.narrow import Narrow, to_host
from flopmarket.engine.formats.onnx.order import named_values
from flopmarket.engine.formats.onnx.parsed import (
    AttributeReference,
    Function,
    Graph,
    ParsedModel,
    Step,
)
from flopmarket.engine.formats.onnx.registry import OpNode, Value
from flopmarket.engine.formats.onnx.values import (
    as_value,
    check_host,
    error_in,
    leaf_arrays,
    literal_of,
    realise,
    tensors_in,
    with_tensors,
    work_of,
)
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]

_HANDLER_ERRORS = (
    EngineError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a handler may raise on a model that is wrong in a way nobody checked before."""

_HINTS = {
    "com.microsoft.nchwc": "ONNX Runtime laid this model out for one processor: save it with "
    "ORT_ENABLE_EXTENDED, or take the model it was made from",
}
"""What to do about operators of a domain that is not computed."""


_UNFOLDED = frozenset({"DequantizeLinear"})
"""Operators whose stored bytes are worth more than their result: products read them as integers."""


_ITEMS_PER_NODE = 64
"""Elements of a sequence that cost as much as the evaluation of a node."""


_NODES_PER_BODY = 30
"""Nodes that cost as much as what control flow does around its bodies."""


@dataclass(slots=True)
class Scope:
    """Names of one graph or function call, and of what is around it."""

    opsets: Mapping[str, int]
    values: dict[str, Value] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outer: Scope | None = None

    def find(self, name: str) -> Value:
        """The value called ``name``, here or further out; '' is an absent input."""
        if not name:
            return None
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        raise OnnxIllegal(f"no value is called {name!r} here", code="ONNX_NAME")


@dataclass(frozen=True, slots=True)
class Subgraph:
    """A GRAPH attribute together with the scope that it reads from: call it with its inputs."""

    graph: Graph
    interpreter: Interpreter
    scope: Scope

    def __call__(self, *inputs: Value) -> tuple[Value, ...]:
        """Its outputs; raises OnnxIllegal when the number of inputs is another."""
        return self.interpreter.run_graph(self.graph, inputs, self.scope)


class Interpreter:
    """One pass over a model.

    ``known`` gives the data of leaves that are no realised tensors (initialisers under their
    program names). ``device`` is where a local run computes host values. ``bindable`` are inputs
    for whose values the graph may be built anew.
    """

    def __init__(
        self,
        model: ParsedModel,
        known: Mapping[Node, Array],
        device: str | None = None,
        bindable: frozenset[str] = frozenset(),
    ) -> None:
        ops.load()
        self._model = model
        self._known = known
        self._device = device
        self._bindable = bindable
        self._hosted: dict[Node, Array] = {}
        self._scopes: list[Scope] = []
        self._evaluated = 0

    def run(
        self, inputs: Mapping[str, Value], initialisers: Mapping[str, Value]
    ) -> dict[str, Value]:
        """Outputs of the main graph by name. ``initialisers`` replaces some of the file's."""
        main = self._model.graph
        values = [inputs[spec.name] for spec in main.inputs]
        scope = Scope(self._model.opsets)
        found = self.run_graph(main, values, scope, initialisers)
        return {spec.name: value for spec, value in zip(main.outputs, found, strict=True)}

    def run_graph(
        self,
        body: Graph,
        inputs: Sequence[Value],
        outer: Scope,
        initialisers: Mapping[str, Value] | None = None,
    ) -> tuple[Value, ...]:
        """Outputs of a graph whose free names are found in ``outer``."""
        if len(inputs) != len(body.inputs):
            raise OnnxIllegal(
                f"graph {body.name!r} takes {len(body.inputs)} inputs, not {len(inputs)}",
                code="ONNX_NODE",
            )
        scope = Scope(outer.opsets, attributes=outer.attributes, outer=outer)
        replaced = initialisers or {}
        for name, array in body.initialisers.items():
            scope.values[name] = replaced[name] if name in replaced else as_value(array)
        for spec, value in zip(body.inputs, inputs, strict=True):
            scope.values[spec.name] = value
        self._run_steps(body.steps, scope)
        return tuple(scope.find(spec.name) for spec in body.outputs)

    def call(
        self,
        function: Function,
        step: Step,
        scope: Scope,
        opsets: Mapping[str, int] | None = None,
    ) -> tuple[Value, ...]:
        """Outputs of a function called by ``step``; ``opsets`` are those it does not state."""
        stated = {**(opsets or {}), **function.opsets}
        inner = Scope(stated, attributes={**function.attributes, **step.attributes})
        given = [scope.find(name) for name in step.inputs]
        if len(given) > len(function.inputs):
            raise OnnxIllegal(
                f"function {function.key[1]!r} takes {len(function.inputs)} inputs, "
                f"not {len(given)}",
                code="ONNX_NODE",
            )
        given += [None] * (len(function.inputs) - len(given))
        inner.values.update(zip(function.inputs, given, strict=True))
        self._run_steps(function.steps, inner)
        return tuple(inner.values.get(name) for name in function.outputs)

    # ------------------------------------------------------------ steps

    def _run_steps(self, steps: Iterable[Step], scope: Scope) -> None:
        if len(self._scopes) >= limits.MAX_CALL_DEPTH:
            raise OnnxIllegal(
                f"calls and subgraphs are more than {limits.MAX_CALL_DEPTH} deep",
                code="ONNX_LIMIT",
            )
        self._scopes.append(scope)
        try:
            for step in steps:
                self._evaluated += self._price(step, scope)
                if self._evaluated > limits.MAX_EVALUATED_NODES:
                    raise OnnxIllegal(
                        f"more than {limits.MAX_EVALUATED_NODES} nodes are evaluated",
                        code="ONNX_LIMIT",
                    )
                self._run_step(step, scope)
                for name in step.drops:
                    scope.values.pop(name, None)
        finally:
            self._scopes.pop()

    @staticmethod
    def _price(step: Step, scope: Scope) -> int:
        """As how many nodes a step counts: sequences are copied, bodies tried in several ways."""
        values = (scope.find(name) for name in step.inputs)
        items = sum(len(value) for value in values if isinstance(value, list))
        return 1 + items // _ITEMS_PER_NODE + _NODES_PER_BODY * _captures(step)

    def _run_step(self, step: Step, scope: Scope) -> None:
        inputs = [scope.find(name) for name in step.inputs]
        step_now = replace(step, attributes=self._attributes(step, scope), drops=())
        function = self._model.functions.get((step.domain, step.op_type, step.overload))
        if function is not None:
            results = self.call(function, step_now, scope)
        else:
            results = self._apply(step_now, inputs, scope)
        if len(results) < len(step.outputs):
            raise OnnxIllegal(f"{step.title} has {len(results)} outputs", code="ONNX_NODE")
        foldable = step.op_type not in _UNFOLDED and not _captures(step)
        foldable = foldable and all(_is_known(value) for value in inputs)
        for name, value in zip(step.outputs, results, strict=False):
            if name:
                scope.values[name] = self._folded(value) if foldable else value

    def _apply(self, step: Step, inputs: list[Value], scope: Scope) -> tuple[Value, ...]:
        opset = scope.opsets.get(step.domain)
        if opset is None:
            raise OnnxIllegal(
                f"{step.title} is of domain {step.domain!r}, which the model does not import",
                code="ONNX_OPSET",
            )
        handler = registry.find(step.op_type, step.domain, opset)
        if handler is None:
            try:
                function = defined.function_of(step, opset, inputs)
            except _HANDLER_ERRORS as error:
                raise error_in(step.title, error) from error
            if function is None:
                raise OnnxUnsupported(
                    f"{step.title}: operator {step.op_type} of {step.domain} is not computed",
                    code="ONNX_OPERATOR",
                    hint=_HINTS.get(step.domain, ""),
                )
            return self.call(function, step, scope, scope.opsets)
        attributes = {
            name: Subgraph(value, self, scope) if isinstance(value, Graph) else value
            for name, value in step.attributes.items()
        }
        if any(named_values(step)):
            attributes = self._with_named_values(step, attributes, inputs, scope)
        node = OpNode(
            step.op_type,
            step.domain,
            opset,
            step.name or next((name for name in step.outputs if name), ""),
            attributes,
            step.outputs,
            self,
        )
        try:
            if opset < defined.BROADCAST_OPSET and step.domain == "ai.onnx":
                inputs = defined.broadcast_of_old(node, inputs)
            results = handler(node, *inputs)
        except OnnxDataDependent:
            raise  # names the node that asked
        except _HANDLER_ERRORS as error:
            raise error_in(step.title, error) from error
        found = results if isinstance(results, tuple) else (results,)
        for value in found:
            if isinstance(value, np.ndarray) and value.dtype.kind == "O":
                check_host(value.size)
        return found

    @staticmethod
    def _with_named_values(
        step: Step, attributes: dict[str, Any], inputs: list[Value], scope: Scope
    ) -> dict[str, Any]:
        """Gradient's attributes with ``y`` as the value that it names."""
        for name, value in zip(attributes.get("xs", ()), inputs, strict=False):
            if scope.find(name) is not value:
                raise OnnxUnsupported(f"{step.title}: its input for {name!r} is another value")
        return {**attributes, "y": scope.find(attributes["y"])}

    def _attributes(self, step: Step, scope: Scope) -> dict[str, Any]:
        """The step's attributes with those that refer to the enclosing function filled in."""
        found: dict[str, Any] = {}
        for name, value in step.attributes.items():
            if not isinstance(value, AttributeReference):
                found[name] = value
            elif value.name in scope.attributes:
                found[name] = scope.attributes[value.name]
        return found

    # ------------------------------------------------------------ values that are needed now

    def host(self, value: Value, why: str) -> Array:
        """See :meth:`registry.OpNode.host`."""
        if value is None or isinstance(value, list):
            word = "absent" if value is None else "a sequence"
            raise OnnxIllegal(f"{why} is {word}", code="ONNX_NODE")
        if isinstance(value, Narrow):
            return to_host(self.host(value.codes, why), value.format)
        if not isinstance(value, Tensor):
            return np.asarray(value)
        array = self.known(value)
        if array is None:
            _, unknown = leaf_arrays([value.node], self._known)
            names = sorted({_leaf_title(node) for node in unknown})
            raise OnnxDataDependent(
                f"{why} depends on {', '.join(names)}", (str(node.arg[1]) for node in unknown)
            )
        return array

    def known(self, value: Tensor) -> Array | None:
        """The value now, or None where it depends on something that only a program's run gives."""
        node = value.node
        array = literal_of(value)
        if array is None:
            array = self._hosted.get(node)
        if array is not None:
            return array
        leaves, unknown = leaf_arrays([node], self._known)
        if unknown:
            return None
        elements, size = work_of([node])
        if elements <= limits.MAX_FOLDED_WORK:
            (array,) = reference.evaluate(rewrite.canonicalise([node]), leaves)
        else:
            array = self._compute(node, leaves, size)
        self._hosted[node] = array
        return array

    def decidable(self, value: Tensor) -> bool:
        """See :meth:`registry.Host.decidable`."""
        _, unknown = leaf_arrays([value.node], self._known)
        return all(leaf.arg[0] == "input" and leaf.arg[1] in self._bindable for leaf in unknown)

    def _compute(self, node: Node, leaves: Mapping[Node, Array], size: int) -> Array:
        """A large value on the device, together with the live values that it is made of: they
        are replaced by their data, so that nothing is computed twice."""
        if self._device == "reference" and size > limits.MAX_HOST_BYTES:
            raise OnnxIllegal(
                f"{size} bytes of values decide a shape, at most {limits.MAX_HOST_BYTES}",
                code="ONNX_LIMIT",
            )
        below = set(graph.topological([node]))
        live: dict[int, Tensor] = {}
        for scope in self._scopes:
            for value in scope.values.values():
                for tensor in tensors_in(value):
                    inner = tensor.node
                    if (
                        inner in below
                        and inner is not node
                        and inner.op not in (Op.INPUT, Op.CONST)
                    ):
                        live[id(tensor)] = tensor
        nodes = [node, *(tensor.node for tensor in live.values())]
        array, *others = realise(nodes, leaves, self._device)
        data = {key: Tensor(buffers.leaf(found)) for key, found in zip(live, others, strict=True)}
        for scope in self._scopes:
            for name, value in scope.values.items():
                scope.values[name] = with_tensors(value, data)
        return array

    def settle(self, values: Sequence[Value]) -> list[Value]:
        """``values`` with every tensor that can be computed now replaced by its data.

        For what an eager loop carries on. Tensors of a trace stay as they are.
        """
        tensors = [t for t in tensors_in(list(values)) if literal_of(t) is None]
        nodes = list(dict.fromkeys(tensor.node for tensor in tensors))
        leaves, unknown = leaf_arrays(nodes, self._known)
        if unknown or not nodes:
            return list(values)
        elements, _ = work_of(nodes)
        device = "reference" if elements <= limits.MAX_FOLDED_WORK else self._device
        arrays = dict(zip(nodes, realise(nodes, leaves, device), strict=True))
        data = {id(tensor): Tensor(buffers.leaf(arrays[tensor.node])) for tensor in tensors}
        return [with_tensors(value, data) for value in values]

    def _folded(self, value: Value) -> Value:
        """A small tensor of known things as a literal."""
        if isinstance(value, Narrow):
            return Narrow(self._folded(value.codes), value.format)
        if not isinstance(value, Tensor) or literal_of(value) is not None:
            return value
        node = value.node
        if node.elements > limits.MAX_FOLDED_ELEMENTS:
            return value
        if work_of([node])[0] > limits.MAX_FOLDED_WORK:
            return value
        leaves, unknown = leaf_arrays([node], {})
        if unknown:
            return value
        (array,) = reference.evaluate(rewrite.canonicalise([node]), leaves)
        return Tensor(buffers.leaf(array), device=value.device)


def _is_known(value: Value) -> bool:
    return all(literal_of(tensor) is not None for tensor in tensors_in(value))


def _captures(step: Step) -> bool:
    return any(isinstance(value, Graph) for value in step.attributes.values())


def _leaf_title(node: Node) -> str:
    kind, name = node.arg
    return {
        "input": f"the input {name!r}",
        "state": f"the trained value {name!r}",
        "frozen": f"the frozen value {name!r}",
    }.get(kind, f"the {kind}")
