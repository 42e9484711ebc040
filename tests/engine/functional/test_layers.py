"""What goldens cannot say: work counted, dtypes, dropouts, modules, refusals."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import convolution, functional, graph, nn, random
from flopmarket.engine.dtypes import bfloat16, float16, float32, float64, int8, int32, uint8
from flopmarket.engine.errors import EngineError
from flopmarket.engine.grad import grad
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.tensor import Tensor
from tests.engine.frontend.near import tensor

Array = np.ndarray[Any, Any]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def leaf(*shape: int) -> Tensor:
    return Tensor(graph.input_("input", f"x{shape}", float32, shape))


def dots(*outputs: Tensor) -> list[Node]:
    nodes = graph.topological([output.node for output in outputs])
    return [node for node in nodes if node.op is Op.DOT]


def terms(*outputs: Tensor) -> int:
    return sum(dot.elements * dot.src[0].shape[2] for dot in dots(*outputs))


# ---------------------------------------------------------------- convolutions


@pytest.mark.parametrize("kernel", [(4,), (4, 4), (2, 4, 2)])
def test_a_convolution_is_one_dot_and_its_gradients_cost_as_much(kernel: tuple[int, ...]) -> None:
    dims = len(kernel)
    x, w = leaf(2, 4, *(16,) * dims), leaf(6, 4, *kernel)
    forward = getattr(functional, f"conv{dims}d")(x, w, stride=2)
    (dot,) = dots(forward)
    assert dot.src[0].shape[2] == 4 * prod(kernel)
    assert convolution.recognise(dot) is not None
    for wrt in (x, w):
        (gradient,) = grad(forward.sum(), [wrt])
        assert terms(gradient) <= 1.6 * terms(forward)


def test_a_transposed_convolution_multiplies_no_inserted_zero() -> None:
    x, w = leaf(1, 3, 5, 5), leaf(3, 2, 2, 2)
    result = functional.conv_transpose2d(x, w, stride=2)
    assert terms(result) == 3 * 25 * 2 * 4
    gx, gw = grad(result.sum(), [x, w])
    assert terms(gx) == terms(gw) == terms(result)
    overlapping = functional.conv_transpose2d(leaf(1, 3, 8, 8), leaf(3, 2, 4, 4), stride=2)
    assert all(convolution.recognise(dot) for dot in dots(overlapping))


def test_a_large_stride_needs_one_product_for_the_gradient() -> None:
    x, w = leaf(1, 3, 32, 32), leaf(5, 3, 16, 16)
    (gradient,) = grad(functional.conv2d(x, w, stride=16).sum(), [x])
    assert len(dots(gradient)) == 1


def test_pairs_of_padding_are_uneven_borders() -> None:
    x, w = normal(1, 2, 5, 6), normal(3, 2, 3, 3, seed=1)
    found = functional.conv2d(tensor(x), tensor(w), padding=[(0, 2), (1, 0)]).numpy()
    padded = np.pad(x, ((0, 0), (0, 0), (0, 2), (1, 0)))
    wanted = functional.conv2d(tensor(padded), tensor(w)).numpy()
    np.testing.assert_array_equal(found, wanted)
    transposed = functional.conv_transpose2d(tensor(x), tensor(w[:2]), padding=[(0, 1), (2, 0)])
    whole = functional.conv_transpose2d(tensor(x), tensor(w[:2])).numpy()
    np.testing.assert_array_equal(transposed.numpy(), whole[:, :, :-1, 2:])


def test_integer_convolutions_are_exact_sums() -> None:
    random_ = np.random.default_rng(0)
    x = random_.integers(-128, 128, (1, 3, 6, 6)).astype(np.int8)
    w = random_.integers(0, 256, (2, 3, 3, 3)).astype(np.uint8)
    found = functional.conv2d(tensor(x), tensor(w))
    assert (tensor(x).dtype, tensor(w).dtype, found.dtype) == (int8, uint8, int32)
    wanted = functional.conv2d(tensor(x.astype(np.float32)), tensor(w.astype(np.float32)))
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())


@pytest.mark.parametrize("dtype", [float16, bfloat16])
def test_sixteen_bit_layers_round_once(dtype: Any) -> None:
    x = tensor(normal(2, 4, 6)).to(dtype)
    w = tensor(normal(3, 4, 3, seed=1)).to(dtype)
    calls: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda t: functional.conv1d(t, w.to(t.dtype)),
        lambda t: functional.conv_transpose1d(t, w.permute(1, 0, 2).to(t.dtype), stride=2),
        lambda t: functional.layer_norm(t, (6,)),
        lambda t: functional.group_norm(t, 2),
        lambda t: functional.avg_pool1d(t, 2),
        lambda t: functional.adaptive_avg_pool1d(t, 4),
        lambda t: functional.mish(t),
        lambda t: functional.elu(t),
        lambda t: functional.interpolate(t, 4, mode="linear"),
    )
    for call in calls:
        narrow, wide = call(x), call(x.float())
        assert narrow.dtype is dtype
        np.testing.assert_array_equal(narrow.numpy(), wide.to(dtype).numpy())


def test_float64_stays() -> None:
    x = tensor(normal(1, 2, 5, 5).astype(np.float64), float64)
    w = tensor(normal(3, 2, 2, 2).astype(np.float64), float64)
    for result in (
        functional.conv2d(x, w),
        functional.max_pool2d(x, 2),
        functional.avg_pool2d(x, 2),
        functional.group_norm(x, 1),
        functional.interpolate(x, (3, 7), mode="bilinear"),
        functional.pad(x, (1, 1), "reflect"),
    ):
        assert result.dtype is float64


# ---------------------------------------------------------------- pooling and padding


def test_the_position_of_a_maximum_is_the_first_and_never_in_the_padding() -> None:
    flat = np.full((1, 1, 4, 4), -np.inf, np.float32)
    values, index = functional.max_pool2d(tensor(flat), 3, 2, 1, return_indices=True)
    assert index.numpy().ravel().tolist() == [0, 1, 4, 5]
    assert np.isneginf(values.numpy()).all()
    poisoned = np.zeros((1, 1, 4, 4), np.float32)
    poisoned[0, 0, 1, 1] = np.nan
    values, index = functional.max_pool2d(tensor(poisoned), 4, return_indices=True)
    assert np.isnan(values.numpy()).all()
    assert index.item() == 5


def test_integers_pool_too() -> None:
    x = np.arange(-8, 8, dtype=np.int8).reshape(1, 1, 4, 4)
    found = functional.max_pool2d(tensor(x), 3, 1, 1)
    assert found.dtype is int8
    assert found.numpy()[0, 0, 0].tolist() == [-3, -2, -1, -1]


def test_unpooling_goes_back_where_pooling_came_from() -> None:
    x = normal(2, 3, 6, 8)
    values, index = functional.max_pool2d(tensor(x), 2, return_indices=True)
    back = functional.max_unpool2d(values, index, 2).numpy()
    assert back.shape == x.shape
    np.testing.assert_array_equal(back[back != 0], x[back != 0])
    assert (back != 0).sum() == values.numel()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_are_numpys(mode: str) -> None:
    x = normal(2, 3, 5)
    named = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    found = functional.pad(tensor(x), (3, 4, 1, 2), mode).numpy()
    np.testing.assert_array_equal(found, np.pad(x, ((0, 0), (1, 2), (3, 4)), named))


def test_views_are_enough_for_whole_scales() -> None:
    x = leaf(1, 2, 4, 6)
    for result in (
        functional.interpolate(x, scale_factor=2),
        functional.interpolate(x, scale_factor=0.5),
        functional.pad(x, (1, 2), "circular"),
    ):
        ops = {node.op for node in graph.topological([result.node])}
        assert ops <= {Op.INPUT, Op.VIEW, Op.CONCAT}


# ---------------------------------------------------------------- dropouts


def test_channel_dropout_drops_whole_channels() -> None:
    x = tensor(np.ones((64, 8, 3, 3), np.float32))
    with random.scope(1, 0):
        found = functional.dropout2d(x, 0.25).numpy()
        elements = functional.dropout(x, 0.25).numpy()
    assert (found == found[:, :, :1, :1]).all()
    assert set(np.unique(found)) == {np.float32(0), np.float32(4 / 3)}
    assert 0.65 < (found[:, :, 0, 0] != 0).mean() < 0.85
    assert (elements != elements[:, :, :1, :1]).any()
    assert functional.dropout2d(x, 0.25, training=False) is x


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    x = tensor(normal(100, 200))
    with random.scope(3, 0):
        found = functional.alpha_dropout(x, 0.3, training=True).numpy()
    assert abs(found.mean()) < 0.02
    assert abs(found.std() - 1) < 0.02


# ---------------------------------------------------------------- modules


MODULES: tuple[tuple[nn.Module, tuple[int, ...], tuple[int, ...]], ...] = (
    (nn.Conv1d(3, 4, 3, padding="same"), (2, 3, 7), (2, 4, 7)),
    (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 5, 5), (2, 4, 5, 5)),
    (nn.Conv3d(3, 6, 2, groups=3), (1, 3, 3, 3, 3), (1, 6, 2, 2, 2)),
    (nn.ConvTranspose1d(4, 3, 3, stride=2), (2, 4, 5), (2, 3, 11)),
    (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (1, 4, 3, 3), (1, 6, 6, 6)),
    (nn.ConvTranspose3d(2, 3, 2), (1, 2, 2, 2, 2), (1, 3, 3, 3, 3)),
    (nn.GroupNorm(2, 4), (2, 4, 5), (2, 4, 5)),
    (nn.InstanceNorm1d(4, affine=True), (2, 4, 5), (2, 4, 5)),
    (nn.RMSNorm(5), (2, 4, 5), (2, 4, 5)),
    (nn.LayerNorm(5, bias=False), (2, 4, 5), (2, 4, 5)),
    (nn.BatchNorm3d(2), (2, 2, 3, 3, 3), (2, 2, 3, 3, 3)),
    (nn.LocalResponseNorm(3), (2, 4, 5), (2, 4, 5)),
    (nn.PReLU(4), (2, 4, 5), (2, 4, 5)),
    (nn.Hardtanh(-2.0, 2.0), (3,), (3,)),
    (nn.GLU(), (2, 6), (2, 3)),
    (nn.MaxPool1d(2), (2, 3, 6), (2, 3, 3)),
    (nn.AvgPool3d(2), (1, 2, 4, 4, 4), (1, 2, 2, 2, 2)),
    (nn.LPPool2d(2, 2), (1, 2, 4, 4), (1, 2, 2, 2)),
    (nn.AdaptiveAvgPool2d(1), (2, 3, 5, 4), (2, 3, 1, 1)),
    (nn.AdaptiveMaxPool1d(2), (2, 3, 5), (2, 3, 2)),
    (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 2, 3, 3), (1, 2, 6, 6)),
    (nn.PixelShuffle(2), (1, 8, 3, 3), (1, 2, 6, 6)),
    (nn.Pad((1, 2), "replicate"), (2, 3), (2, 6)),
    (nn.Unflatten(1, (2, 3)), (4, 6), (4, 2, 3)),
    (nn.Identity(), (4, 6), (4, 6)),
)


@pytest.mark.parametrize(
    ("module", "given", "wanted"), MODULES, ids=[type(m).__name__ for m, _, _ in MODULES]
)
def test_modules_have_torchs_shapes(
    module: nn.Module, given: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    state = module.init(3, device="reference")
    result, kept = module.apply({n: tensor(v) for n, v in state.items()}, tensor(normal(*given)))
    assert result.shape == wanted
    assert np.isfinite(result.numpy()).all()
    assert set(kept) == set(module.named_buffers())


def test_module_lists_and_losses() -> None:
    layers = nn.ModuleList([nn.Linear(3, 4)]).append(nn.Linear(4, 2))
    assert list(layers.named_parameters())[:2] == ["0.weight", "0.bias"]
    assert (len(layers), layers[1] is list(layers)[1]) == (2, True)
    x, y = tensor(normal(4, 3)), tensor(np.array([0, 2, 1, 1]))
    loss = nn.CrossEntropyLoss(label_smoothing=0.2)(x, y)
    assert loss.item() == functional.cross_entropy(x, y, label_smoothing=0.2).item()
    assert nn.TripletMarginLoss()(x, x, x).item() == 1.0


# ---------------------------------------------------------------- refusals


IMAGE = tensor(normal(2, 4, 5, 5))

REFUSED: dict[str, Callable[[], Any]] = {
    "kernel rank": lambda: functional.conv1d(IMAGE, tensor(normal(2, 4, 3, 3))),
    "same with stride": lambda: functional.conv2d(
        IMAGE, tensor(normal(2, 4, 3, 3)), stride=2, padding="same"
    ),
    "negative padding": lambda: functional.conv2d(
        IMAGE, tensor(normal(2, 4, 3, 3)), padding=[(0, -1), (0, 0)]
    ),
    "bias": lambda: functional.conv2d(IMAGE, tensor(normal(2, 4, 3, 3)), tensor(normal(3))),
    "transposed channels": lambda: functional.conv_transpose2d(IMAGE, tensor(normal(3, 4, 3, 3))),
    "nothing left": lambda: functional.conv_transpose2d(
        IMAGE, tensor(normal(4, 1, 1, 1)), padding=3
    ),
    "pool of a vector": lambda: functional.max_pool2d(tensor(normal(4)), 2),
    "kernel too large": lambda: functional.avg_pool2d(IMAGE, 9),
    "two strides for one axis": lambda: functional.max_pool1d(IMAGE[0], 2, (1, 2)),
    "adaptive zero": lambda: functional.adaptive_avg_pool2d(IMAGE, 0),
    "unpool shapes": lambda: functional.max_unpool2d(IMAGE, tensor([[[1]]]), 2),
    "reflect too far": lambda: functional.pad(IMAGE, (5, 0), "reflect"),
    "groups": lambda: functional.group_norm(IMAGE, 3),
    "shuffle": lambda: functional.pixel_shuffle(IMAGE, 3),
    "glu": lambda: functional.glu(IMAGE),
    "prelu": lambda: functional.prelu(IMAGE, tensor(normal(3))),
    "grid": lambda: functional.grid_sample(IMAGE, tensor(normal(2, 3, 3, 3))),
    "theta": lambda: functional.affine_grid(tensor(normal(1, 2, 3)), (2, 4, 5, 5)),
    "fold": lambda: functional.fold(tensor(normal(1, 7, 4)), (4, 4), (2, 2)),
    "weights": lambda: functional.cross_entropy(
        tensor(normal(2, 3)), tensor([0, 1]), tensor(normal(2))
    ),
    "labels on the last axis": lambda: functional.cross_entropy(
        tensor(normal(2, 3, 4)), tensor(np.zeros((2, 3), np.int64))
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(EngineError, match="SHAPE_MISMATCH"):
        REFUSED[name]()


def test_words_that_are_none_are_refused() -> None:
    for call, code in (
        (lambda: functional.pad(IMAGE, (1, 1), "mirror"), "PAD_MODE"),
        (lambda: functional.interpolate(IMAGE, 3, mode="linear"), "RESIZE_OPTION"),
        (lambda: functional.interpolate(IMAGE), "RESIZE_OPTION"),
        (lambda: functional.interpolate(IMAGE, 3, align_corners=True), "RESIZE_OPTION"),
        (lambda: functional.interpolate(IMAGE, 3, antialias=True), "RESIZE_OPTION"),
        (lambda: functional.grid_sample(IMAGE, IMAGE[:, :, :, :2], "cubic"), "SAMPLING_OPTION"),
        (lambda: functional.gelu(IMAGE, "fast"), "ACTIVATION_OPTION"),
        (lambda: functional.l1_loss(IMAGE, IMAGE, "median"), "REDUCTION_UNKNOWN"),
        (lambda: functional.normalize(IMAGE, -1.0), "NORM_POWER"),
        (lambda: functional.dropout(IMAGE, 1.5), "DROPOUT_RANGE"),
    ):
        with pytest.raises(EngineError, match=code):
            call()
