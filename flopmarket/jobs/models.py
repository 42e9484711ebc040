"""An ONNX model and rows for it, as an inference job: what ``flop run model.onnx`` does.

The first axis of every input is the rows of a batch; where the file fixes its length, that is the
batch. Everything is checked against the model before it is traced, so that a wrong file is named
with the input that it does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx.errors import OnnxDataDependent
from flopmarket.engine.formats.onnx.model import Model
from flopmarket.engine.formats.onnx.parsed import ValueSpec
from flopmarket.engine.tensor import Tensor
from flopmarket.errors import InvalidInput
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.form import JobForm
from flopmarket.jobs.job import DEFAULT_SEGMENTS, InferenceJob
from flopmarket.jobs.order import rows_of_output
from flopmarket.jobs.rows import Misfit, Sample, fitted_rows, names_of, rows_of, wanted
from flopmarket.jobs.spec import DataOrder
from flopmarket.limits import DEFAULT_MODEL_BATCH, MAX_MODEL_BATCH

ONLY_OUTPUT = "y"
"""What a program calls the output of a model that has one."""


class ModelResult(Protocol):
    """Outputs of a finished inference job, from here or from the market."""

    @property
    def outputs(self) -> Mapping[str, Array]:
        """Every output, stacked over all steps."""

    @property
    def order(self) -> DataOrder:
        """How rows became steps."""


class NoJob(InvalidInput):
    """The model cannot be sold: what it does is not known before it runs, or is no tensor work."""

    default_code = "MODEL_NOT_A_JOB"


def model_rows(model: Model, samples: Iterable[Sample], *, cast: bool = False) -> Tensors:
    """Rows for every input of ``model``; raises :class:`NoJob` or :class:`Misfit`."""
    _check_inputs(model)
    return fitted_rows(model.inputs, samples, cast=cast)


def model_batch(model: Model, batch: int | None, rows: int) -> int:
    """Rows of one step: what the file fixes, else ``batch``, else a default.

    Raises :class:`Misfit` when both are given and differ.
    """
    fixed = {
        spec.type.shape[0]: spec.name
        for spec in model.inputs
        if spec.type.shape and isinstance(spec.type.shape[0], int)
    }
    if len(fixed) > 1:
        named = ", ".join(f"{name!r} {length}" for length, name in sorted(fixed.items()))
        raise NoJob(
            f"the inputs have first axes of different lengths ({named}): they are not rows",
            hint="make constants of inputs that are no rows: --set NAME=VALUE",
        )
    for length, name in fixed.items():
        if batch not in (None, length):
            raise Misfit(
                f"input {name!r} has batches of {length} in the file, not of {batch}",
                code="BATCH_FIXED",
                hint=f"leave the batch open, or export the model with a dynamic first axis "
                f"instead of {length}",
            )
        return length
    chosen = batch if batch is not None else min(rows, DEFAULT_MODEL_BATCH)
    if not 0 < chosen <= MAX_MODEL_BATCH:
        raise Misfit(f"a batch has 1 to {MAX_MODEL_BATCH} rows, not {chosen}", code="BATCH_SIZE")
    return chosen


def model_job(
    model: Model,
    inputs: Any,
    *,
    batch: int | None = None,
    cast: bool = False,
    segment_steps: int | None = None,
    title: str = "",
) -> InferenceJob:
    """The job of applying ``model`` to every row of ``inputs``, ``batch`` rows a step.

    ``inputs``: arrays by input name, rows on the first axis; one array for a model of one input.
    The last batch is filled up with rows that are cut from the result. The job is traced here:
    raises :class:`Misfit`, or :class:`NoJob` with the reason.
    """
    given = inputs if isinstance(inputs, Mapping) else {_only_input(model): inputs}
    rows = model_rows(model, [Sample("inputs", given)], cast=cast)
    count = len(next(iter(rows.values())))
    job = InferenceJob(
        model=model,
        inputs={name: _kept(array) for name, array in rows.items()},
        batch=model_batch(model, batch, count),
        segment_steps=segment_steps,
        title=title or "inference",
    )
    _prepare(job)
    return job


def model_form(
    model: Model,
    rows: int,
    *,
    batch: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> JobForm:
    """What a quote needs for ``rows`` rows that do not exist yet.

    ``shapes`` gives the shape of one row of inputs whose axes are open beyond the first.
    """
    if rows < 1:
        raise Misfit(f"a job has at least one row, not {rows}", code="INPUT_EMPTY")
    _check_inputs(model)
    size = model_batch(model, batch, rows)
    zeros = {spec.name: _zeros(spec, size, (shapes or {}).get(spec.name)) for spec in model.inputs}
    if unknown := sorted(set(shapes or {}) - set(zeros)):
        raise Misfit(f"the model has no input {unknown[0]!r}: {names_of(model.inputs)}")
    prepared = _prepare(
        InferenceJob(model, {n: _kept(a) for n, a in zeros.items()}, size, title="inference")
    )
    steps = -(-rows // size)
    row_bytes = sum(array.nbytes for array in prepared.data.values()) // size
    return JobForm(
        program=prepared.program.to_bytes(),
        steps=steps,
        segment_steps=-(-steps // DEFAULT_SEGMENTS),
        input_bytes=sum(array.nbytes for array in prepared.frozen.values()) + rows * row_bytes,
    )


def model_outputs(model: Model, result: ModelResult) -> tuple[Tensors, list[str]]:
    """:func:`rows_of_all` under the model's own names, in its order."""
    names = [spec.name for spec in model.outputs]
    found, unbatched = rows_of_all(result)
    if len(names) == 1 and set(found) == {ONLY_OUTPUT}:
        return {names[0]: found[ONLY_OUTPUT]}, [names[0]] * len(unbatched)
    return {name: found[name] for name in names if name in found}, unbatched


