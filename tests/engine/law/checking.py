"""What the tests of the law share: how hard they try, and how bits are compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings

from flopmarket.engine import reference
from flopmarket.engine.golden.programs import THRESHOLDS
from flopmarket.engine.graph import Node
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime.realise import Realiser

Array = np.ndarray[Any, Any]
Decorator = Callable[[Callable[..., None]], Callable[..., None]]

DEEP = os.environ.get("FLOPMARKET_LAW") == "deep"
"""Set by ``make law``: new random programs every time, many of them. Otherwise few, always the same
ones, so that their kernels come from the cache."""


def law(quick: int, deep: int) -> Decorator:
    """Hypothesis settings with ``quick`` examples, or ``deep`` ones under ``make law``."""
    return settings(
        max_examples=deep if DEEP else quick,
        derandomize=not DEEP,
        database=None,
        phases=(Phase.explicit, Phase.generate, *((Phase.shrink,) if DEEP else ())),
        report_multiple_bugs=False,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def expected_of(outputs: Sequence[Node], leaves: Mapping[Node, Array]) -> list[Array]:
    """What the reference computes."""
    return reference.evaluate(canonicalise(outputs), leaves)


def assert_same(
    realiser: Realiser,
    outputs: Sequence[Node],
    leaves: Mapping[Node, Array],
    expected: Sequence[Array],
) -> None:
    """Fails at the first output whose bits differ on the realiser's device."""
    for node, want, have in zip(outputs, expected, realiser.realise(outputs, leaves), strict=True):
        assert have.shape == want.shape and have.dtype == want.dtype
        assert_bits(want, have, repr(node))


def assert_bits(want: Array, have: Array, what: str = "") -> None:
    """Equal in every bit, NaNs and signs of zeros included."""
    assert want.shape == have.shape, what
    wide = np.dtype(f"u{want.itemsize}")
    np.testing.assert_array_equal(
        np.ascontiguousarray(have).view(wide), np.ascontiguousarray(want).view(wide), what
    )


__all__ = [
    "DEEP",
    "THRESHOLDS",
    "Array",
    "assert_bits",
    "assert_same",
    "expected_of",
    "law",
]
