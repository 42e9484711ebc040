"""Convolutions, pooling, resampling, sampling and padding, on shapes that cross their edges."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.engine.functional.case import Cases, given, integers, uniform

CASES = Cases()
add = CASES.add


def pooled(count: int, *shape: int) -> Any:
    """Different positions in a flattened image, as max pooling reports them."""

    def make(random: np.random.Generator) -> Any:
        rows = [random.permutation(count)[: int(np.prod(shape[2:]))] for _ in range(shape[0])]
        return np.broadcast_to(np.array(rows).reshape(shape[0], 1, *shape[2:]), shape).copy()

    return make


# ---------------------------------------------------------------- convolutions

for stride, padding, dilation, groups in ((1, 0, 1, 1), (2, 1, 1, 2), (3, 2, 2, 1), (2, 0, 3, 4)):
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    add(
        f"conv1d {stride} {padding} {dilation} {groups}",
        lambda F, x, w, b, o=options: F.conv1d(x, w, b, **o),
        *(uniform(2, 4, 11), uniform(8, 4 // groups, 3), uniform(8)),
    )
    add(
        f"conv2d {stride} {padding} {dilation} {groups}",
        lambda F, x, w, b, o=options: F.conv2d(x, w, b, **o),
        *(uniform(2, 4, 7, 8), uniform(4, 4 // groups, 3, 2), uniform(4)),
    )
    add(
        f"conv_transpose2d {stride} {padding} {dilation} {groups}",
        lambda F, x, w, b, o=options: F.conv_transpose2d(x, w, b, **o),
        *(uniform(2, 4, 4, 5), uniform(4, 3, 3, 2), uniform(3 * groups)),
    )
add(
    "conv3d",
    lambda F, x, w, b: F.conv3d(x, w, b, (1, 2, 1), (1, 0, 1)),
    *(uniform(1, 2, 4, 5, 4), uniform(3, 2, 2, 3, 2), uniform(3)),
)
add("conv1d same", lambda F, x, w: F.conv1d(x, w, padding="same"), uniform(4, 9), uniform(6, 4, 4))
add(
    "conv2d same dilated",
    lambda F, x, w: F.conv2d(x, w, padding="same", dilation=(2, 1)),
    *(uniform(1, 2, 6, 5), uniform(3, 2, 2, 3)),
)
add(
    "conv2d apart",
    lambda F, x, w: F.conv2d(x, w, stride=4),
    *(uniform(2, 3, 9, 8), uniform(5, 3, 4, 4)),
)
add(
    "conv2d gaps",
    lambda F, x, w: F.conv2d(x, w, stride=5, padding=1, dilation=2),
    *(uniform(2, 3, 9, 11), uniform(5, 3, 3, 2)),
)
add(
    "conv_transpose1d",
    lambda F, x, w: F.conv_transpose1d(x, w, None, 2, 1),
    *(uniform(2, 4, 4), uniform(4, 3, 5)),
)
add(
    "conv_transpose2d output_padding",
    lambda F, x, w: F.conv_transpose2d(x, w, None, 3, 1, 2, 2, 2),
    *(uniform(2, 4, 3, 4), uniform(4, 2, 3, 3)),
)
add(
    "conv_transpose2d apart",
    lambda F, x, w: F.conv_transpose2d(x, w, None, 2),
    *(uniform(2, 3, 3, 4), uniform(3, 4, 2, 2)),
)
add(
    "conv_transpose3d",
    lambda F, x, w: F.conv_transpose3d(x, w, None, 2, 1),
    *(uniform(1, 2, 3, 2, 3), uniform(2, 3, 3, 3, 3)),
)
add(
    "unfold",
    lambda F, x: F.unfold(x, (2, 3), (2, 1), 1, (1, 2)),
    uniform(2, 3, 5, 6),
)
add(
    "fold",
    lambda F, x: F.fold(x, (5, 6), (2, 3), (2, 1), 1, (1, 2)),
    uniform(2, 18, 15),
)

# ---------------------------------------------------------------- pooling

POOLS: dict[str, dict[str, Any]] = {
    "tiles": {"kernel_size": 2},
    "overlap": {"kernel_size": 3, "stride": 2, "padding": 1},
    "ceil": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "uneven": {"kernel_size": (2, 3), "stride": (3, 2), "padding": (1, 1), "ceil_mode": True},
}
for name, chosen in POOLS.items():
    add(
        f"max_pool2d {name}",
        lambda F, x, o=chosen: F.max_pool2d(x, **o, return_indices=True),
        uniform(2, 3, 7, 8),
    )
    for counted in (True, False):
        add(
            f"avg_pool2d {name} {counted}",
            lambda F, x, o=chosen, c=counted: F.avg_pool2d(x, **o, count_include_pad=c),
            uniform(2, 3, 7, 8),
        )
add(
    "max_pool2d dilated",
    lambda F, x: F.max_pool2d(x, 3, 1, 1, 2),
    uniform(2, 3, 7, 8),
)
add("max_pool2d unbatched", lambda F, x: F.max_pool2d(x, 2), uniform(3, 7, 8))
add("max_pool1d", lambda F, x: F.max_pool1d(x, 3, 2, 1), uniform(2, 3, 8))
add("max_pool3d", lambda F, x: F.max_pool3d(x, 2, 1), uniform(2, 2, 3, 4, 4))
add("avg_pool1d", lambda F, x: F.avg_pool1d(x, 3, 2, 1), uniform(2, 3, 8))
add("avg_pool3d", lambda F, x: F.avg_pool3d(x, 2, 2), uniform(2, 2, 4, 5, 4))
add(
    "avg_pool2d divisor",
    lambda F, x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
    uniform(2, 3, 7, 8),
)
add("lp_pool1d", lambda F, x: F.lp_pool1d(x, 2, 3), uniform(2, 3, 8))
add("lp_pool2d 2", lambda F, x: F.lp_pool2d(x, 2, 3, 2), uniform(2, 3, 6, 7))
add("lp_pool2d 3", lambda F, x: F.lp_pool2d(x, 3.0, 3, 2), uniform(2, 3, 7, 7, low=0.1))
for target in (1, 2, 3, (5, None), (3, 10)):
    add(
        f"adaptive_avg_pool2d {target}",
        lambda F, x, o=target: F.adaptive_avg_pool2d(x, o),
        uniform(2, 3, 7, 8),
    )
    add(
        f"adaptive_max_pool2d {target}",
        lambda F, x, o=target: F.adaptive_max_pool2d(x, o, return_indices=True),
        uniform(2, 3, 7, 8),
    )
add("adaptive_avg_pool1d", lambda F, x: F.adaptive_avg_pool1d(x, 3), uniform(2, 3, 8))
add("adaptive_avg_pool3d", lambda F, x: F.adaptive_avg_pool3d(x, 2), uniform(1, 2, 3, 4, 5))
add(
    "max_unpool2d",
    lambda F, x, i: F.max_unpool2d(x, i, 2, output_size=(7, 6)),
    *(uniform(2, 3, 3, 3), pooled(42, 2, 3, 3, 3)),
)

# ---------------------------------------------------------------- resampling and sampling

SIZES: dict[str, dict[str, Any]] = {
    "smaller and larger": {"size": (4, 13)},
    "larger": {"size": (14, 18)},
    "scales": {"scale_factor": (0.7, 1.6)},
    "recomputed": {"scale_factor": (0.7, 1.6), "recompute_scale_factor": True},
}
for mode in ("nearest", "nearest-exact", "area", "bilinear", "bicubic"):
    for name, sizes in SIZES.items():
        for corners in (False, True) if mode.startswith("bi") else (None,):
            add(
                f"interpolate {mode} {name} {corners}",
                lambda F, x, o=sizes, m=mode, c=corners: F.interpolate(
                    x, mode=m, align_corners=c, **o
                ),
                uniform(1, 2, 7, 9),
                atol=1e-5,
            )
for mode in ("bilinear", "bicubic"):
    for shape in ((4, 13), (3, 2)):
        add(
            f"interpolate {mode} antialias {shape}",
            lambda F, x, m=mode, s=shape: F.interpolate(x, s, mode=m, antialias=True),
            uniform(1, 2, 17, 9),
            atol=1e-5,
        )
add("interpolate linear", lambda F, x: F.interpolate(x, 5, mode="linear"), uniform(2, 2, 7))
add(
    "interpolate trilinear",
    lambda F, x: F.interpolate(x, (5, 2, 3), mode="trilinear"),
    uniform(2, 2, 2, 3, 4),
)
for mode in ("bilinear", "nearest", "bicubic"):
    for border in ("zeros", "border", "reflection"):
        for corners in (False, True):
            add(
                f"grid_sample {mode} {border} {corners}",
                lambda F, x, g, m=mode, p=border, c=corners: F.grid_sample(x, g, m, p, c),
                *(uniform(2, 3, 4, 5), uniform(2, 3, 6, 2, low=-1.7, high=1.7)),
                atol=1e-5,
            )
add(
    "grid_sample 3d",
    lambda F, x, g: F.grid_sample(x, g, "bilinear", "zeros", False),
    *(uniform(2, 2, 3, 4, 5), uniform(2, 2, 3, 2, 3, low=-1.5, high=1.5)),
)
for corners in (False, True):
    add(
        f"affine_grid {corners}",
        lambda F, t, c=corners: F.affine_grid(t, (2, 3, 4, 5), c),
        uniform(2, 2, 3),
    )
    add(
        f"affine_grid 3d {corners}",
        lambda F, t, c=corners: F.affine_grid(t, (2, 1, 2, 4, 5), c),
        uniform(2, 3, 4),
    )

# ---------------------------------------------------------------- padding and shuffles

for mode in ("constant", "reflect", "replicate", "circular"):
    add(f"pad {mode}", lambda F, x, m=mode: F.pad(x, (1, 2, 3, 0), m), uniform(2, 3, 4, 5))
add(
    "pad crop",
    lambda F, x: F.pad(x, (-1, 2, 3, -2), "constant", 1.5),
    uniform(2, 3, 4, 5),
)
add("pixel_shuffle", lambda F, x: F.pixel_shuffle(x, 2), uniform(2, 8, 3, 4))
add("pixel_unshuffle", lambda F, x: F.pixel_unshuffle(x, 2), uniform(2, 3, 4, 6))
add("channel_shuffle", lambda F, x: F.channel_shuffle(x, 3), uniform(2, 6, 4, 6))

# ---------------------------------------------------------------- lookup

add(
    "bilinear",
    lambda F, a, b, w, c: F.bilinear(a, b, w, c),
    *(uniform(5, 3), uniform(5, 4), uniform(2, 3, 4), uniform(2)),
)
add("linear", lambda F, x, w, b: F.linear(x, w, b), *(uniform(2, 5, 3), uniform(4, 3), uniform(4)))
add("embedding", lambda F, i, w: F.embedding(i, w, 2), integers(4, 3, high=7), uniform(7, 3))
for mode in ("sum", "mean", "max"):
    add(
        f"embedding_bag {mode}",
        lambda F, i, w, m=mode: F.embedding_bag(i, w, mode=m),
        *(integers(4, 3, high=7), uniform(7, 3)),
    )
    add(
        f"embedding_bag padding {mode}",
        lambda F, i, w, m=mode: F.embedding_bag(i, w, mode=m, padding_idx=2),
        *(integers(4, 3, high=4), uniform(7, 3)),
    )
    add(
        f"embedding_bag offsets {mode}",
        lambda F, i, w, o, m=mode: F.embedding_bag(i, w, o, mode=m),
        *(integers(12, high=7), uniform(7, 3), given([0, 3, 3, 7], np.int64)),
    )
add(
    "embedding_bag weights",
    lambda F, i, w, s: F.embedding_bag(i, w, mode="sum", per_sample_weights=s),
    *(integers(4, 3, high=7), uniform(7, 3), uniform(4, 3)),
)
