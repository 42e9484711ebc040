"""The UCI handwritten digits that ship inside scikit-learn, with a fixed split, and a model.

1,797 real images of 8x8 pixels. The split is decided by the project's own permutation, so it is the
same on every machine and with every version of anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flopmarket.engine import nn
from flopmarket.errors import InvalidInput
from flopmarket.jobs.bundle import Array
from flopmarket.jobs.order import permute

TEST_ROWS = 360
_SPLIT_SEED = 20261122


@dataclass(frozen=True, slots=True)
class Digits:
    """x: float32 [n, 1, 8, 8] in 0..1; y: int32 [n]."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


def load() -> Digits:
    """The split data; raises InvalidInput (DEMO_DATA) when scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InvalidInput(
            "the digits ship inside scikit-learn, which is not installed",
            code="DEMO_DATA",
            hint="pip install 'flopmarket[demo]'",
        ) from None
    raw = load_digits()
    images = (raw.images[:, None] / 16).astype(np.float32)
    labels = raw.target.astype(np.int32)
    order = permute(np.arange(len(images)), len(images), _SPLIT_SEED, 0)
    test, train = order[:TEST_ROWS], order[TEST_ROWS:]
    return Digits(images[train], labels[train], images[test], labels[test])


def convolutional_classifier() -> nn.Module:
    """Two normalised convolutions, pooling, dropout, one linear layer: 10 scores an image."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 4 * 4, 10),
    )
