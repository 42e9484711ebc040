"""Modules, optimizers and traces: what a training job is made of."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from flopmarket.engine import functional, graph, nn, optim, trace
from flopmarket.engine.dtypes import float32, int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.engine.tensor import Tensor
from tests.engine.frontend.near import tensor

Array = np.ndarray[Any, Any]


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.LayerNorm(32), nn.Linear(32, 10)
    )


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def program(model: nn.Module, optimizer: optim.Optimizer, shape: tuple[int, ...]) -> Program:
    step = trace.training_step(model, functional.cross_entropy, optimizer)
    inputs = {
        "x": TensorSpec("x", float32, shape),
        "y": TensorSpec("y", int64, shape[:1]),
    }
    return trace.trace(step, step.init_specs(), inputs)


def train(model: nn.Module, optimizer: optim.Optimizer, x: Array, y: Array, steps: int) -> Any:
    step = trace.training_step(model, functional.cross_entropy, optimizer)
    session = ReferenceSession(program(model, optimizer, (32, *x.shape[1:])))
    session.load({}, step.init(1, device="reference"))
    losses, correct = [], []
    for at in range(steps):
        rows = np.arange(at * 32, (at + 1) * 32) % len(x)
        outputs = session.step({"x": x[rows], "y": y[rows]}, seed=5, step=at)
        losses.append(float(outputs["loss"]))
        correct.append(int(outputs["correct"]))
    return losses, correct, session.read_state()


def digits() -> tuple[Array, Array]:
    data = load_digits()
    return (data.data / 16).astype(np.float32), data.target.astype(np.int64)


def test_an_mlp_learns_the_digits() -> None:
    x, y = digits()
    losses, correct, _ = train(mlp(), optim.Adam(lr=1e-2), x, y, 30)
    assert 2.0 < losses[0] < 3.2
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    assert np.mean(correct[-5:]) > 2 * np.mean(correct[:5])


def test_a_convolutional_net_learns_and_moves_its_running_statistics() -> None:
    x, y = digits()
    optimizer = optim.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    losses, _, state = train(convnet(), optimizer, x.reshape(-1, 1, 8, 8), y, 25)
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert (state["model.1.running_mean"] != 0).all()
    assert (state["model.1.running_var"] > 0).all()


DIGEST_SCRIPT = """
from flopmarket.engine import optim
from tests.engine.frontend.test_training import convnet, mlp, program
print(program(mlp(), optim.Adam(), (8, 64)).digest.hex())
print(program(convnet(), optim.SGD(lr=0.1, momentum=0.9), (4, 1, 8, 8)).digest.hex())
"""


def test_digests_do_not_depend_on_the_process() -> None:
    printed = set()
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", DIGEST_SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        printed.add(run.stdout)
    (lines,) = printed
    here = program(mlp(), optim.Adam(), (8, 64))
    assert lines.split()[0] == here.digest.hex()
    assert len(set(lines.split())) == 2
    assert Program.from_bytes(here.to_bytes()).digest == here.digest


def test_two_traces_of_one_step_are_equal_and_dropouts_have_their_own_streams() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))

    def step(state: Any, inputs: Any) -> Any:
        result, _ = model.apply({}, inputs["x"])
        return {}, {"y": result}

    example = {"x": TensorSpec("x", float32, (64,))}
    first, second = trace.trace(step, {}, example), trace.trace(step, {}, example)
    assert first.digest == second.digest
    session = ReferenceSession(first)
    session.load({}, {})
    ones = np.ones(64, dtype=np.float32)
    result = session.step({"x": ones}, seed=1, step=0)["y"]
    # With one stream for both masks a quarter less would be zero.
    assert set(np.unique(result)) == {np.float32(0), np.float32(4)}
    assert (result == 0).mean() > 0.6
    assert (session.step({"x": ones}, seed=1, step=1)["y"] != result).any()
    assert (session.step({"x": ones}, seed=2, step=0)["y"] != result).any()


def test_initial_values_are_a_function_of_the_seed() -> None:
    first, again, other = (mlp().init(seed, device="reference") for seed in (3, 3, 4))
    assert list(first) == ["0.weight", "0.bias", "3.weight", "3.bias", "4.weight", "4.bias"]
    for name, array in first.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, again[name])
    assert (first["0.weight"] != other["0.weight"]).mean() > 0.99
    assert np.abs(first["0.weight"]).max() <= 64**-0.5
    assert np.abs(first["0.weight"]).max() > 0.95 * 64**-0.5
    assert (first["3.weight"] == 1).all() and (first["3.bias"] == 0).all()


class Residual(nn.Module):
    """Two uses of one layer, a plain attribute, and a layer without a bias."""

    def __init__(self) -> None:
        self.inner = nn.Linear(3, 3)
        self.again = self.inner
        self.last = nn.Linear(3, 2, bias=False)
        self.scale = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.again(self.inner(x)) * self.scale)


def test_a_written_module_is_used_eagerly_and_functionally_alike() -> None:
    model = Residual()
    assert list(model.named_parameters()) == ["inner.weight", "inner.bias", "last.weight"]
    state = model.init(7, device="reference")
    x = tensor([[1.0, 2.0, 3.0]])
    kept = {name: tensor(value) for name, value in state.items()}
    model.load_state_dict(kept)
    functional_result, _ = model.apply(kept, x)
    np.testing.assert_array_equal(model(x).numpy(), functional_result.numpy())
    w, b, last = (state[name].astype(np.float64) for name in state)
    inner = (np.array([[1.0, 2, 3]]) @ w.T + b) @ w.T + b
    wanted = (np.array([[1.0, 2, 3]]) + inner * 2) @ last.T
    np.testing.assert_allclose(functional_result.numpy(), wanted, rtol=1e-5)
    assert list(model.state_dict()) == list(state)


def test_evaluation_mode_stops_dropout_and_uses_running_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.9))
    model.load_state_dict({n: tensor(v) for n, v in model.init(0, device="reference").items()})
    x = tensor([[1.0, -1.0], [3.0, 5.0]])
    np.testing.assert_allclose(model.eval()(x).numpy(), x.numpy(), rtol=1e-5)
    assert not model.training
    values = {name: tensor(value) for name, value in model.state_dict().items()}
    _, kept = model.apply(values, x, training=False)
    assert kept["0.running_mean"] is values["0.running_mean"]


def test_inference_step_reads_frozen_weights() -> None:
    model = mlp()
    weights = model.init(1, device="reference")
    step = trace.inference_step(model)
    example = {"x": np.zeros((2, 64), dtype=np.float32)}
    traced = trace.trace(step, {}, example, frozen=weights)
    session = ReferenceSession(traced)
    session.load(weights, {})
    x = digits()[0][:2]
    found = session.step({"x": x}, seed=0, step=0)["y"]
    model.load_state_dict({n: tensor(v) for n, v in weights.items()}).eval()
    np.testing.assert_array_equal(found, model(tensor(x)).numpy())


def follow(optimizer: optim.Optimizer, steps: int) -> Array:
    """Minimises the quadratic sum((p - target)^2), with gradients given in float32."""
    target = np.array([1.0, -2.0, 0.5], dtype=np.float32)
    params = {"p": tensor(np.zeros(3, dtype=np.float32))}
    state = {name: tensor(value) for name, value in optimizer.init(params).items()}
    for _ in range(steps):
        grads = {"p": tensor(2 * (params["p"].numpy() - target))}
        params, state = optimizer.update(params, grads, state)
    return params["p"].numpy()


def test_adam_follows_the_paper() -> None:
    p, m, v = np.zeros(3), np.zeros(3), np.zeros(3)
    target = np.array([1.0, -2.0, 0.5])
    for t in range(1, 11):
        g = 2 * (p - target) + 0.01 * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    found = follow(optim.Adam(lr=0.1, weight_decay=0.01), 10)
    np.testing.assert_allclose(found, p, rtol=1e-3)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_torchs_formula(nesterov: bool) -> None:
    p, v, target = np.zeros(3), np.zeros(3), np.array([1.0, -2.0, 0.5])
    for _ in range(10):
        g = 2 * (p - target) + 0.1 * p
        v = 0.9 * v + g
        p = p - 0.05 * (g + 0.9 * v if nesterov else v)
    optimizer = optim.SGD(lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=nesterov)
    np.testing.assert_allclose(follow(optimizer, 10), p, rtol=1e-4)
    assert optim.SGD(lr=0.1).init({"p": np.zeros(3, np.float32)}) == {}


def test_a_small_closed_over_tensor_is_a_literal_and_a_large_one_is_refused() -> None:
    def step(constant: Tensor) -> Program:
        return trace.trace(
            lambda state, inputs: ({}, {"y": (inputs["x"] * constant).sum()}),
            {},
            {"x": TensorSpec("x", float32, constant.shape)},
        )

    small = step(tensor([1.0, 2.0]))
    assert [leaf.arg for leaf in small.leaves] == [("input", "x")]
    with pytest.raises(EngineError, match="TRACE_CLOSURE"):
        step(tensor(np.zeros(20_000, dtype=np.float32)))


def test_what_a_trace_refuses() -> None:
    spec = {"w": TensorSpec("w", float32, (2,))}

    def returning(**new_state: Tensor) -> Any:
        return lambda state, inputs: (new_state, {})

    for step in (returning(), returning(w=tensor([1.0, 2.0]), v=tensor(1.0))):
        with pytest.raises(EngineError, match="TRACE_STATE"):
            trace.trace(step, spec, {})
    with pytest.raises(EngineError, match="'w'"):
        trace.trace(returning(w=tensor(1.0)), spec, {})
    other = Tensor(graph.input_("input", "foreign", float32, (2,)))
    with pytest.raises(EngineError, match="foreign"):
        trace.trace(returning(w=other), spec, {})


def test_what_modules_and_optimizers_refuse() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(EngineError, match="PARAMETER_UNSET"):
        model.weight  # noqa: B018
    with pytest.raises(EngineError, match="STATE_NAMES"):
        model.load_state_dict({"weight": np.zeros((2, 3), np.float32)})
    with pytest.raises(EngineError, match="STATE_NAMES"):
        model.apply({"weight": tensor(0.0), "bias": tensor(0.0), "more": tensor(0.0)}, tensor(0.0))
    with pytest.raises(EngineError, match=r"float32\[2, 3\]"):
        model.weight = tensor([1.0])
    with pytest.raises(AttributeError, match="no attribute 'wait'"):
        model.wait  # noqa: B018
    with pytest.raises(EngineError, match="SHAPE_MISMATCH"):
        nn.Conv2d(3, 4, 3, groups=2)
    for build in (
        lambda: optim.SGD(lr=0.0),
        lambda: optim.SGD(lr=0.1, nesterov=True),
        lambda: optim.Adam(betas=(0.9, 1.0)),
        lambda: optim.Adam(eps=0.0),
    ):
        with pytest.raises(EngineError, match="OPTIMIZER_OPTION"):
            build()
