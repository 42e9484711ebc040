"""Values and derivatives of the functional layer against torch's, stored in ``goldens``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import functional
from flopmarket.engine.grad import grad
from flopmarket.engine.tensor import Tensor
from tests.engine.functional import double_cases, spatial_cases, value_cases
from tests.engine.functional.case import Array, Case, outputs_of, weights

GOLDENS = Path(__file__).parent / "goldens"
FAMILIES = {
    "spatial": spatial_cases.CASES.found,
    "values": value_cases.CASES.found,
    "doubles": double_cases.CASES.found,
}
NAMES = [(family, name) for family, cases in FAMILIES.items() for name in cases]


class Functional:
    """The engine's functions with torch's way to ask for a normalisation without statistics."""

    @staticmethod
    def batch_norm(
        x: Tensor, mean: None, variance: None, weight: Tensor, bias: Tensor, training: bool
    ) -> Tensor:
        channels = x.shape[1]
        zeros, ones = Tensor([0.0] * channels), Tensor([1.0] * channels)
        return functional.batch_norm(x, zeros, ones, weight, bias, training).output

    @staticmethod
    def recurrent(kind: str, x: Tensor, hidden: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        """One layer in one direction, under torch's order of arguments."""
        layer = [functional.CellWeights(*given)]
        if kind == "lstm":
            return functional.lstm(x, (hidden, hidden), layer)[0]
        return (functional.gru if kind == "gru" else functional.rnn)(x, hidden, layer)[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(functional, name)


@cache
def stored(family: str) -> dict[str, Array]:
    with np.load(GOLDENS / f"{family}.npz") as archive:
        return dict(archive)


def answers(case: Case, golden: dict[str, Array], device: str | None) -> list[Tensor]:
    """Outputs, then derivatives, of a case with the golden's arguments."""
    arrays = [golden[f"{case.name}/in{at}"] for at in range(len(case.inputs))]
    given = [Tensor(array, device=device) for array in arrays]
    outputs = outputs_of(case.call(Functional(), *given))
    loss = (outputs[0] * Tensor(weights(outputs[0].shape), device=device)).sum()
    return [*outputs, *grad(loss, [given[at] for at in case.moving(arrays)])]


def expected(case: Case, golden: dict[str, Array]) -> list[tuple[Array, float]]:
    """What torch gave, with the factor of the tolerances."""
    kinds = (("out", 1.0), ("grad", 10.0))
    return [
        (golden[key], factor)
        for kind, factor in kinds
        for key in golden
        if key.startswith(f"{case.name}/{kind}")
    ]


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_values_and_derivatives(family: str, name: str) -> None:
    case, golden = FAMILIES[family][name], stored(family)
    found = answers(case, golden, "reference")
    wanted = expected(case, golden)
    assert len(found) == len(wanted)
    for ours, (theirs, factor) in zip(found, wanted, strict=True):
        value = ours.numpy()
        assert value.shape == theirs.shape
        assert value.dtype == theirs.dtype
        np.testing.assert_allclose(value, theirs, case.rtol * factor, case.atol * factor)


ON_A_DEVICE = (
    ("spatial", "conv1d 2 1 1 2"),
    ("spatial", "conv3d"),
    ("spatial", "conv_transpose2d output_padding"),
    ("spatial", "max_pool2d uneven"),
    ("spatial", "adaptive_avg_pool2d 3"),
    ("spatial", "interpolate bicubic scales False"),
    ("spatial", "grid_sample bilinear reflection False"),
    ("spatial", "embedding_bag offsets mean"),
    ("values", "group_norm"),
    ("values", "cross_entropy weighted mean 0.1"),
    ("doubles", "float64 gelu"),
    ("doubles", "float64 attention, causal"),
    ("doubles", "float64 lstm"),
)


@pytest.mark.parametrize(("family", "name"), ON_A_DEVICE)
def test_a_device_gives_the_bits_of_the_reference(family: str, name: str) -> None:
    case, golden = FAMILIES[family][name], stored(family)
    by_reference = answers(case, golden, "reference")
    by_device = answers(case, golden, None)
    for one, other in zip(by_reference, by_device, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_the_goldens_are_those_of_the_cases() -> None:
    for family, cases in FAMILIES.items():
        assert {key.rsplit("/", 1)[0] for key in stored(family)} == set(cases)
    assert sum(path.stat().st_size for path in GOLDENS.iterdir()) < 2**20
