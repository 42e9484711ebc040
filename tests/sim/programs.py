"""The two programs of a simulation: one with a state, one without."""

from __future__ import annotations

from functools import cache

from flopmarket.engine import dtypes, graph
from flopmarket.engine.program import Program, TensorSpec

BATCH = 2
LARGE_WIDTH = 64


@cache
def program(stateless: bool = False, large: bool = False) -> Program:
    """A program of an operation or two; its bits are pretended anyway. A ``large`` one has more to
    count in a step."""
    form = (dtypes.float32, (BATCH, LARGE_WIDTH if large else 8))
    rows = graph.input_("input", "x", *form)
    if stateless:
        return Program.build(
            frozen=(),
            state=(),
            inputs=[TensorSpec("x", *form)],
            next_state=(),
            outputs=[("y", graph.add(rows, rows))],
        )
    kept = graph.input_("state", "w", *form)
    return Program.build(
        frozen=(),
        state=[TensorSpec("w", *form)],
        inputs=[TensorSpec("x", *form)],
        next_state=[graph.add(kept, rows)],
        outputs=[("y", graph.mul(kept, rows))],
    )
