"""What buyers write: a training job and an inference job, in a model's own words.

Both only describe. :meth:`prepare` traces the step and lays out the tensors; everything after that
(pricing, signing, running here or elsewhere) sees a :class:`PreparedJob`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.nn import Module
from flopmarket.engine.optim import Optimizer
from flopmarket.engine.program import TensorSpec
from flopmarket.engine.tensor import Tensor
from flopmarket.engine.trace import MODEL_PREFIX, Loss, inference_step, trace, training_step
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

    ``data``: (x, y) with rows on the first axis of both. ``batch``: rows a step. Give ``steps`` or
    ``epochs`` (an epoch is every row once, in an order that the seed decides). ``seed``: 64 bits
    that also decide initial weights and dropout. ``state`` resumes from the state of an earlier
    result instead of initialising. A checkpoint is made after every ``checkpoint_segments``
    segments of ``segment_steps`` steps.
    """

    model: Module
    loss: Loss
    optimizer: Optimizer
    data: tuple[Any, Any]
    batch: int
    steps: int | None = None
    epochs: float | None = None
    seed: int = 0
    segment_steps: int | None = None
    checkpoint_segments: int = 1
    state: Mapping[str, Array] | None = None
    title: str = "training"

    def prepare(self) -> PreparedJob:
        """Trace the step and lay out the tensors; raises InvalidInput or EngineError."""
        return self._prepared

    @cached_property
    def _prepared(self) -> PreparedJob:
        x, y = (_array(part) for part in self.data)
        rows = _common_rows({"x": x, "y": y})
        steps = self._step_count(rows)
        step = training_step(self.model, self.loss, self.optimizer)
        state = step.init(self.seed) if self.state is None else dict(self.state)
        data = {"x": x, "y": y}
        return PreparedJob(
            kind=JobKind.TRAINING,
            program=trace(step, state, _batch_specs(data, self.batch)),
            frozen={},
            state=state,
            data=data,
            order=DataOrder(OrderKind.SHUFFLED, rows, self.batch),
            seed=self.seed,
            steps=steps,
            segment_steps=self.segment_steps or -(-steps // DEFAULT_SEGMENTS),
            checkpoint_segments=self.checkpoint_segments,
            title=self.title,
        )

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
        """The trained values of the model by name, ready for ``model.load_state_dict``."""
        return model_values(result.state)


@dataclass(frozen=True)
class InferenceJob:
    """Apply ``model`` with ``weights`` to every row of ``inputs``, ``batch`` rows a step.

    ``weights``: values by name as ``TrainingJob.weights`` or ``model.state_dict`` give them; None
    takes those the model holds. Predictions are ``result.rows("y")``, one row per input row.
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
        data = {"x": _array(self.inputs)}
        rows = _common_rows(data)
        weights = dict(self.model.state_dict() if self.weights is None else self.weights)
        steps = -(-rows // self.batch)
        return PreparedJob(
            kind=JobKind.INFERENCE,
            program=trace(
                inference_step(self.model), {}, _batch_specs(data, self.batch), frozen=weights
            ),
            frozen=weights,
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


def _array(value: Any) -> Array:
    """``value`` as a canonical array; float64 narrows to float32, the profile's float."""
    array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return dtypes.canonical(array)


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
