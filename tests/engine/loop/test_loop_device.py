"""Loops on a device: the reference's bits, fused or not, with poisoned memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from flopmarket.engine import creation, dtypes, functional, limits, random, reference, trace
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.codegen.repeat import executed
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional import fori_loop, scan
from flopmarket.engine.grad import grad
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.replay import OpenCLSession
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.engine.schedule.plan import LoopStep, Plan, make_plan
from flopmarket.engine.tensor import Tensor
from tests.engine.backend.conftest import Check
from tests.engine.loop.unrolled import Body, Tensors, leaves_of, tensor

GPU = Target(is_cpu=False, contract_helper=False)


def plan_of(tensors: Sequence[Tensor], target: Target | None = None, fusion: bool = True) -> Plan:
    nodes = canonicalise([t.node for t in tensors])
    return make_plan(nodes, Target() if target is None else target, fusion=fusion)


def rnn(w: Tensor, u: Tensor) -> Body:
    def cell(carry: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        h = (carry[0] @ w + x[0] @ u).tanh()
        return (h,), (h,)

    return cell


@pytest.mark.parametrize("length", [0, 1, 2, 7])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_recurrent_cell_with_its_derivatives(length: int, reverse: bool, check: Check) -> None:
    w, u, h0 = tensor(1, 5, 5), tensor(2, 4, 5), tensor(3, 2, 5)
    x = tensor(4, length, 2, 4)
    (last,), (ys,) = scan(rnn(w, u), [h0], [x], reverse=reverse)
    loss = (ys * ys).sum() + last.sum()
    check(*leaves_of([last, ys, loss, *grad(loss, [w, u, h0, x])]))


def test_products_large_enough_to_be_packed(check: Check) -> None:
    w, u, h0 = tensor(1, 48, 48), tensor(2, 43, 48), tensor(3, 17, 48)
    (last,), (ys,) = scan(rnn(w, u), [h0], [tensor(4, 3, 17, 43)])
    check(*leaves_of([last, ys, *grad((ys * ys).sum(), [w, u])]))


def test_weights_are_packed_once_for_all_turns() -> None:
    cell = rnn(tensor(1, 48, 48), tensor(2, 43, 48))
    (last,), _ = scan(cell, [tensor(3, 17, 48)], [tensor(4, 3, 17, 43)])
    (loop,) = [s for s in plan_of([last]).steps if isinstance(s, LoopStep)]
    assert [s.call.family for s in loop.once] == ["pack", "pack"]
    assert sorted(s.call.family for s in loop.steps) == ["gemm", "gemm", "pack", "pack"]


def test_batched_products_have_three_axes_of_work_items(check: Check) -> None:
    """The offset that says the turn shares the last axis with the batch."""
    w = tensor(1, 3, 40, 40)

    def body(carry: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        h = (carry[0] @ w) * 0.125 + x[0] @ (w + x[0])
        return (h,), (h,)

    (last,), (ys,) = scan(body, [tensor(2, 3, 40, 40)], [tensor(3, 3, 3, 40, 40)])
    check(*leaves_of([last, ys]))


def test_every_kind_of_kernel_in_a_body(check: Check) -> None:
    table, index = tensor(1, 6, 3), Tensor(np.array([[0, 5, 2], [2, 2, 1]], np.int32))

    def body(carry: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        (memory, total), (at, value) = carry, x
        rows = memory[at]  # gather by a computed index
        joined = creation.cat([rows, value], 0)
        spread = (memory - memory.mean(1, keepdim=True)).softmax(1)
        return (spread + rows.sum(), total + joined.sum(0)), (rows, joined.max(), spread.T)

    last, ys = scan(body, [table, tensor(2, 3)], [index, tensor(3, 2, 2, 3)])
    check(*leaves_of([*last, *ys, *grad((last[0] * last[0]).sum() + ys[0].sum(), [table])]))


def test_loops_in_loops(check: Check) -> None:
    w = tensor(1, 3)

    def outer(carry: Tensors, x: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        def inner(c: Tensors, y: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            return (c[0] * w + y[0] + carry[0],), (c[0] * x[0][1],)

        (h,), (ys,) = scan(inner, [carry[0]], [x[0]], reverse=True)
        return (h * 0.125,), (ys, h)

    init, xs = tensor(2, 3), tensor(3, 3, 2, 3)
    (last,), (ys, hs) = scan(outer, [init], [xs])
    loss = last.sum() + (ys * ys).sum() + (hs * hs).sum()
    check(*leaves_of([last, ys, hs, loss, *grad(loss, [w, init, xs])]))


def test_results_that_are_what_came_in(check: Check) -> None:
    """Copies: a slice as a carry, a carry as a slice, a literal as both, many from one value."""
    w = tensor(1, 3)

    def body(c: Tensors, x: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        literal = c[0] * 0.0 + 1.0
        one = Tensor(np.ones(3, np.float32))
        return (x[0], c[0], c[0], one), (c[0], c[0], c[2], x[0], w, one, literal)

    zero = Tensor(np.zeros(3, np.float32))
    last, ys = scan(body, [zero, zero, w, zero], [tensor(2, 5, 3)])
    check(*leaves_of([*last, *ys]))


def test_more_results_than_a_kernel_has_buffers(check: Check) -> None:
    count = 2 * limits.MAX_KERNEL_BUFFERS
    start = Tensor(np.ones(4, np.float32))
    last, _ = scan(lambda c, x: ([c[-1] + 1.0, *c[:-1]], ()), [start] * count, length=3)
    check(*leaves_of(last))


def test_empty_tensors_pass_through_loops(check: Check) -> None:
    def body(c: Tensors, x: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return (c[0] * 2.0, c[1] + x[0].sum()), (c[0], c[1])

    last, ys = scan(body, [tensor(1, 0, 2), tensor(2, 2)], [tensor(3, 3, 0)])
    check(*leaves_of([*last, *ys]))


def test_special_values_travel(check: Check) -> None:
    strange = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 1e-42, -1e-45], np.float32)
    x = Tensor(np.stack([strange, strange[::-1]]))
    last, ys = scan(lambda c, x: ((c[0] * x[0], c[0]), (c[0], x[0])), [x[0], x[1]], [x])
    check(*leaves_of([*last, *ys]))


def test_draws_in_a_loop(check: Check) -> None:
    def body(c: Tensors, x: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        h = functional.dropout(c[0] + x[0], 0.25)
        return (h,), (h,)

    with random.scope(seed=2**40 + 3, step=9):
        (last,), (ys,) = scan(body, [tensor(1, 33)], [tensor(2, 6, 33)])
    check(*leaves_of([last, ys, *grad((ys * ys).sum(), [tensor(2, 6, 33)])]))


def test_a_loop_of_frozen_tensors_and_a_counter(check: Check) -> None:
    (total,) = fori_loop(9, lambda i, c: (c[0] * 3 + i,), [Tensor(1, dtypes.int32)])
    assert total.item() == 3**9 + sum(i * 3 ** (8 - i) for i in range(9))
    check(*leaves_of([total]))


def test_kernels_made_for_a_gpu_say_the_same(device: Device) -> None:
    """Work-groups of many items, on whatever device there is: offsets in the last axis all the
    same."""
    target = replace(open_target(device), is_cpu=False)
    w, u, h0 = tensor(1, 40, 40), tensor(2, 33, 40), tensor(3, 17, 40)
    (last,), (ys,) = scan(rnn(w, u), [h0], [tensor(4, 5, 17, 33)], reverse=True)
    nodes, leaves = leaves_of([last, ys, *grad((ys * ys).sum(), [w, u, h0])])
    outputs = canonicalise(nodes)
    prepared = Prepared(outputs, device, target, CompileOptions(poison=True))
    found = prepared.run({leaf: leaves[leaf] for leaf in prepared.plan.leaves})
    prepared.release()
    for node, want in zip(outputs, reference.evaluate(outputs, leaves), strict=True):
        assert found[node].tobytes() == want.tobytes()


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("target", [Target(), GPU], ids=["cpu", "gpu"])
def test_no_two_live_values_share_memory(fusion: bool, target: Target) -> None:
    w, h0 = tensor(1, 5, 5), tensor(3, 2, 5)
    (last,), (ys,) = scan(rnn(w, tensor(2, 4, 5)), [h0], [tensor(4, 3, 2, 4)])
    plan = plan_of([last, *grad((ys * ys).sum(), [w, h0])], target, fusion)
    loops = [step for step in plan.steps if isinstance(step, LoopStep)]
    assert len(loops) == 2
    for step in loops:
        outside = [plan.places.get(key, key) for key in step.call.arguments]
        assert len(set(outside)) == len(outside), "buffers of one loop are apart"
        for names in (step.call.even, step.call.odd):
            at_once = [c.call.arguments for c in step.steps]
            for arguments in at_once:
                assert len({names[key] for key in arguments}) == len(arguments)


def test_the_kernels_of_a_body_do_not_grow_with_its_turns() -> None:
    def source(length: int) -> str:
        _, (ys,) = scan(
            rnn(tensor(1, 5, 5), tensor(2, 4, 5)), [tensor(3, 2, 5)], [tensor(4, length, 2, 4)]
        )
        return plan_of([ys]).source

    assert source(3) == source(300)


def test_launches_are_limited() -> None:
    (last,) = fori_loop(2**20, lambda i, c: ((c[0] @ c[0]) @ (c[0] + i),), [tensor(1, 2, 2)])
    fine = plan_of([last])
    assert 2**21 <= executed([step.call for step in fine.steps]) <= limits.MAX_STEP_LAUNCHES
    (last,) = fori_loop(
        2**21, lambda i, c: ((c[0] @ c[0]) @ (c[0] @ (c[0] + i)),), [tensor(1, 2, 2)]
    )
    with pytest.raises(EngineError) as refused:
        plan_of([last])
    assert refused.value.code == "PLAN_TOO_LARGE"


# ---------------------------------------------------------------- sessions


def step_of_rnn(
    state: dict[str, Tensor], inputs: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    def cell(carry: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        h = functional.dropout((carry[0] @ state["w"] + x[0]).tanh(), 0.25)
        return (h,), (h,)

    (last,), (ys,) = scan(cell, [state["h"]], [inputs["x"]])
    loss = (ys * ys).sum()
    (slope,) = grad(loss, [state["w"]])
    return {"w": state["w"] - slope * 0.01, "h": last}, {"loss": loss, "ys": ys}


@pytest.mark.parametrize(
    "options",
    [
        CompileOptions(poison=True),
        CompileOptions(fusion=False, poison=True),
        CompileOptions(profile=True),
    ],
    ids=["fused", "unfused", "profiled"],
)
def test_a_program_with_loops_has_the_bits_of_the_reference(
    options: CompileOptions, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(1)
    state = {
        "w": rng.standard_normal((6, 6)).astype(np.float32),
        "h": np.zeros((2, 6), np.float32),
    }
    batches = [{"x": rng.standard_normal((5, 2, 6)).astype(np.float32)} for _ in range(4)]
    program = trace.trace(step_of_rnn, state, batches[0])
    law, before = ReferenceSession(program), device.allocated_bytes
    runner = OpenCLSession(program, device, open_target(device), options)
    with caplog.at_level(logging.DEBUG if options.profile else logging.WARNING):
        for session in (law, runner):
            session.load({}, state)
        for number, batch in enumerate(batches):
            want, have = (s.step(batch, seed=3, step=number) for s in (law, runner))
            assert {n: a.tobytes() for n, a in want.items()} == {
                n: a.tobytes() for n, a in have.items()
            }
            want, have = law.read_state(), runner.read_state()
            assert {n: a.tobytes() for n, a in want.items()} == {
                n: a.tobytes() for n, a in have.items()
            }
    if options.fusion:  # without it every value has a buffer
        assert device.allocated_bytes - before <= program.cost.peak_memory_bytes
    runner.close()
