"""Small programs that several tests build on."""

from __future__ import annotations

from flopmarket.engine import dtypes, graph
from flopmarket.engine.program import Program, TensorSpec

F32 = dtypes.float32


def linear_step(rows: int = 8, features: int = 4, columns: int = 3) -> Program:
    """One gradient-free "training" step: loss = sum((x w)^2), w' = w - 0.1 w."""
    x = graph.input_("input", "x", F32, (rows, features))
    w = graph.input_("state", "w", F32, (features, columns))
    y = graph.dot(graph.reshape(x, (1, rows, features)), graph.reshape(w, (1, features, columns)))
    loss = graph.reduce("sumprod", y, (0, 1, 2), y)
    decayed = graph.add(w, graph.mul(graph.filled(-0.1, F32, w.shape), w))
    return Program.build(
        frozen=[],
        state=[TensorSpec("w", F32, w.shape)],
        inputs=[TensorSpec("x", F32, x.shape)],
        next_state=[decayed],
        outputs=[("loss", loss)],
    )