def rows_of_all(result: ModelResult) -> tuple[Tensors, list[str]]:
    """Every output with one row an input row, and the names of those that have no rows.

    An output without a batch axis (a mean over the batch, say) is given as [steps, ...].
    """
    found: Tensors = {}
    unbatched: list[str] = []
    for name, stacked in result.outputs.items():
        try:
            found[name] = rows_of_output(result.order, name, stacked)
        except InvalidInput:
            found[name] = stacked
            unbatched.append(name)
    return found, unbatched


def _prepare(job: InferenceJob) -> Any:
    """Trace; what the engine refuses becomes the reason why this is no job."""
    try:
        return job.prepare()
    except OnnxDataDependent as error:
        names = sorted(error.inputs)
        hint = "it runs on this machine: --local"
        if names:
            hint = f"make a constant of what decides, such as --set {names[0]}=VALUE; or --local"
        raise NoJob(
            f"the model's shapes depend on its data, so its work is not known before it runs: "
            f"{error.message}",
            hint=hint,
            details={"inputs": ",".join(names)},
        ) from error
    except EngineError as error:
        raise NoJob(f"no job can be made of the model: {error.message}", hint=error.hint) from error


def _check_inputs(model: Model) -> None:
    for spec in model.inputs:
        dtype = spec.type.dtype
        if spec.type.kind != "tensor" or dtype is None or dtype.kind == "O":
            raise NoJob(
                f"input {spec.name!r} is no tensor of numbers",
                hint="make a constant of it: --set NAME=VALUE",
            )
        if spec.type.shape == ():
            raise NoJob(
                f"input {spec.name!r} is a single number and has no rows",
                hint=f"make a constant of it: --set {spec.name}=VALUE",
            )
    if not model.inputs:
        raise NoJob("the model has no inputs")
    for output in model.outputs:
        if output.type.kind != "tensor":
            raise NoJob(f"output {output.name!r} is a {output.type.kind}, not a tensor")


def _zeros(spec: ValueSpec, batch: int, row: Sequence[int] | None) -> Array:
    declared = spec.type.shape
    open_axes = declared is None or any(not isinstance(n, int) for n in declared[1:])
    if row is None and open_axes:
        raise Misfit(
            f"input {spec.name!r} {wanted(spec)} has open axes",
            code="SHAPE_OPEN",
            hint=f"name one row's shape, such as --shape {spec.name}=3,224,224, or give --input",
        )
    if row is None:
        assert declared is not None
        row = [n for n in declared[1:] if isinstance(n, int)]
    array = np.zeros((batch, *row), dtype=spec.type.dtype)
    return rows_of(spec, array, "--shape", {})


def _kept(array: Array) -> Any:
    """float64 as a tensor: an array of it would be narrowed to float32."""
    return Tensor(array, dtype=dtypes.float64) if array.dtype == np.float64 else array


def _only_input(model: Model) -> str:
    if len(model.inputs) != 1:
        raise Misfit(
            f"the model has {len(model.inputs)} inputs: {names_of(model.inputs)}",
            hint="give arrays by input name",
        )
    return model.inputs[0].name
