"""Running ONNX models: programs by shape, values that decide shapes, control flow, sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import flopmarket as fm
from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx import interpret, load
from tests.engine.formats.models import BOOL, FLOAT, INT64, graph, model, node

Array = np.ndarray[Any, Any]
X23 = np.arange(6, dtype=np.float32).reshape(2, 3)


def run(proto: onnx.ModelProto, **feed: Any) -> Any:
    return load(proto).run(feed, device="reference")


def constant(name: str, value: Any, dtype: Any = np.int64) -> onnx.NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value, dtype)))


# ---------------------------------------------------------------- shapes


def test_dynamic_axes_are_bound_at_load_or_by_the_call() -> None:
    m = model(
        [node("Add", ["a", "b"], ["c"])],
        [("a", FLOAT, ["n", 3]), ("b", FLOAT, ["n", 3])],
        [("c", FLOAT, ["n", 3])],
    )
    loaded = load(m)
    assert [spec.type.shape for spec in loaded.inputs] == [("n", 3), ("n", 3)]
    for rows in (1, 4):
        x = np.ones((rows, 3), np.float32)
        assert loaded.run({"a": x, "b": x}, "reference")["c"].shape == (rows, 3)
    with pytest.raises(EngineError, match="'b' has shape"):
        loaded.run({"a": np.ones((1, 3), np.float32), "b": np.ones((2, 3), np.float32)})
    for shapes in ({"n": 4}, {"a": (4, 3)}):
        bound = load(m, shapes=shapes)
        assert [spec.type.shape for spec in bound.inputs] == [(4, 3), (4, 3)]
    for wrong in ({"m": 4}, {"a": (4, 2)}, {"a": (4,)}, {"z": (1,)}):
        with pytest.raises(EngineError) as refusal:
            load(m, shapes=wrong)
        assert refusal.value.code == "ONNX_SHAPES"


@pytest.mark.parametrize(
    "feed",
    [{}, {"x": X23, "z": X23}, {"x": X23.astype(np.float64)}, {"x": X23.T}, {"x": None}],
)
def test_wrong_feeds_are_refused(feed: dict[str, Any]) -> None:
    m = load(model([node("Neg", ["x"], ["y"])], [("x", FLOAT, [2, 3])], [("y", FLOAT, None)]))
    with pytest.raises(EngineError) as refusal:
        m.run(feed, "reference")
    assert refusal.value.code in ("ONNX_FEED", "ONNX_SHAPES")


def test_shape_arithmetic_ends_in_no_program() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        constant("two", [2]),
        constant("minus", [-1]),
        node("Slice", ["s", "zero", "one"], ["rows"]),
        node("Mul", ["rows", "two"], ["more"]),
        node("Concat", ["more", "minus"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"zero": np.array([0]), "one": np.array([1])}
    m = load(model(nodes, [("x", FLOAT, ["n", 6])], [("y", FLOAT, None)], constants))
    program = m.program({"n": 5})
    assert [node.op.name for node in program.nodes] == ["INPUT", "VIEW"]
    assert program.outputs[0].shape == (10, 3)


class Walks:
    """Counts passes over a model's graph."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = interpret.Interpreter.run

        def counted(*arguments: Any) -> Any:
            self.count += 1
            return original(*arguments)

        monkeypatch.setattr(interpret.Interpreter, "run", counted)


def test_the_graph_is_walked_once_per_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    m = load(model([node("Neg", ["x"], ["y"])], [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])]))
    walks = Walks(monkeypatch)
    for rows in (3, 3, 4, 3, 4):
        x = np.arange(rows, dtype=np.float32)
        assert (m.run({"x": x}, "reference")["y"] == -x).all()
    assert walks.count == 2


