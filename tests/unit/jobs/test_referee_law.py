"""The referee's law on random programs over every primitive and element type, tiled at random."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from flopmarket.engine.graph import Op
from flopmarket.jobs.operations import Elements, Operation, StepPlan, blocks, matrices, words_of
from flopmarket.jobs.referee import StepFacts, recompute
from flopmarket.jobs.spec import DataOrder, OrderKind
from flopmarket.jobs.tracing import by_reference
from tests.engine.backend.random_graphs import as_program, grown
from tests.unit.jobs.disputes import Array

FACTS = StepFacts(1, 2, DataOrder(OrderKind.SEQUENTIAL, 1, 1))
_seen: set[Op] = set()


def tiled(op: Operation, random: Random) -> Operation:
    """The operation under small tiles of a random form (a product keeps rectangles)."""
    if len(op.shape) >= 2 and (random.random() < 0.5 or is_product(op)):
        return replace(op, layout=matrices(op.shape, random.randint(1, 9)))
    return replace(op, layout=blocks(op.elements, random.randint(1, 60)))


def is_product(op: Operation) -> bool:
    return op.node is not None and op.node.op is Op.DOT


@pytest.mark.parametrize("seed", range(25))
def test_a_tile_of_a_random_operation_has_the_bits_of_the_whole(seed: int) -> None:
    random = Random(seed)
    outputs, leaves = grown(random, seed, "x", steps=24, kind="input")
    plan = StepPlan(as_program(outputs, leaves))
    kept: dict[int, Array] = {}
    for at, op in enumerate(plan.operations):
        sources = [kept[source] for source in op.sources]
        if op.node is not None and op.node.op is Op.INPUT:
            kept[at] = by_reference(0, at, op, [leaves[op.node]])
            continue
        kept[at] = by_reference(0, at, op, sources)
        if op.node is not None:
            _seen.add(op.node.op)

        def fetch(source: int, where: Elements, given: list[Array] = sources) -> Array:
            return np.asarray(given[source].reshape(-1)[where])

        words = words_of(kept[at], op.dtype).reshape(-1)
        for one in (op, tiled(op, random)):
            tiles = range(one.layout.count)
            for tile in random.sample(tiles, min(len(tiles), 12)):
                where = one.layout.elements(tile)
                value = words_of(recompute(one, where, fetch, FACTS), op.dtype)
                assert value.tobytes() == words[where].tobytes(), op.describe()


def test_the_random_programs_held_every_primitive() -> None:
    """Runs after the law; LOOPs are spelled out and leave no node of their own."""
    if not _seen:
        pytest.skip("the law did not run in this process")
    assert set(Op) - {Op.INPUT, Op.LOOP} <= _seen
