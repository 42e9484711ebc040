"""What moves elements in space: padding by value, mirror, edge or wrap; shuffles of channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.compose import Scalar
from flopmarket.engine.dtypes import bool_
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.tables import positions, take
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]

PAD_MODES = ("constant", "reflect", "replicate", "circular")


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: Scalar = 0) -> Tensor:
    """Elements added around axes: ``pad`` = (before, after) of the last axis, then of the one
    before it, and so on. Negative numbers crop, in any mode.

    'reflect' mirrors without the edge and wants at most length - 1; 'replicate' repeats the edge;
    'circular' wraps and wants at most the length. Raises EngineError (SHAPE_MISMATCH, PAD_MODE).
    """
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise EngineError(
            f"padding {list(pad)} for a tensor of shape {list(x.shape)}", code="SHAPE_MISMATCH"
        )
    pairs = [(0, 0)] * (x.ndim - len(pad) // 2)
    pairs += reversed(list(zip(pad[::2], pad[1::2], strict=True)))
    for n, (low, high) in zip(x.shape, pairs, strict=True):
        most = {"reflect": n - 1, "circular": n}.get(mode)
        if n + low + high < 0 or (most is not None and max(low, high) > most):
            raise EngineError(
                f"{mode} padding {(low, high)} of an axis of {n}", code="SHAPE_MISMATCH"
            )
    return Tensor(pad_node(x.node, pairs, mode, value), device=x.device)


def pad_node(x: Node, pairs: Sequence[tuple[int, int]], mode: str, value: Scalar = 0) -> Node:
    """(before, after) elements added to every axis, negative numbers crop; see :func:`pad`.

    Mirrors and wraps go round as often as the padding asks.
    """
    if mode not in PAD_MODES:
        raise EngineError(f"no padding mode {mode!r}: {', '.join(PAD_MODES)}", code="PAD_MODE")
    for n, (low, high) in zip(x.shape, pairs, strict=True):
        if min(n + low, n + high, n + low + high) < 0:
            raise EngineError(f"{(low, high)} crops an axis of {n}", code="SHAPE_MISMATCH")
    if mode == "constant":
        for axis, (low, high) in enumerate(pairs):
            start, end = max(0, -low), x.shape[axis] - max(0, -high)
            x = compose.part(x, axis, min(start, end), max(0, end - start))
        grown = [(max(0, low), max(0, high)) for low, high in pairs]
        padded = graph.pad(x, grown)
        if value == 0 or padded is x:
            return padded
        inside = graph.pad(compose.literal(True, bool_, x.shape), grown)
        return graph.where(inside, padded, compose.like(value, padded))
    for axis, (low, high) in enumerate(pairs):
        if low or high:
            x = take(x, axis, _source_positions(mode, x.shape[axis], low, high))
    return x


def _source_positions(mode: str, length: int, low: int, high: int) -> Array:
    """The position that every element of a padded axis is read from."""
    if length < 1:
        raise EngineError(f"{mode} padding of an empty axis", code="SHAPE_MISMATCH")
    at = positions(-low, length + high)
    if mode == "replicate":
        return np.clip(at, 0, length - 1)
    if mode == "circular":
        return at % length
    turn = max(1, 2 * (length - 1))
    return np.asarray((length - 1) - np.abs((at % turn) - (length - 1)))


def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """[.., C * r * r, H, W] -> [.., C, H * r, W * r]."""
    r = upscale_factor
    *batch, channels, height, width = _image(x, "pixel_shuffle")
    if r < 1 or channels % (r * r):
        raise EngineError(
            f"{channels} channels do not divide into {r} x {r}", code="SHAPE_MISMATCH"
        )
    split = x.reshape(prod(batch), channels // (r * r), r, r, height, width)
    woven = split.permute(0, 1, 4, 2, 5, 3)
    return woven.reshape(*batch, channels // (r * r), height * r, width * r)


def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """[.., C, H * r, W * r] -> [.., C * r * r, H, W]."""
    r = downscale_factor
    *batch, channels, height, width = _image(x, "pixel_unshuffle")
    if r < 1 or height % r or width % r:
        raise EngineError(
            f"an image {height} x {width} does not divide by {r}", code="SHAPE_MISMATCH"
        )
    split = x.reshape(prod(batch), channels, height // r, r, width // r, r)
    moved = split.permute(0, 1, 3, 5, 2, 4)
    return moved.reshape(*batch, channels * r * r, height // r, width // r)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """[N, C, ..] with the channels of each of ``groups`` groups dealt out in turn."""
    if x.ndim < 3 or groups < 1 or x.shape[1] % groups:
        raise EngineError(
            f"channel_shuffle of {list(x.shape)} in {groups} groups", code="SHAPE_MISMATCH"
        )
    batch, channels, *rest = x.shape
    split = x.reshape(batch, groups, channels // groups, *rest)
    return split.transpose(1, 2).reshape(x.shape)


def _image(x: Tensor, function: str) -> tuple[int, ...]:
    if x.ndim < 3:
        raise EngineError(
            f"{function} wants [.., C, H, W], not {list(x.shape)}", code="SHAPE_MISMATCH"
        )
    return x.shape
