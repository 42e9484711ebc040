"""Layers and losses against direct NumPy formulas in float64, and against torch where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flopmarket.engine import functional
from flopmarket.engine.dtypes import int64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.grad import grad
from tests.engine.frontend.near import tensor

Array = np.ndarray[Any, Any]


def uniform(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def convolve(x: Array, w: Array, stride: int, padding: int, dilation: int, groups: int) -> Array:
    """The definition: every output is a sum over channels of its group and kernel taps."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    out, inner, kh, kw = w.shape
    height = (padded.shape[2] - (kh - 1) * dilation - 1) // stride + 1
    width = (padded.shape[3] - (kw - 1) * dilation - 1) // stride + 1
    result = np.zeros((x.shape[0], out, height, width))
    for o in range(out):
        first = o // (out // groups) * inner
        for i, row, column in np.ndindex(inner, kh, kw):
            rows = slice(row * dilation, row * dilation + (height - 1) * stride + 1, stride)
            columns = slice(column * dilation, column * dilation + (width - 1) * stride + 1, stride)
            result[:, o] += padded[:, first + i, rows, columns] * w[o, i, row, column]
    return result


CONVOLUTIONS = [(1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 2), (3, 1, 2, 4)]


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_conv2d(stride: int, padding: int, dilation: int, groups: int) -> None:
    x, w, b = uniform(2, 4, 7, 6), uniform(8, 4 // groups, 3, 2, seed=1), uniform(8, seed=2)
    found = functional.conv2d(
        tensor(x), tensor(w), tensor(b), stride, padding, dilation, groups
    ).numpy()
    wanted = convolve(x, w, stride, padding, dilation, groups) + b[None, :, None, None]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_convolution_and_its_gradients_against_torch(
    stride: int, padding: int, dilation: int, groups: int
) -> None:
    torch = pytest.importorskip("torch", reason="torch is no dependency; checked where it is")
    x, w = uniform(2, 4, 7, 6), uniform(8, 4 // groups, 3, 2, seed=1)
    tx, tw = (torch.tensor(array, requires_grad=True) for array in (x, w))
    wanted = torch.nn.functional.conv2d(tx, tw, None, stride, padding, dilation, groups)
    wanted.square().sum().backward()
    ox, ow = tensor(x), tensor(w)
    found = functional.conv2d(ox, ow, None, stride, padding, dilation, groups)
    gx, gw = grad(found.square().sum(), [ox, ow])
    for ours, theirs in ((found, wanted.detach()), (gx, tx.grad), (gw, tw.grad)):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-4)


def test_pooling() -> None:
    x = uniform(2, 3, 7, 6)
    whole = x[:, :, :6].reshape(2, 3, 3, 2, 3, 2)
    np.testing.assert_array_equal(functional.max_pool2d(tensor(x), 2).numpy(), whole.max((3, 5)))
    np.testing.assert_allclose(
        functional.avg_pool2d(tensor(x), 2).numpy(), whole.mean((3, 5)), rtol=1e-5, atol=1e-6
    )
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    np.testing.assert_array_equal(
        functional.max_pool2d(tensor(x), 3, 2, 1).numpy(), windows.max((4, 5))
    )


def test_linear_embedding_and_one_hot() -> None:
    x, w, b = uniform(5, 3), uniform(4, 3, seed=1), uniform(4, seed=2)
    found = functional.linear(tensor(x), tensor(w), tensor(b)).numpy()
    np.testing.assert_allclose(found, x @ w.T + b, rtol=1e-5, atol=1e-6)
    rows = functional.embedding(tensor([[0, 3], [3, 1]]), tensor(w))
    np.testing.assert_array_equal(rows.numpy(), w[[[0, 3], [3, 1]]])
    hot = functional.one_hot(tensor([2, 0, 7]), 3)
    assert hot.dtype is int64
    assert hot.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_losses() -> None:
    x, labels = uniform(6, 4) * 5, np.array([0, 3, 1, 1, 2, 0])
    scores = x.astype(np.float64)
    each = np.log(np.exp(scores).sum(1)) - scores[np.arange(6), labels]
    for reduction, wanted in (("mean", each.mean()), ("sum", each.sum()), ("none", each)):
        found = functional.cross_entropy(tensor(x), tensor(labels), reduction=reduction).numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    y = uniform(6, 4, seed=3)
    np.testing.assert_allclose(
        functional.mse_loss(tensor(x), tensor(y)).item(), ((x - y) ** 2).mean(), rtol=1e-5
    )


def test_cross_entropy_of_large_scores_stays_finite() -> None:
    scores = tensor([[1000.0, 0.0], [-1000.0, 0.0]])
    labels = tensor([0, 0])
    loss = functional.cross_entropy(scores, labels)
    assert loss.item() == 500.0
    (gradient,) = grad(loss, [scores])
    np.testing.assert_allclose(gradient.numpy(), [[0, 0], [-0.5, 0.5]], atol=1e-7)


def test_normalisation() -> None:
    x = uniform(4, 3, 5) * 3
    w, b = uniform(5, seed=1), uniform(5, seed=2)
    centred = x - x.mean(-1, keepdims=True)
    wanted = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b
    found = functional.layer_norm(tensor(x), (5,), tensor(w), tensor(b)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    mean, variance = tensor(np.zeros(3, np.float32)), tensor(np.ones(3, np.float32))
    result = functional.batch_norm(tensor(x), mean, variance, training=True)
    shape = (1, 3, 1)
    wanted = (x - x.mean((0, 2)).reshape(shape)) / np.sqrt(x.var((0, 2)).reshape(shape) + 1e-5)
    np.testing.assert_allclose(result.output.numpy(), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        result.running_mean.numpy(), 0.1 * x.mean((0, 2)), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        result.running_var.numpy(), 0.9 + 0.1 * x.var((0, 2), ddof=1), rtol=1e-4
    )
    still = functional.batch_norm(tensor(x), mean, variance)
    assert still.running_mean is mean
    np.testing.assert_allclose(still.output.numpy(), x / np.sqrt(1 + 1e-5), rtol=1e-5)


@pytest.mark.parametrize("x", [-6.0, -1.0, 0.0, 0.5, 4.0])
def test_gelu(x: float) -> None:
    from math import erf

    found = functional.gelu(tensor([x])).numpy()[0]
    assert abs(found - x * (1 + erf(x / 2**0.5)) / 2) <= 2**-23 * max(1.0, abs(x))


def test_what_is_refused() -> None:
    x, w = tensor(uniform(2, 4, 5, 5)), tensor(uniform(6, 3, 3, 3))
    with pytest.raises(EngineError) as refused:
        functional.conv2d(x, w)
    assert "[2, 4, 5, 5]" in str(refused.value) and "[6, 3, 3, 3]" in str(refused.value)
    for call in (
        lambda: functional.conv2d(x, tensor(uniform(3, 2, 3, 3)), groups=2),
        lambda: functional.conv2d(x, tensor(uniform(2, 4, 9, 3))),
        lambda: functional.max_pool2d(tensor(uniform(4, 4)), 2),
        lambda: functional.layer_norm(x, (4,)),
        lambda: functional.cross_entropy(tensor(uniform(3, 4)), tensor([1, 2])),
        lambda: functional.mse_loss(tensor(uniform(3)), tensor(uniform(1))),
        lambda: functional.embedding(tensor([0.5]), tensor(uniform(3, 2))),
    ):
        with pytest.raises(EngineError, match="SHAPE_MISMATCH"):
            call()
    with pytest.raises(EngineError, match="DTYPE_MISMATCH"):
        functional.cross_entropy(tensor(uniform(2, 4)), tensor(uniform(2)))
    with pytest.raises(EngineError, match="REDUCTION_UNKNOWN"):
        functional.mse_loss(x, x, "median")
