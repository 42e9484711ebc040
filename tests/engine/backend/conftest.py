"""One open device and one realiser for all tests of the back-end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import reference
from flopmarket.engine.graph import Node
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.open import opened
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.realise import Realiser
from flopmarket.engine.runtime.resident import CompileOptions

Array = np.ndarray[Any, Any]
Check = Callable[[Sequence[Node], dict[Node, Array]], None]


@pytest.fixture(scope="session")
def device() -> Iterator[Device]:
    with opened(devices.find(None)) as handle:
        yield handle


@pytest.fixture(scope="session")
def check() -> Iterator[Check]:
    """Fails unless the device gives the reference's bits, fused and unfused, poisoned."""
    realisers = [
        Realiser(CompileOptions(fusion=f, poison=True), max_plans=2) for f in (True, False)
    ]

    def compare(outputs: Sequence[Node], leaves: dict[Node, Array]) -> None:
        outputs = list(dict.fromkeys(outputs))
        expected = reference.evaluate(canonicalise(outputs), leaves)
        for realiser in realisers:
            for node, want, have in zip(
                outputs, expected, realiser.realise(outputs, leaves), strict=True
            ):
                assert have.shape == want.shape and have.dtype == want.dtype
                np.testing.assert_array_equal(
                    have.view(bits(have)), want.view(bits(want)), repr(node)
                )

    yield compare
    for realiser in realisers:
        realiser.close()


def bits(array: Array) -> Any:
    """An integer type of the array's width, so that comparison sees every bit."""
    return np.dtype(f"u{array.itemsize}")
