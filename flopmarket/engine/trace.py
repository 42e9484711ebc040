"""From a Python step function to a closed :class:`Program`, and the steps that jobs are made of.

:func:`trace` calls the function once with tensors that stand for values known only when the program
runs. :func:`training_step` and :func:`inference_step` build such functions from a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np

from flopmarket.engine import buffers, compose, dtypes, graph, limits, random
from flopmarket.engine.errors import EngineError
from flopmarket.engine.grad import grad
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.nn import Buffer, Module
from flopmarket.engine.optim import Optimizer
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
Example = Tensor | Array | TensorSpec
Examples = Mapping[str, Example]
Tensors = dict[str, Tensor]
Loss = Callable[[Any, Tensor], Tensor]
"""(what the model gives: a tensor, or a mapping of several; the labels) to one number."""
_Value = TypeVar("_Value")

MODEL_PREFIX = "model."
OPTIMIZER_PREFIX = "optimizer."


def trace(
    step: Callable[..., tuple[Mapping[str, Tensor], Mapping[str, Tensor]]],
    state: Examples,
    inputs: Examples,
    frozen: Examples | None = None,
) -> Program:
    """The program of ``new_state, outputs = step(state, inputs)``.

    With ``frozen`` given, ``step(frozen, state, inputs)``. The examples say name, dtype and shape;
    their values do not matter. The step gets dicts of tensors and returns a dict with the names of
    ``state`` and a dict of outputs. Random calls inside draw from the job's seed and step, each
    from its own stream. Small realised tensors that the step closes over become literals.

    Raises EngineError (TRACE_STATE, TRACE_CLOSURE) and whatever the step or ``Program.build`` does.
    """
    given = {
        "frozen": _specs(frozen or {}),
        "state": _specs(state),
        "input": _specs(inputs),
    }
    tensors = {
        kind: {s.name: Tensor(graph.input_(kind, s.name, s.dtype, s.shape)) for s in specs}
        for kind, specs in given.items()
    }
    arguments = [tensors["state"], tensors["input"]]
    if frozen is not None:
        arguments.insert(0, tensors["frozen"])
    seed = graph.input_("seed", "seed", dtypes.uint32, (2,))
    counter = graph.input_("step", "step", dtypes.uint32, ())
    with random.scope(seed, counter):
        new_state, outputs = step(*arguments)
    _check_state(given["state"], new_state)
    nodes = [new_state[spec.name].node for spec in given["state"]]
    nodes += [tensor.node for tensor in outputs.values()]
    closed = _close(nodes)
    split = len(given["state"])
    return Program.build(
        frozen=given["frozen"],
        state=given["state"],
        inputs=given["input"],
        next_state=closed[:split],
        outputs=list(zip(outputs, closed[split:], strict=True)),
    )


def without_unread(program: Program) -> Program:
    """``program`` without the frozen tensors that nothing reads: a branch that is never taken
    need not be shipped."""
    read = {leaf.arg[1] for leaf in program.leaves if leaf.arg[0] == "frozen"}
    if len(read) == len(program.frozen):
        return program
    return Program.build(
        frozen=[spec for spec in program.frozen if spec.name in read],
        state=program.state,
        inputs=program.inputs,
        next_state=program.state_nodes,
        outputs=[(s.name, n) for s, n in zip(program.outputs, program.output_nodes, strict=True)],
    )


def _specs(examples: Examples) -> list[TensorSpec]:
    return [_spec(name, example) for name, example in examples.items()]


def _spec(name: str, example: Example) -> TensorSpec:
    if isinstance(example, TensorSpec):
        return TensorSpec(name, example.dtype, example.shape)
    if isinstance(example, Tensor):
        return TensorSpec(name, example.dtype, example.shape)
    return TensorSpec(name, dtypes.from_numpy(example.dtype), example.shape)


def _check_state(specs: Sequence[TensorSpec], new_state: Mapping[str, Tensor]) -> None:
    names = {spec.name for spec in specs}
    for name in sorted(names ^ set(new_state)):
        verb = "does not return" if name in names else "returns the unknown"
        raise EngineError(f"the step {verb} state tensor {name!r}", code="TRACE_STATE")


def _close(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """``nodes`` with realised leaves as literals."""
    literals: dict[Node, Node] = {}
    for node in graph.topological(nodes):
        if node.op is not Op.INPUT or node.arg[0] != "buffer":
            continue
        array = buffers.array_of(node)
        if array is None or node.size_bytes > limits.MAX_TRACED_CONSTANT_BYTES:
            raise EngineError(
                f"the step closes over a tensor {node.dtype}{list(node.shape)} of "
                f"{node.size_bytes} bytes, at most {limits.MAX_TRACED_CONSTANT_BYTES}",
                code="TRACE_CLOSURE",
                hint="pass it as frozen or as state",
            )
        literals[node] = graph.const(array, node.dtype, node.shape)
    return compose.replace(nodes, literals)


# ---------------------------------------------------------------- steps of jobs


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One step of training: forward, derivatives, update. Build it with :func:`training_step`.

    State: "model.NAME" for trained parameters and buffers, "optimizer.NAME". Frozen: "model.NAME"
    for parameters that ``trainable`` (shell patterns of names; None means all) leaves out and for
    fixed buffers. Inputs: "y", and "x" or the model's inputs by name. Outputs: "loss", and for
    integer labels [N] against scores [N, C] also "correct" (int64, how many rows have their largest
    score at the label).
    """

    model: Module
    loss: Loss
    optimizer: Optimizer
    trainable: tuple[str, ...] | None = None

    def trained_names(self) -> list[str]:
        """Parameters that the step changes; raises EngineError (TRAINABLE_UNKNOWN)."""
        names = list(self.model.named_parameters())
        if self.trainable is None:
            return names
        for pattern in self.trainable:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise EngineError(
                    f"no parameter is called {pattern!r}",
                    code="TRAINABLE_UNKNOWN",
                    hint=f"parameters: {', '.join(names[:20])}",
                )
        return [n for n in names if any(fnmatchcase(n, pattern) for pattern in self.trainable)]

    def frozen_names(self) -> list[str]:
        """Parameters and buffers that no step changes."""
        trained = set(self.trained_names())
        return [
            name
            for name, member in self.model.members().items()
            if (member.fixed if isinstance(member, Buffer) else name not in trained)
        ]

    def init(self, seed: int, device: str | None = None) -> dict[str, Array]:
        """The state before the first step, a function of the model, the optimizer and ``seed``."""
        return self.split(self.model.init(seed, device))[1]

    def split(self, values: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """(frozen, first state) from values of all parameters and buffers of the model."""
        frozen = {name: values[name] for name in self.frozen_names()}
        moving = {name: value for name, value in values.items() if name not in frozen}
        return _prefixed(MODEL_PREFIX, frozen), self._state(moving)

    def init_specs(self) -> dict[str, TensorSpec]:
        """Names, dtypes and shapes of the state, without computing its values."""
        # Zeros expanded from one element take no memory whatever the model's size.
        zeros = {
            name: np.broadcast_to(np.zeros((), dtype=member.dtype.numpy), member.shape)
            for name, member in self.model.members().items()
        }
        return {name: _spec(name, array) for name, array in self.split(zeros)[1].items()}

    def _state(self, values: Mapping[str, Array]) -> dict[str, Array]:
        trained = {name: values[name] for name in self.trained_names()}
        return _prefixed(MODEL_PREFIX, values) | _prefixed(
            OPTIMIZER_PREFIX, self.optimizer.init(trained)
        )

    def __call__(
        self, state: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
    ) -> tuple[Tensors, Tensors]:
        return self.with_frozen({}, state, inputs)

    def with_frozen(
        self,
        frozen: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensors, Tensors]:
        """The step of a program with frozen tensors: ``trace(step.with_frozen, .., frozen=..)``."""
        y = inputs["y"]
        moving = _unprefixed(MODEL_PREFIX, state)
        values = _unprefixed(MODEL_PREFIX, frozen) | moving
        given = {name: value for name, value in inputs.items() if name != "y"}
        scores, kept = self.model.apply(values, _argument(given), training=True)
        loss = self.loss(scores, y)
        trained = {name: values[name] for name in self.trained_names()}
        gradients = dict(zip(trained, grad(loss, list(trained.values())), strict=True))
        moved, memory = self.optimizer.update(
            trained, gradients, _unprefixed(OPTIMIZER_PREFIX, state)
        )
        outputs = {"loss": loss}
        classes = isinstance(scores, Tensor) and scores.ndim == 2
        if y.dtype.is_integer and classes and y.ndim == 1:
            outputs["correct"] = (scores.argmax(1) == y).sum()
        new_values = {name: (moved | kept)[name] for name in moving}
        return (
            _prefixed(MODEL_PREFIX, new_values) | _prefixed(OPTIMIZER_PREFIX, memory),
            outputs,
        )


def training_step(
    model: Module, loss: Loss, optimizer: Optimizer, trainable: Sequence[str] | None = None
) -> TrainingStep:
    """The step function of a training job: ``trace(step, step.init(seed), {"x": .., "y": ..})``."""
    return TrainingStep(model, loss, optimizer, None if trainable is None else tuple(trainable))


@dataclass(frozen=True, slots=True)
class InferenceStep:
    """One batch of predictions: frozen = the model's values by name, input "x", output "y".

    A model of several inputs gets them by name, and its several outputs keep their names.
    """

    model: Module

    def __call__(
        self,
        frozen: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
    ) -> tuple[Tensors, Tensors]:
        result, _ = self.model.apply(frozen, _argument(inputs), training=False)
        return dict(state), dict(result) if isinstance(result, Mapping) else {"y": result}


def inference_step(model: Module) -> InferenceStep:
    """The step function of a batch inference job: ``trace(step, {}, {"x": ..}, frozen=values)``."""
    return InferenceStep(model)


def _argument(inputs: Mapping[str, Tensor]) -> Tensor | Mapping[str, Tensor]:
    """What the model is called with: the tensor "x", or all its inputs by name."""
    return inputs["x"] if set(inputs) == {"x"} else inputs


def _prefixed(prefix: str, values: Mapping[str, _Value]) -> dict[str, _Value]:
    return {prefix + name: value for name, value in values.items()}


def _unprefixed(prefix: str, values: Mapping[str, Tensor]) -> Tensors:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }
