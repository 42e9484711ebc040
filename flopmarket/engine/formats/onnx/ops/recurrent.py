"""RNN, LSTM and GRU with all their attributes, over the engine's loop over time.

float64 is computed in float32: the engine has no elementary functions in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flopmarket.engine.creation import stack, zeros
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.ops.attention import narrowed
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.functional import linear, softplus, softsign
from flopmarket.engine.functional.recurrent import State, Step, recur
from flopmarket.engine.tensor import Tensor

Activation = Callable[[Tensor], Tensor]

# name: (function of x, alpha, beta; default alpha; default beta); None: takes no such number
_ACTIVATIONS: dict[
    str, tuple[Callable[[Tensor, float, float], Tensor], float | None, float | None]
] = {
    "relu": (lambda x, a, b: x.relu(), None, None),
    "tanh": (lambda x, a, b: x.tanh(), None, None),
    "sigmoid": (lambda x, a, b: x.sigmoid(), None, None),
    "softsign": (lambda x, a, b: softsign(x), None, None),
    "softplus": (lambda x, a, b: softplus(x), None, None),
    "affine": (lambda x, a, b: x * a + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: x.where(x >= 0, x * a), 0.01, None),
    "thresholdedrelu": (lambda x, a, b: x.where(x >= a, 0.0), 1.0, None),
    "scaledtanh": (lambda x, a, b: (x * b).tanh() * a, 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: (x * a + b).clamp(0.0, 1.0), 0.2, 0.5),
    "elu": (lambda x, a, b: x.where(x >= 0, x.clamp(max=0.0).expm1() * a), 1.0, None),
}


def _activations(node: OpNode, defaults: tuple[str, ...], directions: int) -> list[Activation]:
    """The functions of all directions, those of gates after the clipping of their arguments.

    activation_alpha and activation_beta are taken, in order, by those that have such a number. The
    cell of an LSTM is not clipped before its last function, as in ONNX Runtime.
    """
    names = node.get("activations") or list(defaults) * directions
    if len(names) != len(defaults) * directions:
        raise OnnxIllegal(f"{len(names)} activations, not {len(defaults) * directions}")
    alphas, betas = iter(node.get("activation_alpha", ())), iter(node.get("activation_beta", ()))
    limits = [node.get("clip")] * min(2, len(defaults)) + [None] * (len(defaults) - 2)
    return [
        _activation(name, alphas, betas, limit)
        for name, limit in zip(names, limits * directions, strict=True)
    ]


def _activation(
    name: str, alphas: Iterator[float], betas: Iterator[float], limit: float | None
) -> Activation:
    if name.lower() not in _ACTIVATIONS:
        raise OnnxIllegal(f"no activation {name!r}")
    function, alpha, beta = _ACTIVATIONS[name.lower()]
    a = 0.0 if alpha is None else next(alphas, alpha)
    b = 0.0 if beta is None else next(betas, beta)

    def apply(x: Tensor) -> Tensor:
        return function(x if limit is None else x.clamp(-limit, limit), a, b)

    return apply


Product = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
"""(x [.., K], weights [G, K], bias [G], number of the direction) -> [.., G]."""


@dataclass(frozen=True, slots=True)
class Products:
    """How inputs and states meet their weights, where that is no plain product of floats."""

    input: Product
    hidden: Product


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, _: int) -> Tensor:
    return linear(x, weight, bias)


_FLOATS = Products(_linear, _linear)


@dataclass(frozen=True, slots=True)
class _Direction:
    """Weights and functions of one direction: input and hidden [G, ..], their biases [G]."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None
    hidden_bias: Tensor | None
    activations: list[Activation]


Cell = Callable[[_Direction, int], Step]
"""(weights and functions, number of the direction) to a step."""


def _run(
    node: OpNode,
    cell: Cell,
    defaults: tuple[str, ...],
    x: Value,
    weights: tuple[Value, Value, Value],
    lengths: Value,
    initial: tuple[Value, ...],
    products: Products = _FLOATS,
) -> tuple[Tensor, ...]:
    """Y [T, directions, N, H] and the last state(s) [directions, N, H], or batch first."""
    kept = tensor(x).dtype
    data, input_, hidden = (narrowed(tensor(value)) for value in (x, weights[0], weights[1]))
    batch_first = bool(node.get("layout", 0))
    directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}.get(
        node.get("direction", "forward")
    )
    if directions is None or len(directions) != input_.shape[0]:
        raise OnnxIllegal(f"direction {node.get('direction')!r}, weights {list(input_.shape)}")
    if batch_first:
        data = data.transpose(0, 1)
    size = hidden.shape[-1]
    functions = _activations(node, defaults, len(directions))
    starts = tuple(_start(given, data, len(directions), size, batch_first) for given in initial)
    outputs: list[Tensor] = []
    finals: list[State] = []
    for at, reverse in enumerate(directions):
        own = functions[at * len(defaults) : (at + 1) * len(defaults)]
        biases: tuple[Tensor | None, ...] = (None, None)
        if weights[2] is not None:
            biases = narrowed(tensor(weights[2]))[at].chunk(2)
        direction = _Direction(input_[at], hidden[at], biases[0], biases[1], own)
        output, last = recur(
            cell(direction, at),
            products.input(data, direction.input, direction.input_bias, at),
            tuple(start[at] for start in starts),
            reverse=reverse,
            lengths=None if lengths is None else tensor(lengths),
        )
        outputs.append(output)
        finals.append(last)
    joined = stack(outputs, 1).to(kept)
    after = [stack([f[part] for f in finals], 0).to(kept) for part in range(len(initial))]
    if batch_first:
        return joined.permute(2, 0, 1, 3), *(part.transpose(0, 1) for part in after)
    return joined, *after


