"""Attention, transformer and recurrent modules against torch's, by state dicts of one form."""

from __future__ import annotations

import numpy as np
import pytest

from flopmarket.engine import nn
from tests.engine.frontend.near import tensor
from tests.engine.sequence.module_cases import MODULES, outputs
from tests.engine.sequence.test_goldens import arrays, golden


@pytest.mark.parametrize("name", MODULES)
def test_as_torch(name: str) -> None:
    case = MODULES[name]
    module = getattr(nn, case.module)(*case.arguments, **case.options)
    prefix = f"{name}/state/"
    state = {k[len(prefix) :]: v for k, v in golden().items() if k.startswith(prefix)}
    assert module.state_names() == list(state)
    module.load_state_dict({key: tensor(value) for key, value in state.items()})
    given = [tensor(x) for _, x in sorted(arrays(name, "in").items())]
    found = outputs(case.call(module, *given, *(tensor(mask) for mask in case.masks)))
    wanted = arrays(name, "out")
    assert len(found) == len(wanted)
    for at, value in enumerate(found):
        np.testing.assert_allclose(value.numpy(), wanted[at], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", MODULES)
def test_first_values_are_within_torchs_bounds(name: str) -> None:
    case = MODULES[name]
    module = getattr(nn, case.module)(*case.arguments, **case.options)
    for key, value in module.init(1, "reference").items():
        assert np.abs(value).max() <= 1.0, key
        if "weight_" in key or key.endswith("proj_weight"):
            assert value.std() > 0
