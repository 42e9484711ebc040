"""Operators of neural networks where the conformance suite is thin: old opsets, and many options,
against onnx's own evaluator and plain numpy."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx import load
from tests.engine.formats.models import Array

RANDOM = np.random.default_rng(5)


def uniform(*shape: int) -> Array:
    return RANDOM.uniform(-1, 1, shape).astype(np.float32)


def proto(
    op_type: str, *inputs: Array | None, opset: int, outputs: int = 1, domain: str = "", **rest: Any
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    names = ["" if array is None else f"x{at}" for at, array in enumerate(inputs)]
    given = {n: a for n, a in zip(names, inputs, strict=True) if a is not None}
    specs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in given.items()
    ]
    results = [f"y{at}" for at in range(outputs)]
    node = helper.make_node(op_type, names, results, domain=domain, **rest)
    unknown = [onnx.ValueInfoProto(name=name) for name in results]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", specs, unknown)
    return helper.make_model(graph, opset_imports=imports, ir_version=8), given


def run(op_type: str, *inputs: Array | None, opset: int = 21, outputs: int = 1, **rest: Any) -> Any:
    """One operator on the reference device: an array, or a tuple of them."""
    built, given = proto(op_type, *inputs, opset=opset, outputs=outputs, **rest)
    found = load(built).run(given, device="reference")
    return found["y0"] if outputs == 1 else tuple(found[f"y{at}"] for at in range(outputs))


def check(
    op_type: str, *inputs: Array | None, opset: int = 21, outputs: int = 1, **rest: Any
) -> None:
    """One operator, here and by onnx's evaluator."""
    built, given = proto(op_type, *inputs, opset=opset, outputs=outputs, **rest)
    found = load(built).run(given, device="reference")
    for at, wanted in enumerate(ReferenceEvaluator(built).run(None, given)):
        value = found[f"y{at}"]
        assert (value.shape, value.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding(mode: str) -> None:
    x, w = uniform(1, 2, 7, 6), uniform(3, 2, 3, 2)
    for strides in ([1, 1], [2, 3]):
        options: dict[str, Any] = {"auto_pad": mode, "strides": strides}
        check("Conv", x, w, **options)
        pads = [0] * 4
        if mode != "VALID":
            for at, (n, k, s) in enumerate(zip((7, 6), (3, 2), strides, strict=True)):
                missing = max(0, (-(-n // s) - 1) * s + k - n)
                odd = missing - missing // 2
                first, last = (missing // 2, odd) if mode == "SAME_UPPER" else (odd, missing // 2)
                pads[at], pads[at + 2] = first, last
        for op_type in ("MaxPool", "AveragePool", "LpPool"):
            found = run(op_type, x, kernel_shape=[3, 2], **options)
            wanted = run(op_type, x, kernel_shape=[3, 2], strides=strides, pads=pads)
            np.testing.assert_array_equal(found, wanted)


TRANSPOSED: tuple[dict[str, Any], ...] = (
    {"strides": [2, 3], "pads": [1, 0, 0, 1]},
    {"strides": [2, 2], "output_padding": [1, 0], "dilations": [2, 1]},
    {"strides": [2, 2], "output_shape": [9, 10]},
    {"strides": [3, 2], "output_shape": [10, 9], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
)


@pytest.mark.parametrize("at", range(len(TRANSPOSED)))
def test_transposed_convolutions(at: int) -> None:
    x, w = uniform(1, 4, 4, 5), uniform(4, 3, 3, 2)
    check("ConvTranspose", x, w, uniform(3), **TRANSPOSED[at])
    halves = [
        run("ConvTranspose", x[:, c], w[c], **TRANSPOSED[at]) for c in (slice(2), slice(2, 4))
    ]
    grouped = run("ConvTranspose", x, w, group=2, **TRANSPOSED[at])
    np.testing.assert_array_equal(grouped, np.concatenate(halves, 1))


@pytest.mark.parametrize("storage", [0, 1])
def test_pooled_positions_count_in_the_whole_tensor(storage: int) -> None:
    x = RANDOM.permutation(2 * 3 * 5 * 4).reshape(2, 3, 5, 4).astype(np.float32)
    values, index = run(
        "MaxPool", x, outputs=2, kernel_shape=[2, 2], strides=[1, 2], storage_order=storage
    )
    flat = x if storage == 0 else x.transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(flat.reshape(-1)[index], values)
    if storage == 0:
        back = run("MaxUnpool", values, index, kernel_shape=[2, 2], strides=[1, 2])
        assert back.shape == x.shape
        np.testing.assert_array_equal(back[back != 0], x[back != 0])


def test_regions_of_interest() -> None:
    x = uniform(2, 3, 9, 8)
    rois = np.array([[0, 1, 1, 6, 7], [1, 0, 2, 3, 3], [1, 5, 5, 4, 4]], np.float32)
    found = run("MaxRoiPool", x, rois, pooled_shape=[3, 2], spatial_scale=1.0)
    wanted = np.zeros((3, 3, 3, 2), np.float32)
    for r, (image, x1, y1, x2, y2) in enumerate(rois.astype(int).tolist()):
        height, width = max(1, y2 - y1 + 1), max(1, x2 - x1 + 1)
        for row, column in np.ndindex(3, 2):
            top, left = y1 + row * height // 3, x1 + column * width // 2
            bottom, right = y1 - (-(row + 1) * height // 3), x1 - (-(column + 1) * width // 2)
            cell = x[image, :, top:bottom, left:right]
            wanted[r, :, row, column] = cell.max((1, 2))
    np.testing.assert_array_equal(found, wanted)
    boxes = np.array([[0.5, 1.2, 6.3, 7.9], [-3, -2, 3.1, 3.4], [5, 5, 5.2, 5.1]], np.float32)
    batch = np.array([0, 1, 1], np.int64)
    for mode, ratio, half in product(("avg", "max"), (0, 2), ("half_pixel", "output_half_pixel")):
        check(
            *("RoiAlign", x, boxes, batch),
            mode=mode,
            output_height=3,
            output_width=2,
            sampling_ratio=ratio,
            spatial_scale=0.8,
            coordinate_transformation_mode=half,
        )


def test_deformable_convolution_without_offsets_is_a_convolution() -> None:
    x, w, b = uniform(2, 4, 6, 7), uniform(6, 2, 3, 2), uniform(6)
    options: dict[str, Any] = {"strides": [2, 1], "pads": [1, 0, 1, 1], "group": 2}
    plain = run("Conv", x, w, b, **options)
    offset = np.zeros((2, 2 * 6 * 2, *plain.shape[2:]), np.float32)
    found = run("DeformConv", x, w, offset, b, offset_group=2, **options)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
    moved = RANDOM.uniform(-2, 2, offset.shape).astype(np.float32)
    mask = uniform(2, 2 * 6, *plain.shape[2:])
    check("DeformConv", x, w, moved, b, mask, offset_group=2, **options)


# ---------------------------------------------------------------- resampling

TRANSFORMATIONS = (
    *("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"),
)


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str, transformation: str) -> None:
    x = uniform(1, 2, 5, 4)
    for scales in ((1, 1, 0.6, 1.5), (1, 1, 2, 0.75), (1, 0.5, 2.3, 0.3)):
        options: dict[str, Any] = {
            "mode": mode,
            "coordinate_transformation_mode": transformation,
        }
        check("Resize", x, None, np.array(scales, np.float32), opset=19, **options)
        if mode != "nearest":
            options["exclude_outside"] = 1
            check("Resize", x, None, np.array(scales, np.float32), opset=19, **options)
            if transformation == "half_pixel" and mode == "linear":
                options = {"mode": mode, "antialias": 1}
                check("Resize", x, None, np.array(scales, np.float32), opset=19, **options)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_rounding_and_sizes(rounding: str) -> None:
    x = uniform(1, 1, 4, 6)
    for sizes in ((1, 1, 8, 12), (1, 1, 3, 4)):
        for transformation in ("half_pixel", "asymmetric"):
            check(
                *("Resize", x, None, None, np.array(sizes, np.int64)),
                mode="nearest",
                nearest_mode=rounding,
                coordinate_transformation_mode=transformation,
            )


def test_resize_of_a_region_and_of_named_axes() -> None:
    x = uniform(1, 1, 4, 5)
    roi = np.array([0.2, 0.4, 0.7, 1.3], np.float32)
    for policy in ("stretch", "not_larger", "not_smaller"):
        check(
            *("Resize", x, None, None, np.array([7, 6], np.int64)),
            axes=[2, 3],
            keep_aspect_ratio_policy=policy,
            mode="linear",
        )
    check(
        *("Resize", x, roi, None, np.array([3, 6], np.int64)),
        axes=[2, 3],
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=9.0,
    )


def test_upsampling_of_old() -> None:
    x = uniform(1, 2, 3, 4)
    doubled = x.repeat(2, 2).repeat(3, 3)
    scales = [1.0, 1.0, 2.0, 3.0]
    by_input = np.array(scales, np.float32)
    for found in (
        run("Upsample", x, opset=7, scales=scales, mode="nearest"),
        run("Upsample", x, by_input, opset=9, mode="nearest"),
        run("Resize", x, by_input, opset=10, mode="nearest"),
    ):
        np.testing.assert_array_equal(found, doubled)


# ---------------------------------------------------------------- softmaxes, padding, statistics


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_the_softmaxes_of_old_flatten(op_type: str, axis: int) -> None:
    x = uniform(2, 3, 4)
    rows = x.reshape(int(np.prod(x.shape[: axis % 3])), -1)
    old = run(op_type, x, opset=11, axis=axis)
    new = run(op_type, rows, opset=13, axis=1).reshape(x.shape)
    np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(run(op_type, x, opset=11), run(op_type, x, opset=11, axis=1))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_padding_of_every_age(mode: str) -> None:
    x = uniform(3, 4)
    pads = [1, 2, 2, 1]
    wanted = np.pad(x, ((1, 2), (2, 1)), mode)  # type: ignore[call-overload]
    assert (run("Pad", x, np.array(pads, np.int64), opset=19, mode=mode) == wanted).all()
    if mode != "wrap":
        assert (run("Pad", x, opset=6, mode=mode, pads=pads) == wanted).all()
    cropped = run("Pad", x, np.array([-1, 0, 1, -2], np.int64), opset=19, mode=mode)
    assert cropped.shape == (3, 2)


def test_batch_statistics_of_every_age() -> None:
    x, scale, bias = uniform(4, 3, 2, 2), uniform(3), uniform(3)
    mean, var = uniform(3), np.abs(uniform(3)) + 0.1
    channel = (1, 3, 1, 1)
    wanted = (x - mean.reshape(channel)) / np.sqrt(var.reshape(channel) + 1e-5)
    wanted = wanted * scale.reshape(channel) + bias.reshape(channel)
    for opset, options in ((6, {"is_test": 1}), (7, {}), (9, {}), (15, {})):
        found = run("BatchNormalization", x, scale, bias, mean, var, opset=opset, **options)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    own = x.mean((0, 2, 3))
    moved = run(
        *("BatchNormalization", x, scale, bias, mean, var), opset=14, outputs=3, training_mode=1
    )[1]
    np.testing.assert_allclose(moved, 0.9 * mean + 0.1 * own, rtol=1e-4, atol=1e-6)
    old = run("BatchNormalization", x, scale, bias, mean, var, opset=9, outputs=5)
    np.testing.assert_allclose(old[1], 0.9 * mean + 0.1 * own, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(old[3], own, rtol=1e-4, atol=1e-6)


def test_dropout_of_every_age() -> None:
    x = np.ones((50, 40), np.float32)
    for opset, options in ((6, {"is_test": 1}), (7, {"ratio": 0.3}), (10, {})):
        assert (run("Dropout", x, opset=opset, **options) == x).all()
    ratio, training = np.array(0.25, np.float32), np.array(True)
    found, mask = run("Dropout", x, ratio, training, opset=13, outputs=2, seed=3)
    assert set(np.unique(found)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(found != 0, mask)
    assert 0.7 < mask.mean() < 0.8


def test_contributed_normalisations() -> None:
    x, skip, gamma, beta = uniform(2, 3, 5), uniform(2, 3, 5), uniform(5), uniform(5)
    total = x + skip
    centred = total - total.mean(-1, keepdims=True)
    wanted = centred / np.sqrt(total.var(-1, keepdims=True) + 1e-5) * gamma + beta
    found = run(
        *("SkipLayerNormalization", x, skip, gamma, beta),
        domain="com.microsoft",
        outputs=4,
        epsilon=1e-5,
    )
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[3], total)
    root = np.sqrt((total**2).mean(-1, keepdims=True) + 1e-5)
    simple = run(
        *("SkipSimplifiedLayerNormalization", x, skip, gamma),
        domain="com.microsoft",
        epsilon=1e-5,
    )
    np.testing.assert_allclose(simple, total / root * gamma, rtol=1e-4, atol=1e-5)


def test_float16_keeps_its_dtype() -> None:
    x = uniform(1, 4, 5, 5).astype(np.float16)
    scale = np.ones(4, np.float16)
    for found in (
        run("Conv", x, uniform(2, 4, 3, 3).astype(np.float16)),
        run("Elu", x),
        run("Softmax", x),
        run("AveragePool", x, kernel_shape=[2, 2]),
        run("InstanceNormalization", x, scale, scale),
        run("Resize", x, None, np.array([1, 1, 2, 2], np.float32), mode="linear"),
        run("GlobalAveragePool", x),
    ):
        assert found.dtype == np.float16
        assert np.isfinite(found).all()


def test_what_is_refused() -> None:
    x = uniform(1, 4, 5, 5)
    for call in (
        lambda: run("Conv", x, uniform(2, 3, 3, 3)),
        lambda: run("Conv", x, uniform(2, 4, 3, 3), pads=[1, 1, 1]),
        lambda: run("Conv", x, uniform(2, 4, 3, 3), auto_pad="AROUND"),
        lambda: run("MaxPool", x, kernel_shape=[9, 9]),
        lambda: run("DepthToSpace", x, blocksize=3),
        lambda: run("Resize", x, None, np.array([1, 1, 2], np.float32)),
        lambda: run("Resize", x, None, np.array([1, 1, 2, -1], np.float32)),
        lambda: run("Pad", x, np.array([1, 1], np.int64)),
        lambda: run("RoiAlign", x, uniform(2, 5), np.zeros(2, np.int64)),
        lambda: run("DeformConv", x, uniform(2, 4, 3, 3), uniform(1, 3, 3, 3)),
    ):
        with pytest.raises(EngineError):
            call()