def test_an_integer_input_that_decides_a_shape_becomes_a_constant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = [("x", FLOAT, [2, 3]), ("s", INT64, [2])]
    m = load(model([node("Reshape", ["x", "s"], ["y"])], inputs, [("y", FLOAT, None)]))
    walks = Walks(monkeypatch)
    for shape in ([3, 2], [6, 1], [3, 2], [-1, 1]):
        found = m.run({"x": X23, "s": np.array(shape)}, "reference")["y"]
        assert (found == X23.reshape(shape)).all()
    assert walks.count == 4  # one in vain, then one for each of three targets
    with pytest.raises(EngineError, match="depends on the input 's'") as refusal:
        m.program()
    assert refusal.value.code == "ONNX_DATA_DEPENDENT"
    program = m.program(values={"s": [3, 2]})
    assert [spec.name for spec in program.inputs] == ["x"]
    assert program.outputs[0].shape == (3, 2)
    fixed = load(
        model([node("Reshape", ["x", "s"], ["y"])], inputs, [("y", FLOAT, None)]),
        values={"s": [3, 2]},
    )
    assert [spec.name for spec in fixed.inputs] == ["x"]
    assert fixed.program().digest == program.digest
    assert (fixed.run({"x": X23}, "reference")["y"] == X23.reshape(3, 2)).all()
    for wrong in ({"t": [3, 2]}, {"s": np.zeros(2, np.float32)}):
        with pytest.raises(EngineError) as refusal:
            load(linear(), values=wrong)
        assert refusal.value.code == "ONNX_FEED"


def test_a_computed_shape_runs_in_parts() -> None:
    """The number of rows is the largest value of a float input."""
    nodes = [
        node("Mul", ["x", "x"], ["square"]),
        node("ReduceMax", ["square"], ["top"], keepdims=0),
        node("Cast", ["top"], ["n"], to=INT64),
        node("Unsqueeze", ["n", "zero"], ["shape"]),
        node("Expand", ["one", "shape"], ["y"]),
    ]
    constants = {"zero": np.array([0]), "one": np.ones(1, np.float32)}
    m = load(model(nodes, [("x", FLOAT, [3])], [("y", FLOAT, None)], constants))
    for top in (2, 3):
        x = np.array([1, top, 0], np.float32)
        assert m.run({"x": x}, "reference")["y"].tolist() == [1] * top**2
    with pytest.raises(EngineError, match="Expand 'y'") as refusal:
        m.program()
    assert refusal.value.code == "ONNX_DATA_DEPENDENT"


# ---------------------------------------------------------------- control flow

BRANCHES = {
    "then_branch": graph([node("Neg", ["x"], ["t"])], [], [("t", FLOAT, [2, 3])]),
    "else_branch": graph([node("Add", ["x", "x"], ["e"])], [], [("e", FLOAT, [2, 3])]),
}


def test_a_computed_condition_chooses_between_results() -> None:
    nodes = [node("If", ["c"], ["y"], **BRANCHES)]
    inputs = [("x", FLOAT, [2, 3]), ("c", BOOL, [])]
    m = load(model(nodes, inputs, [("y", FLOAT, [2, 3])]))
    assert (m.run({"x": X23, "c": np.array(True)}, "reference")["y"] == -X23).all()
    assert (m.run({"x": X23, "c": np.array(False)}, "reference")["y"] == 2 * X23).all()
    assert {spec.name for spec in m.program().inputs} == {"x", "c"}


def test_a_known_condition_takes_one_branch() -> None:
    broken = graph([node("Reshape", ["x", "bad"], ["t"])], [], [("t", FLOAT, None)])
    branches = BRANCHES | {"else_branch": broken}
    nodes = [constant("bad", [7]), constant("c", True, bool), node("If", ["c"], ["y"], **branches)]
    m = model(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])])
    assert (run(m, x=X23)["y"] == -X23).all()


