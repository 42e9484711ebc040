"""Jobs whose step has loops: the same digests however the job is cut, on every backend."""

from __future__ import annotations

import time

import numpy as np
import pytest

from flopmarket.engine import functional, nn, optim, trace
from flopmarket.engine.creation import cat, zeros
from flopmarket.engine.functional import scan
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.schedule.plan import LoopStep
from flopmarket.engine.tensor import Tensor
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.spec import DataOrder, JobKind, OrderKind
from tests.engine.loop.unrolled import Tensors, leaves_of, tensor


class Recurrent(nn.Module):
    """[N, T, features] -> [N, classes]: a cell with dropout over T, then a linear layer."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        self.cell = nn.Linear(features + hidden, hidden)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(hidden, classes)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        def turn(carry: Tensors, item: Tensors) -> tuple[Tensors, Tensors]:
            h = self.drop(self.cell(cat([item[0], carry[0]], 1)).tanh())
            return (h,), ()

        (last,), _ = scan(turn, [zeros(x.shape[0], self.hidden)], [x.permute(1, 0, 2)])
        return self.head(last)


def job(segment_steps: int) -> PreparedJob:
    rng = np.random.default_rng(7)
    step = trace.training_step(Recurrent(3, 5, 2), functional.cross_entropy, optim.SGD(lr=0.1))
    state = step.init(1)
    data = {
        "x": rng.standard_normal((11, 6, 3)).astype(np.float32),
        "y": rng.integers(0, 2, 11).astype(np.int32),
    }
    program = trace.trace(step, state, {name: rows[:4] for name, rows in data.items()})
    return PreparedJob(
        kind=JobKind.TRAINING,
        program=program,
        frozen={},
        state=state,
        data=data,
        order=DataOrder(OrderKind.SHUFFLED, 11, 4),
        seed=99,
        steps=6,
        segment_steps=segment_steps,
        title="recurrent",
    )


def test_a_recurrent_job_has_one_digest_however_it_is_cut_and_wherever_it_runs() -> None:
    whole = run_local(job(6), "reference")
    cut = run_local(job(2), None)
    other = run_local(job(3), None)
    assert whole.state_root == cut.state_root == other.state_root
    assert {n: a.tobytes() for n, a in whole.outputs.items()} == {
        n: a.tobytes() for n, a in cut.outputs.items()
    }
    checked = run_local(job(2), "reference")
    assert cut.segments == checked.segments
    assert whole.outputs["loss"][-1] != whole.outputs["loss"][0]


def test_a_recurrent_job_resumes_from_a_checkpoint() -> None:
    whole = run_local(job(2), None)
    half = run_local(job(2), None, steps=4)
    rest = run_local(job(2), None, state=half.state, first_step=4)
    assert rest.state_root == whole.state_root and rest.segments == whole.segments[2:]


def test_a_thousand_turns(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    """What a turn of a small cell takes, printed; two launches a turn are what is asserted."""
    turns, w, u = 1_000, tensor(1, 16, 16) * 0.25, tensor(2, 16, 16) * 0.25

    def cell(carry: Tensors, x: Tensors) -> tuple[Tensors, Tensors]:
        h = (carry[0] @ w + x[0] @ u).tanh()
        return (h,), (h,)

    (last,), (ys,) = scan(cell, [tensor(3, 1, 16)], [tensor(4, turns, 1, 16)])
    nodes, leaves = leaves_of([last, ys])
    prepared = Prepared(canonicalise(nodes), device, open_target(device), CompileOptions())
    values = {leaf: leaves[leaf] for leaf in prepared.plan.leaves}
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        prepared.compute(values)
        device.finish()
        times.append(time.perf_counter() - begin)
    found = prepared.run(values)
    law = dict(zip(nodes, [t.numpy() for t in (last, ys)], strict=True))
    for node, want in zip(prepared.plan.outputs, law.values(), strict=True):
        assert found[node].tobytes() == want.tobytes()
    (step,) = [s for s in prepared.plan.steps if isinstance(s, LoopStep)]
    assert len(step.steps) == 2
    with capsys.disabled():
        print(f"\n  {turns} turns: {sorted(times)[2] / turns * 1e6:.1f} us a turn")
    prepared.release()
