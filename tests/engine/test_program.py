"""The program codec: canonical, exact in its digest, and unimpressed by hostile bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import dtypes, graph, limits
from flopmarket.engine.codec import Writer
from flopmarket.engine.errors import GraphError
from flopmarket.engine.graph import Op
from flopmarket.engine.program import Program, TensorSpec
from tests.engine.programs import F32, linear_step


def test_bytes_and_digest_survive_the_journey() -> None:
    program = linear_step()
    again = Program.from_bytes(program.to_bytes())
    assert again.to_bytes() == program.to_bytes()
    assert again.digest == program.digest
    assert again.state_nodes == program.state_nodes


def test_digest_is_pinned() -> None:
    """A change of this digest is a change of the profile: every signed job would be another."""
    assert linear_step().digest.hex() == DIGEST


DIGEST = "9886300bf11cfc677fe7c253eaff8912bda275549ccf3669e662158a7011f40e"


def test_cost_is_counted_exactly() -> None:
    cost = linear_step(rows=8, features=4, columns=3).cost
    assert cost.flops["dot-f32"] == 2 * 8 * 4 * 3
    assert cost.flops["reduce-f32"] == 2 * 8 * 3
    assert cost.flops["elementwise-f32"] == 2 * 4 * 3  # one FMA an element
    assert cost.state_bytes == 4 * 4 * 3
    assert cost.input_bytes == 4 * 8 * 4
    assert cost.output_bytes == 4
    assert cost.launches == 3


def raw_program(nodes: list[tuple[int, object, tuple[int, ...], list[int], object]]) -> bytes:
    """Bytes of a program with one output: the last node. Nothing is checked."""
    writer = Writer()
    header = linear_step().to_bytes()
    writer.raw(header[: header.index(b"FX1-")])
    profile_length = header[header.index(b"FX1-") - 1]
    start = header.index(b"FX1-")
    writer.raw(header[start : start + profile_length])
    for _ in range(3):
        writer.natural(0)
    writer.natural(len(nodes))
    for op, dtype, shape, sources, arg in nodes:
        writer.natural(op)
        writer.natural(getattr(dtype, "code"))  # noqa: B009
        writer.natural(len(shape))
        for n in shape:
            writer.natural(n)
        writer.natural(len(sources))
        for source in sources:
            writer.natural(source)
        writer.argument(arg)
    writer.natural(1)
    writer.text("y")
    writer.natural(len(nodes) - 1)
    return writer.finish()


ONE = np.float32(1).tobytes()
SCALAR = (int(Op.CONST), F32, (), [], ONE)

HOSTILE = {
    "cycle": ([(int(Op.ADD), F32, (), [0, 0], ())], "PROGRAM_CYCLE"),
    "forward reference": ([(int(Op.ADD), F32, (), [1, 1], ()), SCALAR], "PROGRAM_CYCLE"),
    "unknown operation": ([(99, F32, (), [], ())], "PROGRAM_UNKNOWN_OP"),
    "shape overflow": (
        [
            SCALAR,
            (int(Op.VIEW), F32, (1, 1), [0], ("reshape",)),
            (int(Op.VIEW), F32, (2**30, 2**30), [1], ("expand",)),
        ],
        "GRAPH_TOO_LARGE",
    ),
    "shape overflow hidden by a zero": (
        [(int(Op.CONST), F32, (0, 2**30, 2**30), [], b"")],
        "GRAPH_TOO_LARGE",
    ),
    "dimension over the limit": ([(int(Op.CONST), F32, (2**50,), [], b"")], "PROGRAM_LIMIT"),
    "rank over the limit": ([(int(Op.CONST), F32, (1,) * 17, [], ONE)], "PROGRAM_LIMIT"),
    "constant index out of range": (
        [
            (int(Op.CONST), F32, (4,), [], ONE * 4),
            (int(Op.CONST), dtypes.int32, (1,), [], np.int32(4).tobytes()),
            (int(Op.GATHER), F32, (1,), [0, 1], (0,)),
        ],
        "GRAPH_INDEX_RANGE",
    ),
    "slice out of range": (
        [
            (int(Op.CONST), F32, (4,), [], ONE * 4),
            (int(Op.VIEW), F32, (2,), [0], ("slice", ((3, 1, 2),))),
        ],
        "GRAPH_INDEX_RANGE",
    ),
    "literal shorter than its shape": ([(int(Op.CONST), F32, (4,), [], ONE)], "GRAPH_ILLEGAL"),
    "NaN with a payload": ([(int(Op.CONST), F32, (), [], b"\x01\x00\xc0\x7f")], "GRAPH_ILLEGAL"),
    "bool that is two": ([(int(Op.CONST), dtypes.bool_, (), [], b"\x02")], "GRAPH_ILLEGAL"),
    "product left for a compiler to contract": (
        [SCALAR, (int(Op.MUL), F32, (), [0, 0], ()), (int(Op.ADD), F32, (), [1, 0], ())],
        "PROGRAM_NOT_CANONICAL",
    ),
    "the same node twice": (
        [SCALAR, SCALAR, (int(Op.ADD), F32, (), [0, 1], ())],
        "PROGRAM_NOT_CANONICAL",
    ),
    "node that nothing uses": (
        [SCALAR, (int(Op.CONST), F32, (), [], bytes(4))],
        "PROGRAM_NOT_CANONICAL",
    ),
    "undeclared tensor": ([(int(Op.INPUT), F32, (2,), [], ("state", "w"))], "PROGRAM_ILLEGAL"),
    "local buffer": ([(int(Op.INPUT), F32, (2,), [], ("buffer", "1"))], "PROGRAM_ILLEGAL"),
    "argument nested too deep": (
        [(int(Op.CONST), F32, (), [], (((((1,),),),),))],
        "PROGRAM_MALFORMED",
    ),
    "integer DOT that overflows": (
        [
            (int(Op.CONST), dtypes.int8, (), [], b"\x80"),
            (int(Op.VIEW), dtypes.int8, (1, 1, 1), [0], ("reshape",)),
            (int(Op.VIEW), dtypes.int8, (1, 1, 200_000), [1], ("expand",)),
            (int(Op.VIEW), dtypes.int8, (1, 200_000, 1), [1], ("expand",)),
            (int(Op.DOT), dtypes.int32, (1, 1, 1), [2, 3], ()),
        ],
        "GRAPH_OVERFLOW",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_are_refused_with_their_reason(name: str) -> None:
    nodes, code = HOSTILE[name]
    with pytest.raises(GraphError) as refusal:
        Program.from_bytes(raw_program(nodes))
    assert refusal.value.code == code, refusal.value


def test_two_gibibytes_of_constants_are_refused_before_they_are_read() -> None:
    writer = Writer()
    good = raw_program([SCALAR])
    at = good.index(ONE)
    writer.raw(good[: at - 1])
    writer.natural(2**31)  # announces a literal of 2 GiB; nothing that long follows
    with pytest.raises(GraphError) as refusal:
        Program.from_bytes(writer.finish())
    assert refusal.value.code == "PROGRAM_LIMIT"


def test_constants_are_limited_in_sum() -> None:
    elements = limits.MAX_CONSTANT_BYTES // 8
    halves = [graph.const(np.full(elements, value), F32, (elements,)) for value in (1, 2, 3)]
    with pytest.raises(GraphError) as refusal:
        Program.build(
            frozen=[],
            state=[],
            inputs=[],
            next_state=[],
            outputs=[("y", graph.concat(halves, 0))],
        )
    assert refusal.value.code == "PROGRAM_LIMIT"


def test_other_profiles_and_trailing_bytes_are_refused() -> None:
    data = linear_step().to_bytes()
    with pytest.raises(GraphError) as refusal:
        Program.from_bytes(data.replace(b"FX1-", b"FX2-"))
    assert refusal.value.code == "PROGRAM_PROFILE"
    with pytest.raises(GraphError):
        Program.from_bytes(data + b"\x00")


@pytest.mark.parametrize("name", ["", "x" * 300])
def test_names_have_a_length(name: str) -> None:
    with pytest.raises(GraphError):
        graph.input_("state", name, F32, ())


def test_reserved_and_repeated_names_are_refused() -> None:
    one = graph.const(1, F32)
    with pytest.raises(GraphError, match="reserved"):
        Program.build(frozen=[], state=[], inputs=[], next_state=[], outputs=[("__x", one)])
    with pytest.raises(GraphError, match="two output"):
        Program.build(
            frozen=[], state=[], inputs=[], next_state=[], outputs=[("x", one), ("x", one)]
        )


def test_next_state_keeps_its_form() -> None:
    w = graph.input_("state", "w", F32, (3,))
    with pytest.raises(GraphError, match="becomes"):
        Program.build(
            frozen=[],
            state=[TensorSpec("w", F32, (3,))],
            inputs=[],
            next_state=[graph.reshape(w, (3, 1))],
            outputs=[],
        )


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_altered_bytes_give_another_program_or_a_graph_error(data: st.DataObject) -> None:
    good = linear_step().to_bytes()
    altered = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        altered[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    candidate = bytes(altered[: cut or None])
    try:
        program = Program.from_bytes(candidate)
    except GraphError:
        return
    assert program.to_bytes() == candidate
    assert (program.digest == linear_step().digest) == (candidate == good)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(GraphError):
        Program.from_bytes(noise)
    start = linear_step().to_bytes()[:40]
    with pytest.raises(GraphError):
        Program.from_bytes(start + noise)


def test_a_very_deep_graph_does_not_exhaust_the_stack() -> None:
    x = graph.input_("input", "x", F32, ())
    node = x
    for _ in range(20_000):
        node = graph.max_(node, x) if node is x else graph.sqrt(node)
    program = Program.build(
        frozen=[],
        state=[],
        inputs=[TensorSpec("x", F32, ())],
        next_state=[],
        outputs=[("y", node)],
    )
    assert Program.from_bytes(program.to_bytes()).digest == program.digest
