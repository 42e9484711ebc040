"""A loaded ONNX model: run it here, hand it to a job, or take its program.

    model = fm.onnx.load("model.onnx", shapes={"batch": 4})
    model.run({"x": array})["y"]
    fm.InferenceJob(model=model, inputs=rows, batch=64)
    fm.TrainingJob(model=model, trainable=["head.*"], ...)

:class:`Model` is a :class:`flopmarket.engine.nn.Module` whose parameters are the float initialisers
of the file and whose ``forward`` is the graph.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from flopmarket.engine import dtypes, graph, nn, random
from flopmarket.engine.formats.onnx import feeds, limits, weights
from flopmarket.engine.formats.onnx.errors import OnnxDataDependent, OnnxIllegal
from flopmarket.engine.formats.onnx.feeds import Shapes
from flopmarket.engine.formats.onnx.integer_products import with_integer_products
from flopmarket.engine.formats.onnx.interpret import Interpreter
from flopmarket.engine.formats.onnx.narrow import Narrow, to_host
from flopmarket.engine.formats.onnx.parsed import ParsedModel, ValueSpec
from flopmarket.engine.formats.onnx.read import Source, read
from flopmarket.engine.formats.onnx.registry import Value
from flopmarket.engine.formats.onnx.values import (
    engine_dtype,
    given_value,
    hold,
    leaf_arrays,
    realise,
    tensors_in,
)
from flopmarket.engine.graph import Node
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.tensor import Tensor
from flopmarket.engine.trace import trace, without_unread

if TYPE_CHECKING:  # running opens OpenCL, reading a model does not
    from flopmarket.engine.runtime.realise import Held

Array = np.ndarray[Any, Any]


def load(
    source: Source, shapes: Shapes | None = None, values: Mapping[str, Any] | None = None
) -> Model:
    """The model of a path, bytes, an open binary file or an onnx.ModelProto.

    ``shapes`` binds dynamic axes: ``{"batch": 4}`` or ``{"input": (1, 3, 224, 224)}``; what is left
    open is bound by each call. ``values`` makes constants of inputs: a target shape, a sampling
    rate that chooses a branch. Raises OnnxIllegal or OnnxUnsupported.
    """
    return Model(weights.hoisted(read(source)), shapes or {}, values or {})


@dataclass(frozen=True, slots=True)
class _Traced:
    """A graph built for some shapes: outputs over placeholders, and where it is ready to run."""

    outputs: dict[str, Value]
    placeholders: dict[Node, tuple[str, int | None]]
    nodes: tuple[Node, ...]
    held: dict[str | None, Held]


class Model(nn.Module):
    """An ONNX model. Made by :func:`load`.

    Calling it with tensors in the order of ``inputs`` (or with one dict by name) gives the output
    tensor, or a dict of them where the model has several.
    """

    def __init__(self, parsed: ParsedModel, shapes: Shapes, values: Mapping[str, Any]) -> None:
        self._parsed = parsed
        bound = feeds.bind(parsed.graph.inputs, shapes)
        self._constants = _constants(bound, values)
        self._inputs = tuple(spec for spec in bound if spec.name not in self._constants)
        self._input_names = weights.program_names(spec.name for spec in self._inputs)
        self._initialisers = weights.members(parsed.graph)
        self._arrays = {m.name: m.value for m in self._initialisers.values()}
        self._leaves: dict[str, Tensor] = {}
        self._traced: OrderedDict[Hashable, _Traced] = OrderedDict()
        self._decisions: dict[Hashable, frozenset[str] | None] = {}
        zero = nn.constant(0.0)
        for member in self._initialisers.values():
            dtype, shape = dtypes.from_numpy(member.value.dtype), member.value.shape
            self._members[member.name] = (
                nn.Parameter(shape, zero, dtype)
                if member.trainable
                else nn.Buffer(shape, zero, dtype, fixed=True)
            )

    # ------------------------------------------------------------ what it is

    @property
    def inputs(self) -> tuple[ValueSpec, ...]:
        """Name and type of every input; open axes are names or None."""
        return self._inputs

    @property
    def outputs(self) -> tuple[ValueSpec, ...]:
        """Name and type of every output as the file declares them."""
        return self._parsed.graph.outputs

    def __repr__(self) -> str:
        text = ", ".join(spec.name for spec in self._inputs)
        gives = ", ".join(spec.name for spec in self.outputs)
        return f"<onnx model {self._parsed.graph.name!r}: {text} -> {gives}>"

    # ------------------------------------------------------------ values

    def init(self, seed: int, device: str | None = None) -> dict[str, Array]:
        """The values of the file, whatever the seed: training begins where the file ends."""
        return self.state_dict()

    def state_dict(self) -> dict[str, Array]:
        """Parameters and buffers by name."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def load_state_dict(self, state: Mapping[str, Array | Tensor]) -> Self:
        """Take other values, such as those of a finished training job."""
        super().load_state_dict(state)
        self._traced.clear()  # values may have decided shapes, and lie on devices
        self._decisions.clear()
        for name, value in state.items():
            array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
            self._arrays[name] = dtypes.canonical(array)
        return self

    # ------------------------------------------------------------ as a module

    def forward(self, *inputs: Any) -> Any:
        """Outputs for tensors in the order of ``inputs``, or for one mapping by name."""
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            given = dict(inputs[0])
        else:
            given = dict(zip((spec.name for spec in self._inputs), inputs, strict=False))
        names = {spec.name for spec in self._inputs}
        if set(given) != names or len(inputs) > max(1, len(names)):
            raise OnnxIllegal(
                f"the model takes {sorted(names)}, not {sorted(given) or len(inputs)}",
                code="ONNX_FEED",
            )
        for spec in self._inputs:
            value = given[spec.name]
            wanted = spec.type.dtype
            if isinstance(value, Tensor) and wanted is not None and value.dtype.numpy != wanted:
                raise OnnxIllegal(
                    f"input {spec.name!r} holds {wanted.name}, not {value.dtype}", code="ONNX_FEED"
                )
        values = {m.name: nn.Module.__getattr__(self, m.name) for m in self._initialisers.values()}
        known = {
            tensor.node: self._arrays[name]
            for name, tensor in values.items()
            if tensor.node.op is graph.Op.INPUT and tensor.node.arg[0] == "frozen"
        }
        found = self._interpret(given, values, known, None)
        if len(found) == 1:
            return next(iter(found.values()))
        return found

    def program(
        self, shapes: Shapes | None = None, values: Mapping[str, Any] | None = None
    ) -> Program:
        """The closed program of one call: frozen = initialisers, inputs and outputs by name.

        ``shapes`` binds the axes that are still open, ``values`` fixes inputs to constants (a
        target shape, say). Raises OnnxIllegal (ONNX_SHAPES) when an axis stays open, and
        OnnxDataDependent when a shape depends on an input.
        """
        bound = feeds.bind(self._inputs, shapes or {})
        fixed = _constants(bound, values or {})
        specs = {}
        for spec in bound:
            if spec.name not in fixed:
                name = self._input_names[spec.name]
                specs[name] = _closed(spec, name)

        def step(frozen: Any, state: Any, inputs: Any) -> Any:
            given = {spec.name: inputs.get(self._input_names[spec.name]) for spec in bound}
            given |= fixed
            known = {frozen[name].node: array for name, array in self._arrays.items()}
            found = self._interpret(given, frozen, known, None)
            names = weights.program_names(found)
            return {}, {names[name]: value for name, value in found.items()}

        return without_unread(trace(step, {}, specs, frozen=self._arrays))

    # ------------------------------------------------------------ running here

    def run(
        self, feed: Mapping[str, Any], device: str | None = None, seed: int = 0
    ) -> dict[str, Any]:
        """Outputs by name for inputs by name, as numpy arrays (lists of them for sequences).

        ``device`` is a name as in ``fm.devices()``, "reference", or None for the first one.
        Random operators without a seed of their own draw from ``seed``.

        The graph is built once per set of shapes and kept, with the weights on the device: a call
        moves inputs and outputs only. Integer and bool inputs that decide a shape become constants
        of it; where computed values decide, the model runs in parts.
        """
        data = feeds.check(self._inputs, feed)
        form = feeds.signature(data)
        if form not in self._decisions:
            self._decisions[form] = frozenset()
        while (bound := self._decisions[form]) is not None:
            try:
                traced = self._traced_for(data, form, bound, seed)
            except OnnxDataDependent as error:
                names = {name for name in error.inputs if name in data}
                if names and not names & bound and all(feeds.bindable(data[n]) for n in names):
                    self._decisions[form] = bound | names
                else:
                    self._decisions[form] = None
                continue
            return self._evaluate(traced, _fill(traced.placeholders, data), device)
        given = {name: given_value(item) for name, item in data.items()}
        with random.scope(seed, 0):
            outputs = self._interpret(given, *self._frozen(), device)
        return self._fetch(outputs, device)

    def _traced_for(
        self, data: dict[str, Any], form: Hashable, bound: frozenset[str], seed: int
    ) -> _Traced:
        values = tuple((name, feeds.content(data[name])) for name in sorted(bound))
        key = (form, values, seed)
        found = self._traced.get(key)
        if found is None:
            placeholders: dict[Node, tuple[str, int | None]] = {}
            given = {
                name: given_value(item) if name in bound else _placeholder(name, item, placeholders)
                for name, item in data.items()
            }
            free = frozenset(n for n, item in data.items() if feeds.bindable(item)) - bound
            with random.scope(seed, 0):
                outputs = self._interpret(given, *self._frozen(), None, free)
            nodes = tuple(_nodes_of(outputs))
            found = self._traced[key] = _Traced(outputs, placeholders, nodes, {})
            while len(self._traced) > limits.MAX_TRACED_PROGRAMS:
                self._traced.popitem(last=False)
        with contextlib.suppress(KeyError):  # another thread may have pushed it out
            self._traced.move_to_end(key)
        return found

    def _frozen(self) -> tuple[dict[str, Tensor], dict[Node, Array]]:
        """Parameters and buffers as leaves, and the data of those leaves."""
        if not self._leaves:
            for name, array in self._arrays.items():
                dtype = dtypes.from_numpy(array.dtype)
                self._leaves[name] = Tensor(graph.input_("frozen", name, dtype, array.shape))
        return self._leaves, {leaf.node: self._arrays[name] for name, leaf in self._leaves.items()}

    def _interpret(
        self,
        given: Mapping[str, Value],
        values: Mapping[str, Tensor],
        known: Mapping[Node, Array],
        device: str | None,
        bindable: frozenset[str] = frozenset(),
    ) -> dict[str, Value]:
        initialisers = {name: values[m.name] for name, m in self._initialisers.items()}
        interpreter = Interpreter(self._parsed, known, device, bindable)
        found = interpreter.run({**given, **self._constants}, initialisers)
        return with_integer_products(found)

    def _evaluate(
        self, traced: _Traced, fed: Mapping[Node, Array], device: str | None
    ) -> dict[str, Any]:
        """Outputs of a traced graph, which is made ready by the first call for ``device``."""
        held = traced.held.get(device)
        if held is None and traced.nodes:
            fixed, _ = leaf_arrays(traced.nodes, self._frozen()[1])
            held = traced.held[device] = hold(traced.nodes, fixed, device)
        arrays = {} if held is None else dict(zip(traced.nodes, held.run(fed), strict=True))
        return {name: _plain(value, arrays) for name, value in traced.outputs.items()}

    def _fetch(self, outputs: Mapping[str, Value], device: str | None) -> dict[str, Any]:
        """Outputs of a graph that is evaluated once."""
        nodes = _nodes_of(outputs)
        leaves, _ = leaf_arrays(nodes, self._frozen()[1])
        arrays = dict(zip(nodes, realise(nodes, leaves, device), strict=True)) if nodes else {}
        return {name: _plain(value, arrays) for name, value in outputs.items()}


