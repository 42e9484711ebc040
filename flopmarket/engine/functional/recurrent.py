"""Recurrent networks: RNN, LSTM and GRU with torch's weights, as loops over time.

The products with the inputs are one DOT over all steps; what is left in the loop (``scan``) is the
product with the state and the gates. A sequence run in pieces, with the state handed on, has the
bits of a run in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from flopmarket.engine import graph
from flopmarket.engine.creation import cat, zeros
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.control import scan
from flopmarket.engine.functional.dropouts import dropout
from flopmarket.engine.functional.layers import linear
from flopmarket.engine.tensor import Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], State]
"""(projected inputs [N, G], state) -> next state; the first tensor of a state is its output."""


class CellWeights(NamedTuple):
    """Weights of one layer in one direction, G being gates * hidden size.

    ``input`` [G, I], ``hidden`` [G, H], their biases [G]; ``projection`` [P, hidden size] makes an
    LSTM's outputs smaller (then H is P).
    """

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None = None
    hidden_bias: Tensor | None = None
    projection: Tensor | None = None


Cell = Callable[[CellWeights], Step]


def recur(
    step: Step,
    inputs: Tensor,
    state: State,
    *,
    reverse: bool = False,
    lengths: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Outputs [T, N, ..] of ``step`` over ``inputs`` [T, N, G], and the last state.

    ``lengths``, integers [N], ends sequences early: their later outputs are 0 and their state
    stays. ``reverse`` goes from the last step (of each sequence) to the first.
    """
    if lengths is None:

        def plain(carry: State, x: State) -> tuple[State, State]:
            after = step(x[0], carry)
            return after, after[:1]

        last, outputs = scan(plain, state, (inputs,), reverse=reverse)
        return outputs[0], last
    count, batch = inputs.shape[:2]
    ramp = Tensor(graph.iota(0, (count, batch))) if count and batch else zeros(count, batch).int()
    alive = ramp < lengths.int()

    def bounded(carry: State, x: State) -> tuple[State, State]:
        live = x[1].unsqueeze(-1)
        after = step(x[0], carry)
        kept = tuple(new.where(live, old) for new, old in zip(after, carry, strict=True))
        return kept, (after[0].where(live, 0.0),)

    last, outputs = scan(bounded, state, (inputs, alive), reverse=reverse)
    return outputs[0], last


# ---------------------------------------------------------------- cells


def rnn_cell(weights: CellWeights, nonlinearity: str = "tanh") -> Step:
    """h' = tanh or relu of the sum of both products."""
    if nonlinearity not in ("tanh", "relu"):
        raise EngineError(f"no nonlinearity {nonlinearity!r}: tanh, relu", code="RNN_KIND")

    def step(projected: Tensor, state: State) -> State:
        total = projected + linear(state[0], weights.hidden, weights.hidden_bias)
        return (total.tanh() if nonlinearity == "tanh" else total.relu(),)

    return step


def lstm_cell(weights: CellWeights) -> Step:
    """Gates input, forget, cell, output: c' = f c + i g, h' = o tanh(c')."""

    def step(projected: Tensor, state: State) -> State:
        hidden, cell = state
        gates = projected + linear(hidden, weights.hidden, weights.hidden_bias)
        i, f, g, o = gates.chunk(4, -1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        if weights.projection is not None:
            hidden = linear(hidden, weights.projection)
        return hidden, cell

    return step


def gru_cell(weights: CellWeights) -> Step:
    """Gates reset, update, new: h' = n + z (h - n), n using the reset product of h."""

    def step(projected: Tensor, state: State) -> State:
        (hidden,) = state
        ours = linear(hidden, weights.hidden, weights.hidden_bias)
        (r, z, n), (hr, hz, hn) = projected.chunk(3, -1), ours.chunk(3, -1)
        new = (n + (r + hr).sigmoid() * hn).tanh()
        return (new + (z + hz).sigmoid() * (hidden - new),)

    return step


# ---------------------------------------------------------------- whole networks


def _network(
    cell: Cell,
    x: Tensor,
    state: State,
    weights: Sequence[CellWeights],
    *,
    bidirectional: bool,
    batch_first: bool,
    dropout_p: float,
    lengths: Tensor | None,
) -> tuple[Tensor, State]:
    """Layers one above the other; states are [layers * directions, N, ..]."""
    directions = 2 if bidirectional else 1
    if len(weights) % directions or any(part.shape[0] != len(weights) for part in state):
        shapes = ", ".join(str(list(part.shape)) for part in state)
        raise EngineError(
            f"{len(weights)} sets of weights, {directions} directions, states {shapes}",
            code="SHAPE_MISMATCH",
        )
    single = x.ndim == 2
    x = x.unsqueeze(1) if single else x.transpose(0, 1) if batch_first else x
    state = tuple(part.unsqueeze(1) for part in state) if single else state
    finals: list[State] = []
    for layer in range(len(weights) // directions):
        if layer and dropout_p:
            x = dropout(x, dropout_p)
        outputs = []
        for direction in range(directions):
            at = layer * directions + direction
            projected = linear(x, weights[at].input, weights[at].input_bias)
            output, last = recur(
                cell(weights[at]),
                projected,
                tuple(part[at] for part in state),
                reverse=direction == 1,
                lengths=lengths,
            )
            outputs.append(output)
            finals.append(last)
        x = cat(outputs, -1)
    after = tuple(cat([final[at].unsqueeze(0) for final in finals], 0) for at in range(len(state)))
    if single:
        return x.squeeze(1), tuple(part.squeeze(1) for part in after)
    return x.transpose(0, 1) if batch_first else x, after


def rnn(
    x: Tensor,
    state: Tensor,
    weights: Sequence[CellWeights],
    *,
    nonlinearity: str = "tanh",
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout_p: float = 0.0,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x [T, N, I] (or [N, T, I], or [T, I]), state [layers * directions, N, H] -> (outputs
    [T, N, directions * H], last state). ``weights`` per layer, the reverse direction second."""
    output, (hidden,) = _network(
        lambda given: rnn_cell(given, nonlinearity),
        x,
        (state,),
        weights,
        bidirectional=bidirectional,
        batch_first=batch_first,
        dropout_p=dropout_p,
        lengths=lengths,
    )
    return output, hidden


def lstm(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    weights: Sequence[CellWeights],
    *,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout_p: float = 0.0,
    lengths: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """As :func:`rnn` with a state (hidden, cell)."""
    output, (hidden, cell) = _network(
        lstm_cell,
        x,
        state,
        weights,
        bidirectional=bidirectional,
        batch_first=batch_first,
        dropout_p=dropout_p,
        lengths=lengths,
    )
    return output, (hidden, cell)


def gru(
    x: Tensor,
    state: Tensor,
    weights: Sequence[CellWeights],
    *,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout_p: float = 0.0,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`rnn`."""
    output, (hidden,) = _network(
        gru_cell,
        x,
        (state,),
        weights,
        bidirectional=bidirectional,
        batch_first=batch_first,
        dropout_p=dropout_p,
        lengths=lengths,
    )
    return output, hidden
