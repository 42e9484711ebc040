"""Activations, normalisations, distances and losses, at their kinks and edges."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.engine.functional.case import Cases, given, integers, signs, uniform

CASES = Cases()
add = CASES.add

# ---------------------------------------------------------------- activations

LINE = [*np.linspace(-6, 6, 49), 0.5, -0.5, 30, -30, 100, -100, 1e-8, -1e-8]
NO_KINK = [x for x in LINE if abs(x) not in (0.0, 3.0)]
"""Without the places where torch's own derivative of hardswish is that of neither side."""

for name in (
    *("relu", "relu6", "leaky_relu", "hardtanh", "hardsigmoid", "hardshrink", "softshrink"),
    *("elu", "selu", "celu", "logsigmoid", "softplus", "softsign", "silu", "mish", "gelu"),
    *("tanhshrink", "tanh", "sigmoid"),
):
    add(name, lambda F, x, n=name: getattr(F, n)(x), given(LINE))
add("hardswish", lambda F, x: F.hardswish(x), given(NO_KINK))
add("threshold", lambda F, x: F.threshold(x, 0.1, 20.0), given(LINE))
add("softplus beta", lambda F, x: F.softplus(x, 2.0, 5.0), given(LINE))
add("celu alpha", lambda F, x: F.celu(x, 2.0), given(LINE))
add("elu alpha", lambda F, x: F.elu(x, 0.3), given(LINE))
add("leaky_relu slope", lambda F, x: F.leaky_relu(x, 0.2), given(LINE))
add("gelu tanh", lambda F, x: F.gelu(x, approximate="tanh"), given(LINE))
add("prelu channels", lambda F, x, w: F.prelu(x, w), uniform(2, 3, 4), uniform(3))
add("prelu one", lambda F, x, w: F.prelu(x, w), uniform(2, 3, 4), uniform(1))
add("glu", lambda F, x: F.glu(x, 1), uniform(2, 6, 4))
for name in ("softmax", "softmin", "log_softmax"):
    add(name, lambda F, x, n=name: getattr(F, n)(x, 1), uniform(2, 6, 4, low=-9, high=9))

# ---------------------------------------------------------------- normalisations and distances

for shape in ((4, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 4)):
    add(
        f"batch_norm {len(shape)}",
        lambda F, x, w, b: F.batch_norm(x, None, None, w, b, True),
        *(uniform(*shape), uniform(3), uniform(3)),
        atol=1e-5,
    )
add(
    "layer_norm",
    lambda F, x, w, b: F.layer_norm(x, (3, 5), w, b),
    *(uniform(4, 3, 5), uniform(3, 5), uniform(3, 5)),
)
add("rms_norm", lambda F, x, w: F.rms_norm(x, (5,), w), uniform(4, 3, 5), uniform(5))
add("rms_norm eps", lambda F, x: F.rms_norm(x, (3, 5), None, 0.1), uniform(4, 3, 5))
add(
    "group_norm",
    lambda F, x, w, b: F.group_norm(x, 2, w, b),
    *(uniform(4, 6, 5), uniform(6), uniform(6)),
)
add(
    "instance_norm",
    lambda F, x, w, b: F.instance_norm(x, None, None, w, b),
    *(uniform(4, 6, 5, 2), uniform(6), uniform(6)),
)
add(
    "local_response_norm",
    lambda F, x: F.local_response_norm(x, 3, 0.5, 0.75, 2.0),
    uniform(2, 6, 5, 2),
)
add(
    "local_response_norm even", lambda F, x: F.local_response_norm(x, 4, 0.5, 0.5), uniform(2, 6, 5)
)
for p in (1.0, 2.0, 3.0, 2.5, float("inf")):
    add(f"normalize {p}", lambda F, x, p=p: F.normalize(x, p), uniform(3, 4))
    add(
        f"pairwise_distance {p}",
        lambda F, a, b, p=p: F.pairwise_distance(a, b, p),
        uniform(3, 4),
        uniform(3, 4),
    )
add("normalize zero", lambda F, x: F.normalize(x), given([[0.0, 0.0], [3.0, 4.0]]))
add("cosine_similarity", lambda F, a, b: F.cosine_similarity(a, b), uniform(3, 4), uniform(3, 4))

# ---------------------------------------------------------------- losses

