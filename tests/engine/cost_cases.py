"""Programs whose memory and data movement are awkward to foretell, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flopmarket.engine import dtypes, functional, graph, nn, optim, trace
from flopmarket.engine.dtypes import DType, float16, float32, float64, int8, int32
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.tensor import Tensor

Form = tuple[DType, tuple[int, ...]]


def _training(model: nn.Module, x: tuple[int, ...], y: tuple[int, ...], loss: Any) -> Program:
    step = trace.training_step(model, loss, optim.Adam(lr=1e-3))
    target = np.zeros(y, np.int32 if len(y) == 1 else np.float32)
    return trace.trace(step, step.init(1), {"x": np.zeros(x, np.float32), "y": target})


def inference(compute: Callable[..., Tensor], *forms: Form, frozen: int = 0) -> Program:
    """``compute`` of inputs of these forms, of which the last ``frozen`` are frozen tensors."""
    split = len(forms) - frozen
    kinds = ["input"] * split + ["frozen"] * frozen
    leaves = [
        graph.input_(kind, f"x{at}", dtype, shape)
        for at, (kind, (dtype, shape)) in enumerate(zip(kinds, forms, strict=True))
    ]
    specs = [TensorSpec(leaf.arg[1], leaf.dtype, leaf.shape) for leaf in leaves]
    return Program.build(
        frozen=specs[split:],
        state=[],
        inputs=specs[:split],
        next_state=[],
        outputs=[("y", compute(*map(Tensor, leaves)).node)],
    )


def _squares(output: Any, target: Tensor) -> Tensor:
    first = output[0] if isinstance(output, tuple) else output
    return ((first - target) ** 2).mean()


def _perceptron() -> Program:
    model = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Dropout(0.1), nn.Linear(200, 10))
    return _training(model, (64, 300), (64,), functional.cross_entropy)


def _convolutions() -> Program:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 64, 10),
    )
    return _training(model, (16, 3, 32, 32), (16,), functional.cross_entropy)


def _transformer() -> Program:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return _training(layer, (4, 16, 32), (4, 16, 32), _squares)


def _lstm() -> Program:
    return _training(nn.LSTM(16, 32, batch_first=True), (4, 20, 16), (4, 20, 32), _squares)


def _attention() -> Program:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    return inference(attend, *[(float32, (2, 4, 64, 32))] * 3)


def _integer_dot() -> Program:
    return inference(
        lambda a, b: Tensor(graph.dot(a.node, b.node)), (int8, (1, 128, 256)), (int8, (1, 256, 128))
    )


def _weights() -> Program:
    """The operand is frozen: packed once, and kept."""
    return inference(lambda x, w: x @ w, (float32, (64, 512)), (float32, (512, 512)), frozen=1)


def _batch_of_one_matrix() -> Program:
    return inference(lambda a, b: a @ b, (float32, (16, 48, 64)), (float32, (64, 80)))


def _gather() -> Program:
    return inference(
        lambda table, rows: functional.embedding(rows, table),
        (float32, (20_000, 64)),
        (int32, (512,)),
    )


def _scatter() -> Program:
    def count(table: Tensor, rows: Tensor, updates: Tensor) -> Tensor:
        return Tensor(graph.scatter("add", table.node, rows.node, updates.node)) * 2

    return inference(count, (float32, (5_000, 64)), (int32, (512,)), (float32, (512, 64)))


CASES: dict[str, Callable[[], Program]] = {
    "perceptron": _perceptron,
    "convolutions": _convolutions,
    "transformer": _transformer,
    "lstm": _lstm,
    "attention": _attention,
    "frozen weights": _weights,
    "batch of one matrix": _batch_of_one_matrix,
    "int8 dot": _integer_dot,
    "float16 product": lambda: inference(
        lambda a, b: a @ b, (float16, (64, 256)), (float16, (256, 128))
    ),
    "float16 gelu": lambda: inference(functional.gelu, (float16, (256, 256))),
    "float64": lambda: inference(lambda x: x * x + x, (float64, (10_000,))),
    "long sum": lambda: inference(lambda x: (x * x).sum(), (float32, (2**20,))),
    "softmax": lambda: inference(lambda x: functional.softmax(x, -1), (float32, (128, 1000))),
    "sort": lambda: inference(lambda x: functional.sort(x)[0], (float32, (16, 1024))),
    "running sum": lambda: inference(lambda x: functional.cumsum(x, -1), (float32, (16, 1024))),
    "gather": _gather,
    "scatter": _scatter,
    "states that stay": lambda: _states(),
}


def _states() -> Program:
    """One state stays, two get the same value, one takes over another; an output is a state."""
    names = ("kept", "counted", "twin", "shifted")
    state = {name: graph.input_("state", name, float32, (1000,)) for name in names}
    counted = graph.add(state["counted"], graph.input_("input", "x", float32, (1000,)))
    return Program.build(
        frozen=[],
        state=[TensorSpec(name, float32, (1000,)) for name in names],
        inputs=[TensorSpec("x", float32, (1000,))],
        next_state=[state["kept"], counted, counted, state["counted"]],
        outputs=[("same", counted), ("literal", graph.filled(1.0, dtypes.float32, (1000,)))],
    )
