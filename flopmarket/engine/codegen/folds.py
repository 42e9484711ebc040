"""One stage of a REDUCE in whatever order: what is folded, and how two values meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.emit import Emitter
from flopmarket.engine.codegen.loops import Scope, Value
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Shape
from flopmarket.engine.schedule.fuse import Kernel
from flopmarket.engine.views import Index, Linear

Source = Callable[[Emitter, Index, Linear, Scope], list[Value]]
"""The operands at (emitter, index of the row, element in the row, scope)."""
Finish = Callable[[Emitter, Index, Value, Scope], None]
"""What happens to a row's result."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One stage: ``size`` elements (at most a block) of each row of ``space`` fold into one."""

    kernel: Kernel
    kind: str
    dtype: DType
    space: Shape
    size: int
    source: Source
    finish: Finish


def accumulate(fold: Fold, target: str, values: list[Value], first: bool = False) -> str:
    """The new value of a lane after an element; ``first``: there is none before it."""
    if fold.kind == "sumprod":
        before = identity(fold) if first else target
        return opencl.multiply_add(fold.dtype, values[0], values[1], before)
    if first:
        return values[0].text
    return opencl.combine(fold.kind, fold.dtype, target, values[0].text)


def identity(fold: Fold) -> str:
    """What changes no bit of a lane's first element: -0 for a sum, and +0 where FMAs begin."""
    dtype, kind = fold.dtype, fold.kind
    numpy = dtype.numpy.type
    if kind in ("max", "min") and dtype.is_float:
        return opencl.literal(numpy(-np.inf if kind == "max" else np.inf), dtype)
    if kind in ("max", "min") and dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        return opencl.literal(numpy(info.min if kind == "max" else info.max), dtype)
    if kind in ("max", "min"):
        return opencl.literal(numpy(kind == "min"), dtype)
    if kind == "prod":
        return opencl.literal(numpy(1), dtype)
    return opencl.literal(numpy(-0.0 if kind == "sum" and dtype.is_float else 0), dtype)


def tree_kind(fold: Fold) -> str:
    """How lanes are joined."""
    return "sum" if fold.kind == "sumprod" else fold.kind
