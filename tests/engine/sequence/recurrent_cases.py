"""Recurrent networks that are compared with torch's modules of the same name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Network:
    """A module's name and arguments, with sizes of its input and the lengths of its sequences."""

    module: str
    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (5, 3, 4)
    lengths: tuple[int, ...] | None = None


HIDDEN = 3

RECURRENT: dict[str, Network] = {
    "rnn_tanh": Network("RNN"),
    "rnn_relu": Network("RNN", {"nonlinearity": "relu", "batch_first": True, "bias": False}),
    "lstm": Network("LSTM", {"num_layers": 2}),
    "lstm_both": Network("LSTM", {"bidirectional": True, "num_layers": 2, "batch_first": True}),
    "lstm_projected": Network("LSTM", {"proj_size": 2, "bidirectional": True}),
    "lstm_lengths": Network("LSTM", {"bidirectional": True}, lengths=(5, 2, 3)),
    "gru": Network("GRU", {"bidirectional": True, "num_layers": 2}),
    "gru_lengths": Network("GRU", {"bidirectional": True}, lengths=(1, 5, 4)),
    "gru_single": Network("GRU", {}, shape=(4, 4)),
}


def torch_run(network: Network) -> dict[str, Array]:
    """Input, weights, results and the derivative by the input, by torch."""
    import torch

    torch.manual_seed(7)
    module = getattr(torch.nn, network.module)(4, HIDDEN, **network.options)
    x = torch.randn(network.shape, requires_grad=True)
    given: Any = x
    if network.lengths is not None:
        first = network.options.get("batch_first", False)
        given = torch.nn.utils.rnn.pack_padded_sequence(
            x, torch.tensor(network.lengths), first, enforce_sorted=False
        )
    output, state = module(given)
    if network.lengths is not None:
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, first)
    output.square().sum().backward()
    assert x.grad is not None
    states = state if isinstance(state, tuple) else (state,)
    found = {"x": x, "out": output, "grad": x.grad}
    found |= {f"state/{at}": part for at, part in enumerate(states)}
    found |= {f"weight/{name}": value for name, value in module.state_dict().items()}
    return {name: value.detach().numpy() for name, value in found.items()}
