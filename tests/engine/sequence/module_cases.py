"""Modules that are compared with torch's of the same name and arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ModuleCase:
    """``call(module, *tensors)`` gives a tensor or a tuple of them (None left out)."""

    module: str
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ()
    masks: tuple[Array, ...] = ()
    call: Callable[..., Any] = lambda module, *x: module(*x)


LATER = np.triu(np.ones((4, 4), bool), 1)
PADDING = np.array([[False, False, False, True], [False, True, True, True]])

MODULES: dict[str, ModuleCase] = {
    "mha": ModuleCase("MultiheadAttention", (8, 2), {}, ((4, 2, 8), (5, 2, 8), (5, 2, 8))),
    "mha_masks": ModuleCase(
        "MultiheadAttention",
        (8, 2),
        {"batch_first": True},
        ((2, 4, 8),),
        (LATER, PADDING),
        lambda m, x, later, padding: m(
            x, x, x, key_padding_mask=padding, attn_mask=later, average_attn_weights=False
        ),
    ),
    "mha_widths": ModuleCase(
        "MultiheadAttention",
        (8, 4),
        {"kdim": 6, "vdim": 5, "bias": False},
        ((4, 2, 8), (3, 2, 6), (3, 2, 5)),
    ),
    "encoder_layer": ModuleCase(
        "TransformerEncoderLayer",
        (8, 2, 12),
        {"dropout": 0.0},
        ((4, 2, 8),),
        (LATER,),
        lambda m, x, later: m(x, src_mask=later),
    ),
    "encoder_layer_norm_first": ModuleCase(
        "TransformerEncoderLayer",
        (8, 2, 12),
        {"dropout": 0.0, "norm_first": True, "activation": "gelu", "batch_first": True},
        ((2, 4, 8),),
    ),
    "decoder_layer": ModuleCase(
        "TransformerDecoderLayer",
        (8, 2, 12),
        {"dropout": 0.0, "batch_first": True},
        ((2, 4, 8), (2, 3, 8)),
        (LATER,),
        lambda m, x, memory, later: m(x, memory, tgt_mask=later),
    ),
    "rnn_cell": ModuleCase("RNNCell", (4, 3), {"nonlinearity": "relu"}, ((2, 4), (2, 3))),
    "gru_cell": ModuleCase("GRUCell", (4, 3), {"bias": False}, ((2, 4), (2, 3))),
    "lstm_cell": ModuleCase(
        "LSTMCell", (4, 3), {}, ((2, 4), (2, 3), (2, 3)), (), lambda m, x, h, c: m(x, (h, c))
    ),
    "lstm_module": ModuleCase(
        "LSTM",
        (4, 3, 2),
        {"bidirectional": True, "proj_size": 2},
        ((5, 2, 4),),
        (),
        lambda m, x: m(x)[0],
    ),
    "gru_module": ModuleCase("GRU", (4, 3), {"batch_first": True}, ((2, 5, 4),)),
    "rnn_module": ModuleCase("RNN", (4, 3), {"num_layers": 2}, ((5, 2, 4),)),
}


def outputs(result: Any) -> list[Any]:
    """The tensors of a result."""
    given = result if isinstance(result, tuple | list) else [result]
    return [value for value in given if value is not None]


def torch_module(case: ModuleCase) -> dict[str, Array]:
    """Inputs, state dict and results of one case, by torch."""
    import torch

    torch.manual_seed(3)
    module = getattr(torch.nn, case.module)(*case.arguments, **case.options)
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -0.7, 0.7)
    given = [torch.randn(shape) for shape in case.shapes]
    masks = [torch.from_numpy(mask) for mask in case.masks]
    with torch.no_grad():
        found = outputs(case.call(module, *given, *masks))
    arrays = {f"in/{at}": x for at, x in enumerate(given)}
    arrays |= {f"out/{at}": x for at, x in enumerate(found)}
    arrays |= {f"state/{name}": value for name, value in module.state_dict().items()}
    return {name: value.numpy() for name, value in arrays.items()}
