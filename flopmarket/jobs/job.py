"""What buyers write: a training job and an inference job, in a model's own words.

Both only describe. :meth:`prepare` traces the step and lays out the tensors; everything after that
(pricing, signing, running here or elsewhere) sees a :class:`PreparedJob`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.nn import Module
from flopmarket.engine.optim import Optimizer
from flopmarket.engine.program import TensorSpec
from flopmarket.engine.tensor import Tensor
from flopmarket.engine.trace import (
    MODEL_PREFIX,
    Loss,
    inference_step,
    trace,
    training_step,
    without_unread,
)
from flopmarket.errors import InvalidInput
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.prepared import PreparedJob, Result, run_local
from flopmarket.jobs.spec import DataOrder, JobKind, OrderKind


class Finished(Protocol):
    """A result from here or from the market: whatever has a final state."""

    @property
    def state(self) -> Mapping[str, Array]:
        """The final state by name."""
        ...


DEFAULT_SEGMENTS = 8
"""Segments of a job whose buyer does not choose their length."""


@dataclass(frozen=True)
class TrainingJob:
    """Train ``model`` on ``data`` with ``optimizer``, minimising ``loss(model(x), y)``.

    ``data``: (x, y) with rows on the first axis of both; a model of several inputs takes a dict of
    arrays as x. ``batch``: rows a step. Give ``steps`` or ``epochs`` (an epoch is every row once,
    in an order that the seed decides). ``seed``: 64 bits that also decide initial weights and
    dropout. ``trainable``: shell patterns of the parameters to train, the others stay frozen; None
    trains all. ``initial``: values of the model by name to begin from instead of ``model.init``.
    ``state`` resumes from the state of an earlier result. A checkpoint is made after every
    ``checkpoint_segments`` segments of ``segment_steps`` steps.
    """

    model: Module
    loss: Loss
    optimizer: Optimizer
    data: tuple[Any, Any]
    batch: int
    steps: int | None = None
    epochs: float | None = None
    seed: int = 0
    trainable: Sequence[str] | None = None
    initial: Mapping[str, Array] | None = None
    segment_steps: int | None = None
    checkpoint_segments: int = 1
    state: Mapping[str, Array] | None = None
    title: str = "training"

    def prepare(self) -> PreparedJob:
        """Trace the step and lay out the tensors; raises InvalidInput or EngineError."""
        return self._prepared

    @cached_property
    def _prepared(self) -> PreparedJob:
        x, y = self.data
        data = _named(x)
        if "y" in data:
            raise InvalidInput("the labels are the data called 'y'", code="JOB_DATA")
        data["y"] = _array(y)
        rows = _common_rows(data)
        steps = self._step_count(rows)
        step = training_step(self.model, self.loss, self.optimizer, self.trainable)
        frozen, state = step.split(self._first_values)
        if self.state is not None:
            state = dict(self.state)
        program = without_unread(
            trace(step.with_frozen, state, _batch_specs(data, self.batch), frozen=frozen)
        )
        return PreparedJob(
            kind=JobKind.TRAINING,
            program=program,
            frozen={spec.name: frozen[spec.name] for spec in program.frozen},
            state=state,
            data=data,
            order=DataOrder(OrderKind.SHUFFLED, rows, self.batch),
            seed=self.seed,
            steps=steps,
            segment_steps=self.segment_steps or -(-steps // DEFAULT_SEGMENTS),
            checkpoint_segments=self.checkpoint_segments,
            title=self.title,
        )

    @cached_property
    def _first_values(self) -> Tensors:
        return dict(self.model.init(self.seed) if self.initial is None else self.initial)

    def _step_count(self, rows: int) -> int:
        if (self.steps is None) == (self.epochs is None):
            raise InvalidInput("give steps or epochs, one of them", code="JOB_STEPS")
        steps = (
            self.steps if self.steps is not None else round((self.epochs or 0) * rows / self.batch)
        )
        if steps < 1:
            raise InvalidInput(f"a job has at least one step, got {steps}", code="JOB_STEPS")
        return steps

    def run_local(self, device: str | None = None, **options: Any) -> Result:
        """Run it here: the same runner and the same digests as on the market."""
        return run_local(self.prepare(), device, **options)

    def weights(self, result: Finished) -> Tensors:
        """The values of the model by name, ready for ``model.load_state_dict``."""
        return self._first_values | model_values(result.state)


@dataclass(frozen=True)
class InferenceJob:
    """Apply ``model`` with ``weights`` to every row of ``inputs``, ``batch`` rows a step.

    ``weights``: values by name as ``TrainingJob.weights`` or ``model.state_dict`` give them; None
    takes those the model holds. Predictions are ``result.rows("y")``, one row per input row. A
    model of several inputs takes a dict of arrays; several outputs keep their names.
    Steps do not depend on each other, so segments may run on several workers at once.
    """

    model: Module
    inputs: Any
    batch: int
    weights: Mapping[str, Array] | None = None
    segment_steps: int | None = None
    title: str = "inference"

    def prepare(self) -> PreparedJob:
        """Trace the step and lay out the tensors; raises InvalidInput or EngineError."""
        return self._prepared

    @cached_property
    def _prepared(self) -> PreparedJob:
        data = _named(self.inputs)
        rows = _common_rows(data)
        weights = dict(self.model.state_dict() if self.weights is None else self.weights)
        steps = -(-rows // self.batch)
        program = without_unread(
            trace(inference_step(self.model), {}, _batch_specs(data, self.batch), frozen=weights)
        )
        return PreparedJob(
            kind=JobKind.INFERENCE,
            program=program,
            frozen={spec.name: weights[spec.name] for spec in program.frozen},
            state={},
            data=data,
            order=DataOrder(OrderKind.SEQUENTIAL, rows, self.batch),
            seed=0,
            steps=steps,
            segment_steps=self.segment_steps or -(-steps // DEFAULT_SEGMENTS),
            title=self.title,
        )

    def run_local(self, device: str | None = None, **options: Any) -> Result:
        """Run it here: the same runner and the same digests as on the market."""
        return run_local(self.prepare(), device, **options)


def model_values(state: Mapping[str, Array]) -> Tensors:
    """The model's part of a training state, by the model's own names."""
    return {
        name.removeprefix(MODEL_PREFIX): value
        for name, value in state.items()
        if name.startswith(MODEL_PREFIX)
    }


def _named(inputs: Any) -> Tensors:
    """Arrays by the names that the step knows them under: "x", or the names of a mapping."""
    if not isinstance(inputs, Mapping):
        return {"x": _array(inputs)}
    return {str(name): _array(value) for name, value in inputs.items()}


def _array(value: Any) -> Array:
    """``value`` as a canonical array. NumPy's float64 narrows to float32, a tensor's stays."""
    if isinstance(value, Tensor):
        return dtypes.canonical(value.numpy())
    array = np.asarray(value)
    return dtypes.canonical(array.astype(np.float32) if array.dtype == np.float64 else array)


def _common_rows(data: Tensors) -> int:
    for name, array in data.items():
        if array.ndim == 0 or len(array) == 0:
            raise InvalidInput(f"data {name!r} has no rows", code="JOB_DATA")
    lengths = {name: len(array) for name, array in data.items()}
    if len(set(lengths.values())) != 1:
        raise InvalidInput(f"data of different lengths: {lengths}", code="JOB_DATA")
    return next(iter(lengths.values()))


def _batch_specs(data: Tensors, batch: int) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(name, dtypes.from_numpy(array.dtype), (batch, *array.shape[1:]))
        for name, array in data.items()
    }
