"""torch.nn.functional's names over lazy tensors: pure functions, no state, no flags.

Grouped by what they do: ``activations``, ``layers`` (linear, convolution, pooling, embedding,
dropout), ``normalisation`` and ``losses``. ``nn.py`` wraps them in modules.
"""

from flopmarket.engine.functional.activations import (
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    tanh,
)
from flopmarket.engine.functional.layers import (
    avg_pool2d,
    conv2d,
    dropout,
    embedding,
    linear,
    max_pool2d,
    one_hot,
)
from flopmarket.engine.functional.losses import cross_entropy, mse_loss, nll_loss
from flopmarket.engine.functional.normalisation import BatchStatistics, batch_norm, layer_norm

__all__ = [
    "BatchStatistics",
    "avg_pool2d",
    "batch_norm",
    "conv2d",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "tanh",
]
