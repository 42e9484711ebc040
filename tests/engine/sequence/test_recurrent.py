"""RNN, LSTM and GRU against torch's modules, and in pieces against themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flopmarket.engine import functional
from flopmarket.engine.functional import CellWeights
from flopmarket.engine.grad import grad
from flopmarket.engine.tensor import Tensor
from tests.engine.frontend.near import tensor
from tests.engine.sequence.recurrent_cases import HIDDEN, RECURRENT, Network
from tests.engine.sequence.test_goldens import golden


def cell_weights(name: str, network: Network) -> list[CellWeights]:
    def find(kind: str, layer: int, suffix: str) -> Tensor | None:
        array = golden().get(f"{name}/weight/{kind}_l{layer}{suffix}")
        return None if array is None else tensor(array)

    suffixes = ["", "_reverse"] if network.options.get("bidirectional") else [""]
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    return [
        CellWeights(*(find(kind, layer, suffix) for kind in kinds))  # type: ignore[arg-type]
        for layer in range(network.options.get("num_layers", 1))
        for suffix in suffixes
    ]


def start(network: Network, batch: tuple[int, ...], width: int) -> Tensor:
    count = network.options.get("num_layers", 1) * (1 + network.options.get("bidirectional", 0))
    return tensor(np.zeros((count, *batch, width), np.float32))


def run(name: str, x: Tensor, state: Any = None) -> tuple[Tensor, tuple[Tensor, ...]]:
    network = RECURRENT[name]
    first = network.options.get("batch_first", False)
    batch = () if x.ndim == 2 else (x.shape[0 if first else 1],)
    options: dict[str, Any] = {
        "bidirectional": network.options.get("bidirectional", False),
        "batch_first": first,
    }
    if network.lengths is not None:
        options["lengths"] = tensor(np.array(network.lengths))
    weights = cell_weights(name, network)
    hidden = start(network, batch, network.options.get("proj_size", HIDDEN))
    if network.module == "LSTM":
        pair = (hidden, start(network, batch, HIDDEN)) if state is None else state
        return functional.lstm(x, pair, weights, **options)
    hidden = hidden if state is None else state[0]
    if network.module == "GRU":
        output, last = functional.gru(x, hidden, weights, **options)
    else:
        kind = network.options.get("nonlinearity", "tanh")
        output, last = functional.rnn(x, hidden, weights, nonlinearity=kind, **options)
    return output, (last,)


@pytest.mark.parametrize("name", RECURRENT)
def test_as_torch(name: str) -> None:
    given = golden()
    x = tensor(given[f"{name}/x"])
    output, state = run(name, x)
    np.testing.assert_allclose(output.numpy(), given[f"{name}/out"], rtol=1e-5, atol=1e-6)
    for at, part in enumerate(state):
        wanted = given[f"{name}/state/{at}"]
        np.testing.assert_allclose(part.numpy(), wanted, rtol=1e-5, atol=1e-6)
    (found,) = grad((output * output).sum(), [x])
    np.testing.assert_allclose(found.numpy(), given[f"{name}/grad"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["rnn_tanh", "lstm", "gru_single"])
def test_pieces_have_the_bits_of_the_whole(name: str) -> None:
    x = golden()[f"{name}/x"]
    output, state = run(name, tensor(x))
    first, between = run(name, tensor(x[:2]))
    second, last = run(name, tensor(x[2:]), between)
    pieces = np.concatenate([first.numpy(), second.numpy()])
    assert pieces.tobytes() == output.numpy().tobytes()
    for found, wanted in zip(last, state, strict=True):
        assert found.numpy().tobytes() == wanted.numpy().tobytes()
