"""Loops with a fixed number of turns: one graph for the body, however often it runs.

A body is an ordinary function of tensors, called once with stand-ins. It may read tensors from
around it; they are values of the turn before the first (computed once, outside). Derivatives
(:func:`flopmarket.engine.grad.grad`) go through loops, loops stand inside loops, and random calls
draw anew in every turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flopmarket.engine import compose, enclose, graph, limits, random
from flopmarket.engine.dtypes import int32, uint32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor, common_device

Tensors = tuple[Tensor, ...]


def scan(
    body: Callable[[Tensors, Tensors], tuple[Sequence[Tensor], Sequence[Tensor]]],
    init: Sequence[Tensor],
    xs: Sequence[Tensor] = (),
    *,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Tensors, Tensors]:
    """``carry, y = body(carry, x)`` for every slice of ``xs``: the last carries, the stacked ys.

    ``init``: any number of tensors; every turn gives carries of the same shapes and dtypes.
    ``xs``: tensors [length, ...], of which the body sees [...]. ``length`` is needed where there
    are none. ys come back as [length, ...]. ``reverse`` begins with the last slice; a turn's ys
    lie where its xs lie. With a length of 0 the carries are ``init``.

    A carry is a value rounded to its dtype: an addition in one turn forms no FMA with a product of
    the turn before. Raises EngineError (LOOP_LENGTH, LOOP_CARRY, LOOP_RESULT, LOOP_DEPTH,
    LOOP_LIMIT, DEVICE_MISMATCH).
    """
    count = _length(xs, length)
    carries = tuple(enclose.hole(t.dtype, t.shape) for t in init)
    items = tuple(enclose.hole(t.dtype, t.shape[1:]) for t in xs)
    turn = enclose.hole(uint32, ())
    device = common_device(*init, *xs)
    with random.turns(turn, count):
        given = body(
            tuple(Tensor(node, device=device) for node in carries),
            tuple(Tensor(node, device=device) for node in items),
        )
    following, slices = _results(given)
    _check_carries(init, following)
    device = common_device(*init, *xs, *following, *slices)
    # A carry that never changes is a value from around the loop.
    held = {
        hole: start.node
        for hole, start, after in zip(carries, init, following, strict=True)
        if after.node is hole
    }
    nodes = compose.replace([t.node for t in (*following, *slices)], held)
    live = [at for at, hole in enumerate(carries) if hole not in held]
    last, stacked = enclose.enclose(
        enclose.Open(
            carries=tuple(carries[at] for at in live),
            items=(*items, turn),
            initial=tuple(init[at].node for at in live),
            scanned=(*(t.node for t in xs), graph.iota(0, (count,), uint32)),
            following=tuple(nodes[at] for at in live),
            slices=nodes[len(init) :],
        ),
        count,
        reverse,
    )
    final: list[Node] = [start.node for start in init]
    for at, node in zip(live, last, strict=True):
        final[at] = node
    return (
        tuple(Tensor(node, device=device) for node in final),
        tuple(Tensor(node, device=device) for node in stacked),
    )


def fori_loop(
    count: int, body: Callable[[Tensor, Tensors], Sequence[Tensor]], init: Sequence[Tensor]
) -> Tensors:
    """``carry = body(i, carry)`` for i in 0..count-1, an int32 scalar; the last carries.

    Raises what :func:`scan` raises.
    """
    _length((), count)
    ramp = Tensor(graph.iota(0, (count,), int32))

    def turn(carry: Tensors, x: Tensors) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return body(x[0], carry), ()

    return scan(turn, init, (ramp,))[0]


def _length(xs: Sequence[Tensor], length: int | None) -> int:
    if any(not x.shape for x in xs):
        raise EngineError("a scanned tensor has at least one axis", code="LOOP_LENGTH")
    lengths = {x.shape[0] for x in xs} | ({length} if length is not None else set())
    if len(lengths) != 1:
        text = ", ".join(map(str, sorted(lengths))) or "none"
        raise EngineError(
            f"a scan has one length, not {text}",
            code="LOOP_LENGTH",
            hint="scanned tensors share their first axis; without any, give length=",
        )
    (count,) = lengths
    if not 0 <= count <= limits.MAX_LOOP_TURNS:
        raise EngineError(
            f"a loop has 0 to {limits.MAX_LOOP_TURNS} turns, not {count}", code="LOOP_LENGTH"
        )
    return count


def _results(given: object) -> tuple[Tensors, Tensors]:
    if isinstance(given, tuple | list) and len(given) == 2:
        parts = tuple(tuple(part) for part in given if isinstance(part, tuple | list))
        if len(parts) == 2 and all(isinstance(value, Tensor) for part in parts for value in part):
            return parts[0], parts[1]
    raise EngineError(
        "the body of a scan returns (carries, ys), two tuples of tensors", code="LOOP_RESULT"
    )


def _check_carries(init: Sequence[Tensor], following: Sequence[Tensor]) -> None:
    if len(following) != len(init):
        raise EngineError(
            f"the body got {len(init)} carries and returned {len(following)}", code="LOOP_CARRY"
        )
    for at, (before, after) in enumerate(zip(init, following, strict=True)):
        if before.dtype is not after.dtype or before.shape != after.shape:
            raise EngineError(
                f"carry {at} is {before.dtype}{list(before.shape)} and becomes "
                f"{after.dtype}{list(after.shape)}",
                code="LOOP_CARRY",
                hint="cast or expand it, inside or before the loop",
            )
