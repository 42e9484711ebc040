"""Indexing, order, products, elements and attention against torch's recorded results."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import functional
from flopmarket.engine.grad import grad
from flopmarket.engine.tensor import Tensor
from tests.engine.frontend.near import tensor
from tests.engine.sequence.cases import CASES
from tests.tools.torch_goldens_sequence import weights

VECTORS = Path(__file__).parents[2] / "vectors" / "torch" / "sequence.npz"


@cache
def golden() -> Mapping[str, np.ndarray[Any, Any]]:
    with np.load(VECTORS) as file:
        return dict(file)


def arrays(name: str, kind: str) -> dict[int, np.ndarray[Any, Any]]:
    prefix = f"{name}/{kind}/"
    return {int(k[len(prefix) :]): v for k, v in golden().items() if k.startswith(prefix)}


def namespace() -> SimpleNamespace:
    """What a case is called with: functional names first, then the tensor methods."""
    methods = {name: getattr(Tensor, name) for name in dir(Tensor) if not name.startswith("_")}
    return SimpleNamespace(**{**methods, **vars(functional)})


@pytest.mark.parametrize("name", CASES)
def test_as_torch(name: str) -> None:
    case = CASES[name]
    inputs = [tensor(array) for _, array in sorted(arrays(name, "in").items())]
    result = case.call(namespace(), *inputs)
    outputs = list(result) if isinstance(result, tuple | list) else [result]
    wanted = arrays(name, "out")
    assert len(outputs) == len(wanted)
    for at, output in enumerate(outputs):
        found = output.numpy()
        assert found.shape == wanted[at].shape
        assert found.dtype == wanted[at].dtype
        if found.dtype.kind == "f":
            np.testing.assert_allclose(found, wanted[at], rtol=2e-6, atol=2e-6)
        else:
            np.testing.assert_array_equal(found, wanted[at])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.gradient])
def test_derivatives_as_torch(name: str) -> None:
    inputs = [tensor(array) for _, array in sorted(arrays(name, "in").items())]
    result = CASES[name].call(namespace(), *inputs)
    loss = tensor(np.float32(0))
    for output in result if isinstance(result, tuple | list) else [result]:
        if output.dtype.is_float:
            loss = loss + (output * tensor(weights(output.shape))).sum()
    wanted = arrays(name, "grad")
    found = grad(loss, [inputs[at] for at in wanted])
    for (at, exact), value in zip(wanted.items(), found, strict=True):
        message = f"input {at}"
        np.testing.assert_allclose(value.numpy(), exact, rtol=2e-5, atol=1e-5, err_msg=message)
