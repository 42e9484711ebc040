"""What a model is fed: names, types and shapes checked, dynamic axes bound."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.parsed import Dimension, ValueSpec, ValueType
from flopmarket.engine.formats.onnx.values import engine_dtype

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, int | Sequence[int]]
"""Lengths of named dimensions, and whole shapes of inputs, by name."""


def bind(specs: Sequence[ValueSpec], shapes: Shapes) -> tuple[ValueSpec, ...]:
    """``specs`` with dynamic axes bound.

    Raises OnnxIllegal (ONNX_SHAPES) for a name that is neither a dimension nor an input, or for
    a shape that contradicts the model.
    """
    lengths = {name: n for name, n in shapes.items() if isinstance(n, int)}
    whole = {name: _whole(name, n) for name, n in shapes.items() if not isinstance(n, int)}
    if wrong := [name for name, n in lengths.items() if n < 0]:
        raise OnnxIllegal(f"{wrong[0]!r} has no length {lengths[wrong[0]]}", code="ONNX_SHAPES")
    dimensions = {d for s in specs for d in (s.type.shape or ()) if isinstance(d, str)}
    for spec in specs:
        if spec.name in whole:
            _match(spec, whole[spec.name], lengths)
    unknown = (set(whole) - {spec.name for spec in specs}) | (set(lengths) - dimensions)
    if unknown:
        raise OnnxIllegal(
            f"{sorted(unknown)[0]!r} is neither an input nor a named dimension",
            code="ONNX_SHAPES",
            hint=f"dimensions: {', '.join(sorted(dimensions)) or 'none'}",
        )
    return tuple(_bound(spec, whole.get(spec.name), lengths) for spec in specs)


def _whole(name: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, Sequence) or not all(
        isinstance(n, int | np.integer) and n >= 0 for n in shape
    ):
        raise OnnxIllegal(f"{name!r} has no shape {shape!r}", code="ONNX_SHAPES")
    return tuple(int(n) for n in shape)


def _bound(spec: ValueSpec, shape: tuple[int, ...] | None, lengths: Mapping[str, int]) -> ValueSpec:
    given: tuple[Dimension, ...] | None = shape if shape is not None else spec.type.shape
    if given is None:
        return spec
    found = tuple(lengths.get(d, d) if isinstance(d, str) else d for d in given)
    return replace(spec, type=replace(spec.type, shape=found))


def _match(spec: ValueSpec, shape: Sequence[int], lengths: dict[str, int]) -> None:
    """Raise unless ``shape`` fits ``spec``; remembers the lengths of named dimensions."""
    declared = spec.type.shape
    if declared is None:
        return
    fits = len(declared) == len(shape)
    for want, have in zip(declared, shape, strict=False):
        if isinstance(want, str):
            fits = fits and lengths.setdefault(want, have) == have
        else:
            fits = fits and want in (None, have)
    if not fits:
        text = ", ".join("?" if d is None else str(d) for d in declared)
        raise OnnxIllegal(
            f"{spec.name!r} has shape [{text}], not {list(shape)}", code="ONNX_SHAPES"
        )


def check(specs: Sequence[ValueSpec], feed: Mapping[str, Any]) -> dict[str, Any]:
    """The fed data as arrays, lists of arrays or None.

    Python numbers and lists take the declared type. Raises OnnxIllegal (ONNX_FEED, ONNX_SHAPES).
    """
    names = [spec.name for spec in specs]
    if unknown := [name for name in feed if name not in names]:
        raise OnnxIllegal(
            f"the model has no input {unknown[0]!r}", code="ONNX_FEED", hint=f"inputs: {names}"
        )
    lengths: dict[str, int] = {}
    found: dict[str, Any] = {}
    for spec in specs:
        if spec.name not in feed and spec.type.kind != "optional":
            raise OnnxIllegal(f"input {spec.name!r} is missing", code="ONNX_FEED")
        data = _typed(spec.name, spec.type, feed.get(spec.name))
        if isinstance(data, np.ndarray):
            _match(spec, data.shape, lengths)
        found[spec.name] = data
    return found


def _typed(name: str, kind: ValueType, data: Any) -> Any:
    while kind.kind == "optional":
        if data is None:
            return None
        assert kind.element is not None
        kind = kind.element
    if kind.kind == "sequence":
        if not isinstance(data, list | tuple) or len(data) > limits.MAX_SEQUENCE_LENGTH:
            raise OnnxIllegal(f"input {name!r} is a list of arrays", code="ONNX_FEED")
        assert kind.element is not None
        return [_typed(f"{name}[{at}]", kind.element, item) for at, item in enumerate(data)]
    if kind.kind != "tensor":
        raise OnnxIllegal(f"input {name!r} is a {kind.kind}, not computed here", code="ONNX_FEED")
    if data is None:
        raise OnnxIllegal(f"input {name!r} is missing", code="ONNX_FEED")
    if hasattr(data, "numpy") and not isinstance(data, np.ndarray):
        data = data.numpy()
    try:
        array = np.asarray(data)
        if kind.dtype is not None and not isinstance(data, np.ndarray | np.generic):
            array = _converted(array, kind.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise OnnxIllegal(f"input {name!r}: {error}", code="ONNX_FEED") from None
    if kind.dtype == object:
        if not all(isinstance(text, str | bytes) for text in array.reshape(-1)):
            raise OnnxIllegal(f"input {name!r} holds strings", code="ONNX_FEED")
        return array.astype(object)
    if kind.dtype is not None and array.dtype != kind.dtype:
        raise OnnxIllegal(
            f"input {name!r} holds {kind.dtype.name}, not {array.dtype.name}", code="ONNX_FEED"
        )
    return array


def _converted(array: Array, dtype: np.dtype[Any]) -> Array:
    """Python numbers in the declared type; raises ValueError where integers would lose by it."""
    with np.errstate(all="ignore"):
        found = array.astype(dtype)
    if dtype.kind in "biu" and not np.array_equal(found, array):
        raise ValueError(f"{dtype.name} does not hold all of these numbers")
    return found


def signature(data: Any) -> Hashable:
    """What a traced program depends on: forms, and the content of what no tensor holds."""
    if isinstance(data, dict):
        return tuple((name, signature(item)) for name, item in data.items())
    if isinstance(data, list):
        return ("list", *(signature(item) for item in data))
    if data is None:
        return None
    if engine_dtype(data.dtype) is None:
        return content(data)
    return (data.dtype.name, data.shape)


def content(data: Any) -> Hashable:
    """The value itself as a key."""
    if isinstance(data, list):
        return ("list", *(content(item) for item in data))
    if data is None:
        return None
    raw = tuple(data.reshape(-1).tolist()) if data.dtype == object else data.tobytes()
    return (data.dtype.name, data.shape, raw)


def bindable(data: Any) -> bool:
    """Whether a program may be specialised for this data: a few integers or bools."""
    if isinstance(data, list):
        return all(bindable(item) for item in data)
    if data is None or engine_dtype(data.dtype) is None:
        return True
    return data.dtype.kind in "iub" and data.size <= limits.MAX_BOUND_ELEMENTS
