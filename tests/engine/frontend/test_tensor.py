"""Tensor against numpy: operators, promotion, indexing, shapes, folds, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flopmarket.engine import graph
from flopmarket.engine.creation import arange, cat, eye, full, ones, stack, where, zeros
from flopmarket.engine.dtypes import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from flopmarket.engine.errors import EngineError
from flopmarket.engine.tensor import Tensor
from tests.engine.frontend.near import tensor, value

Array = np.ndarray[Any, Any]
A = np.random.default_rng(1).uniform(-3, 3, (2, 3, 4)).astype(np.float32)
B = np.random.default_rng(2).uniform(0.5, 3, (3, 1)).astype(np.float32)
I = np.array([[7, -7, 0], [5, -2, 3]], dtype=np.int32)  # noqa: E741


def same(found: Tensor, wanted: Any) -> None:
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found.numpy(), wanted, rtol=2e-6, atol=1e-6)


BINARY: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / b,
    lambda a, b: a // b,
    lambda a, b: a % b,
    lambda a, b: a < b,
    lambda a, b: a >= b,
    lambda a, b: a != b,
    lambda a, b: 2.0 - a * b,
    lambda a, b: 1.5 / b + 3 * a,
]


@pytest.mark.parametrize("operation", BINARY)
def test_operators_broadcast_like_numpy(operation: Callable[[Any, Any], Any]) -> None:
    same(operation(tensor(A), tensor(B)), operation(A, B))
    same(operation(tensor(A), 2), operation(A, np.float32(2)))


@pytest.mark.parametrize("divisor", [3, -3])
def test_integer_division_floors(divisor: int) -> None:
    same(tensor(I) // divisor, I // divisor)
    same(tensor(I) % divisor, I % divisor)
    assert (tensor(I) / divisor).dtype is float32


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        (bool_, uint8, uint8),
        (uint8, int8, int16),
        (uint16, int16, int32),
        (int8, int32, int32),
        (int32, uint32, int64),
        (int64, float32, float32),
        (bool_, float32, float32),
        (float16, bfloat16, float32),
        (float16, float32, float32),
        (bfloat16, int64, bfloat16),
        (float16, float64, float64),
        (int8, float64, float64),
    ],
)
def test_promotion(a: DType, b: DType, result: DType) -> None:
    assert (tensor([1], a) + tensor([1], b)).dtype is result
    assert (tensor([1], b) + tensor([1], a)).dtype is result


def test_python_scalars_are_weak() -> None:
    assert (tensor([1], int8) + 1).dtype is int8
    assert (tensor([1], int8) + 1.5).dtype is float32
    assert (tensor([True]) + 1).dtype is int64
    assert (tensor([1.0]) + True).dtype is float32
    assert (tensor([1], float16) * 2.5).dtype is float16
    assert (tensor([1], bfloat16) + 1).dtype is bfloat16
    assert (tensor([1.0]) * np.float64(2.5)).dtype is float32
    with pytest.raises(EngineError, match="SCALAR_RANGE"):
        tensor([1], int8) + 300
    with pytest.raises(EngineError, match="DTYPE_MISMATCH"):
        tensor([1], uint64) + tensor([1], int8)


def test_data_from_outside() -> None:
    assert (tensor([1, 2]).dtype, tensor([1.0]).dtype, tensor(True).dtype) == (
        int64,
        float32,
        bool_,
    )
    with pytest.raises(EngineError, match="DTYPE_UNKNOWN"):
        tensor(np.zeros(2, dtype=np.complex64))
    assert tensor(np.zeros(2)).dtype is float64
    assert tensor(np.zeros(2), float32).dtype is float32
    with pytest.raises(EngineError, match="DATA_RAGGED"):
        tensor([[1], [1, 2]])
    given_array = np.ones(3, dtype=np.float32)
    kept = tensor(given_array)
    given_array[0] = 5
    assert kept.tolist() == [1, 1, 1]
    kept.numpy()[0] = 7
    assert kept.tolist() == [1, 1, 1]


INDICES: list[Any] = [
    1,
    -1,
    (0, 2),
    (slice(None), 1),
    (Ellipsis, 0),
    (slice(1, None), slice(None, None, 2)),
    (slice(None, None, -1), Ellipsis, slice(3, 0, -2)),
    (None, 0, None, Ellipsis),
    (slice(5, 2),),
    ([1, 0, -1],),
    (0, [[2, 0], [1, -3]]),
    (slice(None), [0, 2], [3, -1]),
    (slice(None), np.array([1, 1]), slice(0, 2)),
    (Ellipsis, [0, 3]),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing(index: Any) -> None:
    same(tensor(A)[index], A[index])


def test_index_tensors_wrap_and_clamp() -> None:
    rows = tensor([-1, 0, 9]) + 0
    same(tensor(A)[rows[:2]], A[[-1, 0]])
    same(tensor(A)[rows[2:]], A[[1]])


@pytest.mark.parametrize(
    ("index", "code"),
    [
        (2, "INDEX_RANGE"),
        ((0, 0, 0, 0), "INDEX_RANGE"),
        ((Ellipsis, Ellipsis), "INDEX_KIND"),
        (slice(None, None, 0), "INDEX_KIND"),
        (([0], slice(None), [0]), "INDEX_KIND"),
        (([True, False],), "INDEX_KIND"),
        (([0.5],), "INDEX_KIND"),
    ],
    ids=str,
)
def test_bad_indices(index: Any, code: str) -> None:
    with pytest.raises(EngineError, match=code):
        tensor(A)[index]


FOLDS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Array], Any]]] = {
    "sum": (lambda x: x.sum(1), lambda x: x.sum(1)),
    "sum_all": (lambda x: x.sum(), lambda x: x.sum()),
    "sum_keep": (lambda x: x.sum((0, -1), keepdim=True), lambda x: x.sum((0, 2), keepdims=True)),
    "mean": (lambda x: x.mean(-1), lambda x: x.mean(-1)),
    "prod": (lambda x: x.prod(0), lambda x: x.prod(0)),
    "var": (lambda x: x.var(1), lambda x: x.var(1, ddof=1)),
    "var_biased": (lambda x: x.var((0, 1), correction=0), lambda x: x.var((0, 1))),
    "std": (lambda x: x.std(), lambda x: x.std(ddof=1)),
    "max": (lambda x: x.max(2).values, lambda x: x.max(2)),
    "min_all": (lambda x: x.min(), lambda x: x.min()),
    "argmax": (lambda x: x.argmax(1), lambda x: x.argmax(1)),
    "argmax_all": (lambda x: x.argmax(), lambda x: x.argmax()),
    "argmin_keep": (lambda x: x.argmin(2, keepdim=True), lambda x: x.argmin(2, keepdims=True)),
    "any": (lambda x: (x > 2.9).any(1), lambda x: (x > 2.9).any(1)),
    "all": (lambda x: (x > -2.5).all(0), lambda x: (x > -2.5).all(0)),
    "sum_bool": (lambda x: (x > 0).sum(), lambda x: (x > 0).sum()),
}


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str) -> None:
    ours, numpys = FOLDS[name]
    same(ours(tensor(A)), numpys(A))


def test_argmax_takes_the_first_and_max_names_both() -> None:
    values, indices = tensor([[1.0, 5.0, 5.0], [2.0, 2.0, 0.0]]).max(1)
    assert (values.tolist(), indices.tolist()) == ([5, 2], [1, 0])
    assert indices.dtype is int64


SHAPES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Array], Any]]] = {
    "reshape": (lambda x: x.reshape(4, -1), lambda x: x.reshape(4, -1)),
    "view": (lambda x: x.view((6, 4)), lambda x: x.reshape(6, 4)),
    "permute": (lambda x: x.permute(2, 0, 1), lambda x: x.transpose(2, 0, 1)),
    "transpose": (lambda x: x.transpose(0, -1), lambda x: x.swapaxes(0, 2)),
    "T": (lambda x: x.T, lambda x: x.T),
    "mT": (lambda x: x.mT, lambda x: x.swapaxes(1, 2)),
    "flatten": (lambda x: x.flatten(1), lambda x: x.reshape(2, 12)),
    "unsqueeze": (lambda x: x.unsqueeze(-1), lambda x: x[..., None]),
    "squeeze": (lambda x: x.unsqueeze(1).squeeze(1), lambda x: x),
    "expand": (lambda x: x[:, :1].expand(-1, 5, -1), lambda x: np.repeat(x[:, :1], 5, 1)),
    "pad": (
        lambda x: x.pad((1, 0, 0, 2), -1.0),
        lambda x: np.pad(x, ((0, 0), (0, 2), (1, 0)), constant_values=-1),
    ),
    "flip": (lambda x: x.flip(0, 2), lambda x: x[::-1, :, ::-1]),
    "cat": (lambda x: cat([x, x + 1], -1), lambda x: np.concatenate([x, x + 1], -1)),
    "stack": (lambda x: stack([x, -x], 1), lambda x: np.stack([x, -x], 1)),
    "unfold": (
        lambda x: x.unfold(2, 2, 1),
        lambda x: np.lib.stride_tricks.sliding_window_view(x, 2, 2),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    ours, numpys = SHAPES[name]
    same(ours(tensor(A)), numpys(A))


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Array], Any]]] = {
    "exp": (lambda x: x.exp(), np.exp),
    "log": (lambda x: x.abs().log(), lambda x: np.log(np.abs(x))),
    "sqrt": (lambda x: x.abs().sqrt(), lambda x: np.sqrt(np.abs(x))),
    "rsqrt": (lambda x: x.abs() ** -0.5, lambda x: np.abs(x) ** -0.5),
    "cube": (lambda x: x**3, lambda x: x**3),
    "power_0": (lambda x: x**0, lambda x: x**0),
    "inverse": (lambda x: x**-2, lambda x: x**-2.0),
    "tanh": (lambda x: x.tanh(), np.tanh),
    "relu": (lambda x: x.relu(), lambda x: np.maximum(x, 0)),
    "clamp": (lambda x: x.clamp(-1, 2), lambda x: np.clip(x, -1, 2)),
    "floor": (lambda x: x.floor(), np.floor),
    "sign": (lambda x: x.sign(), np.sign),
    "where": (lambda x: where(x > 0, x, 0.0), lambda x: np.where(x > 0, x, 0)),
    "masked_fill": (lambda x: x.masked_fill(x > 0, 9.0), lambda x: np.where(x > 0, 9, x)),
    "softmax": (
        lambda x: x.softmax(1),
        lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
    ),
    "log_softmax": (
        lambda x: x.log_softmax(-1),
        lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True)),
    ),
    "logsumexp": (lambda x: x.logsumexp(0), lambda x: np.log(np.exp(x).sum(0))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    ours, numpys = FUNCTIONS[name]
    same(ours(tensor(A)), numpys(A))


def test_nan_and_signed_zero() -> None:
    x = tensor([float("nan"), -0.0, float("-inf")])
    assert x.isnan().tolist() == [True, False, False]
    assert np.isnan(x.clamp(-1.0, 1.0).numpy()[0])
    assert np.isnan(x.minimum(1.0).numpy()[0])
    assert not np.signbit(x.abs().numpy()[1])
    assert (x == x).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("a", "b"),
    [((3, 4), (4, 2)), ((4,), (4,)), ((4,), (4, 2)), ((3, 4), (4,)), ((2, 3, 4), (4, 2)),
     ((5, 1, 3, 4), (2, 4, 2)), ((4,), (2, 4, 3))],
)  # fmt: skip
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    x, y = (random.uniform(-1, 1, s).astype(np.float32) for s in (a, b))
    same(tensor(x) @ tensor(y), x @ y)


@given(
    rows=st.integers(0, 4), columns=st.integers(0, 5), axis=st.sampled_from([0, 1, -1, -2]),
    shift=st.integers(-3, 3),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_empty_and_small_shapes_behave_like_numpy(
    rows: int, columns: int, axis: int, shift: int
) -> None:
    x = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns) + np.float32(shift)
    same(tensor(x).sum(axis), x.sum(axis))
    same(tensor(x)[::-1, :shift] * 2, x[::-1, :shift] * 2)
    same(tensor(x) @ tensor(x).T, x @ x.T)


def test_made_from_nothing() -> None:
    assert value(zeros(2, 3).node).tolist() == [[0] * 3] * 2
    assert value(ones((2,), dtype=int8).node).dtype == np.int8
    assert value(eye(2).node).tolist() == [[1, 0], [0, 1]]
    assert value(arange(1, 10, 3).node).tolist() == [1, 4, 7]
    assert value(arange(3, 0, -1, dtype=float32).node).tolist() == [3, 2, 1]
    assert full((2,), True).dtype is bool_


def test_lazy_until_asked_and_repr_computes_nothing() -> None:
    x = tensor([1.0, 2.0])
    y = x + 1
    assert repr(y) == "Tensor(float32[2], ADD, device='reference')"
    assert repr(y.realize()) == "Tensor(float32[2], INPUT, realised, device='reference')"
    assert y.tolist() == [2, 3]
    assert (x.sum().item(), float(x.sum()), len(x), x.size(0)) == (3.0, 3.0, 2, 2)
    assert [int(v) for v in tensor([4, 5])] == [4, 5]


def test_reading_a_value_changes_no_bits_of_later_results() -> None:
    a, b = tensor([1 + 2.0**-12]), tensor([1 + 2.0**-12])
    product = a * b
    unread = (product - 1.0).numpy()
    product.numpy()
    np.testing.assert_array_equal((product - 1.0).numpy(), unread)
    assert (product.realize() - 1.0).numpy()[0] != unread[0]  # a rounding stands between them now


def test_equal_data_is_one_node() -> None:
    assert tensor([1.0, 2.0]).node is tensor([1.0, 2.0]).node
    assert tensor([1.0, 2.0]).node is not tensor([1, 2]).node


@pytest.mark.parametrize(
    ("build", "code", "named"),
    [
        (lambda x: x + tensor([1.0, 2.0]), "SHAPE_MISMATCH", ["[2, 3, 4]", "[2]"]),
        (lambda x: x @ tensor([1.0, 2.0]), "SHAPE_MISMATCH", ["[2, 3, 4]", "[2]"]),
        (lambda x: x.reshape(5, -1), "SHAPE_MISMATCH", ["[2, 3, 4]", "[5, -1]"]),
        (lambda x: x.expand(2, 5, 4), "SHAPE_MISMATCH", ["[2, 3, 4]", "[2, 5, 4]"]),
        (lambda x: cat([x, x[0]]), "SHAPE_MISMATCH", ["[2, 3, 4]", "[3, 4]"]),
        (lambda x: x.sum(3), "AXIS_RANGE", ["3"]),
        (lambda x: x.sum((0, 0)), "AXIS_RANGE", ["[0, 0]"]),
        (lambda x: x.pad((1, -1)), "SHAPE_MISMATCH", ["[1, -1]"]),
        (lambda x: x + "a", "OPERAND_KIND", ["str"]),
        (lambda x: x.item(), "SHAPE_MISMATCH", ["[2, 3, 4]"]),
        (lambda x: x + Tensor(1.0, device="PoCL:0"), "DEVICE_MISMATCH", ["reference", "PoCL:0"]),
    ],
)
def test_what_is_refused(build: Callable[[Tensor], Any], code: str, named: list[str]) -> None:
    with pytest.raises(EngineError) as refused:
        build(tensor(A))
    assert refused.value.code == code
    assert all(text in refused.value.message for text in named)


def test_a_value_of_a_trace_cannot_be_realised() -> None:
    inside = Tensor(graph.input_("state", "w", float32, (2,)), device="reference")
    with pytest.raises(EngineError, match="NOT_REALISABLE"):
        (inside + 1).numpy()
