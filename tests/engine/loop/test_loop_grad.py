"""Derivatives of loops: those of the loop written out, and slopes measured in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from flopmarket.engine import dtypes, functional, loop, random
from flopmarket.engine.functional import fori_loop, scan
from flopmarket.engine.grad import grad
from flopmarket.engine.graph import Op, topological
from flopmarket.engine.tensor import Tensor
from tests.engine.loop.unrolled import Body, Tensors, tensor, unrolled

Loss = Callable[[Sequence[Tensor]], Tensor]


def rnn(w: Tensor, u: Tensor) -> Body:
    def cell(carry: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        h = (carry[0] @ w + x[0] @ u).tanh()
        return (h,), (h,)

    return cell


@pytest.mark.parametrize("length", [0, 1, 4])
@pytest.mark.parametrize("reverse", [False, True])
def test_of_a_recurrent_cell_are_those_of_its_turns(length: int, reverse: bool) -> None:
    w, u, h0 = tensor(1, 3, 3), tensor(2, 4, 3), tensor(3, 2, 3)
    x = tensor(4, length, 2, 4)
    (last,), (ys,) = scan(rnn(w, u), [h0], [x], reverse=reverse)
    have = grad((ys * ys).sum() + last.sum(), [w, u, h0, x])
    (end,), rows = unrolled(rnn(w, u), [h0], [x], length, reverse)
    loss = end.sum()
    for (y,) in rows:
        loss = loss + (y * y).sum()
    for mine, theirs in zip(have, grad(loss, [w, u, h0, x]), strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


def slopes_agree(loss: Loss, values: Sequence[Tensor]) -> None:
    """Central differences in float64 along a random direction of each value."""
    for at, gradient in enumerate(grad(loss(values), list(values))):
        direction = np.random.default_rng(at).standard_normal(values[at].shape)
        measured = []
        for step in (1e-5, -1e-5):
            moved = list(values)
            moved[at] = Tensor(values[at].numpy() + step * direction, device="reference")
            measured.append(loss(moved).item())
        slope = (measured[0] - measured[1]) / 2e-5
        assert float((gradient.numpy() * direction).sum()) == pytest.approx(
            slope, rel=1e-5, abs=1e-7
        )


def double(seed: int, *shape: int) -> Tensor:
    return tensor(seed, *shape, dtype=np.float64) * Tensor(np.float64(0.25))


def test_of_carries_that_mix_and_pass_by() -> None:
    def loss(v: Sequence[Tensor]) -> Tensor:
        def body(c: Tensors, x: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            a, b, unused = c
            return (b * v[2] + x[0], a * a + b, unused + 1.0), (a * b, x[0] * 3.0)

        last, (ys, zs) = scan(body, [v[0], v[1], v[1]], [v[3]])
        return (last[0] * last[1]).sum() + (ys * ys * zs).sum()

    slopes_agree(loss, [double(1, 3), double(2, 3), double(3, 3), double(4, 4, 3)])


def test_of_a_carry_that_only_the_last_turn_reads() -> None:
    def loss(v: Sequence[Tensor]) -> Tensor:
        last, _ = scan(lambda c, x: ((x[0] * v[1], c[0]), ()), [v[0], v[0]], [v[2]])
        return (last[0] * last[1]).sum()

    slopes_agree(loss, [double(1, 3), double(2, 3), double(3, 2, 3)])
    slopes_agree(loss, [double(1, 3), double(2, 3), double(3, 1, 3)])


def test_of_loops_in_loops() -> None:
    def loss(v: Sequence[Tensor]) -> Tensor:
        def outer(c: Tensors, x: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            def inner(d: Tensors, y: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
                return (d[0] * v[1] + y[0] + c[0],), (d[0] * x[0][1],)

            (h,), (ys,) = scan(inner, [c[0]], [x[0]], reverse=True)
            return (h * 0.5,), (ys, h)

        (last,), (ys, hs) = scan(outer, [v[0]], [v[2]])
        return last.sum() + (ys * ys).sum() + (hs * hs).sum()

    slopes_agree(loss, [double(1, 3), double(2, 3), double(3, 3, 2, 3)])


def test_of_derivatives() -> None:
    """A loop's backward loop is a loop like any other."""

    def loss(v: Sequence[Tensor]) -> Tensor:
        def body(c: Tensors, x: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            return (c[0] * v[1] * c[0] + x[0],), ()

        (last,), _ = scan(body, [v[0]], [v[2]])
        first, second = grad(last.sum(), [v[0], v[1]])
        return (first * first).sum() + (second * v[0]).sum()

    slopes_agree(loss, [double(1, 3), double(2, 3), double(3, 3, 3)])


def test_of_many_uses_of_one_value() -> None:
    def loss(v: Sequence[Tensor]) -> Tensor:
        rows = v[0].reshape(3, 1) * v[1]

        def body(c: Tensors, x: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            return (c[0] + v[0] * x[0].sum() + x[1][0],), (c[0], c[0], x[0])

        (last,), (a, b, _) = scan(body, [v[0]], [rows, rows])
        return (last * last).sum() + (a * b).sum()

    slopes_agree(loss, [double(1, 3), double(2, 3, 4)])


def test_integers_and_counters_stop_nothing() -> None:
    def loss(v: Sequence[Tensor]) -> Tensor:
        def body(i: Tensor, c: Tensors) -> Sequence[Tensor]:
            return c[0] * v[1][i % 3] + c[0], c[1] + i

        last, count = fori_loop(5, body, [v[0], Tensor(np.int32(0), device="reference")])
        return (last * Tensor(count.node, dtypes.float64)).sum()

    slopes_agree(loss, [double(1, 2), double(2, 3, 2)])


def test_dropout_is_the_same_on_the_way_back() -> None:
    x = tensor(1, 4, 16)

    def body(c: Tensors, item: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        h = functional.dropout(item[0], 0.5)
        return (c[0] + h.sum(),), (h,)

    with random.scope(seed=1, step=0):
        (total,), (ys,) = scan(body, [Tensor(np.float32(0), device="reference")], [x])
    (slope,) = grad(total, [x])
    assert ((slope.numpy() != 0) == (ys.numpy() != 0)).all() and (slope.numpy() == 0).any()


def test_the_forward_loop_runs_once_for_value_and_derivative() -> None:
    w = tensor(1, 3, 3)
    (last,), _ = scan(rnn(w, tensor(2, 4, 3)), [tensor(3, 2, 3)], [tensor(4, 5, 2, 4)])
    loss = last.sum()
    (slope,) = grad(loss, [w])
    assert len(loop.groups(topological([loss.node, slope.node]))) == 2


def test_a_loop_of_a_stranger_that_stacks_no_carries_has_derivatives_too() -> None:
    w = tensor(1, 3)
    (last,), _ = scan(lambda c, x: ((c[0] * w,), ()), [tensor(2, 3)], length=3)
    group = loop.group_of(last.node)
    bare = loop.body_of(group.body.results[:1], 1, 0, group.body.shared)
    node = loop.result(loop.Group(group.src, group.count, False, bare), 0)
    assert node.op is Op.LOOP and node is not last.node
    have = grad(Tensor(node, device="reference").sum(), [w])[0].numpy()
    assert have.tobytes() == grad(last.sum(), [w])[0].numpy().tobytes()
