"""The canonical form: what is contracted, what is not, and that one pass is enough."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph, reference
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.rewrite import canonicalise

F32 = dtypes.float32
X, Y, Z = (graph.input_("input", name, F32, (4,)) for name in "xyz")
MINUS = graph.filled(-1, F32, (4,))


def negated(node: Node) -> Node:
    return graph.mul(node, MINUS)


def test_left_product_is_taken_first() -> None:
    (node,) = canonicalise([graph.add(graph.mul(X, Y), graph.mul(Y, Z))])
    assert node is graph.fma(X, Y, graph.mul(Y, Z))
    (node,) = canonicalise([graph.add(X, graph.mul(Y, Z))])
    assert node is graph.fma(Y, Z, X)


def test_subtracting_a_product_is_one_rounding() -> None:
    (node,) = canonicalise([graph.add(X, negated(graph.mul(Y, Z)))])
    assert node is graph.fma(Y, negated(Z), X)


def test_shared_products_are_duplicated_and_stay() -> None:
    product = graph.mul(X, Y)
    total, kept = canonicalise([graph.add(product, Z), product])
    assert total is graph.fma(X, Y, Z)
    assert kept is product


def test_integers_are_left_alone() -> None:
    a = graph.input_("input", "a", dtypes.int32, (2,))
    node = graph.add(graph.mul(a, a), a)
    assert canonicalise([node]) == (node,)


@st.composite
def expressions(draw: st.DrawFn) -> Node:
    pool = [X, Y, Z, MINUS]
    for _ in range(draw(st.integers(1, 14))):
        op = draw(st.sampled_from([Op.ADD, Op.MUL, Op.MAX, Op.FMA, Op.SQRT]))
        pick = [draw(st.sampled_from(pool[-6:])) for _ in range(3)]
        if op is Op.FMA:
            pool.append(graph.fma(*pick))
        elif op is Op.SQRT:
            pool.append(graph.sqrt(pick[0]))
        elif draw(st.integers(0, 3)) == 0:
            pool.append(negated(pick[0]))
        else:
            pool.append({Op.ADD: graph.add, Op.MUL: graph.mul, Op.MAX: graph.max_}[op](*pick[:2]))
    return pool[-1]


@settings(max_examples=300, deadline=None)
@given(expressions())
def test_one_pass_is_enough_and_leaves_no_sum_of_a_product(node: Node) -> None:
    (once,) = canonicalise([node])
    assert canonicalise([once]) == (once,)
    for inner in graph.topological([once]):
        if inner.op is Op.ADD:
            assert all(source.op is not Op.MUL for source in inner.src)


def test_the_value_of_a_contracted_sum_is_rounded_once() -> None:
    a = np.full(4, 1 + 2**-12, dtype=np.float32)
    c = np.full(4, -1, dtype=np.float32)
    (node,) = canonicalise([graph.add(graph.mul(X, Y), Z)])
    (got,) = reference.evaluate([node], {X: a, Y: a, Z: c})
    assert (got == np.float32(2**-11 + 2**-24)).all()
