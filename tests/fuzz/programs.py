"""Targets: what a stranger wants computed: programs, tensors, models."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from flopmarket.engine import dtypes, graph
from flopmarket.engine.formats.onnx import load as load_onnx
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.jobs import bundle
from tests.fuzz.target import Target, check_same
from tests.unit.jobs.jobs import moving_average

F32 = dtypes.float32


def read_program(data: bytes) -> object:
    """A program, with everything that is counted before anybody runs it."""
    program = Program.from_bytes(data)
    check_same(program.to_bytes(), data)
    return program.cost


def program_seeds() -> dict[str, bytes]:
    x = graph.input_("input", "x", F32, (2, 3))
    row = graph.reduce("max", x, (1,))
    picked = Program.build(
        frozen=[], state=[], inputs=[TensorSpec("x", F32, (2, 3))], next_state=[],
        outputs=[("y", row)],
    )  # fmt: skip
    return {"moving-average": moving_average().to_bytes(), "reduction": picked.to_bytes()}


def read_bundle(data: bytes) -> object:
    tensors = bundle.load(data)
    root = bundle.root(tensors)
    assert bundle.root(bundle.load(bundle.save(tensors))) == root
    return root


def bundle_seeds() -> dict[str, bytes]:
    several = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "flag": np.array([True, False]),
        "n": np.array(7, dtype=np.int64),
        "empty": np.zeros((0, 4), dtype=np.uint8),
    }
    return {"several": bundle.save(several), "nothing": bundle.save({})}


def read_onnx(data: bytes) -> object:
    """The structure of a model; operators are mutated by tests.tools.fuzz_onnx."""
    return load_onnx(data)


def onnx_seeds() -> dict[str, bytes]:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    w = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [w]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return {"layer": model.SerializeToString()}


TARGETS = (
    Target("program", read_program, program_seeds),
    Target("bundle", read_bundle, bundle_seeds),
    Target("onnx", read_onnx, onnx_seeds),
)
