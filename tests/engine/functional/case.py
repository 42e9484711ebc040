"""One comparison with torch: a call that both sides understand, and the arrays it is given.

``tests/tools/torch_goldens.py`` runs the call with torch and stores values and gradients; the tests
run it with the engine. torch itself is needed to make the goldens only.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Maker = Callable[[np.random.Generator], Array]


@dataclass(frozen=True)
class Case:
    """``call(F, *arguments)`` with F a namespace like torch.nn.functional.

    ``inputs``: makers of the arguments, by a generator seeded with the name. Float arrays get
    gradients, but for those in ``fixed`` (positions). Values agree within ``rtol`` relatively and
    ``atol`` absolutely, gradients within ten times that.
    """

    name: str
    call: Callable[..., Any]
    inputs: tuple[Maker, ...]
    fixed: tuple[int, ...] = ()
    rtol: float = 1e-5
    atol: float = 2e-6

    def arrays(self) -> list[Array]:
        """The arguments."""
        random = np.random.default_rng(zlib.crc32(self.name.encode()))
        return [make(random) for make in self.inputs]

    def moving(self, arrays: list[Array]) -> list[int]:
        """Positions of the arguments that get gradients."""
        return [
            at
            for at, array in enumerate(arrays)
            if array.dtype.kind == "f" and at not in self.fixed
        ]


@dataclass
class Cases:
    """A family of cases under construction; names are unique."""

    found: dict[str, Case] = field(default_factory=dict)

    def add(self, name: str, call: Callable[..., Any], *inputs: Maker, **options: Any) -> None:
        """One more case."""
        assert name not in self.found, name
        self.found[name] = Case(name, call, inputs, **options)


def uniform(*shape: int, low: float = -1.0, high: float = 1.0) -> Maker:
    """float32 in [low, high)."""
    return lambda random: random.uniform(low, high, shape).astype(np.float32)


def integers(*shape: int, high: int) -> Maker:
    """int64 in 0..high - 1."""
    return lambda random: random.integers(0, high, shape)


def signs(*shape: int) -> Maker:
    """int64 of 1 and -1."""
    return lambda random: random.integers(0, 2, shape) * 2 - 1


def given(values: Any, dtype: Any = np.float32) -> Maker:
    """These very values."""
    return lambda random: np.array(values, dtype=dtype)


def weights(shape: tuple[int, ...]) -> Array:
    """What a result is multiplied with before it is summed and differentiated: no two alike."""
    count = int(np.prod(shape))
    return (0.5 + (np.arange(count) * 0.618034) % 1.0).astype(np.float32).reshape(shape)


def outputs_of(result: Any) -> tuple[Any, ...]:
    """One output or several, as a tuple."""
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def part(stored: Mapping[str, Array], name: str, kind: str, at: int) -> Array:
    """One array of a golden file."""
    return stored[f"{name}/{kind}{at}"]
