"""16-bit floats, float64 and narrow integers in every kind of kernel: the reference's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flopmarket.engine import dtypes, floats, graph
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.dtypes import DType
from flopmarket.engine.graph import Node
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.replay import OpenCLSession
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.runtime.session import ReferenceSession, Session
from flopmarket.engine.schedule.fuse import is_packed_dot
from flopmarket.engine.schedule.plan import make_plan

from .conftest import Check, bits
from .random_graphs import special_floats, values

Array = np.ndarray[Any, Any]
F16, BF16, F32, F64 = dtypes.float16, dtypes.bfloat16, dtypes.float32, dtypes.float64
NEW_FLOATS = (F16, BF16, F64)
I8, U8, I16, U16 = dtypes.int8, dtypes.uint8, dtypes.int16, dtypes.uint16


class Leaves:
    """Named leaves with seeded values."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(5)
        self.values: dict[Node, Array] = {}

    def add(self, array: Array) -> Node:
        dtype = dtypes.from_numpy(array.dtype)
        node = graph.input_("buffer", f"x{len(self.values)}", dtype, array.shape)
        self.values[node] = dtypes.canonical(array)
        return node

    def normal(self, dtype: DType, *shape: int) -> Node:
        return self.add(floats.convert(self.rng.standard_normal(shape), dtype))

    def any(self, dtype: DType, *shape: int) -> Node:
        return self.add(values(dtype, shape, self.rng))


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_every_16_bit_float_is_loaded_and_stored(dtype: DType, check: Check) -> None:
    leaves = Leaves()
    x = leaves.add(np.arange(65536, dtype=np.uint16).view(dtype.numpy))
    outputs = [graph.cast(x, F32), graph.bitcast(x, dtypes.uint16), graph.sqrt(x)]
    outputs += [graph.cast(x, F64), graph.cast(x, BF16 if dtype is F16 else F16)]
    outputs.append(graph.bitcast(leaves.any(dtypes.int16, 300), dtype))
    check(outputs, leaves.values)


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_float32_and_float64_round_once_at_every_boundary(dtype: DType, check: Check) -> None:
    """Every value of the type, every midpoint, and the nearest neighbours of both."""
    leaves = Leaves()
    every = dtypes.canonical(np.arange(65536, dtype=np.uint16).view(dtype.numpy))
    exact = np.unique(every.astype(np.float64))
    exact = exact[np.isfinite(exact)]
    ties = (exact[1:] + exact[:-1]) / 2
    largest = exact[-1] + (exact[-1] - exact[-2]) / 2  # from here on it overflows
    at = np.concatenate([exact, ties, [largest, -largest]])
    double = np.concatenate([at, np.nextafter(at, np.inf), np.nextafter(at, -np.inf)])
    single = at.astype(np.float32)
    single = np.concatenate([single, *(np.nextafter(single, np.float32(s)) for s in (9e9, -9e9))])
    outputs = [graph.cast(leaves.add(x), dtype) for x in (double, single)]
    check(outputs, leaves.values)


@pytest.mark.parametrize("dtype", NEW_FLOATS, ids=str)
def test_integers_become_floats_with_one_rounding(dtype: DType, check: Check) -> None:
    """Around every tie of the narrow types, where a step through float32 would show."""
    leaves = Leaves()
    outputs = []
    for source in (d for d in dtypes.DTYPES if d.is_integer):
        info = np.iinfo(source.numpy)
        near = [
            (significand << shift) + step
            for significand in (0x101, 0x181, 0x183, 0x801, 0x803, 0xFFF, 2**24 + 1, 2**53 + 1)
            for shift in range(0, 56, 3)
            for step in (-1, 0, 1)
        ]
        near += [-x for x in near] + [int(info.min), int(info.max), 0]
        inside = np.array([x for x in near if info.min <= x <= info.max], dtype=source.numpy)
        outputs.append(graph.cast(leaves.add(inside), dtype))
    check(outputs, leaves.values)


def test_fma_of_float64_has_one_rounding(check: Check) -> None:
    leaves = Leaves()
    rng = leaves.rng
    a, b = (np.ldexp(rng.standard_normal(4000), rng.integers(-30, 30, 4000)) for _ in range(2))
    c = np.where(rng.random(4000) < 0.5, -(a * b), rng.standard_normal(4000))
    a[::10] = b[::10] = 1 + 2.0**-26
    c[::10] = 2.0**-120
    x, y, z = leaves.add(a), leaves.add(b), leaves.add(c)
    tenth = graph.filled(0.1, F64, x.shape)
    outputs = [graph.fma(x, y, z), graph.fma(tenth, tenth, z), graph.add(graph.mul(x, y), z)]
    outputs += [graph.div(x, y), graph.sqrt(x), graph.reduce("sumprod", x, (0,), y)]
    check(outputs, leaves.values)


