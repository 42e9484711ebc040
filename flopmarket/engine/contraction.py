"""Products that sum axes away, on nodes: matmul of any ranks and dtypes, tensordot, einsum.

Everything becomes DOTs of [B, M, K] with [B, K, N], in their order of summation (docs/numerics.md
§2). Integer types that DOT does not take are sums of products, which are exact (they wrap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from flopmarket.engine import compose, dtypes, graph
from flopmarket.engine.dtypes import bool_, int32, uint32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Shape


def dot(a: Node, b: Node) -> Node:
    """[B, M, K] x [B, K, N] -> [B, M, N] of any two dtypes but bool.

    Where ``dtypes.contraction`` names a dtype the result has it, but two 16-bit floats of one dtype
    give that dtype; anything else is computed in the promoted dtype.
    """
    if bool_ in (a.dtype, b.dtype):
        raise EngineError("bool does not multiply", code="DTYPE_MISMATCH", hint="cast to integers")
    if dtypes.contraction(a.dtype, b.dtype, a.shape[-1]) is not None:
        product = graph.dot(a, b)
        narrow = a.dtype is b.dtype and a.dtype.is_narrow_float
        return graph.cast(product, a.dtype) if narrow else product
    wide = compose.promote(a.dtype, b.dtype)
    a, b = graph.cast(a, wide), graph.cast(b, wide)
    if wide.is_float or wide is int32:
        return graph.dot(a, b)
    if wide is uint32:  # the low words of a product do not know signs
        return graph.bitcast(graph.dot(graph.bitcast(a, int32), graph.bitcast(b, int32)), wide)
    (batch, rows, terms), columns = a.shape, b.shape[2]
    wide_shape = (batch, rows, columns, terms)
    left = graph.expand(graph.reshape(a, (batch, rows, 1, terms)), wide_shape)
    right = graph.reshape(compose.swap(b, 1, 2), (batch, 1, columns, terms))
    return graph.reduce("sumprod", left, (3,), graph.expand(right, wide_shape))


def matmul(a: Node, b: Node) -> Node:
    """torch's matmul: [.., M, K] x [.., K, N] with broadcast batches; vectors lose their axis."""
    if not a.shape or not b.shape:
        raise EngineError("matmul wants at least one axis on both sides", code="SHAPE_MISMATCH")
    left = graph.reshape(a, (1, *a.shape)) if len(a.shape) == 1 else a
    right = graph.reshape(b, (*b.shape, 1)) if len(b.shape) == 1 else b
    (rows, terms), columns = left.shape[-2:], right.shape[-1]
    if terms != right.shape[-2]:
        raise EngineError(
            f"matmul of {list(a.shape)} and {list(b.shape)}: {terms} terms against "
            f"{right.shape[-2]}",
            code="SHAPE_MISMATCH",
        )
    batch = compose.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    if prod(right.shape[:-2]) == 1:  # one matrix for every batch: its rows are just more rows
        flat = graph.reshape(left, (1, prod(left.shape[:-1]), terms))
        product = dot(flat, graph.reshape(right, (1, terms, columns)))
    else:
        left = compose.broadcast_to(left, (*batch, rows, terms))
        right = compose.broadcast_to(right, (*batch, terms, columns))
        product = dot(
            graph.reshape(left, (prod(batch), rows, terms)),
            graph.reshape(right, (prod(batch), terms, columns)),
        )
    tail = ((rows,) if len(a.shape) > 1 else ()) + ((columns,) if len(b.shape) > 1 else ())
    return graph.reshape(product, (*batch, *tail))


# ---------------------------------------------------------------- einsum


@dataclass(frozen=True, slots=True)
class _Labelled:
    """A node whose axes have names."""

    node: Node
    labels: tuple[str, ...]

    def without(self, gone: set[str]) -> _Labelled:
        """Summed over the axes called ``gone``."""
        axes = tuple(at for at, label in enumerate(self.labels) if label in gone)
        if not axes:
            return self
        kept = tuple(label for label in self.labels if label not in gone)
        return _Labelled(graph.reduce("sum", self.node, axes), kept)

    def ordered(self, labels: Sequence[str]) -> Node:
        """With its axes in the order of ``labels``, which names all of them."""
        return graph.permute(self.node, [self.labels.index(label) for label in labels])