def test_branches_of_different_shapes_are_decided_on_the_host() -> None:
    row = graph([node("ReduceSum", ["x"], ["e"])], [], [("e", FLOAT, None)])
    nodes = [
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        constant("four", 4, np.float32),
        node("Less", ["top", "four"], ["c"]),
        node("If", ["c"], ["y"], **(BRANCHES | {"else_branch": row})),
    ]
    m = model(nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, None)])
    assert run(m, x=X23)["y"].tolist() == [[15.0]]
    assert (run(m, x=X23 / 2)["y"] == -X23 / 2).all()
    with pytest.raises(EngineError, match="the condition of If 'y'"):
        load(m).program()


def doubling(condition: list[onnx.NodeProto]) -> onnx.GraphProto:
    """v -> 2 v, collecting v; the condition is computed by the nodes given."""
    nodes = [node("Add", ["v", "v"], ["w"]), node("Identity", ["v"], ["kept"]), *condition]
    return graph(
        nodes,
        [("i", INT64, []), ("go", BOOL, []), ("v", FLOAT, [2])],
        [("on", BOOL, []), ("w", FLOAT, [2]), ("kept", FLOAT, [2])],
    )


def loop(trips: int | None, condition: list[onnx.NodeProto]) -> onnx.ModelProto:
    nodes = [constant("n", trips)] if trips is not None else []
    trip = "" if trips is None else "n"
    nodes.append(node("Loop", [trip, "", "x"], ["last", "all"], body=doubling(condition)))
    return model(nodes, [("x", FLOAT, [2])], [("last", FLOAT, [2]), ("all", FLOAT, None)])


@pytest.mark.parametrize("trips", [0, 1, 5, 100])
def test_a_loop_of_known_length(trips: int) -> None:
    m = loop(trips, [node("Identity", ["go"], ["on"])])
    x = np.array([1, -3], np.float32)
    found = run(m, x=x)
    assert (found["last"] == x * 2.0**trips).all()
    assert found["all"].shape == (trips, 2)
    assert (found["all"] == x * 2.0 ** np.arange(trips)[:, None]).all()
    assert load(m).run({"x": x})["all"].tobytes() == found["all"].tobytes()
    nodes = load(m).program().nodes
    assert len(nodes) < 150
    assert any(n.op.name == "LOOP" for n in nodes) == (trips == 100)


def test_a_loop_that_values_end_runs_on_the_host() -> None:
    m = loop(
        None,
        [
            node("ReduceMax", ["w"], ["top"], keepdims=0),
            constant("limit", 1000, np.float32),
            node("Less", ["top", "limit"], ["on"]),
        ],
    )
    found = run(m, x=np.array([1, 3], np.float32))
    assert found["last"].tolist() == [512, 1536]
    assert found["all"].shape == (9, 2)
    with pytest.raises(EngineError, match="the condition of its body of Loop") as refusal:
        load(m).program()
    assert refusal.value.code == "ONNX_DATA_DEPENDENT"


def test_a_scan_is_a_running_sum() -> None:
    body = graph(
        [node("Add", ["total", "row"], ["next"]), node("Identity", ["next"], ["out"])],
        [("total", FLOAT, [3]), ("row", FLOAT, [3])],
        [("next", FLOAT, [3]), ("out", FLOAT, [3])],
    )
    for backward in (0, 1):
        nodes = [
            node(
                *("Scan", ["start", "x"], ["sum", "sums"]),
                body=body,
                num_scan_inputs=1,
                scan_input_directions=[backward],
                scan_output_directions=[backward],
            )
        ]
        outputs = [("sum", FLOAT, [3]), ("sums", FLOAT, ["n", 3])]
        inputs = [("x", FLOAT, ["n", 3])]
        m = model(nodes, inputs, outputs, {"start": np.zeros(3, np.float32)})
        x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
        rows = x[::-1] if backward else x
        want = np.cumsum(rows, axis=0, dtype=np.float32)
        found = run(m, x=x)
        np.testing.assert_allclose(found["sum"], want[-1], rtol=1e-5)
        np.testing.assert_allclose(found["sums"], want[::-1] if backward else want, rtol=1e-5)


