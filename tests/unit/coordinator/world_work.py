"""The pretended work of the small market: the state after step n is ``state(n)``."""

from __future__ import annotations

import hashlib
from functools import cache

from flopmarket.engine import dtypes, graph
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.market.order import OrderTerms, OrderType
from flopmarket.trust.merkle import state_root

BATCH = 2
EMPTY = state_root({})
DOLLAR = 1_000_000_000
ASK = 360_000_000  # 0.36 an hour: 100,000 nano a second
RESTS = OrderTerms(OrderType.LIMIT)
"""An order that waits for offers: most stories submit before a worker comes."""
RATE = 1_000  # operations per second: a step takes seconds, so prices are far from rounding


def digest_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def state(step: int) -> bytes:
    """Root of the right state after ``step`` steps."""
    return digest_of(f"state after {step}")


def outputs(first: int, count: int) -> bytes:
    """Root of the right outputs of a segment."""
    return digest_of(f"outputs {first} + {count}")


@cache
def program(stateless: bool = False) -> Program:
    form = (dtypes.float32, (BATCH, 8))
    rows = graph.input_("input", "x", *form)
    if stateless:
        doubled = graph.add(rows, rows)
        return Program.build(
            frozen=(), state=(), inputs=[TensorSpec("x", *form)], next_state=(),
            outputs=[("y", doubled)],
        )  # fmt: skip
    kept = graph.input_("state", "w", *form)
    return Program.build(
        frozen=(),
        state=[TensorSpec("w", *form)],
        inputs=[TensorSpec("x", *form)],
        next_state=[graph.add(kept, rows)],
        outputs=[("y", graph.mul(kept, rows))],
    )