@pytest.mark.parametrize("dtype", NEW_FLOATS, ids=str)
def test_literals_keep_their_bits(dtype: DType, check: Check) -> None:
    leaves = Leaves()
    edges = special_floats(dtype)
    x = leaves.add(edges)
    outputs = [graph.const(edges, dtype, x.shape), graph.filled(np.nan, dtype, (3,))]
    for value in edges[:: 1 if dtype is F16 else 3]:
        literal = graph.filled(value, dtype, x.shape)
        outputs += [graph.mul(x, literal), graph.where(graph.cmp("lt", x, literal), literal, x)]
    check(outputs, leaves.values)


@pytest.mark.parametrize("kind", ["sum", "prod", "max", "min", "sumprod"])
@pytest.mark.parametrize("dtype", NEW_FLOATS, ids=str)
def test_reduce_rounds_16_bits_at_the_end_only(dtype: DType, kind: str, check: Check) -> None:
    leaves = Leaves()
    outputs = []
    for shape, axes in (
        ((2, 1), (1,)),
        ((2, 63), (1,)),
        ((2, 4097), (1,)),
        ((9000,), (0,)),
        ((129, 70), (0,)),
        ((3, 0), (1,)),
    ):
        if kind in ("max", "min") and 0 in shape:
            continue
        x = leaves.normal(dtype, *shape)
        y = leaves.normal(dtype, *shape) if kind == "sumprod" else None
        outputs.append(graph.reduce(kind, x, axes, y))
    x = leaves.any(dtype, 40, 33)
    folded = graph.reduce(kind, x, (1,), x if kind == "sumprod" else None)
    outputs.append(graph.add(folded, leaves.normal(dtype, 40)))  # fused behind the fold
    check(outputs, leaves.values)


PAIRS = [(F16, F16), (BF16, BF16), (F16, BF16), (F16, F32), (F32, BF16), (F64, F64)]


@pytest.mark.parametrize(("left", "right"), PAIRS, ids=lambda d: d.name)
def test_dot_widens_exactly(left: DType, right: DType, check: Check) -> None:
    leaves = Leaves()
    outputs = []
    for batch, rows, terms, columns in ((1, 1, 513, 1), (2, 5, 33, 70), (1, 40, 600, 50)):
        a = leaves.normal(left, batch, rows, terms)
        b = leaves.normal(right, batch, terms, columns)
        turned = graph.permute(leaves.normal(right, batch, columns, terms), (0, 2, 1))
        outputs += [graph.dot(a, b), graph.dot(graph.max_(a, graph.mul(a, a)), turned)]
        valid = leaves.add(leaves.rng.integers(-2, terms + 3, (batch, rows)).astype(np.int32))
        outputs.append(graph.dot(a, b, valid))
    assert any(map(is_packed_dot, outputs)) == (left is not F64)
    product = outputs[-2]  # an epilogue in the operands' dtype
    narrow = graph.cast(product, left)
    outputs.append(graph.add(narrow, leaves.normal(left, *product.shape)))
    outputs.append(graph.mul(graph.cast(product, F64), graph.filled(0.1, F64, product.shape)))
    check(outputs, leaves.values)


@pytest.mark.parametrize("dtype", NEW_FLOATS, ids=str)
def test_special_values_in_products(dtype: DType, check: Check) -> None:
    leaves = Leaves()
    a, b = leaves.any(dtype, 1, 40, 70), leaves.any(dtype, 1, 70, 50)
    check([graph.dot(a, b), graph.dot(a, leaves.any(dtype, 1, 70, 3))], leaves.values)


INTEGER_PAIRS = [(I8, I8), (U8, I8), (U8, U8), (I16, I16), (U16, I8), (I16, U16), (U16, U16)]