def _nodes_of(outputs: Mapping[str, Value]) -> list[Node]:
    return list(dict.fromkeys(t.node for t in tensors_in(list(outputs.values()))))


def _constants(specs: Sequence[ValueSpec], values: Mapping[str, Any]) -> dict[str, Value]:
    """Inputs that are fixed, as values of the graph; raises OnnxIllegal (ONNX_FEED)."""
    chosen = [spec for spec in specs if spec.name in values]
    return {name: given_value(data) for name, data in feeds.check(chosen, values).items()}


def _closed(spec: ValueSpec, name: str) -> TensorSpec:
    shape = spec.type.shape
    if spec.type.kind != "tensor" or spec.type.dtype is None:
        raise OnnxIllegal(f"input {spec.name!r} is no tensor", code="ONNX_SHAPES")
    if shape is None or any(not isinstance(n, int) for n in shape):
        raise OnnxIllegal(
            f"input {spec.name!r} has the open shape {shape}",
            code="ONNX_SHAPES",
            hint="bind it with shapes=",
        )
    return TensorSpec(
        name, dtypes.from_numpy(spec.type.dtype), tuple(n for n in shape if isinstance(n, int))
    )


def _placeholder(
    name: str, data: Any, placeholders: dict[Node, tuple[str, int | None]], at: int | None = None
) -> Value:
    """Tensors that stand for ``data``; what no tensor holds stays data."""
    if isinstance(data, list):
        return [_placeholder(name, item, placeholders, i) for i, item in enumerate(data)]
    if data is None or engine_dtype(data.dtype) is None:
        return data
    # The leaf is called as the input, which errors name; elements of a sequence are numbered.
    label = name if at is None else f"{name}[{at}]"
    leaf = graph.input_("input", label, dtypes.from_numpy(data.dtype), data.shape)
    placeholders[leaf] = (name, at)
    return Tensor(leaf)


def _fill(
    placeholders: Mapping[Node, tuple[str, int | None]], data: Mapping[str, Any]
) -> dict[Node, Array]:
    return {
        leaf: data[name] if at is None else data[name][at]
        for leaf, (name, at) in placeholders.items()
    }


def _plain(value: Value, arrays: Mapping[Node, Array]) -> Any:
    if isinstance(value, Tensor):
        return arrays[value.node]
    if isinstance(value, Narrow):
        return to_host(arrays[value.codes.node], value.format)
    if isinstance(value, list):
        return [_plain(item, arrays) for item in value]
    return value


__all__ = ["Model", "load"]
