"""Programs on a device: the same bits as the reference session, step after step."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import dtypes, functional, graph, nn, optim, trace
from flopmarket.engine.errors import EngineError
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.runtime.open import open_session, open_target, opened
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.replay import OpenCLSession
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.runtime.session import ReferenceSession, Session

Array = np.ndarray[Any, Any]
F32 = dtypes.float32


def session(program: Program, device: Device, **options: Any) -> OpenCLSession:
    return OpenCLSession(program, device, open_target(device), CompileOptions(**options))


def same(a: dict[str, Array], b: dict[str, Array]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].shape == b[name].shape
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes(), name


def race(
    program: Program,
    runner: Session,
    frozen: dict[str, Array],
    state: dict[str, Array],
    batches: list[dict[str, Array]],
) -> None:
    """Run both and compare every output and every state."""
    law = ReferenceSession(program)
    law.load(frozen, state)
    runner.load(frozen, state)
    for number, batch in enumerate(batches):
        same(law.step(batch, seed=77, step=number), runner.step(batch, seed=77, step=number))
        same(law.read_state(), runner.read_state())


def mlp() -> tuple[Program, dict[str, Array], list[dict[str, Array]]]:
    rng = np.random.default_rng(3)
    model = nn.Sequential(nn.Linear(33, 65), nn.ReLU(), nn.Dropout(0.1), nn.Linear(65, 10))
    step = trace.training_step(model, functional.cross_entropy, optim.Adam(lr=1e-2))
    batches = [
        {
            "x": rng.standard_normal((24, 33)).astype(np.float32),
            "y": rng.integers(0, 10, 24).astype(np.int32),
        }
        for _ in range(10)
    ]
    state = step.init(5)
    return trace.trace(step, state, batches[0]), state, batches


@pytest.mark.parametrize(
    "options", [{}, {"poison": True}, {"fusion": False, "poison": True}], ids=str
)
def test_ten_training_steps_have_the_bits_of_the_reference(
    options: dict[str, Any], device: Device
) -> None:
    program, state, batches = mlp()
    runner = session(program, device, **options)
    race(program, runner, {}, state, batches)
    runner.close()


def test_a_convolution_net_trains_with_the_bits_of_the_reference(device: Device) -> None:
    rng = np.random.default_rng(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)
    )
    step = trace.training_step(model, functional.cross_entropy, optim.SGD(lr=0.1))
    batch = {
        "x": rng.standard_normal((4, 3, 8, 8)).astype(np.float32),
        "y": rng.integers(0, 5, 4).astype(np.int32),
    }
    state = step.init(5)
    program = trace.trace(step, state, batch)
    race(program, session(program, device, poison=True), {}, state, [batch] * 3)


def awkward() -> Program:
    """States that stay, swap, share a next value, and take over another state's or an input's."""
    names = ("kept", "counted", "twin", "shifted", "taken", "other")
    state = {name: graph.input_("state", name, F32, (5,)) for name in names}
    x = graph.input_("input", "x", F32, (5,))
    w = graph.input_("frozen", "w", F32, (5,))
    twice = graph.add(graph.mul(w, w), w)
    counted = graph.add(state["counted"], x)
    following = {
        "kept": state["kept"],
        "counted": counted,
        "twin": counted,
        "shifted": state["counted"],
        "taken": x,
        "other": state["taken"],
    }
    specs = [TensorSpec(name, F32, (5,)) for name in names]
    return Program.build(
        frozen=[TensorSpec("w", F32, (5,))],
        state=specs,
        inputs=[TensorSpec("x", F32, (5,))],
        next_state=[following[name] for name in names],
        outputs=[
            ("same", counted),
            ("before", state["counted"]),
            ("weights", graph.div(twice, state["shifted"])),
            ("literal", graph.filled(np.nan, F32, (2,))),
            ("array", graph.const([1.0, 2.0], F32, (2,))),
            ("nothing", graph.slice_(x, ((0, 1, 0),))),
        ],
    )


def test_every_way_of_carrying_state(device: Device) -> None:
    program = awkward()
    rng = np.random.default_rng(0)

    def some() -> Array:
        return rng.standard_normal(5).astype(np.float32)

    state = {spec.name: some() for spec in program.state}
    batches = [{"x": some()} for _ in range(5)]
    race(program, session(program, device, poison=True), {"w": some()}, state, batches)


def test_what_depends_on_frozen_tensors_alone_is_computed_at_load(device: Device) -> None:
    w = graph.input_("frozen", "w", F32, (1, 64, 64))
    x = graph.input_("input", "x", F32, (1, 64, 64))
    program = Program.build(
        frozen=[TensorSpec("w", F32, w.shape)],
        state=[],
        inputs=[TensorSpec("x", F32, x.shape)],
        next_state=[],
        outputs=[("y", graph.dot(x, graph.permute(w, (0, 2, 1))))],
    )
    runner = session(program, device, poison=True)
    assert [step.call.family for step in runner.plan.once] == ["pack"]
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(w.shape).astype(np.float32) for _ in range(3)]
    for frozen in values[:2]:
        race(program, runner, {"w": frozen}, {}, [{"x": v} for v in values])


def test_seed_and_step_reach_the_program(device: Device) -> None:
    seed = graph.input_("seed", "seed", dtypes.uint32, (2,))
    step = graph.input_("step", "step", dtypes.uint32, ())
    program = Program.build(
        frozen=[],
        state=[],
        inputs=[],
        next_state=[],
        outputs=[("seed", graph.add(seed, seed)), ("step", graph.add(step, step))],
    )
    runner = session(program, device)
    runner.load({}, {})
    outputs = runner.step({}, seed=(7 << 32) | 5, step=9)
    assert outputs["seed"].tolist() == [10, 14]
    assert outputs["step"] == 18


def test_wrong_tensors_are_named(device: Device) -> None:
    program, state, batches = mlp()
    runner = session(program, device)
    with pytest.raises(EngineError, match="load") as caught:
        runner.step(batches[0], seed=0, step=0)
    assert caught.value.code == "SESSION_EMPTY"
    runner.load({}, state)
    with pytest.raises(EngineError, match="'x'"):
        runner.step({"y": batches[0]["y"]}, seed=0, step=0)


def test_a_program_that_does_not_fit_says_how_much_it_needs(device: Device) -> None:
    program, _, _ = mlp()
    before = device.allocated_bytes
    with pytest.raises(EngineError, match=r"needs \d+ bytes .* 1000 are available") as caught:
        session(program, device, max_bytes=1000)
    assert caught.value.code == "DEVICE_MEMORY"
    assert device.allocated_bytes == before


def test_close_frees_and_overwrites(device: Device) -> None:
    program, state, _ = mlp()
    before = device.allocated_bytes
    runner = session(program, device)
    runner.load({}, state)
    assert device.allocated_bytes > before
    runner.close()
    assert device.allocated_bytes == before


def test_open_session_by_name() -> None:
    program, state, batches = mlp()
    assert isinstance(open_session(program, "reference"), ReferenceSession)
    runner = open_session(program, "0")
    race(program, runner, {}, state, batches[:1])
    runner.close()


def test_profile_prints_one_line_a_kernel(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    program, state, batches = mlp()
    runner = session(program, device, profile=True)
    runner.load({}, state)
    with caplog.at_level(logging.DEBUG, logger="flopmarket.engine"):
        runner.step(batches[0], seed=0, step=0)
    assert len(caplog.records) == len(runner.plan.steps)
    assert "GFLOP/s" in caplog.text


def test_two_devices_opened_apart_give_equal_sources(device: Device) -> None:
    """The binary cache only hits if text depends on nothing but the program."""
    program, _, _ = mlp()
    other = Program.from_bytes(program.to_bytes())
    with opened(device.info) as second:
        assert session(program, device).plan.source == session(other, second).plan.source