@pytest.mark.parametrize(("left", "right"), INTEGER_PAIRS, ids=lambda d: d.name)
def test_integer_dot_is_exact(left: DType, right: DType, check: Check) -> None:
    leaves = Leaves()
    outputs = []
    for batch, rows, terms, columns in ((2, 9, 130, 33), (1, 40, 1100, 50), (1, 70, 64, 3)):
        extremes = [np.iinfo(d.numpy).min or np.iinfo(d.numpy).max for d in (left, right)]
        a = leaves.any(left, batch, rows, terms)
        outputs.append(graph.dot(a, leaves.any(right, batch, terms, columns)))
        full = leaves.add(np.full((batch, rows, terms), extremes[0], left.numpy))
        outputs.append(
            graph.dot(full, leaves.add(np.full((batch, terms, columns), extremes[1], right.numpy)))
        )
        valid = leaves.add(leaves.rng.integers(0, terms + 9, (batch, rows)).astype(np.int32))
        outputs.append(graph.dot(a, leaves.any(right, batch, terms, columns), valid))
    check(outputs, leaves.values)


@pytest.mark.parametrize("dtype", [*NEW_FLOATS, dtypes.int16, dtypes.uint16], ids=str)
def test_movement_and_views(dtype: DType, check: Check) -> None:
    leaves = Leaves()
    x, y = leaves.any(dtype, 6, 7), leaves.any(dtype, 6, 7)
    index = leaves.add(leaves.rng.integers(-1, 8, 30).astype(np.int32))
    updates = leaves.any(dtype, 30, 7)
    outputs = [graph.gather(x, index, axis) for axis in (0, 1)]
    outputs += [graph.scatter(kind, x, index, updates) for kind in ("add", "set")]
    outputs += [
        graph.concat([x, graph.add(x, y), y], 0),
        graph.pad(graph.mul(x, y), ((1, 2), (0, 3))),
        graph.window(graph.pad(x, ((1, 1), (0, 0))), ((0, 3, 2, 1), (1, 2, 1, 2))),
        graph.slice_(x, ((5, -1, 6), (0, 2, 4))),
        graph.permute(x, (1, 0)),
        graph.reshape(graph.const(values(dtype, (12,), leaves.rng), dtype, (12,)), (3, 4)),
    ]
    if dtype.is_integer:
        outputs.append(graph.iota(1, (3, 50), dtype))
    check(outputs, leaves.values)


def test_scatter_add_in_16_bits_rounds_after_each_addition(check: Check) -> None:
    """1 + 2^-11 is 1 in float16: many small updates vanish one by one."""
    leaves = Leaves()
    base = leaves.add(np.ones((1, 2), dtype=np.float16))
    index = leaves.add(np.zeros(64, dtype=np.int32))
    updates = leaves.add(np.full((64, 2), 2.0**-11, dtype=np.float16))
    result = graph.scatter("add", base, index, updates)
    check([result], leaves.values)


def test_helpers_stand_only_where_they_are_called() -> None:
    """A program of float32 has the text it had before there were other floats."""
    x = graph.input_("buffer", "x", F32, (8,))
    plain = make_plan([graph.add(x, x)], Target()).source
    assert "16(" not in plain and "_double" not in plain
    halves = make_plan([graph.cast(graph.cast(x, F16), F32)], Target()).source
    assert "fx1_round_float16(" in halves and "fx1_narrow_float16(" not in halves


def test_a_session_keeps_state_of_every_dtype(device: Device) -> None:
    """Two sets of buffers, uploads, downloads: every dtype, step after step."""
    specs = [TensorSpec(d.name, d, (5, 3)) for d in dtypes.DTYPES]
    state = [graph.input_("state", s.name, s.dtype, s.shape) for s in specs]
    moved = [x if x.dtype is dtypes.bool_ else graph.add(x, x) for x in state]
    program = Program.build(
        frozen=[],
        state=specs,
        inputs=[],
        next_state=moved,
        outputs=[
            (s.name, graph.slice_(x, ((0, 1, 1), (0, 1, 3))))
            for s, x in zip(specs, moved, strict=True)
        ],
    )
    rng = np.random.default_rng(6)
    given = {s.name: values(s.dtype, s.shape, rng) for s in specs}
    sessions: list[Session] = [
        ReferenceSession(program),
        OpenCLSession(program, device, open_target(device), CompileOptions(poison=True)),
    ]
    results = []
    for session in sessions:
        session.load({}, given)
        steps = [session.step({}, seed=1, step=step) for step in range(3)]
        results.append([session.read_state(), *steps])
        session.close()
    for want, have in zip(*results, strict=True):
        for name, array in want.items():
            np.testing.assert_array_equal(have[name].view(bits(array)), array.view(bits(array)))
