"""Lanes of a reduction begin with what changes no bit: -0 stays -0, and extremes stay extreme."""

from __future__ import annotations

import numpy as np
import pytest

from flopmarket.engine import dtypes, graph
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Node

from .conftest import Array, Check

LENGTHS = (1, 63, 64, 65, 130, 4096, 4200)
FLOATS = (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16)
INTEGERS = (dtypes.int32, dtypes.uint8, dtypes.int64, dtypes.uint64)


def extremes(dtype: DType) -> list[float | int]:
    if dtype.is_float:
        return [-0.0, np.inf, -np.inf, np.nan, 1.5]
    info = np.iinfo(dtype.numpy)
    return [int(info.min), int(info.max), 1]


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
def test_rows_of_one_extreme_value(dtype: DType, axis: int, check: Check) -> None:
    outputs: list[Node] = []
    values: dict[Node, Array] = {}
    for length in LENGTHS if dtype is dtypes.float32 else LENGTHS[2:5]:
        kept = extremes(dtype) * 2
        shape = (length, len(kept)) if axis == 0 else (len(kept), length)
        x = graph.input_("buffer", f"{dtype.name}{shape}", dtype, shape)
        line = np.array(kept, dtype.numpy)
        line = line if axis == 0 else line[:, None]
        values[x] = dtypes.canonical(np.broadcast_to(line, shape))
        kinds = ("sum", "max", "min", "prod") if dtype.is_float else ("sum", "max", "min")
        outputs += [graph.reduce(kind, x, (axis,)) for kind in kinds]
        if dtype.is_float:
            outputs.append(graph.reduce("sumprod", x, (axis,), x))
    check(outputs, values)
