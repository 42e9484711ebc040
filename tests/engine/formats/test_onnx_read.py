"""Hostile and merely wrong ONNX files: each is refused with a code, none crashes or hangs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx import limits, load
from tests.engine.formats.models import FLOAT, INT64, graph, model, node

X = [("x", FLOAT, [2, 3])]
Y = [("y", FLOAT, [2, 3])]


def refused(source: Any, code: str) -> EngineError:
    with pytest.raises(EngineError) as refusal:
        load(source)
    assert refusal.value.code == code, refusal.value
    return refusal.value


def test_bytes_paths_protos_and_files_are_read(tmp_path: Path) -> None:
    proto = model([node("Neg", ["x"], ["y"])], X, Y)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    with path.open("rb") as file:
        sources = [proto, proto.SerializeToString(), path, str(path), file]
        for source in sources:
            found = load(source).run({"x": x}, device="reference")
            assert (found["y"] == -x).all()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    refused(b"\xff\xff\xff", "ONNX_MALFORMED")
    refused(b"", "ONNX_MALFORMED")
    refused(tmp_path / "nothing.onnx", "ONNX_FILE")
    refused(tmp_path, "ONNX_FILE")
    refused(7, "ONNX_FILE")


def test_truncated_files_are_refused() -> None:
    data = model([node("Neg", ["x"], ["y"])], X, Y, {"w": np.ones(50, np.float32)})
    whole = data.SerializeToString()
    for length in range(0, len(whole), 7):
        try:
            load(whole[:length])
        except EngineError as error:
            assert error.code.startswith("ONNX_"), error


@pytest.mark.parametrize(
    ("nodes", "code", "named"),
    [
        ([node("Neg", ["nowhere"], ["y"], name="n")], "ONNX_NAME", "nowhere"),
        ([node("Neg", ["x"], ["z"])], "ONNX_NAME", "'y'"),
        ([node("Neg", ["x"], ["y"]), node("Abs", ["x"], ["y"])], "ONNX_NAME", "already"),
        ([node("Neg", ["x"], ["x"])], "ONNX_NAME", "already"),
        ([node("Add", ["x", "y"], ["y"], name="n")], "ONNX_CYCLE", "'n'"),
        ([node("Add", ["x", "b"], ["y"]), node("Neg", ["y"], ["b"])], "ONNX_CYCLE", "itself"),
        ([node("Add", ["x"], ["y"])], "ONNX_NODE", "1 inputs"),
        ([node("Neg", ["x", "x"], ["y"])], "ONNX_NODE", "2 inputs"),
        ([node("Neg", ["x"], ["y"], axis=1)], "ONNX_NODE", "axis"),
        ([node("Transpose", ["x"], ["y"], perm="10")], "ONNX_NODE", "perm"),
        ([node("Concat", ["x"], ["y"])], "ONNX_NODE", "axis"),
    ],
)
def test_wrong_graphs_are_refused_by_name(nodes: list[Any], code: str, named: str) -> None:
    assert named in str(refused(model(nodes, X, Y), code))


def test_unsorted_nodes_are_sorted() -> None:
    nodes = [node("Neg", ["b"], ["y"]), node("Abs", ["x"], ["b"])]
    x = np.array([[-1, 2, -3], [4, -5, 6]], np.float32)
    assert (load(model(nodes, X, Y)).run({"x": x}, "reference")["y"] == -abs(x)).all()


def test_newer_and_unknown_opsets_are_refused() -> None:
    nodes = [node("Neg", ["x"], ["y"])]
    newest = onnx.defs.onnx_opset_version()
    refused(model(nodes, X, Y, opset=newest + 1), "ONNX_OPSET")
    old = [node("Reshape", ["x"], ["y"], shape=[2, 3])]
    refused(model(old, X, Y, opset=1), "ONNX_OPSET")


def test_an_unknown_operator_is_named() -> None:
    nodes = [node("Frobnicate", ["x"], ["y"], domain="local", name="here")]
    loaded = load(model(nodes, X, Y))
    with pytest.raises(EngineError, match="Frobnicate 'here'") as refusal:
        loaded.run({"x": np.zeros((2, 3), np.float32)}, "reference")
    assert refusal.value.code == "ONNX_OPERATOR"


# ---------------------------------------------------------------- tensors


def tensor(**fields: Any) -> onnx.TensorProto:
    return onnx.TensorProto(**{"name": "w", "data_type": FLOAT, "dims": [2, 3]} | fields)


@pytest.mark.parametrize(
    ("proto", "code"),
    [
        (tensor(raw_data=bytes(23)), "ONNX_TENSOR"),
        (tensor(raw_data=bytes(25)), "ONNX_TENSOR"),
        (tensor(float_data=[1.0] * 5), "ONNX_TENSOR"),
        (tensor(dims=[-1, 3], raw_data=b""), "ONNX_TENSOR"),
        (tensor(dims=[2**40, 2**40], raw_data=b""), "ONNX_LIMIT"),
        (tensor(dims=[1] * 40, raw_data=bytes(4)), "ONNX_LIMIT"),
        (tensor(data_type=77, raw_data=bytes(24)), "ONNX_TYPE"),
        (tensor(data_type=onnx.TensorProto.STRING, raw_data=bytes(24)), "ONNX_TENSOR"),
        (tensor(data_type=onnx.TensorProto.INT4, raw_data=bytes(4)), "ONNX_TENSOR"),
    ],
)
def test_tensors_hold_what_their_shape_says(proto: onnx.TensorProto, code: str) -> None:
    m = model([node("Add", ["x", "w"], ["y"])], X, Y)
    m.graph.initializer.append(proto)
    assert "'w'" in str(refused(m, code)) or code == "ONNX_TYPE"


def test_sparse_initialisers_become_dense() -> None:
    m = model([node("Add", ["x", "w"], ["y"])], X, Y)
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "w")
    for places in (np.array([1, 5]), np.array([[0, 1], [1, 2]])):
        del m.graph.sparse_initializer[:]
        indices = numpy_helper.from_array(places.astype(np.int64), "i")
        m.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 3]))
        found = load(m).run({"x": np.zeros((2, 3), np.float32)}, "reference")
        assert found["y"].tolist() == [[0, 5, 0], [0, 0, 7]]
    indices = numpy_helper.from_array(np.array([1, 6], np.int64), "i")
    m.graph.sparse_initializer[0].indices.CopyFrom(indices)
    refused(m, "ONNX_TENSOR")


# ---------------------------------------------------------------- external data


def external(location: str, **more: int) -> onnx.ModelProto:
    m = model([node("Add", ["x", "w"], ["y"])], X, Y)
    proto = tensor(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        proto.external_data.add(key=key, value=str(value))
    m.graph.initializer.append(proto)
    return m


def test_external_data_is_read_from_the_models_folder(tmp_path: Path) -> None:
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"head" + w.tobytes() + b"tail")
    path = tmp_path / "m.onnx"
    path.write_bytes(external("sub/w.bin", offset=4, length=24).SerializeToString())
    assert (load(path).run({"x": w}, "reference")["y"] == 2 * w).all()


@pytest.mark.parametrize(
    ("location", "more"),
    [
        ("../outside.bin", {}),
        ("sub/../../outside.bin", {}),
        ("ABSOLUTE", {}),
        ("C:\\windows\\w.bin", {}),
        ("link.bin", {}),
        ("folder/outside.bin", {}),
        ("", {}),
        ("missing.bin", {}),
        ("sub", {}),
        ("inside.bin", {"offset": 1}),
        ("inside.bin", {"offset": -1}),
        ("inside.bin", {"length": 20}),
        ("inside.bin", {"length": 2**60}),
        ("inside.bin\x00", {}),
    ],
)
def test_external_data_stays_in_the_models_folder(
    tmp_path: Path, location: str, more: dict[str, int]
) -> None:
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(bytes(24))
    (home / "inside.bin").write_bytes(bytes(24))
    (home / "link.bin").symlink_to(tmp_path / "outside.bin")
    (home / "folder").symlink_to(tmp_path)
    location = str(tmp_path / "outside.bin") if location == "ABSOLUTE" else location
    path = home / "m.onnx"
    path.write_bytes(external(location, **more).SerializeToString())
    refused(path, "ONNX_EXTERNAL_DATA")
    refused(path.read_bytes(), "ONNX_EXTERNAL_DATA")


# ---------------------------------------------------------------- limits


def test_limits_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("Neg", ["x"], ["a"]), node("Neg", ["a"], ["y"])]
    m = model(nodes, X, Y, {"w": np.zeros(100, np.float32)})
    for name, value in (
        ("MAX_NODES", 1),
        ("MAX_MODEL_BYTES", 100),
        ("MAX_INITIALISERS", 0),
        ("MAX_INITIALISER_BYTES", 399),
        ("MAX_TENSOR_ELEMENTS", 99),
        ("MAX_EXPANDED_NODES", 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(limits, name, value)
            refused(m.SerializeToString(), "ONNX_LIMIT")
    load(m)


def test_long_names_are_refused() -> None:
    long = "n" * (limits.MAX_NAME_BYTES + 1)
    refused(model([node("Neg", ["x"], [long]), node("Neg", [long], ["y"])], X, Y), "ONNX_LIMIT")
    refused(model([node("Neg", ["x"], ["y"], name=long)], X, Y), "ONNX_LIMIT")


def test_subgraphs_nest_to_a_bound() -> None:
    inner = graph([node("Neg", ["x"], ["r"])], [], [("r", FLOAT, None)])
    leaf = inner
    for _ in range(limits.MAX_GRAPH_DEPTH + 1):
        branch = node("If", ["c"], ["r"], then_branch=inner, else_branch=leaf)
        inner = graph([branch], [], [("r", FLOAT, None)])
    nodes = [node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))]
    nodes.append(node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))
    refused(model(nodes, X, Y), "ONNX_LIMIT")


def function(name: str, callee: str, times: int) -> onnx.FunctionProto:
    nodes = [
        node(callee, [f"v{at}"], [f"v{at + 1}"], domain="local" if callee != "Neg" else "")
        for at in range(times)
    ]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["v0"], [f"v{times}"], nodes, opsets)


def test_functions_are_inlined() -> None:
    functions = [function("Twice", "Once", 2), function("Once", "Neg", 3)]
    m = model([node("Twice", ["x"], ["y"], domain="local")], X, Y, functions=functions)
    x = np.ones((2, 3), np.float32)
    assert (load(m).run({"x": x}, "reference")["y"] == x).all()


def test_function_attributes_and_defaults() -> None:
    body = node("LeakyRelu", ["a"], ["b"])
    body.attribute.append(onnx.AttributeProto(name="alpha", type=1, ref_attr_name="slope"))
    f = helper.make_function(
        *("local", "Leak", ["a"], ["b"], [body], [helper.make_opsetid("", 21)]),
        attribute_protos=[helper.make_attribute("slope", 0.5)],
    )
    x = np.full((2, 3), -4, np.float32)
    for given, want in (({}, -2.0), ({"slope": 0.25}, -1.0)):
        m = model([node("Leak", ["x"], ["y"], domain="local", **given)], X, Y, functions=[f])
        assert (load(m).run({"x": x}, "reference")["y"] == want).all()


def test_expansion_bombs_and_recursion_are_refused() -> None:
    bomb = [function(f"F{at}", f"F{at + 1}", 10) for at in range(9)] + [function("F9", "Neg", 10)]
    call = [node("F0", ["x"], ["y"], domain="local")]
    refused(model(call, X, Y, functions=bomb), "ONNX_LIMIT")
    deep = [function(f"F{at}", f"F{at + 1}", 1) for at in range(5000)] + [
        function("F5000", "Neg", 1)
    ]
    refused(model(call, X, Y, functions=deep), "ONNX_LIMIT")
    loop = [function("F0", "F1", 1), function("F1", "F0", 1)]
    refused(model(call, X, Y, functions=loop), "ONNX_FUNCTION")
    refused(model(call, X, Y, functions=[function("F0", "F0", 1)]), "ONNX_FUNCTION")
    twice = [function("F0", "Neg", 1), function("F0", "Neg", 2)]
    refused(model(call, X, Y, functions=twice), "ONNX_FUNCTION")


def test_a_giant_shape_costs_nothing() -> None:
    nodes = [
        node("ConstantOfShape", ["s"], ["big"]),
        node("Slice", ["big", "zero", "one", "zero"], ["part"]),
        node("Add", ["x", "part"], ["y"]),
    ]
    constants = {
        "s": np.array([2**36, 1], np.int64),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
    }
    x = np.ones((2, 3), np.float32)
    assert (load(model(nodes, X, Y, constants)).run({"x": x}, "reference")["y"] == x).all()
    constants["s"] = np.array([2**62, 2**62], np.int64)
    with pytest.raises(EngineError, match="ConstantOfShape"):
        load(model(nodes, X, Y, constants)).run({"x": x}, "reference")


def test_an_endless_loop_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_UNROLLED_TRIPS", 20)
    body = graph(
        [node("Identity", ["c"], ["c2"]), node("Neg", ["v"], ["w"])],
        [("i", INT64, []), ("c", onnx.TensorProto.BOOL, []), ("v", FLOAT, [2, 3])],
        [("c2", onnx.TensorProto.BOOL, []), ("w", FLOAT, [2, 3])],
    )
    m = model([node("Loop", ["", "", "x"], ["y"], body=body)], X, Y)
    with pytest.raises(EngineError, match="Loop 'y'") as refusal:
        load(m).run({"x": np.zeros((2, 3), np.float32)}, "reference")
    assert refusal.value.code == "ONNX_LIMIT"
