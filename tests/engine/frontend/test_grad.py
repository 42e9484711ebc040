"""Every derivative rule against finite differences of the same graph in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import (
    analytic,
    convolution,
    functional,
    grad_functions,
    graph,
    reference,
    rewrite,
)
from flopmarket.engine.creation import cat, stack, where
from flopmarket.engine.dtypes import float32, int32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.grad import grad
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.tensor import Tensor
from tests.engine.frontend import shadow
from tests.engine.frontend.near import tensor

Build = Callable[..., Tensor]


def check(build: Build, *shapes: tuple[int, ...], low: float = -2.0, high: float = 2.0) -> None:
    """Weighted sum of ``build(inputs)``: grad() against central differences, each input."""
    random = np.random.default_rng(7)
    inputs = [graph.input_("input", f"x{at}", float32, shape) for at, shape in enumerate(shapes)]
    arrays = [random.uniform(low, high, shape).astype(np.float32) for shape in shapes]
    result = build(*(Tensor(node) for node in inputs))
    weights = random.uniform(0.5, 1.5, result.shape).astype(np.float32)
    loss = (result * Tensor(graph.const(weights, float32, weights.shape))).sum()
    gradients = rewrite.canonicalise(grad(loss.node, inputs))
    leaves = dict(zip(inputs, arrays, strict=True))
    found = reference.evaluate(gradients, leaves)
    exact = {node: array.astype(np.float64) for node, array in leaves.items()}
    for node, value in zip(inputs, found, strict=True):
        assert value.shape == node.shape
        wanted = shadow.differences(loss.node, exact, node)
        np.testing.assert_allclose(value, wanted, rtol=2e-4, atol=2e-4)


ELEMENTWISE: dict[str, tuple[Build, float, float]] = {
    "add": (lambda a, b: a + b, -2, 2),
    "subtract": (lambda a, b: a - b, -2, 2),
    "multiply": (lambda a, b: a * b, -2, 2),
    "divide": (lambda a, b: a / b, 0.5, 2),
    "maximum": (lambda a, b: a.maximum(b), -2, 2),
    "minimum": (lambda a, b: a.minimum(b), -2, 2),
    "where": (lambda a, b: where(a > b, a * 2.0, b * b), -2, 2),
    "fma": (lambda a, b: Tensor(graph.fma(a.node, b.node, a.node)), -2, 2),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_binary(name: str) -> None:
    build, low, high = ELEMENTWISE[name]
    check(build, (3, 4), (3, 4), low=low, high=high)


UNARY: dict[str, tuple[Build, float, float]] = {
    "exp": (lambda x: x.exp(), -3, 3),
    "exp2": (lambda x: x.exp2(), -3, 3),
    "log": (lambda x: x.log(), 0.2, 4),
    "log2": (lambda x: x.log2(), 0.2, 4),
    "sqrt": (lambda x: x.sqrt(), 0.2, 4),
    "tanh": (lambda x: x.tanh(), -3, 3),
    "sigmoid": (lambda x: x.sigmoid(), -3, 3),
    "erf": (lambda x: x.erf(), -3, 3),
    "erfc": (lambda x: x.erfc(), -3, 3),
    "normal_cdf": (lambda x: x.normal_cdf(), -3, 3),
    "sin": (lambda x: x.sin(), -5, 5),
    "cos": (lambda x: x.cos(), -5, 5),
    "tan": (lambda x: x.tan(), -1.4, 1.4),
    "asin": (lambda x: x.asin(), -0.95, 0.95),
    "acos": (lambda x: x.acos(), -0.95, 0.95),
    "atan": (lambda x: x.atan(), -4, 4),
    "sinh": (lambda x: x.sinh(), -3, 3),
    "cosh": (lambda x: x.cosh(), -3, 3),
    "asinh": (lambda x: x.asinh(), -4, 4),
    "acosh": (lambda x: x.acosh(), 1.1, 4),
    "atanh": (lambda x: x.atanh(), -0.95, 0.95),
    "expm1": (lambda x: x.expm1(), -3, 3),
    "log1p": (lambda x: x.log1p(), -0.8, 4),
    "log10": (lambda x: x.log10(), 0.2, 4),
    "softplus": (lambda x: x.softplus(), -4, 4),
    "gelu": (functional.gelu, -3, 3),
    "silu": (functional.silu, -3, 3),
    "leaky_relu": (functional.leaky_relu, -3, 3),
    "relu": (lambda x: x.relu(), -2, 2),
    "abs": (lambda x: x.abs(), -2, 2),
    "clamp": (lambda x: x.clamp(-1.0, 1.0), -2, 2),
    "cube": (lambda x: x**3, -2, 2),
    "inverse_square": (lambda x: x**-2, 0.5, 2),
    "softmax": (lambda x: x.softmax(1), -2, 2),
    "log_softmax": (lambda x: x.log_softmax(0), -2, 2),
    "logsumexp": (lambda x: x.logsumexp(1), -2, 2),
    "mean": (lambda x: x.mean(0), -2, 2),
    "var": (lambda x: x.var(1), -2, 2),
    "std": (lambda x: x.std(), -2, 2),
    "prod": (lambda x: x.prod(1), -2, 2),
    "prod_all": (lambda x: x.prod(), -2, 2),
    "amax": (lambda x: x.amax(1), -2, 2),
    "amin": (lambda x: x.amin(0), -2, 2),
    "amax_all": (lambda x: x.amax(), -2, 2),
    "permute": (lambda x: x.T * 2.0, -2, 2),
    "reshape": (lambda x: x.reshape(2, 6) * 2.0, -2, 2),
    "expand": (lambda x: x.unsqueeze(1).expand(3, 5, 4), -2, 2),
    "pad": (lambda x: x.pad((1, 2, 0, 3), 9.0), -2, 2),
    "slice": (lambda x: x[1:, ::3], -2, 2),
    "reversed": (lambda x: x[::-1, ::-2], -2, 2),
    "flip": (lambda x: x.flip(0, 1), -2, 2),
    "index": (lambda x: x[:, 2], -2, 2),
    "window": (lambda x: x.unfold(1, 3, 1), -2, 2),
    "window_stride": (lambda x: x.unfold(1, 2, 2), -2, 2),
    "gather": (lambda x: x[Tensor(graph.const([0, 2, 0], int32, (3,)))], -2, 2),
    "gather_columns": (
        lambda x: x[:, Tensor(graph.const([[3, 1], [1, 1]], int32, (2, 2)))],
        -2,
        2,
    ),
    "cat": (lambda x: cat([x, x * x, x[1:]]), -2, 2),
    "stack": (lambda x: stack([x, x * 3.0], 1), -2, 2),
    "layer_norm": (lambda x: functional.layer_norm(x, (4,)), -2, 2),
}


def test_every_elementary_function_has_a_rule() -> None:
    for functions in analytic.FUNCTIONS.values():
        assert grad_functions.RULES.keys() == functions.keys()


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    build, low, high = UNARY[name]
    check(build, (3, 4), low=low, high=high)


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 4), (4, 2)),
        ((4,), (4, 2)),
        ((3, 4), (4,)),
        ((2, 3, 4), (4, 2)),
        ((2, 1, 3, 4), (3, 4, 2)),
    ],
)
def test_matmul(shapes: tuple[tuple[int, ...], ...]) -> None:
    check(lambda a, b: a @ b, *shapes)


def test_dot_with_valid_lengths_gives_nothing_to_the_terms_beyond() -> None:
    valid = graph.const([[0, 2, 4]], int32, (1, 3))
    check(lambda a, b: Tensor(graph.dot(a.node, b.node, valid)), (1, 3, 4), (1, 4, 2))


@pytest.mark.parametrize("kind", ["add", "set"])
def test_scatter(kind: str) -> None:
    index = graph.const([1, 3, 1], int32, (3,))
    check(lambda d, u: Tensor(graph.scatter(kind, d.node, index, u.node)), (4, 2), (3, 2))


def test_scatter_ignores_computed_indices_out_of_range() -> None:
    index = graph.add(graph.const([1, 9, -4], int32, (3,)), graph.const([0, 0, 0], int32, (3,)))
    check(lambda d, u: Tensor(graph.scatter("add", d.node, index, u.node)), (4, 2), (3, 2))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "groups"),
    [
        ((5, 6), (3, 3), 1, 1, 1, 1),
        ((6, 5), (3, 2), 2, 1, 1, 1),
        ((7, 7), (3, 3), (2, 3), (1, 0), (2, 1), 2),
        ((6, 6), (1, 1), 2, 0, 1, 2),
        ((8, 8), (3, 3), 4, 0, 2, 1),
        ((8, 9), (2, 3), 2, 2, 2, 1),
    ],
)
def test_convolution(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> None:
    check(
        lambda x, w, b: functional.conv2d(x, w, b, stride, padding, dilation, groups),
        (2, 4, *size),
        (2, 4 // groups, *kernel),
        (2,),
        low=-1.0,
        high=1.0,
    )


def dot_terms(outputs: list[Node]) -> int:
    nodes = [node for node in graph.topological(outputs) if node.op is Op.DOT]
    return sum(node.elements * node.src[0].shape[2] for node in nodes)


def test_convolution_gradients_cost_what_the_forward_costs() -> None:
    x = graph.input_("input", "x", float32, (2, 4, 8, 8))
    w = graph.input_("input", "w", float32, (6, 4, 2, 2))
    forward = functional.conv2d(Tensor(x), Tensor(w), stride=2).node
    for wrt in (x, w):
        (gradient,) = grad(graph.reduce("sum", forward, (0, 1, 2, 3)), [wrt])
        assert dot_terms([gradient]) == dot_terms([forward])


def test_a_convolution_is_recognised_and_a_plain_product_is_not() -> None:
    x = graph.input_("input", "x", float32, (2, 4, 8, 8))
    w = graph.input_("input", "w", float32, (6, 2, 3, 3))
    forward = convolution.forward(x, w, (2, 1), (1, 2), 2)
    (dot,) = [node for node in graph.topological([forward]) if node.op is Op.DOT]
    windows = convolution.recognise(dot)
    assert windows is not None
    assert (windows.source, windows.groups) == (x, 2)
    assert (windows.axes[0].stride, windows.axes[1].dilation) == (2, 2)
    a = graph.input_("input", "a", float32, (1, 3, 4))
    b = graph.input_("input", "b", float32, (1, 4, 5))
    assert convolution.recognise(graph.dot(a, b)) is None


@pytest.mark.parametrize("pool", [functional.max_pool2d, functional.avg_pool2d])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, None, 0), (3, 2, 1), ((2, 3), 1, 0)])
def test_pooling(pool: Build, kernel: Any, stride: Any, padding: int) -> None:
    check(lambda x: pool(x, kernel, stride, padding), (2, 2, 6, 7))


def test_losses_and_normalisation() -> None:
    labels = Tensor(graph.const([2, 0, 1], int32, (3,)))
    check(lambda x: functional.cross_entropy(x, labels), (3, 4))
    check(lambda x, y: functional.mse_loss(x, y), (3, 4), (3, 4))
    mean, variance = (
        Tensor(graph.const([0.0] * 3, float32, (3,))),
        Tensor(graph.const([1.0] * 3, float32, (3,))),
    )
    check(
        lambda x, w, b: functional.batch_norm(x, mean, variance, w, b, training=True).output,
        (4, 3, 2),
        (3,),
        (3,),
    )
    rows = Tensor(graph.const([[0, 3], [3, 3]], int32, (2, 2)))
    check(lambda w: functional.embedding(rows, w), (5, 3))


def test_ties_go_to_the_first_element_and_the_left_operand() -> None:
    x = tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 1.0]])
    (g,) = grad(x.amax(1).sum(), [x])
    assert g.tolist() == [[0, 1, 0], [1, 0, 0]]
    a, b = tensor([1.0, 5.0]), tensor([1.0, 4.0])
    left, right = grad(a.maximum(b).sum(), [a, b])
    assert (left.tolist(), right.tolist()) == ([1, 1], [0, 0])
    zero = tensor([0.0, -1.0, 2.0])
    (g,) = grad(zero.relu().sum(), [zero])
    assert g.tolist() == [0, 0, 1]


def test_an_unreached_tensor_and_detach_give_zeros() -> None:
    x, y = tensor([1.0, 2.0]), tensor([3.0, 4.0])
    gx, gy = grad((x * x.detach()).sum(), [x, y])
    assert (gx.tolist(), gy.tolist()) == ([1, 2], [0, 0])


def test_a_deep_graph_needs_no_stack() -> None:
    start = value = tensor(1.0)
    for _ in range(3000):
        value = value * 1.0 + 0.0
    assert grad(value, [start])[0].item() == 1.0


def test_reading_the_loss_keeps_its_derivatives_and_realising_it_forgets_them() -> None:
    x = tensor([1.0, 2.0])
    loss = (x * x).sum()
    assert loss.item() == 5.0
    assert grad(loss, [x])[0].tolist() == [2, 4]
    with pytest.raises(EngineError, match="GRAD_LOSS"):
        grad(loss.realize(), [x])


def test_second_derivative() -> None:
    x = tensor([0.5, 2.0])
    (first,) = grad((x**3).sum(), [x])
    (second,) = grad(first.sum(), [x])
    np.testing.assert_allclose(second.numpy(), [3.0, 12.0])


@pytest.mark.parametrize("length", [0, 1, 2, 3, 64, 65, 1000])
def test_products_of_any_length(length: int) -> None:
    random = np.random.default_rng(length)
    values = random.uniform(0.9, 1.1, (3, length)) * random.choice([-1, 1], (3, length))
    if length > 2:
        values[0, 1] = values[1, 0] = values[1, 2] = 0  # one zero in a row, and two
    x = Tensor(values, device="reference")
    (slope,) = grad(x.prod(1).sum(), [x])
    wanted = [[np.prod(np.delete(row, at)) for at in range(length)] for row in values]
    np.testing.assert_allclose(slope.numpy(), np.reshape(wanted, (3, length)), rtol=1e-13)


def test_the_derivative_of_a_long_product_is_a_small_graph() -> None:
    leaf = graph.input_("input", "x", float32, (2, 10_000))
    (slope,) = grad(graph.reduce("prod", leaf, (0, 1)), [leaf])
    assert len(graph.topological([slope])) < 200


def test_what_has_no_derivative_is_refused() -> None:
    x, count = tensor([1.0, 2.0]), tensor([1, 2])
    with pytest.raises(EngineError, match=r"GRAD_LOSS") as refused:
        grad(x, [x])
    assert "[2]" in str(refused.value)
    with pytest.raises(EngineError, match="GRAD_DTYPE"):
        grad(x.sum(), [count])
