"""Random numbers as graph primitives: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As
Easy as 1, 2, 3", SC 2011), and the scope that hands every random call its own stream.

The key is the 64-bit job seed, the counter is (step, ordinal of the call in the trace, element
index, turn of the loops around the call): a draw is a function of where it stands and of nothing
else, on every device. Two dropouts never merge, since their ordinals differ; a dropout in a loop
draws anew in every turn. Used by dropout and by parameter initialisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from math import prod
from typing import NamedTuple

from flopmarket.engine import compose, graph, macros
from flopmarket.engine.dtypes import float32, uint32, uint64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Shape

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 2**32

INITIAL = _WORD - 1
"""Step word of draws outside any step (parameters, ``rand``, ``randn``); no job gets there."""

# Minimax fits in r^2 for |r| <= pi/4: (sin r - r) / r^3 and (cos r - 1 + r^2/2) / r^4.
_SINE = (-1.6666655e-01, 8.332189e-03, -1.9518286e-04)
_COSINE = (4.1666646e-02, -1.3887311e-03, 2.4432564e-05)

Words = tuple[Node, Node, Node, Node]


class Turned(NamedTuple):
    """The ordinal of a random call inside loops, with the turn they are in (a uint32 scalar)."""

    number: int
    turn: Node


Ordinal = int | Turned
"""Which random call of a trace a draw belongs to; callers pass on what :func:`draw` gave them."""


@dataclass(slots=True)
class Scope:
    """The random streams of one trace: its seed (uint32[2]), its step (uint32 scalar), and the
    ordinal that the next random call gets."""

    seed: Node
    step: Node
    ordinals: Iterator[int] = field(default_factory=count)


_scope: ContextVar[Scope | None] = ContextVar("flopmarket_random_scope", default=None)
_turn: ContextVar[Node | None] = ContextVar("flopmarket_random_turn", default=None)


@contextmanager
def scope(seed: Node | int, step: Node | int) -> Iterator[Scope]:
    """Random calls inside draw from this seed and step, with ordinals from 0 on.

    ``trace`` opens one around a step; eager code that wants dropout opens one itself, with ints.
    """
    entered = Scope(
        key(seed) if isinstance(seed, int) else seed,
        graph.const(step, uint32) if isinstance(step, int) else step,
    )
    token = _scope.set(entered)
    try:
        yield entered
    finally:
        _scope.reset(token)


@contextmanager
def turns(turn: Node, count: int) -> Iterator[None]:
    """Random calls inside are in the body of a loop: in turn ``turn`` (uint32 scalar) of ``count``.

    Inside another loop the turn that counts is ``outer turn * count + turn``.
    """
    outer = _turn.get()
    if outer is not None:
        turn = graph.add(graph.mul(outer, graph.const(count, uint32)), turn)
    token = _turn.set(turn)
    try:
        yield
    finally:
        _turn.reset(token)


def draw() -> tuple[Node, Node, Ordinal]:
    """(seed, step, ordinal) of one more random call; raises EngineError (RANDOM_SCOPE)."""
    current = _scope.get()
    if current is None:
        raise EngineError(
            "a random call outside a trace has no seed",
            code="RANDOM_SCOPE",
            hint="wrap it in `with random.scope(seed=..., step=...)`",
        )
    number, turn = next(current.ordinals), _turn.get()
    return current.seed, current.step, number if turn is None else Turned(number, turn)


def key(seed: int) -> Node:
    """A 64-bit seed as constant uint32[2], low word first; raises EngineError (SEED_RANGE)."""
    if not 0 <= seed < 2**64:
        raise EngineError(f"seed {seed} is not in 0..2^64-1", code="SEED_RANGE")
    return graph.const([seed % _WORD, seed // _WORD], uint32, (2,))


def philox(counter: Words, seed: tuple[Node, Node]) -> Words:
    """Philox4x32-10 of four counter words under two key words, all uint32 of one shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed
    for turn in range(_ROUNDS):
        if turn:
            k0, k1 = (
                graph.add(k, compose.like(w, k)) for k, w in zip((k0, k1), _WEYL, strict=True)
            )
        high0, low0 = _wide_product(_MULTIPLIERS[0], c0)
        high1, low1 = _wide_product(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = _xor(high1, c1, k0), low1, _xor(high0, c3, k1), low0
    return c0, c1, c2, c3


def words(seed: Node, step: Node | int, ordinal: Ordinal, shape: Shape) -> Words:
    """Four random words (uint32 of ``shape``) for every element of one random call."""
    elements = prod(shape)
    if elements >= _WORD:
        raise EngineError(f"{elements} random elements in one call", code="SHAPE_TOO_LARGE")
    flat = (elements,)
    first = (
        graph.filled(step, uint32, flat)
        if isinstance(step, int)
        else compose.broadcast_to(step, flat)
    )
    index = graph.iota(0, flat, uint32)
    halves = tuple(compose.broadcast_to(graph.slice_(seed, [(at, 1, 1)]), flat) for at in (0, 1))
    turn = compose.like(0, index)
    if isinstance(ordinal, Turned):
        turn = compose.broadcast_to(ordinal.turn, flat)
        ordinal = ordinal.number
    counter = (first, compose.like(ordinal, index), index, turn)
    a, b, c, d = philox(counter, (halves[0], halves[1]))
    return (
        graph.reshape(a, shape),
        graph.reshape(b, shape),
        graph.reshape(c, shape),
        graph.reshape(d, shape),
    )


def uniform(
    seed: Node,
    step: Node | int,
    ordinal: Ordinal,
    shape: Shape,
    low: float = 0.0,
    high: float = 1.0,
) -> Node:
    """float32 uniform in [low, high), in steps of 2^-24 of the range."""
    unit = _unit(words(seed, step, ordinal, shape)[0])
    if (low, high) == (0.0, 1.0):
        return unit
    return graph.fma(unit, compose.like(high - low, unit), compose.like(low, unit))


def normal(seed: Node, step: Node | int, ordinal: Ordinal, shape: Shape) -> Node:
    """float32 standard normal by Box and Muller: sqrt(-2 log u) cos(2 pi v), |result| < 5.8."""
    first, second, _, _ = words(seed, step, ordinal, shape)
    unit = graph.add(_unit(first), compose.literal(2.0**-24, float32, shape))  # never 0
    radius = graph.sqrt(graph.mul(macros.log(unit), compose.like(-2.0, unit)))
    return graph.mul(radius, _cosine_of_turns(_unit(second)))


def keep_mask(seed: Node, step: Node, ordinal: Ordinal, shape: Shape, keep: float) -> Node:
    """bool, true with probability ``keep`` (to 2^-32)."""
    word = words(seed, step, ordinal, shape)[0]
    return graph.cmp("lt", word, compose.like(min(_WORD - 1, round(keep * _WORD)), word))


def _unit(word: Node) -> Node:
    """The upper 24 bits as a float32 in [0, 1), exactly."""
    upper = graph.cast(graph.bit("shr", word, compose.like(8, word)), float32)
    return graph.mul(upper, compose.like(2.0**-24, upper))


def _cosine_of_turns(turns: Node) -> Node:
    """cos(2 pi t) for t in [0, 1): the nearest quarter turn taken off exactly."""
    quarters = graph.mul(turns, compose.like(4.0, turns))
    shifted = graph.add(quarters, compose.like(12582912.0, turns))  # 1.5 * 2^23 rounds to integers
    whole = graph.add(shifted, compose.like(-12582912.0, turns))
    angle = graph.mul(compose.subtract(quarters, whole), compose.like(1.5707964, turns))
    square = graph.mul(angle, angle)
    cosine = graph.fma(
        graph.mul(square, square),
        _horner(_COSINE, square),
        graph.fma(square, compose.like(-0.5, square), compose.like(1.0, square)),
    )
    sine = graph.fma(graph.mul(square, angle), _horner(_SINE, square), angle)
    # cos of angle + q quarter turns: cos, -sin, -cos, sin.
    quarter = graph.bitcast(shifted, uint32)
    one, two = compose.like(1, quarter), compose.like(2, quarter)
    odd = graph.cmp("eq", graph.bit("and", quarter, one), one)
    turned = graph.bit("and", graph.add(quarter, one), two)
    value = graph.where(odd, sine, cosine)
    flipped = graph.cmp("eq", turned, two)
    return graph.where(flipped, compose.negative(value), value)


def _horner(coefficients: tuple[float, ...], x: Node) -> Node:
    total = compose.like(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        total = graph.fma(total, x, compose.like(coefficient, x))
    return total


def _wide_product(factor: int, word: Node) -> tuple[Node, Node]:
    """High and low words of a 32 x 32 bit product."""
    wide = graph.cast(word, uint64)
    product = graph.mul(wide, compose.like(factor, wide))
    high = graph.bit("shr", product, compose.like(32, product))
    return graph.cast(high, uint32), graph.mul(word, compose.like(factor, word))


def _xor(a: Node, b: Node, c: Node) -> Node:
    return graph.bit("xor", graph.bit("xor", a, b), c)
