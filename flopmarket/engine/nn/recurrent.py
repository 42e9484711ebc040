"""Recurrent networks and cells with torch's parameter names, shapes and bounds."""

from __future__ import annotations

from typing import Any

from flopmarket.engine import functional
from flopmarket.engine.creation import zeros
from flopmarket.engine.functional.recurrent import CellWeights, State
from flopmarket.engine.nn.initialisers import uniform
from flopmarket.engine.nn.module import Module, Parameter
from flopmarket.engine.tensor import Tensor


class _Network(Module):
    """Layers one above the other, in one or both directions.

    Parameters of layer n: weight_ih_l{n} [G, I], weight_hh_l{n} [G, H], bias_ih_l{n}, bias_hh_l{n}
    [G], weight_hr_l{n} with a projection; those of the reverse direction end in "_reverse".
    """

    gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
    ) -> None:
        self.hidden_size, self.proj_size = hidden_size, proj_size
        self.num_layers, self.dropout = num_layers, dropout
        self.batch_first, self.bidirectional = batch_first, bidirectional
        self.suffixes = ("", "_reverse") if bidirectional else ("",)
        begin = uniform(hidden_size**-0.5)
        rows, given = self.gates * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else given * len(self.suffixes)
            for suffix in self.suffixes:
                name = f"l{layer}{suffix}"
                self.register(f"weight_ih_{name}", Parameter((rows, width), begin))
                self.register(f"weight_hh_{name}", Parameter((rows, given), begin))
                if bias:
                    self.register(f"bias_ih_{name}", Parameter((rows,), begin))
                    self.register(f"bias_hh_{name}", Parameter((rows,), begin))
                if proj_size:
                    shape = (proj_size, hidden_size)
                    self.register(f"weight_hr_{name}", Parameter(shape, begin))

    def _weights(self) -> list[CellWeights]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        return [
            CellWeights(*(self._optional(f"{name}_l{layer}{suffix}") for name in names))
            for layer in range(self.num_layers)
            for suffix in self.suffixes
        ]

    def _optional(self, name: str) -> Any:
        return getattr(self, name) if name in self._members else None

    def _start(self, x: Tensor, width: int) -> Tensor:
        count = self.num_layers * len(self.suffixes)
        batch = () if x.ndim == 2 else (x.shape[0 if self.batch_first else 1],)
        return zeros(count, *batch, width, dtype=x.dtype)

    def _options(self, lengths: Tensor | None) -> dict[str, Any]:
        return {
            "bidirectional": self.bidirectional,
            "batch_first": self.batch_first,
            "dropout_p": self.dropout if self.training else 0.0,
            "lengths": lengths,
        }


class RNN(_Network):
    """x [T, N, I], or [N, T, I] with ``batch_first``, -> (outputs, last state [layers, N, H]).

    ``nonlinearity``: "tanh" or "relu". ``lengths`` [N] ends sequences early, see ``functional``.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        )
        self.nonlinearity = nonlinearity

    def forward(
        self, x: Tensor, hx: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        state = self._start(x, self.hidden_size) if hx is None else hx
        options = self._options(lengths)
        return functional.rnn(x, state, self._weights(), nonlinearity=self.nonlinearity, **options)


class LSTM(_Network):
    """As :class:`RNN` with a state (hidden, cell); ``proj_size`` makes the hidden one smaller."""

    gates = 4

    def forward(
        self,
        x: Tensor,
        hx: tuple[Tensor, Tensor] | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden = self.proj_size or self.hidden_size
        state = (self._start(x, hidden), self._start(x, self.hidden_size)) if hx is None else hx
        return functional.lstm(x, state, self._weights(), **self._options(lengths))


class GRU(_Network):
    """As :class:`RNN`."""

    gates = 3

    def forward(
        self, x: Tensor, hx: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        state = self._start(x, self.hidden_size) if hx is None else hx
        return functional.gru(x, state, self._weights(), **self._options(lengths))


class _Cell(Module):
    """One step; weight_ih [G, I], weight_hh [G, H], bias_ih and bias_hh [G]."""

    gates: int
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        self.hidden_size = hidden_size
        begin, rows = uniform(hidden_size**-0.5), self.gates * hidden_size
        self.register("weight_ih", Parameter((rows, input_size), begin))
        self.register("weight_hh", Parameter((rows, hidden_size), begin))
        self.register("bias_ih", Parameter((rows,), begin) if bias else None)
        self.register("bias_hh", Parameter((rows,), begin) if bias else None)

    def _weights(self) -> CellWeights:
        return CellWeights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)

    def _projected(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight_ih, self.bias_ih)

    def _start(self, x: Tensor) -> Tensor:
        return zeros(*x.shape[:-1], self.hidden_size, dtype=x.dtype)


class RNNCell(_Cell):
    """x [N, I] and a state [N, H] -> the next state."""

    gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh"
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        step = functional.rnn_cell(self._weights(), self.nonlinearity)
        return step(self._projected(x), (self._start(x) if hx is None else hx,))[0]


class LSTMCell(_Cell):
    """x [N, I] and a state (hidden, cell) -> the next state."""

    gates = 4

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> State:
        state = (self._start(x), self._start(x)) if hx is None else hx
        return functional.lstm_cell(self._weights())(self._projected(x), state)


class GRUCell(_Cell):
    """x [N, I] and a state [N, H] -> the next state."""

    gates = 3

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        state = (self._start(x) if hx is None else hx,)
        return functional.gru_cell(self._weights())(self._projected(x), state)[0]
