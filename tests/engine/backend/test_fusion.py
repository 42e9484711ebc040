"""What fuses and what does not; that no bit changes is tests/engine/law."""

from __future__ import annotations

from flopmarket.engine import dtypes, graph
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.schedule.fuse import fuse

F32 = dtypes.float32


def leaf(name: str, *shape: int) -> Node:
    return graph.input_("buffer", name, F32, shape)


def test_a_chain_is_one_kernel() -> None:
    x, y = leaf("x", 8, 8), leaf("y", 8, 8)
    kernels = fuse([graph.sqrt(graph.max_(graph.fma(x, y, x), y))]).kernels
    assert len(kernels) == 1


def test_bias_and_activation_join_the_product() -> None:
    a, b, bias = leaf("a", 1, 64, 64), leaf("b", 1, 64, 64), leaf("bias", 64)
    wide = graph.expand(graph.reshape(bias, (1, 64)), (64, 64))
    hidden = graph.add(graph.reshape(graph.dot(a, b), (64, 64)), wide)
    active = graph.max_(hidden, graph.filled(0, F32, (64, 64)))
    (kernel,) = fuse([active]).kernels
    assert kernel.core is not None
    assert kernel.core.op is Op.DOT
    assert kernel.roots == (active,)


def test_an_update_with_three_results_is_one_kernel() -> None:
    p, g, m, v = (leaf(name, 100) for name in "pgmv")
    tenth = graph.filled(0.1, F32, (100,))
    first = graph.fma(g, tenth, m)
    second = graph.fma(graph.mul(g, tenth), g, v)
    moved = graph.add(p, graph.div(first, graph.sqrt(second)))
    (kernel,) = fuse([moved, first, second]).kernels
    assert set(kernel.roots) == {moved, first, second}


def test_what_several_kernels_need_is_computed_once() -> None:
    x, y = leaf("x", 8, 64), leaf("y", 8, 64)
    costly = graph.div(graph.sqrt(graph.fma(x, y, x)), y)
    rows = graph.reduce("sum", costly, (1,))
    columns = graph.reduce("sum", costly, (0,))
    schedule = fuse([rows, columns])
    assert costly in schedule.stored
    assert len(schedule.kernels) == 3


def test_a_normalised_row_never_waits_for_itself() -> None:
    """x - mean(x) must not join the kernel that computes what the mean is made of."""
    x = leaf("x", 4, 8)
    grown = graph.div(graph.sqrt(graph.fma(x, x, x)), x)
    total = graph.reduce("sum", grown, (1,))
    wide = graph.expand(graph.reshape(total, (4, 1)), (4, 8))
    schedule = fuse([graph.div(grown, wide)])
    position = {root: at for at, k in enumerate(schedule.kernels) for root in k.roots}
    assert position[grown] < position[total] < position[schedule.outputs[0]]


def test_without_fusion_every_operation_has_a_kernel() -> None:
    x, y = leaf("x", 8, 8), leaf("y", 8, 8)
    nodes = canonicalise([graph.sqrt(graph.max_(graph.add(x, y), y))])
    assert len(fuse(nodes, fusion=False).kernels) == 3


def test_very_deep_and_very_wide_graphs_compile() -> None:
    x = leaf("x", 4)
    deep = x
    for _ in range(3000):
        deep = graph.add(graph.max_(deep, x), x)
    wide = x
    for number in range(200):
        wide = graph.add(wide, leaf(f"w{number}", 4))
    views = leaf("v", 3, 4)
    for number in range(300):
        views = graph.reshape(graph.permute(views, (1, 0)), (3, 4) if number % 2 else (6, 2))
        views = graph.reshape(views, (3, 4))
    schedule = fuse([deep, wide, views])
    assert 10 < len(schedule.kernels) < 200