def einsum(equation: str, operands: Sequence[Node]) -> Node:
    """Einstein summation: "ij,jk->ik", with "...", repeated labels and an implicit result.

    Operands are contracted from left to right. Raises EngineError (EINSUM_EQUATION,
    SHAPE_MISMATCH).
    """
    inputs, output = _parse(equation, [len(node.shape) for node in operands])
    lengths: dict[str, int] = {}
    for node, labels in zip(operands, inputs, strict=True):
        for label, n in zip(labels, node.shape, strict=True):
            if lengths.setdefault(label, n) not in (1, n) and n != 1:
                raise EngineError(
                    f"{equation!r}: {label!r} is both {lengths[label]} and {n}",
                    code="SHAPE_MISMATCH",
                )
            lengths[label] = n if lengths[label] == 1 else lengths[label]
    given = [
        _diagonals(graph.expand(node, tuple(lengths[label] for label in labels)), labels)
        for node, labels in zip(operands, inputs, strict=True)
    ]
    total = given[0]
    for at, factor in enumerate(given[1:], 1):
        later = set(output).union(*(other.labels for other in given[at + 1 :]))
        total = _multiply(total, factor, later)
    total = total.without(set(total.labels) - set(output))
    return total.ordered(output)


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Labels of every operand and of the result; the axes of "..." are called "0", "1", ..."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    names = [term.replace("...", "") for term in terms]
    if len(terms) != len(ranks) or not all(
        n == "" or n.isalpha() for n in [*names, *right.split("...")]
    ):
        raise EngineError(
            f"no einsum {equation!r} of {len(ranks)} operands", code="EINSUM_EQUATION"
        )
    hidden = [rank - len(name) for rank, name in zip(ranks, names, strict=True)]
    for term, extra in zip(terms, hidden, strict=True):
        if extra < 0 or (extra and "..." not in term):
            raise EngineError(
                f"{equation!r}: {term!r} does not name every axis of its operand",
                code="EINSUM_EQUATION",
            )
    most = max(hidden, default=0)

    def spelled(term: str, extra: int) -> tuple[str, ...]:
        before, dots, after = term.partition("...")
        middle = [str(most - extra + at) for at in range(extra)] if dots else []
        return (*before, *middle, *after)

    inputs = [spelled(term, extra) for term, extra in zip(terms, hidden, strict=True)]
    if arrow:
        output = spelled(right, most)
    else:
        letters = "".join(names)
        alone = sorted(label for label in set(letters) if letters.count(label) == 1)
        output = (*(str(at) for at in range(most)), *alone)
    known = {label for labels in inputs for label in labels}
    if len(set(output)) != len(output) or not set(output) <= known:
        raise EngineError(f"{equation!r}: no such result", code="EINSUM_EQUATION")
    return inputs, output


def _diagonals(node: Node, labels: tuple[str, ...]) -> _Labelled:
    """Every label once: axes of one name become their diagonal."""
    while len(set(labels)) < len(labels):
        label = next(name for name in labels if labels.count(name) > 1)
        first = labels.index(label)
        second = labels.index(label, first + 1)
        node = diagonal(node, first, second, 0)
        labels = (*(n for at, n in enumerate(labels) if at not in (first, second)), label)
    return _Labelled(node, labels)


def diagonal(x: Node, first: int, second: int, offset: int) -> Node:
    """The elements at equal places of two axes (``offset`` more on the second) as a last axis."""
    rest = [axis for axis in range(len(x.shape)) if axis not in (first, second)]
    rows, columns = x.shape[first], x.shape[second]
    outer = tuple(x.shape[axis] for axis in rest)
    row, column = max(0, -offset), max(0, offset)
    count = max(0, min(rows - row, columns - column))
    flat = graph.reshape(graph.permute(x, [*rest, first, second]), (*outer, rows * columns))
    start = row * columns + column if count else 0
    ranges = [*((0, 1, n) for n in outer), (start, columns + 1, count)]
    return graph.slice_(flat, ranges)


def _multiply(a: _Labelled, b: _Labelled, later: set[str]) -> _Labelled:
    """The product of two, summed over every label that nothing needs any more."""
    a = a.without(set(a.labels) - set(b.labels) - later)
    b = b.without(set(b.labels) - set(a.labels) - later)
    shared = [label for label in a.labels if label in b.labels]
    batch = [label for label in shared if label in later]
    summed = [label for label in shared if label not in later]
    rows = [label for label in a.labels if label not in shared]
    columns = [label for label in b.labels if label not in shared]
    result = (*batch, *rows, *columns)
    left, right = a.ordered([*batch, *rows, *summed]), b.ordered([*batch, *summed, *columns])
    outer = _lengths(a, batch)
    M, N, K = (_lengths(a, rows), _lengths(b, columns), _lengths(a, summed))
    shape = (*outer, *M, *N)
    if summed:
        product = dot(
            graph.reshape(left, (prod(outer), prod(M), prod(K))),
            graph.reshape(right, (prod(outer), prod(K), prod(N))),
        )
        return _Labelled(graph.reshape(product, shape), result)
    wide = compose.promote(left.dtype, right.dtype)
    left = graph.expand(graph.reshape(graph.cast(left, wide), (*outer, *M, *(1,) * len(N))), shape)
    right = graph.expand(
        graph.reshape(graph.cast(right, wide), (*outer, *(1,) * len(M), *N)), shape
    )
    return _Labelled(graph.mul(left, right), result)


def _lengths(x: _Labelled, labels: Sequence[str]) -> Shape:
    return tuple(x.node.shape[x.labels.index(label)] for label in labels)