def test_strings_and_sequences_pass_through() -> None:
    text = onnx.TensorProto.STRING
    nodes = [
        node("SequenceConstruct", ["a", "a"], ["s"]),
        node("ConcatFromSequence", ["s"], ["y"], axis=0),
    ]
    m = model(nodes, [("a", text, ["n"])], [("y", text, ["m"])])
    assert run(m, a=np.array(["fm", "ä"], dtype=object))["y"].tolist() == ["fm", "ä"] * 2


# ---------------------------------------------------------------- programs and modules


def linear() -> onnx.ModelProto:
    weights = {
        "w": np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32),
        "b": np.ones(4, np.float32),
        "__odd name\n": np.full(4, 2, np.float32),
    }
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "b"], ["k"]),
        node("Mul", ["k", "__odd name\n"], ["y"]),
    ]
    return model(nodes, [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 4])], weights)


def test_initialisers_are_the_frozen_tensors_of_a_program() -> None:
    loaded = load(linear(), shapes={"n": 2})
    program = loaded.program()
    assert [spec.name for spec in program.frozen][:2] == ["w", "b"]
    assert program.frozen[2].name.startswith("tensor_")
    assert fm.Program.from_bytes(program.to_bytes()).digest == program.digest
    assert load(linear(), shapes={"n": 2}).program().digest == program.digest


def test_weights_inside_branches_are_parameters_too() -> None:
    w = np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)
    branches = {
        name: graph([node("MatMul", ["x", "w"], ["r"])], [], [("r", FLOAT, None)], {"w": k * w})
        for name, k in (("then_branch", 1), ("else_branch", 2))
    }
    nodes = [node("If", ["c"], ["y"], name="choice", **branches)]
    inputs = [("x", FLOAT, [1, 200]), ("c", BOOL, [])]
    m = load(model(nodes, inputs, [("y", FLOAT, [1, 200])]))
    assert list(m.state_dict()) == ["choice.w", "choice.w~2"]
    assert len(m.program().frozen) == 2
    x = np.ones((1, 200), np.float32)
    for c, k in ((True, 1), (False, 2)):
        assert len(m.program(values={"c": c}).frozen) == 1
        found = m.run({"x": x, "c": np.array(c)}, "reference")["y"]
        np.testing.assert_allclose(found, k * (x @ w), rtol=1e-3, atol=1e-4)


def test_a_model_is_a_module() -> None:
    loaded = load(linear())
    want = loaded.run({"x": X23}, "reference")["y"]
    x = fm.Tensor(X23, device="reference")
    assert (loaded(x).numpy() == want).all()
    assert (loaded({"x": x}).numpy() == want).all()
    state = loaded.state_dict()
    state["b"] = state["b"] + 1
    assert (loaded.load_state_dict(state)(x).numpy() == want + 2).all()
    assert (loaded.run({"x": X23}, "reference")["y"] == want + 2).all()


def test_a_device_gives_the_references_bits() -> None:
    loaded = load(linear())
    x = np.random.default_rng(2).normal(size=(64, 3)).astype(np.float32)
    here = loaded.run({"x": x}, "reference")["y"]
    assert here.tobytes() == loaded.run({"x": x})["y"].tobytes()


def test_other_weights_replace_those_on_the_device() -> None:
    loaded = load(linear())
    before = loaded.run({"x": X23})["y"]
    assert (loaded.run({"x": X23})["y"] == before).all()
    state = loaded.state_dict()
    state["b"] = state["b"] + 1
    loaded.load_state_dict(state)
    here, wanted = (loaded.run({"x": X23}, device)["y"] for device in (None, "reference"))
    assert here.tobytes() == wanted.tobytes()
    assert (loaded.run({"x": X23})["y"] != before).any()


def test_the_facade() -> None:
    assert isinstance(fm.onnx.load(linear()), fm.Model)
    assert isinstance(fm.onnx.load(linear()), fm.nn.Module)
