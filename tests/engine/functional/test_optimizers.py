"""Optimizers, schedules, clipping and accumulation: against torch's numbers and their own laws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import functional, nn, optim, trace
from flopmarket.engine.dtypes import bfloat16, float32, int32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.program import TensorSpec
from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.engine.tensor import Tensor
from tests.engine.frontend.near import tensor
from tests.engine.functional import optimizer_cases as cases
from tests.engine.functional.case import Array
from tests.engine.functional.test_against_torch import stored

Values = dict[str, Array]


def step(
    optimizer: optim.Optimizer, params: Values, grads: Values, state: Values
) -> tuple[Values, Values]:
    """One update, read back."""
    moved, kept = optimizer.update(
        *({n: tensor(v) for n, v in d.items()} for d in (params, grads, state))
    )
    return {n: v.numpy() for n, v in moved.items()}, {n: v.numpy() for n, v in kept.items()}


def run(optimizer: optim.Optimizer, steps: int, repeat: int = 1) -> tuple[Values, Values]:
    """Parameters and state after ``steps`` updates, each gradient given ``repeat`` times."""
    params = cases.parameters()
    state: Values = optimizer.init(params)
    for at in range(steps * repeat):
        params, after = step(optimizer, params, cases.gradients(at // repeat), state)
        assert set(after) == set(state)
        assert all(after[n].dtype == state[n].dtype for n in state)
        state = after
    return params, state


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_updates_are_torchs(name: str) -> None:
    kind, options = cases.OPTIMIZERS[name]
    params, _ = run(getattr(optim, kind)(**options), cases.STEPS)
    for at, value in enumerate(params.values()):
        wanted = stored("optimizers")[f"{name}/p{at}"]
        np.testing.assert_allclose(value, wanted, rtol=2e-5, atol=2e-6)


def test_lion_follows_the_paper() -> None:
    params, _ = run(optim.Lion(lr=0.01, betas=(0.9, 0.99), weight_decay=0.1), 4)
    p, m = cases.parameters()["w"].astype(np.float64), np.zeros((3, 4))
    for at in range(4):
        g = cases.gradients(at)["w"]
        p = p * (1 - 0.01 * 0.1) - 0.01 * np.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
    np.testing.assert_allclose(params["w"], p, rtol=1e-5)


OURS: dict[str, optim.Schedule] = {
    "constant": optim.constant(cases.RATE),
    "step": optim.step(cases.RATE, every=5, factor=0.3),
    "exponential": optim.exponential(cases.RATE, 0.9),
    "cosine": optim.cosine(cases.RATE, 20),
    "polynomial": optim.polynomial(cases.RATE, 16, 1.5),
    "linear": optim.linear(cases.RATE, 16, cases.RATE * 0.1),
    "warmup_cosine": optim.warmup_cosine(cases.RATE, warmup=6, steps=20),
    "one_cycle": optim.one_cycle(cases.RATE, cases.RATES + 1),
    "piecewise": optim.piecewise([0.05, 0.005, 0.0005], [4, 9]),
}


@pytest.mark.parametrize("name", cases.SCHEDULES)
def test_schedules_are_torchs(name: str) -> None:
    found = [OURS[name](Tensor(at, int32, device="reference")).item() for at in range(cases.RATES)]
    wanted = stored("optimizers")[f"{name}/rates"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-9)


def test_a_schedule_counts_in_the_state_and_a_constant_needs_no_count() -> None:
    _, state = run(optim.SGD(lr=optim.cosine(0.1, 10)), 3)
    assert state["step"] == 3
    assert "step" not in optim.Adam(lr=0.1).init(cases.parameters())
    fixed, _ = run(optim.AdamW(lr=0.05), 3)
    scheduled, _ = run(optim.AdamW(lr=optim.constant(0.05)), 3)
    for name, value in fixed.items():
        np.testing.assert_allclose(scheduled[name], value, rtol=1e-6)


def test_warm_up_of_a_constant() -> None:
    rate = optim.warmup(0.1, steps=4, start=0.5)
    found = [rate(Tensor(at, int32, device="reference")).item() for at in range(6)]
    np.testing.assert_allclose(found, [0.05, 0.0625, 0.075, 0.0875, 0.1, 0.1], rtol=1e-6)


class Recorder:
    """An optimizer that hands its gradients on as parameters."""

    def init(self, params: Mapping[str, Any]) -> Values:
        return {}

    def update(self, params: Any, grads: Any, state: Any) -> Any:
        return dict(grads), {}


def test_clipping_by_norm_is_torchs() -> None:
    limited, _ = step(
        optim.clip(Recorder(), max_norm=cases.MAX_NORM), cases.parameters(), cases.gradients(0), {}
    )
    golden = stored("optimizers")
    for at, value in enumerate(limited.values()):
        np.testing.assert_allclose(value, golden[f"clip/p{at}"], rtol=1e-5)
    norm = optim.gradient_norm({n: tensor(v) for n, v in cases.gradients(0).items()})
    np.testing.assert_allclose(norm.item(), golden["clip/norm"], rtol=1e-6)


def test_small_gradients_are_not_scaled_and_values_are_limited() -> None:
    grads = cases.gradients(0)
    same, _ = step(optim.clip(Recorder(), max_norm=100.0), cases.parameters(), grads, {})
    limited, _ = step(optim.clip(Recorder(), max_value=0.25), cases.parameters(), grads, {})
    for name, value in grads.items():
        np.testing.assert_array_equal(same[name], value)
        np.testing.assert_array_equal(limited[name], np.clip(value, -0.25, 0.25))


def test_accumulation_updates_once_in_k_steps_by_the_mean() -> None:
    inner = optim.AdamW(lr=optim.exponential(0.1, 0.5))
    plain, plain_state = run(inner, 3)
    params, state = run(optim.accumulate(inner, 4), 3, repeat=4)
    for name, value in plain.items():
        np.testing.assert_allclose(params[name], value, rtol=1e-6)
    assert state["step"] == plain_state["step"] == 3
    assert state["accumulate.count"] == 0
    assert not state["accumulate.w"].any()


def test_micro_steps_between_updates_keep_every_bit() -> None:
    optimizer = optim.accumulate(optim.Adam(lr=0.1), 3)
    params, state = cases.parameters(), optimizer.init(cases.parameters())
    for at in range(2):
        after, state = step(optimizer, params, cases.gradients(at), state)
        for name, value in params.items():
            np.testing.assert_array_equal(after[name], value)
        assert state["accumulate.count"] == at + 1
        assert state["beta1_power"] == 1
    total = cases.gradients(0)["w"] + cases.gradients(1)["w"]
    np.testing.assert_array_equal(state["accumulate.w"], total)
    poisoned = {n: np.full_like(v, np.nan) for n, v in cases.gradients(2).items()}
    _, state = step(optimizer, params, poisoned, state)
    assert not state["accumulate.w"].any()


def test_a_training_job_s_state_resumes_a_schedule() -> None:
    model = nn.Linear(4, 3)
    optimizer = optim.accumulate(optim.clip(optim.AdamW(lr=optim.warmup_cosine(0.1, 2, 8)), 1.0), 2)
    training = trace.training_step(model, functional.cross_entropy, optimizer)
    program = trace.trace(
        training,
        training.init_specs(),
        {"x": TensorSpec("x", float32, (5, 4)), "y": TensorSpec("y", int64, (5,))},
    )
    random = np.random.default_rng(0)
    batches = [
        {"x": random.normal(size=(5, 4)).astype(np.float32), "y": random.integers(0, 3, 5)}
        for _ in range(8)
    ]

    def go(state: Values, first: int, last: int) -> Values:
        session = ReferenceSession(program)
        session.load({}, state)
        for at in range(first, last):
            session.step(batches[at], seed=1, step=at)
        return session.read_state()

    first = training.init(1, device="reference")
    whole = go(first, 0, 8)
    again = go(go(first, 0, 3), 3, 8)
    assert whole["optimizer.step"] == 4
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value)


def test_sixteen_bit_parameters_keep_their_dtype_and_have_float32_moments() -> None:
    params = {"w": Tensor([1.0, -2.0], device="reference").to(bfloat16)}
    optimizer = optim.AdamW(lr=0.5)
    state = {n: tensor(v) for n, v in optimizer.init(params).items()}
    assert state["first.w"].dtype is float32
    moved, _ = optimizer.update(params, {"w": params["w"]}, state)
    assert moved["w"].dtype is bfloat16


def test_what_optimizers_refuse() -> None:
    for build in (
        lambda: optim.AdamW(lr=-1.0),
        lambda: optim.Lion(betas=(0.9, 1.0)),
        lambda: optim.RMSprop(alpha=1.0),
        lambda: optim.Adagrad(lr_decay=-1.0),
        lambda: optim.clip(optim.Adam()),
        lambda: optim.clip(optim.Adam(), max_norm=0.0),
        lambda: optim.accumulate(optim.Adam(), 0),
        lambda: optim.accumulate(optim.accumulate(optim.Adam(), 2), 2),
        lambda: optim.cosine(0.1, 0),
        lambda: optim.warmup_cosine(0.1, 10, 10),
        lambda: optim.piecewise([0.1], [3]),
        lambda: optim.one_cycle(0.1, 2),
    ):
        with pytest.raises(EngineError, match="OPTIMIZER_OPTION"):
            build()
