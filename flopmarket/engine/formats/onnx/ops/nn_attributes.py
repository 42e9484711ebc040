"""What the operators of neural networks share: attributes of windows, and dtypes of analysis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flopmarket.engine.dtypes import float64
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.registry import OpNode, Value, tensor
from flopmarket.engine.functional.arguments import Border
from flopmarket.engine.tensor import Tensor


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """Strides, dilations and borders of windows, one for each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    borders: tuple[Border, ...]


def window_options(
    node: OpNode, lengths: Sequence[int], kernel: Sequence[int] | None = None
) -> WindowOptions:
    """The attributes kernel_shape, strides, dilations, pads and auto_pad over ``lengths``.

    ``kernel`` takes the place of a kernel_shape that is not there.
    """
    rank = len(lengths)
    size = node.ints("kernel_shape", kernel)
    if size is None or len(size) != rank:
        raise OnnxIllegal(f"a kernel of {size} for {rank} spatial axes")
    strides = node.ints("strides") or (1,) * rank
    dilations = node.ints("dilations") or (1,) * rank
    if not len(strides) == len(dilations) == rank:
        raise OnnxIllegal(f"strides {strides} and dilations {dilations} for {rank} spatial axes")
    borders = _borders(node, lengths, size, strides, dilations)
    return WindowOptions(tuple(size), strides, dilations, borders)


def pairs(pads: Sequence[int] | None, rank: int) -> tuple[Border, ...]:
    """ONNX's (all before, then all after) as (before, after) of every axis; none is zeros."""
    given = tuple(pads or (0,) * (2 * rank))
    if len(given) != 2 * rank:
        raise OnnxIllegal(f"padding {list(given)} for {rank} axes")
    return tuple(zip(given[:rank], given[rank:], strict=True))


def halves(total: int, mode: str) -> Border:
    """``total`` elements of padding in two, the odd one behind for SAME_UPPER, else in front."""
    small = total // 2
    return (small, total - small) if mode == "SAME_UPPER" else (total - small, small)


def pad_mode(node: OpNode) -> str:
    """auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER."""
    mode = str(node.get("auto_pad", "NOTSET")) or "NOTSET"
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise OnnxIllegal(f"no padding called {mode!r}")
    return mode


def _borders(
    node: OpNode,
    lengths: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[Border, ...]:
    mode = pad_mode(node)
    if mode == "NOTSET":
        return pairs(node.ints("pads"), len(lengths))
    if mode == "VALID":
        return ((0, 0),) * len(lengths)
    rows = []
    for n, k, s, d in zip(lengths, kernel, strides, dilations, strict=True):
        missing = (-(-n // s) - 1) * s + (k - 1) * d + 1 - n
        rows.append(halves(max(0, missing), mode))
    return tuple(rows)


def analytic(rule: Callable[[Tensor], Tensor], value: Value) -> Tensor:
    """``rule`` on a float in the float's own dtype; float64, for which the engine has no elementary
    functions, goes through float32."""
    x = tensor(value)
    return rule(x.float()).to(float64) if x.dtype is float64 else rule(x)


def optional(value: Value | None) -> Tensor | None:
    """An input that may be absent."""
    return None if value is None else tensor(value)
