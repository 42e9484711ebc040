"""What a scan means: the loop written out, bit for bit; closures, lengths, draws, and mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import dtypes, functional, graph, random
from flopmarket.engine.errors import EngineError, GraphError
from flopmarket.engine.functional import fori_loop, scan
from flopmarket.engine.graph import Op
from flopmarket.engine.tensor import Tensor
from tests.engine.loop.unrolled import Body, Tensors, tensor, unrolled


def equal(a: Tensor, b: Tensor) -> None:
    left, right = a.numpy(), b.numpy()
    assert (left.shape, left.dtype) == (right.shape, right.dtype)
    assert left.tobytes() == right.tobytes()


def agree(
    body: Body, init: Sequence[Tensor], xs: Sequence[Tensor], length: int, reverse: bool = False
) -> None:
    last, ys = scan(body, init, xs, length=length, reverse=reverse)
    want, slices = unrolled(body, init, xs, length, reverse)
    for have, expected in zip(last, want, strict=True):
        equal(have, expected)
    for number, have in enumerate(ys):
        assert have.shape[0] == length
        for at in range(length):
            equal(have[at], slices[at][number])


def rnn(w: Tensor, u: Tensor) -> Body:
    def cell(carry: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        h = (carry[0] @ w + x[0] @ u).tanh()
        return (h,), (h, h * 2.0)

    return cell


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_recurrent_cell_is_its_turns_written_out(length: int, reverse: bool) -> None:
    cell = rnn(tensor(1, 3, 3), tensor(2, 4, 3))
    agree(cell, [tensor(3, 2, 3)], [tensor(4, length, 2, 4)], length, reverse)


def test_a_loop_without_turns_passes_its_carries_and_stacks_nothing() -> None:
    h = tensor(3, 2, 3)
    (last,), (ys, doubled) = scan(rnn(tensor(1, 3, 3), tensor(2, 4, 3)), [h], [tensor(4, 0, 2, 4)])
    equal(last, h)
    assert ys.numpy().shape == doubled.numpy().shape == (0, 2, 3)


def test_a_body_runs_once_however_many_results_are_read() -> None:
    last, ys = scan(rnn(tensor(1, 3, 3), tensor(2, 4, 3)), [tensor(3, 2, 3)], [tensor(4, 5, 2, 4)])
    arguments = {t.node.arg[:3] for t in (*last, *ys)}
    assert len(arguments) == 1 and len({t.node.src for t in (*last, *ys)}) == 1


def test_what_does_not_vary_is_computed_outside_once() -> None:
    w = tensor(1, 3, 3)

    def body(carry: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        return (carry[0] @ (w @ w).tanh() + w.sum(),), ()

    (last,), _ = scan(body, [tensor(2, 2, 3)], length=3)
    loop_body = last.node.arg[2]
    assert [n.op for n in loop_body.nodes].count(Op.DOT) == 1
    assert loop_body.shared == 2
    agree(body, [tensor(2, 2, 3)], [], 3)


def test_a_carry_that_stays_is_no_carry() -> None:
    w = tensor(1, 3)
    (a, kept), _ = scan(lambda c, x: ((c[0] + c[1], c[1]), ()), [tensor(2, 3), w], length=4)
    assert kept.node is w.node and a.node.arg[2].carries == 1
    agree(lambda c, x: ((c[0] + c[1], c[1]), ()), [tensor(2, 3), w], [], 4)
    (same,), _ = scan(lambda c, x: (c, ()), [w], length=4)
    assert same.node is w.node


def test_carries_change_places() -> None:
    agree(lambda c, x: ((c[1], c[0] + 1.0), (c[0],)), [tensor(1, 2), tensor(2, 2)], [], 5)


def test_loops_in_loops_read_both_around_them() -> None:
    w = tensor(1, 3)

    def outer(carry: Tensors, x: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        def inner(c: Tensors, y: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            return (c[0] * w + y[0] + carry[0],), (c[0] + x[0][0],)

        (h,), (ys,) = scan(inner, [carry[0]], [x[0]])
        return (h * 0.25,), (ys, h)

    agree(outer, [tensor(2, 3)], [tensor(3, 4, 2, 3)], 4)


def test_four_loops_nest_and_five_do_not() -> None:
    def nest(depth: int, x: Tensor) -> Tensor:
        if not depth:
            return x * 2.0
        return scan(lambda c, _: ((nest(depth - 1, c[0]),), ()), [x], length=2)[0][0]

    assert nest(4, Tensor([1.0], device="reference")).item() == 2.0**16
    with pytest.raises(GraphError) as refused:
        nest(5, Tensor([1.0]))
    assert refused.value.code == "LOOP_DEPTH"


@pytest.mark.parametrize("dtype", dtypes.DTYPES, ids=str)
def test_every_type_can_be_carried_and_stacked(dtype: dtypes.DType) -> None:
    x = Tensor(tensor(1, 4, 3).node, dtype)
    start = Tensor(tensor(2, 3).node, dtype)

    def body(carry: Tensors, item: Tensors) -> tuple[Tensors, Tensors]:
        if dtype is dtypes.bool_:
            return (carry[0] ^ item[0],), (carry[0],)
        return (carry[0] * item[0] + carry[0],), (carry[0],)

    x, start = (Tensor(t.numpy(), device="reference") for t in (x, start))
    agree(body, [start], [x], 4)


def test_fori_counts() -> None:
    (total, last) = fori_loop(
        5, lambda i, c: (c[0] + i, i), [Tensor(0, device="reference"), Tensor(np.int32(-1))]
    )
    assert (total.item(), last.item()) == (10, 4)
    assert last.dtype is dtypes.int32
    (never,) = fori_loop(0, lambda i, c: (c[0] + 1,), [Tensor(7, device="reference")])
    assert never.item() == 7


def test_every_turn_draws_its_own_numbers_and_they_are_philox_of_the_turn() -> None:
    x = Tensor(np.ones((3, 8), np.float32), device="reference")

    def body(carry: Tensors, item: Tensors) -> tuple[Tensors, Tensors]:
        return (), (functional.dropout(item[0], 0.5),)

    with random.scope(seed=5, step=2):
        functional.dropout(x, 0.5)  # ordinal 0
        _, (ys,) = scan(body, [], [x])
        _, (backwards,) = scan(body, [], [x], reverse=True)
    rows = ys.numpy()
    assert len({row.tobytes() for row in rows}) == 3
    for turn in range(3):
        place = random.Turned(1, graph.const(turn, dtypes.uint32))
        mask = random.keep_mask(random.key(5), graph.const(2, dtypes.uint32), place, (8,), 0.5)
        kept = Tensor(mask, device="reference").numpy()
        assert ((rows[turn] != 0) == kept).all()
    assert (rows != backwards.numpy()).any()  # another call, another ordinal


def test_nested_loops_draw_by_their_joint_turn() -> None:
    def inner(c: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        return (), (functional.dropout(Tensor(np.ones(16, np.float32)), 0.5),)

    def outer(c: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        return (), scan(inner, [], length=3)[1]

    with random.scope(seed=5, step=2):
        _, (ys,) = scan(outer, [], length=2)
    rows = Tensor(ys, device="reference").numpy().reshape(6, 16)
    assert len({row.tobytes() for row in rows}) == 6


MISTAKES: list[tuple[str, Any]] = [
    ("LOOP_LENGTH", lambda: scan(lambda c, x: (c, ()), [tensor(1, 2)])),
    ("LOOP_LENGTH", lambda: scan(lambda c, x: (c, ()), [], [tensor(1, 2), tensor(1, 3)])),
    ("LOOP_LENGTH", lambda: scan(lambda c, x: (c, ()), [], [tensor(1, 2)], length=3)),
    ("LOOP_LENGTH", lambda: scan(lambda c, x: (c, ()), [], [Tensor(1.0)])),
    ("LOOP_LENGTH", lambda: scan(lambda c, x: (c, ()), [], length=-1)),
    ("LOOP_LENGTH", lambda: fori_loop(2**24 + 1, lambda i, c: c, [])),
    ("LOOP_CARRY", lambda: scan(lambda c, x: ((), ()), [tensor(1, 2)], length=2)),
    ("LOOP_CARRY", lambda: scan(lambda c, x: ((c[0].sum(),), ()), [tensor(1, 2)], length=2)),
    ("LOOP_CARRY", lambda: scan(lambda c, x: ((c[0] > 0,), ()), [tensor(1, 2)], length=2)),
    ("LOOP_RESULT", lambda: scan(lambda c, x: c[0], [tensor(1, 2)], length=2)),  # type: ignore[arg-type,return-value]
    ("LOOP_RESULT", lambda: scan(lambda c, x: ((1.0,), ()), [tensor(1)], length=2)),  # type: ignore[arg-type,return-value]
    ("LOOP_LIMIT", lambda: scan(lambda c, x: ((c[0].exp(),), ()), [tensor(1)], length=2**24)),
    (
        "NOT_REALISABLE",
        lambda: scan(lambda c, x: ((c[0] * c[0].item(),), ()), [tensor(1)], length=2),
    ),
]


@pytest.mark.parametrize(("code", "call"), MISTAKES)
def test_mistakes_have_names(code: str, call: Any) -> None:
    with pytest.raises(EngineError) as refused:
        call()
    assert refused.value.code == code