def _start(given: Value, x: Tensor, directions: int, size: int, batch_first: bool) -> Tensor:
    if given is None:
        return zeros(directions, x.shape[1], size, dtype=x.dtype)
    start = narrowed(tensor(given))
    return start.transpose(0, 1) if batch_first else start


@op("RNN")
def rnn(
    node: OpNode,
    x: Value,
    w: Value,
    r: Value,
    b: Value = None,
    lengths: Value = None,
    initial: Value = None,
) -> tuple[Tensor, ...]:
    def cell(weights: _Direction, _: int) -> Step:
        (f,) = weights.activations

        def step(projected: Tensor, state: State) -> State:
            return (f(projected + linear(state[0], weights.hidden, weights.hidden_bias)),)

        return step

    return _run(node, cell, ("Tanh",), x, (w, r, b), lengths, (initial,))


@op("GRU")
def gru(
    node: OpNode,
    x: Value,
    w: Value,
    r: Value,
    b: Value = None,
    lengths: Value = None,
    initial: Value = None,
) -> tuple[Tensor, ...]:
    """Gates update, reset, new; with linear_before_reset the reset scales the hidden product."""
    after_product = bool(node.get("linear_before_reset", 0))

    def cell(weights: _Direction, _: int) -> Step:
        f, g = weights.activations
        size = weights.hidden.shape[-1]
        new_weight = weights.hidden[2 * size :]
        new_bias = None if weights.hidden_bias is None else weights.hidden_bias[2 * size :]

        def step(projected: Tensor, state: State) -> State:
            (hidden,) = state
            if after_product:
                ours = linear(hidden, weights.hidden, weights.hidden_bias)
                hz, hr, hn = ours.chunk(3, -1)
            else:
                bias = None if weights.hidden_bias is None else weights.hidden_bias[: 2 * size]
                hz, hr = linear(hidden, weights.hidden[: 2 * size], bias).chunk(2, -1)
            z, r, n = projected.chunk(3, -1)
            update, reset = f(z + hz), f(r + hr)
            if after_product:
                new = g(n + reset * hn)
            else:
                new = g(n + linear(reset * hidden, new_weight, new_bias))
            return (new + update * (hidden - new),)

        return step

    return _run(node, cell, ("Sigmoid", "Tanh"), x, (w, r, b), lengths, (initial,))


@op("LSTM")
def lstm(
    node: OpNode,
    x: Value,
    w: Value,
    r: Value,
    b: Value = None,
    lengths: Value = None,
    initial: Value = None,
    initial_cell: Value = None,
    peepholes: Value = None,
) -> tuple[Tensor, ...]:
    return lstm_with(node, x, (w, r, b), lengths, (initial, initial_cell), peepholes)


def lstm_with(
    node: OpNode,
    x: Value,
    weights: tuple[Value, Value, Value],
    lengths: Value,
    initial: tuple[Value, Value],
    peepholes: Value,
    products: Products = _FLOATS,
) -> tuple[Tensor, ...]:
    """Gates input, output, forget, cell; ``peepholes`` [directions, 3 H] of the first three."""
    coupled = bool(node.get("input_forget", 0))

    def cell(weights: _Direction, at: int) -> Step:
        f, g, h = weights.activations
        peeps = None if peepholes is None else narrowed(tensor(peepholes))[at].chunk(3)

        def seen(gate: Tensor, cell: Tensor, which: int) -> Tensor:
            return gate if peeps is None else gate + peeps[which] * cell

        def step(projected: Tensor, state: State) -> State:
            hidden, cell = state
            ours = products.hidden(hidden, weights.hidden, weights.hidden_bias, at)
            i, o, forget, c = (projected + ours).chunk(4, -1)
            entering = f(seen(i, cell, 0))
            kept = 1.0 - entering if coupled else f(seen(forget, cell, 2))
            after = kept * cell + entering * g(c)
            return f(seen(o, after, 1)) * h(after), after

        return step

    return _run(node, cell, ("Sigmoid", "Tanh", "Tanh"), x, weights, lengths, initial, products)
