"""Files of strangers: each is read or refused with a code, in seconds and little memory.

Nothing here may end in an error that is not the engine's. ``tests/tools/fuzz_onnx.py`` looks for
more of the kind.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx import limits, load
from tests.engine.formats.hostile import DATA, FAR, ML, X, Y, one, refusal, survived
from tests.engine.formats.models import BOOL, FLOAT, INT64, digits_cnn, graph, model, node

pytestmark = pytest.mark.usefixtures("bounded")


# ---------------------------------------------------------------- bytes


def small_models() -> list[bytes]:
    body = graph(
        [node("Identity", ["c"], ["d"]), node("Add", ["v", "v"], ["w"])],
        [("i", INT64, []), ("c", BOOL, []), ("v", FLOAT, [2, 3])],
        [("d", BOOL, []), ("w", FLOAT, [2, 3])],
    )
    loop = model([node("Loop", ["n", "", "x"], ["y"], body=body)], X, Y, {"n": np.array(3)})
    plain = model([node("Add", ["x", "w"], ["y"])], X, Y, {"w": DATA})
    return [m.SerializeToString() for m in (plain, loop, one("Softmax", ["x"], axis=1))]


@pytest.mark.parametrize("which", range(3))
def test_flipped_and_cut_bytes(which: int) -> None:
    whole, rng = small_models()[which], random.Random(which)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        code = survived(bytes(data))
        assert code == "computed" or code.isupper()


def test_a_larger_model_with_flipped_bytes_loads_or_is_refused_as_onnx() -> None:
    whole, rng = digits_cnn().SerializeToString(), random.Random(5)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(20):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            load(bytes(data))
        except EngineError as error:
            assert error.code.startswith("ONNX_"), error


def varint(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize("depth", [17, 30, 10_000])
def test_subgraphs_and_types_nest_to_a_bound(depth: int) -> None:
    inner, kind = field(2, b"g"), field(1, varint(8) + varint(1))
    for _ in range(depth):
        attribute = field(1, b"body") + field(6, inner) + varint(20 << 3) + varint(5)
        inner = field(1, field(4, b"If") + field(5, attribute)) + field(2, b"g")
        kind = field(4, field(1, kind))
    opset = field(8, field(1, b"") + varint(2 << 3) + varint(21))
    head = varint(8) + varint(9)
    typed = field(2, b"g") + field(11, field(1, b"x") + field(2, kind))
    for content in (inner, typed):
        assert refusal(head + field(7, content) + opset).code in ("ONNX_LIMIT", "ONNX_MALFORMED")


@pytest.mark.parametrize("what", ["value", "node", "operator", "attribute", "dimension", "graph"])
def test_names_that_are_no_utf8_are_refused(what: str) -> None:
    m = one("Softmax", ["x"], axis=1)
    m.graph.node[0].name, m.graph.name = "@node@@", "@graph@"
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "@dimension@"
    found = {"value": b"y0", "operator": b"Softmax", "attribute": b"axis", "node": b"@node@@"}
    word = found.get(what, b"@" + what.encode() + b"@")
    assert refusal(m.SerializeToString().replace(word, b"\xff" * len(word))).code == "ONNX_NAME"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("graph.name", "ONNX_LIMIT"),
        ("graph.node.0.name", "ONNX_LIMIT"),
        ("graph.node.0.op_type", "ONNX_LIMIT"),
        ("graph.node.0.domain", "ONNX_LIMIT"),
        ("graph.node.0.overload", "ONNX_LIMIT"),
        ("graph.input.0.name", "ONNX_LIMIT"),
        ("opset_import.0.domain", "ONNX_LIMIT"),
        ("graph.doc_string", "computed"),
    ],
)
def test_names_of_megabytes_are_refused(path: str, code: str) -> None:
    m: Any = one("Neg", ["x"])
    *steps, last = path.split(".")
    target = m
    for step in steps:
        target = target[int(step)] if step.isdigit() else getattr(target, step)
    setattr(target, last, "n" * 5_000_000)
    assert survived(m.SerializeToString()) == code


def test_hundreds_of_thousands_of_anything() -> None:
    m = one("Neg", ["x"])
    m.graph.node[0].output.extend(f"o{at}" for at in range(300_000))
    assert refusal(m.SerializeToString()).code == "ONNX_LIMIT"
    m = one("Neg", ["x"])
    for at in range(100_000):
        m.graph.node[0].attribute.add(name=f"a{at}", type=2, i=1)
    assert refusal(m.SerializeToString()).code == "ONNX_LIMIT"
    m = one("Neg", ["x"])
    for _ in range(100_000):
        m.graph.output.add(name="y0")
    assert survived(m.SerializeToString()) == "computed"


def test_lists_of_attributes_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("Constant", [], [f"c{at}"], value_ints=[1] * 60) for at in range(2)]
    m = model([*nodes, node("Neg", ["x"], ["y"])], X, Y)
    assert survived(m) == "computed"
    monkeypatch.setattr(limits, "MAX_ATTRIBUTE_ITEMS", 100)
    assert refusal(m).code == "ONNX_LIMIT"


@pytest.mark.parametrize("version", [2**31, FAR, 0, -1])
@pytest.mark.parametrize("domain", ["", ML, "nowhere"])
def test_opset_versions_that_are_none(domain: str, version: int) -> None:
    m = one("Neg", ["x"], domain=domain)
    del m.opset_import[:]
    m.opset_import.add(domain=domain, version=version)
    assert refusal(m).code == "ONNX_OPSET"


def test_opsets_twice_or_never() -> None:
    m = one("Neg", ["x"])
    m.opset_import.add(domain="ai.onnx", version=7)
    assert refusal(m).code == "ONNX_OPSET"
    del m.opset_import[:]
    assert refusal(m).code == "ONNX_OPSET"


@pytest.mark.parametrize("version", [0, -1, 10**9, FAR])
def test_any_ir_version_is_read(version: int) -> None:
    m = one("Neg", ["x"])
    m.ir_version = version
    assert survived(m) == "computed"


# ---------------------------------------------------------------- tensors


def initialiser(**fields: Any) -> onnx.ModelProto:
    m = model([node("Add", ["x", "w"], ["y"])], X, Y)
    given: dict[str, Any] = {"name": "w", "data_type": FLOAT, "dims": [2, 3]}
    m.graph.initializer.append(TensorProto(**given | fields))
    return m


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dims": [10**9]}, "ONNX_TENSOR"),
        ({"dims": [10**9], "raw_data": b""}, "ONNX_TENSOR"),
        ({"dims": [2**34], "data_type": TensorProto.INT4}, "ONNX_TENSOR"),
        ({"dims": [0, FAR], "raw_data": b""}, "ONNX_LIMIT"),
        ({"dims": [2**33, 0, 2**33], "raw_data": b""}, "ONNX_LIMIT"),
        ({"data_type": 0, "raw_data": bytes(24)}, "ONNX_TYPE"),
        ({"data_type": TensorProto.STRING, "string_data": [b"\xff"] * 6}, "ONNX_TENSOR"),
        ({"data_type": TensorProto.COMPLEX64, "raw_data": bytes(48)}, "ONNX_UNSUPPORTED"),
        ({"segment": TensorProto.Segment(begin=0, end=FAR), "raw_data": b""}, "ONNX_UNSUPPORTED"),
    ],
)
def test_tensors_without_their_data(fields: dict[str, Any], code: str) -> None:
    assert refusal(initialiser(**fields)).code == code


@pytest.mark.parametrize("data_type", range(1, 29))
def test_every_element_type_with_data_that_overflows_it(data_type: int) -> None:
    for held in ("int32_data", "int64_data", "uint64_data", "float_data", "double_data"):
        values = [2**31 - 1] * 2
        survived(initialiser(**{"data_type": data_type, "dims": [2], held: values}))
    survived(initialiser(data_type=data_type, dims=[2], raw_data=b"\xff\x07"))


def sparse(dims: Sequence[int], places: Any) -> onnx.ModelProto:
    m = model([node("Add", ["x", "w"], ["y"])], X, Y)
    values = numpy_helper.from_array(np.ones(len(places), np.float32), "w")
    indices = numpy_helper.from_array(np.asarray(places, np.int64), "i")
    m.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, dims))
    return m


@pytest.mark.parametrize(
    ("dims", "places", "code"),
    [
        ([2**33], [5], "ONNX_LIMIT"),
        ([2**30, 2**3], [[2**30 - 1, 7]], "ONNX_LIMIT"),
        ([0, FAR], np.zeros((0, 2)), "ONNX_LIMIT"),
        ([2, 3], [6], "ONNX_TENSOR"),
        ([2, 3], [-1], "ONNX_TENSOR"),
        ([2, 3], [[-1, 0]], "ONNX_TENSOR"),
        ([2, 3], [[1, 2, 3]], "ONNX_TENSOR"),
        ([], np.zeros((1, 0)), "computed"),
        ([2, 3], [[1, 2], [1, 2]], "computed"),
    ],
)
def test_sparse_tensors(dims: list[int], places: Any, code: str) -> None:
    assert survived(sparse(dims, places)) == code


def test_many_sparse_tensors_are_counted_together() -> None:
    m = sparse([2**25], [5])
    for at in range(3):
        extra = m.graph.sparse_initializer.add()
        extra.CopyFrom(m.graph.sparse_initializer[0])
        extra.values.name = f"w{at}"
    assert refusal(m).code == "ONNX_LIMIT"


def test_no_file_but_plain_ones_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    m = initialiser(data_location=TensorProto.EXTERNAL)
    m.graph.initializer[0].external_data.add(key="location", value="pipe")
    (tmp_path / "m.onnx").write_bytes(m.SerializeToString())
    assert refusal(tmp_path / "m.onnx").code == "ONNX_EXTERNAL_DATA"
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path, "a\0b", "x" * 5_000):
        assert refusal(path).code == "ONNX_FILE"
