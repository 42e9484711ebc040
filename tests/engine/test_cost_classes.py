"""Which class of work the element types are counted in."""

from __future__ import annotations

import pytest

from flopmarket.engine import cost, dtypes, graph
from flopmarket.engine.dtypes import DType, bfloat16, float16, float32, float64, int8, int16, int32
from flopmarket.engine.graph import Node
from flopmarket.engine.program import Program, TensorSpec


def leaf(name: str, dtype: DType, *shape: int) -> Node:
    return graph.input_("input", name, dtype, shape)


def work(node: Node) -> dict[str, int]:
    """What a program of one output counts, classes without work left out."""
    leaves = [n for n in graph.topological([node]) if n.op is graph.Op.INPUT]
    program = Program.build(
        frozen=[],
        state=[],
        inputs=[TensorSpec(n.arg[1], n.dtype, n.shape) for n in leaves],
        next_state=[],
        outputs=[("y", node)],
    )
    return {name: count for name, count in program.cost.flops.items() if count}


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_16_bit_floats_count_as_float32_and_their_roundings(dtype: DType) -> None:
    rounding = cost.ROUNDING_OPERATIONS
    x, y = leaf("x", dtype, 10), leaf("y", dtype, 10)
    assert work(graph.fma(x, y, x)) == {"elementwise-f32": 20, "integer": 10 * rounding}
    assert work(graph.max_(x, y)) == {"elementwise-f32": 10}
    assert work(graph.reduce("sum", x, (0,))) == {"reduce-f32": 10, "integer": rounding}
    assert work(graph.reduce("max", x, (0,))) == {"reduce-f32": 10}
    assert work(graph.cast(x, float32)) == {"elementwise-f32": 10}
    assert work(graph.cast(leaf("z", float32, 10), dtype)) == {
        "elementwise-f32": 10,
        "integer": 10 * rounding,
    }
    assert work(graph.bitcast(leaf("z", int16, 10), dtype)) == {}
    index, rows = leaf("i", int32, 4), leaf("u", dtype, 4)
    assert work(graph.scatter("add", x, index, rows)) == {
        "elementwise-f32": 4,
        "integer": 4 * rounding,
    }
    assert work(graph.scatter("set", x, index, rows)) == {}


@pytest.mark.parametrize(
    ("left", "right", "name"),
    [
        (float16, bfloat16, "dot-f32"),
        (float16, float32, "dot-f32"),
        (float64, float64, "f64"),
        (int8, dtypes.uint8, "dot-int"),
        (int16, int8, "integer"),
        (int32, int32, "integer"),
    ],
)
def test_contractions(left: DType, right: DType, name: str) -> None:
    product = graph.dot(leaf("a", left, 1, 2, 3), leaf("b", right, 1, 3, 4))
    assert work(product) == {name: 2 * 2 * 3 * 4}


def test_whatever_touches_float64_is_of_its_class() -> None:
    x = leaf("x", float64, 10)
    assert work(graph.add(x, x)) == {"f64": 10}
    assert work(graph.reduce("sum", x, (0,))) == {"f64": 10}
    assert work(graph.cast(x, int8)) == {"f64": 10}
    assert work(graph.cast(leaf("y", float32, 10), float64)) == {"f64": 10}
    rounded = graph.cast(x, float16)
    assert work(rounded) == {"f64": 10, "integer": 10 * cost.ROUNDING_OPERATIONS}
    assert work(graph.cmp("lt", x, x)) == {"f64": 10}
