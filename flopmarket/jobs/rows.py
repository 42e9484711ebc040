"""Arrays of a user, checked against a model's inputs and made rows of a job.

Every refusal names the file, the input, what it wants and what was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine.formats.onnx.parsed import Dimension, ValueSpec
from flopmarket.errors import InvalidInput
from flopmarket.jobs.bundle import Array, Tensors


class Misfit(InvalidInput):
    """An input does not fit the model; names the input, what is expected and what was given."""

    default_code = "INPUT_MISFIT"


@dataclass(frozen=True, slots=True)
class Sample:
    """Arrays of one file, by input, and where they came from for error messages."""

    source: str
    arrays: Mapping[str, Any]


def fitted_rows(
    specs: Sequence[ValueSpec], samples: Iterable[Sample], *, cast: bool = False
) -> Tensors:
    """Rows for every input, [rows, ...] by name: the samples' rows in their order.

    An array has the rank of its input (then its first axis is rows) or one axis less (one row).
    ``cast`` converts other number types; without it they are refused. Raises :class:`Misfit`.
    """
    collected: dict[str, list[Array]] = {spec.name: [] for spec in specs}
    lengths: dict[str, int] = {}
    for sample in samples:
        fitted = _fitted(specs, sample, lengths, cast=cast)
        for name, rows in fitted.items():
            earlier = collected[name]
            if earlier and earlier[0].shape[1:] != rows.shape[1:]:
                raise Misfit(
                    f"{sample.source}: input {name!r} has rows {_shape(rows.shape[1:])}, earlier "
                    f"ones {_shape(earlier[0].shape[1:])}: all rows of a job have one shape",
                )
            earlier.append(rows)
    if any(not rows for rows in collected.values()):
        raise Misfit("there are no rows to compute", code="INPUT_EMPTY")
    return {
        name: parts[0] if len(parts) == 1 else np.concatenate(parts)
        for name, parts in collected.items()
    }


def _fitted(
    specs: Sequence[ValueSpec], sample: Sample, lengths: dict[str, int], *, cast: bool
) -> Tensors:
    given = sample.arrays
    if unknown := sorted(set(given) - {spec.name for spec in specs}):
        raise Misfit(
            f"{sample.source}: the model has no input {unknown[0]!r}; it has {names_of(specs)}"
        )
    found: Tensors = {}
    for spec in specs:
        if spec.name not in given:
            raise Misfit(f"{sample.source}: input {spec.name!r} {wanted(spec)} is missing")
        array = _typed(spec, np.asarray(given[spec.name]), sample.source, cast=cast)
        found[spec.name] = rows_of(spec, array, sample.source, lengths)
    counts = {name: len(rows) for name, rows in found.items()}
    if len(set(counts.values())) > 1:
        raise Misfit(f"{sample.source}: inputs have different numbers of rows: {counts}")
    if not all(counts.values()):
        raise Misfit(f"{sample.source}: there are no rows", code="INPUT_EMPTY")
    return found


def _typed(spec: ValueSpec, array: Array, source: str, *, cast: bool) -> Array:
    dtype = spec.type.dtype
    assert dtype is not None
    if array.dtype == dtype:
        return array
    if cast and array.dtype.kind in "biuf" and np.can_cast(array.dtype, dtype, "same_kind"):
        return array.astype(dtype)
    raise Misfit(
        f"{source}: input {spec.name!r} wants {wanted(spec)}, {array.dtype}"
        f"{_shape(array.shape)} was given",
        code="INPUT_DTYPE",
        hint=f"convert with array.astype({dtype.name!r}), or --cast",
        details={"input": spec.name, "expected": dtype.name, "given": str(array.dtype)},
    )


def rows_of(spec: ValueSpec, array: Array, source: str, lengths: dict[str, int]) -> Array:
    """``array`` with rows on its first axis; raises Misfit INPUT_SHAPE."""
    declared = spec.type.shape
    if declared is None:
        return array
    rows = array[None] if array.ndim == len(declared) - 1 else array
    fits = rows.ndim == len(declared)
    for want, have in zip(declared[1:], rows.shape[1:], strict=False):
        if isinstance(want, str):
            fits = fits and lengths.setdefault(want, have) == have
        else:
            fits = fits and want in (None, have)
    if fits:
        return rows
    bound = {name: length for name, length in lengths.items() if name in declared}
    known = f" with {bound}" if bound else ""
    raise Misfit(
        f"{source}: input {spec.name!r} wants {wanted(spec)}{known}, {array.dtype}"
        f"{_shape(array.shape)} was given",
        code="INPUT_SHAPE",
        hint="the first axis is rows; one axis less is one row",
        details={
            "input": spec.name,
            "expected": _shape(declared),
            "given": _shape(array.shape),
        },
    )


def wanted(spec: ValueSpec) -> str:
    """An input's type for an error message: ``float32[batch, 3]``."""
    dtype = spec.type.dtype
    return f"{dtype.name if dtype is not None else '?'}{_shape(spec.type.shape)}"


def names_of(specs: Sequence[ValueSpec]) -> str:
    """All inputs with their types."""
    return ", ".join(f"{spec.name} {wanted(spec)}" for spec in specs)


def _shape(shape: Sequence[Dimension] | None) -> str:
    if shape is None:
        return "[...]"
    return "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"
