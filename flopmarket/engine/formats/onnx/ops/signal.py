"""Fourier transforms, windows and the mel filter bank."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import DType, float32, float64
from flopmarket.engine.formats.onnx import fourier
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.fourier import Complex
from flopmarket.engine.formats.onnx.ops.cast import engine_type
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional.tables import check_table
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]


# ---------------------------------------------------------------- transforms


@op("DFT", since=20)
def dft(node: OpNode, x: Value, length: Value | None = None, axis: Value | None = None) -> Tensor:
    """The transform along an axis that is an input."""
    at = -2 if axis is None else node.host_ints(axis, "the axis")[0]
    return _dft(node, tensor(x), length, at)


@op("DFT", since=17)
def dft_with_attribute(node: OpNode, x: Value, length: Value | None = None) -> Tensor:
    """The transform along an axis that is an attribute."""
    return _dft(node, tensor(x), length, int(node.get("axis", 1)))


def _dft(node: OpNode, x: Tensor, length: Value | None, axis: int) -> Tensor:
    """[.., N, .., 1 or 2] to [.., K, .., 2], or to [.., N, .., 1] for a one-sided inverse."""
    axis = compose.axis_of(axis, x.ndim)
    if x.shape[-1] not in (1, 2) or axis == x.ndim - 1:
        raise OnnxIllegal(f"a signal of shape {list(x.shape)} along axis {axis}")
    inverse, onesided = bool(node.get("inverse", 0)), bool(node.get("onesided", 0))
    given = x.shape[axis]
    if length is not None:
        points = node.host_ints(length, "the length")[0]
    else:
        points = 2 * (given - 1) if inverse and onesided else given
    if points < 1:
        raise OnnxIllegal(f"a transform of {points} points")
    order = [a for a in range(x.ndim - 1) if a != axis] + [axis, x.ndim - 1]
    rest = tuple(x.shape[a] for a in order[:-2])
    wide = graph.cast(x.node, float64 if x.dtype is float64 else float32)
    rows = graph.reshape(graph.permute(wide, order), (prod(rest), given, x.shape[-1]))
    signal = _complex(rows)
    if inverse and onesided:
        found = fourier.inverse(_mirrored(signal, points))
        parts = [found.real]
    else:
        sized = _resized(signal, points)
        found = fourier.inverse(sized) if inverse else fourier.transform(sized)
        if onesided:
            found = found.part(1, 0, points // 2 + 1)
        parts = [found.real, found.imaginary]
    stacked = graph.concat([graph.reshape(p, (*p.shape, 1)) for p in parts], 2)
    result = graph.reshape(stacked, (*rest, *stacked.shape[1:]))
    back = [order.index(a) for a in range(x.ndim)]
    return Tensor(graph.cast(graph.permute(result, back), x.dtype), device=x.device)


def _complex(rows: Node) -> Complex:
    """[B, N, 1 or 2] as a complex [B, N]."""
    shape = rows.shape[:2]
    real = graph.reshape(compose.part(rows, 2, 0, 1), shape)
    if rows.shape[2] == 1:
        return Complex(real, compose.like(0.0, real))
    return Complex(real, graph.reshape(compose.part(rows, 2, 1, 1), shape))


def _resized(x: Complex, points: int) -> Complex:
    """Cut, or padded with zeros, to ``points`` along the last axis."""
    given = x.real.shape[1]
    if points <= given:
        return x.part(1, 0, points)
    room = ((0, 0), (0, points - given))
    return Complex(graph.pad(x.real, room), graph.pad(x.imaginary, room))


def _mirrored(half: Complex, points: int) -> Complex:
    """The whole spectrum of a real signal of ``points`` from its first half."""
    half = _resized(half, points // 2 + 1)
    rest = (points - 1) // 2
    if not rest:
        return half.part(1, 0, points)
    mirror = half.part(1, rest, rest, -1).conjugate()
    return Complex(
        graph.concat([half.real, mirror.real], 1),
        graph.concat([half.imaginary, mirror.imaginary], 1),
    )


@op("STFT")
def stft(
    node: OpNode,
    signal: Value,
    frame_step: Value,
    window: Value | None = None,
    frame_length: Value | None = None,
) -> Tensor:
    """[B, L, 1 or 2] to [B, frames, bins, 2]: the transform of overlapping windows."""
    x = tensor(signal)
    if x.ndim == 2:
        x = x.unsqueeze(-1)
    step = node.host_ints(frame_step, "the frame step")[0]
    if frame_length is not None:
        size = node.host_ints(frame_length, "the frame length")[0]
    else:
        size = x.shape[1] if window is None else tensor(window).shape[0]
    if not 1 <= size <= x.shape[1] or step < 1:
        raise OnnxIllegal(f"frames of {size} every {step} in a signal of {x.shape[1]}")
    wide = graph.cast(x.node, float64 if x.dtype is float64 else float32)
    frames = graph.permute(graph.window(wide, [(1, size, step, 1)]), (0, 1, 3, 2))
    batch, count = frames.shape[:2]
    if window is not None:
        shape = tensor(window)
        if shape.shape != (size,):
            raise OnnxIllegal(f"a window of {list(shape.shape)} for frames of {size}")
        weights = graph.reshape(graph.cast(shape.node, wide.dtype), (1, 1, size, 1))
        frames = graph.mul(frames, compose.broadcast_to(weights, frames.shape))
    rows = graph.reshape(frames, (batch * count, size, x.shape[2]))
    found = fourier.transform(_complex(rows))
    bins = size // 2 + 1 if node.get("onesided", 1) else size
    kept = found.part(1, 0, bins).reshape(batch, count, bins, 1)
    result = graph.concat([kept.real, kept.imaginary], 3)
    return Tensor(graph.cast(result, x.dtype), device=x.device)


# ---------------------------------------------------------------- windows


def _window(name: str, weights: Callable[[Array], Array]) -> None:
    @op(name)
    def handler(node: OpNode, size: Value) -> Tensor:
        count = node.host_ints(size, "the size")[0]
        if count < 0:
            raise OnnxIllegal(f"a window of {count} points")
        check_table(count)
        periods = count if node.get("periodic", 1) else max(1, count - 1)
        turns = 2 * np.pi * np.arange(count) / periods
        return Tensor(graph.const(weights(turns), _output_type(node), (count,)))


def _output_type(node: OpNode) -> DType:
    return engine_type(int(node.get("output_datatype", 1)))


_window("HannWindow", lambda turns: 0.5 - 0.5 * np.cos(turns))
_window("HammingWindow", lambda turns: 25 / 46 - 21 / 46 * np.cos(turns))
_window("BlackmanWindow", lambda turns: 0.42 - 0.5 * np.cos(turns) + 0.08 * np.cos(2 * turns))


@op("MelWeightMatrix")
def mel_weight_matrix(
    node: OpNode, bins: Value, length: Value, rate: Value, low: Value, high: Value
) -> Tensor:
    """[length // 2 + 1, bins]: triangles over the spectrum, evenly spaced on the mel scale."""
    count = node.host_ints(bins, "the number of bins")[0]
    points = node.host_ints(length, "the transform's length")[0]
    samples = node.host_ints(rate, "the sample rate")[0]
    edges = [float(node.host(v, "an edge").reshape(())) for v in (low, high)]
    if count < 1 or points < 1 or samples < 1:
        raise OnnxIllegal(f"{count} mel bins of {points} points at {samples} Hz")
    check_table((points // 2 + 1) * (count + 2))
    mels = [2595 * np.log10(1 + hertz / 700) for hertz in edges]
    # The distance that the operator defines is the range by the number of edges, not of gaps.
    centres = mels[0] + np.arange(count + 2) * (mels[1] - mels[0]) / (count + 2)
    hertz = 700 * (10 ** (centres / 2595) - 1)
    places = np.floor((points + 1) * hertz / samples).astype(np.int64)
    matrix = np.zeros((points // 2 + 1, count))
    if places.min() < 0 or places[:-1].max() >= len(matrix) or places[-1] > len(matrix):
        raise OnnxIllegal("the mel bins leave the spectrum")
    for column, (start, centre, end) in enumerate(
        zip(places[:-2], places[1:-1], places[2:], strict=True)
    ):
        if start == centre:
            matrix[centre, column] = 1.0
        else:
            rising = np.arange(start, centre + 1)
            matrix[rising, column] = (rising - start) / (centre - start)
        falling = np.arange(centre, end)
        matrix[falling, column] = (end - falling) / max(1, end - centre)
    return Tensor(graph.const(matrix, _output_type(node), matrix.shape))
