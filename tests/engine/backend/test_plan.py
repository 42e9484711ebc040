"""Plans as data: memory never overlaps in time and space, equal kernels are one, limits hold."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph
from flopmarket.engine.codegen import lint
from flopmarket.engine.codegen.emit import BufferKey
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.graph import Node
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.schedule.plan import make_plan, size_bytes

from .random_graphs import random_graph

F32 = dtypes.float32


def leaf(name: str, *shape: int) -> Node:
    return graph.input_("buffer", name, F32, shape)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), fusion=st.booleans())
def test_no_slab_holds_two_live_temporaries(seed: int, fusion: bool) -> None:
    plan = make_plan(canonicalise(random_graph(seed, 30)[0]), Target(), fusion=fusion)
    spans: dict[BufferKey, list[int]] = {}
    for at, step in enumerate(plan.steps):
        for key in step.call.arguments:
            if key in plan.places:
                spans.setdefault(key, [at, at])[1] = at
    for a, (first, last) in spans.items():
        assert size_bytes(a) <= plan.slab_bytes[plan.places[a]]
        for b, (since, until) in spans.items():
            alive_together = since <= last and first <= until
            assert a is b or plan.places[a] != plan.places[b] or not alive_together


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), is_cpu=st.booleans(), helper=st.booleans())
def test_every_generated_source_passes_the_lint(seed: int, is_cpu: bool, helper: bool) -> None:
    target = Target(is_cpu=is_cpu, contract_helper=helper)
    lint.check(make_plan(canonicalise(random_graph(seed)[0]), target).source)


def test_equal_layers_share_their_kernels() -> None:
    x = leaf("x", 1, 64, 64)
    for number in range(5):
        x = graph.max_(graph.dot(x, leaf(f"w{number}", 1, 64, 64)), graph.filled(0, F32, x.shape))
    plan = make_plan(canonicalise([x]), Target())
    assert len(plan.steps) == 15
    assert len({step.name for step in plan.steps}) <= 5


def test_the_arena_is_reused() -> None:
    x = leaf("x", 64, 64)
    for _ in range(10):
        x = graph.reshape(graph.concat([x, x], 0), (2, 64, 64))
        x = graph.slice_(x, ((0, 1, 1), (0, 1, 64), (0, 1, 64)))
        x = graph.reshape(x, (64, 64))
    plan = make_plan([x], Target())
    assert sum(plan.slab_bytes) <= 3 * 2 * 64 * 64 * 4


def test_large_tensors_get_wide_indices() -> None:
    big = leaf("x", 2**20, 2**12)
    plan = make_plan([graph.add(big, big), graph.reduce("max", big, (1,))], Target())
    assert all("long" in text for text in plan.source.split("__kernel")[1:])
    small = make_plan([graph.add(leaf("y", 100), leaf("z", 100))], Target())
    assert "long" not in small.source.split("__kernel")[1]