LABELS = [0, 3, 1, -100, 2, 0]
for reduction in ("mean", "sum", "none"):
    options: dict[str, Any] = {"reduction": reduction}
    for smoothing in (0.0, 0.1):
        smooth = {**options, "label_smoothing": smoothing}
        add(
            f"cross_entropy {reduction} {smoothing}",
            lambda F, x, y, o=smooth: F.cross_entropy(x, y, **o),
            *(uniform(6, 4), given(LABELS, np.int64)),
        )
        add(
            f"cross_entropy weighted {reduction} {smoothing}",
            lambda F, x, y, w, o=smooth: F.cross_entropy(x, y, w, **o),
            *(uniform(6, 4), given(LABELS, np.int64), uniform(4, low=0.1)),
            fixed=(2,),
        )
        add(
            f"cross_entropy places {reduction} {smoothing}",
            lambda F, x, y, w, o=smooth: F.cross_entropy(x, y, w, ignore_index=1, **o),
            *(uniform(2, 4, 3), integers(2, 3, high=4), uniform(4, low=0.1)),
            fixed=(2,),
        )
        add(
            f"cross_entropy probabilities {reduction} {smoothing}",
            lambda F, x, y, w, o=smooth: F.cross_entropy(x, y, w, **o),
            *(uniform(6, 4), uniform(6, 4, low=0.0), uniform(4, low=0.1)),
            fixed=(2,),
        )
    for name in ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss"):
        add(
            f"{name} {reduction}",
            lambda F, x, y, n=name, o=options: getattr(F, n)(x, y, **o),
            *(uniform(3, 4, low=-2, high=2), uniform(3, 4, low=-2, high=2)),
        )
    add(
        f"smooth_l1_loss beta {reduction}",
        lambda F, x, y, o=options: F.smooth_l1_loss(x, y, beta=0.3, **o),
        *(uniform(3, 4), uniform(3, 4)),
    )
    add(
        f"huber_loss delta {reduction}",
        lambda F, x, y, o=options: F.huber_loss(x, y, delta=0.3, **o),
        *(uniform(3, 4), uniform(3, 4)),
    )
    add(
        f"nll_loss {reduction}",
        lambda F, x, y, w, o=options: F.nll_loss(x, y, w, **o),
        *(uniform(6, 4), given(LABELS, np.int64), uniform(4, low=0.1)),
        fixed=(2,),
    )
    add(
        f"binary_cross_entropy {reduction}",
        lambda F, x, y, w, o=options: F.binary_cross_entropy(x, y, w, **o),
        *(uniform(3, 4, low=0.01, high=0.99), uniform(3, 4, low=0.0), uniform(4, low=0.1)),
        fixed=(2,),
    )
    add(
        f"binary_cross_entropy_with_logits {reduction}",
        lambda F, x, y, w, p, o=options: F.binary_cross_entropy_with_logits(
            x, y, w, pos_weight=p, **o
        ),
        *(uniform(3, 4, low=-9, high=9), uniform(3, 4, low=0.0)),
        *(uniform(4, low=0.1), uniform(4, low=0.1)),
        fixed=(2, 3),
    )
    add(
        f"kl_div {reduction}",
        lambda F, x, y, o=options: F.kl_div(x, y, **o),
        *(uniform(3, 4), given([[0.0, 0.2, 0.3, 0.5]] * 3)),
        fixed=(1,),
    )
    add(
        f"kl_div log_target {reduction}",
        lambda F, x, y, o=options: F.kl_div(x, y, log_target=True, **o),
        *(uniform(3, 4), uniform(3, 4)),
    )
    add(
        f"poisson_nll_loss {reduction}",
        lambda F, x, y, o=options: F.poisson_nll_loss(x, y, full=True, **o),
        *(uniform(3, 4), uniform(3, 4, low=0.0, high=4.0)),
        fixed=(1,),
    )
    add(
        f"poisson_nll_loss counts {reduction}",
        lambda F, x, y, o=options: F.poisson_nll_loss(x, y, log_input=False, **o),
        *(uniform(3, 4, low=0.1), uniform(3, 4, low=0.0)),
    )
    add(
        f"gaussian_nll_loss {reduction}",
        lambda F, x, y, v, o=options: F.gaussian_nll_loss(x, y, v, full=True, **o),
        *(uniform(3, 4), uniform(3, 4), uniform(3, 4, low=0.1)),
    )
    add(
        f"hinge_embedding_loss {reduction}",
        lambda F, x, y, o=options: F.hinge_embedding_loss(x, y, **o),
        *(uniform(6, low=-2, high=2), signs(6)),
    )
    add(
        f"margin_ranking_loss {reduction}",
        lambda F, a, b, y, o=options: F.margin_ranking_loss(a, b, y, 0.2, **o),
        *(uniform(6), uniform(6), signs(6)),
    )
    add(
        f"soft_margin_loss {reduction}",
        lambda F, x, y, o=options: F.soft_margin_loss(x, y, **o),
        *(uniform(6, low=-2, high=2), signs(6)),
    )
    add(
        f"cosine_embedding_loss {reduction}",
        lambda F, a, b, y, o=options: F.cosine_embedding_loss(a, b, y, 0.2, **o),
        *(uniform(6, 3), uniform(6, 3), signs(6)),
    )
    add(
        f"triplet_margin_loss {reduction}",
        lambda F, a, b, c, o=options: F.triplet_margin_loss(a, b, c, swap=True, **o),
        *(uniform(6, 3), uniform(6, 3), uniform(6, 3)),
    )
add(
    "kl_div batchmean",
    lambda F, x, y: F.kl_div(x, y, reduction="batchmean"),
    *(uniform(3, 4), uniform(3, 4, low=0.1)),
)
add("cross_entropy one", lambda F, x, y: F.cross_entropy(x, y), uniform(5), given(2, np.int64))

# ---------------------------------------------------------------- alignment

for reduction in ("mean", "sum", "none"):
    add(
        f"ctc_loss {reduction}",
        lambda F, x, y, n, m, r=reduction: F.ctc_loss(
            F.log_softmax(x, 2), y, n, m, reduction=r, zero_infinity=True
        ),
        uniform(7, 4, 5, low=-2, high=2),
        given([[1, 2, 2], [3, 1, 4], [4, 4, 1], [2, 2, 2]], np.int64),
        given([7, 5, 6, 4], np.int64),
        given([3, 2, 0, 3], np.int64),
    )
