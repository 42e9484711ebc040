"""A job small enough for the reference interpreter."""

from __future__ import annotations

import numpy as np

from flopmarket.engine import dtypes, graph
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.jobs.prepared import PreparedJob
from flopmarket.jobs.spec import DataOrder, JobKind, OrderKind

F32 = dtypes.float32


def moving_average(batch: int = 4) -> Program:
    """state w' = 0.9 w + mean rows of x; output: the new w's sum and the step's noise."""
    x = graph.input_("input", "x", F32, (batch, 3))
    w = graph.input_("state", "w", F32, (3,))
    scale = graph.input_("frozen", "scale", F32, (3,))
    step = graph.input_("step", "step", dtypes.uint32, ())
    mean = graph.reduce("sum", x, (0,))
    decayed = graph.fma(w, graph.filled(0.9, F32, (3,)), graph.mul(mean, scale))
    return Program.build(
        frozen=[TensorSpec("scale", F32, (3,))],
        state=[TensorSpec("w", F32, (3,))],
        inputs=[TensorSpec("x", F32, (batch, 3))],
        next_state=[decayed],
        outputs=[("sum", graph.reduce("sum", decayed, (0,))), ("step", step)],
    )


def small_job(steps: int = 10, segment_steps: int = 4, rows: int = 11) -> PreparedJob:
    """A chain of three segments over shuffled rows."""
    rng = np.random.default_rng(7)
    return PreparedJob(
        kind=JobKind.TRAINING,
        program=moving_average(),
        frozen={"scale": np.array([1, 0.5, 0.25], dtype=np.float32)},
        state={"w": np.zeros(3, dtype=np.float32)},
        data={"x": rng.standard_normal((rows, 3)).astype(np.float32)},
        order=DataOrder(OrderKind.SHUFFLED, rows, 4),
        seed=2**63 + 5,
        steps=steps,
        segment_steps=segment_steps,
        title="moving average",
    )
