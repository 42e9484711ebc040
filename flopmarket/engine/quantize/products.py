"""Which products of a model have constant weights: what can be quantised, what cannot, and why.

A product is a DOT with one operand that no input reaches, whatever lies between that operand and
the stored values (views, a transposition, a scale). A table is a constant whose rows are gathered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from flopmarket.engine import graph, loop
from flopmarket.engine.dtypes import float64
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.quantize import limits

WEIGHT_LEFT, WEIGHT_RIGHT = 0, 1


@dataclass(frozen=True, slots=True)
class Key:
    """A product or table in any trace of the model: its weights, and the how-manieth use of them.

    ``weight`` does not depend on the shapes of inputs; ``side`` is the DOT's source that it is.
    """

    weight: Node
    side: int
    use: int


@dataclass(frozen=True, slots=True)
class Product:
    """A DOT (or, for a table, a GATHER) of one trace."""

    key: Key
    node: Node
    name: str

    @property
    def is_table(self) -> bool:
        """Whether rows are looked up instead of multiplied."""
        return self.node.op is Op.GATHER

    @property
    def activation(self) -> Node:
        """The operand that inputs reach."""
        return self.node.src[1 - self.key.side]

    @property
    def operations(self) -> int:
        """Multiplications and additions of the DOT; 0 for a table."""
        return operations_of(self.node)


@dataclass(frozen=True, slots=True)
class Left:
    """A product that stays in floats: its name, its operations, and the reason."""

    name: str
    operations: int
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """Products and tables in order of the graph, and what is left in floats."""

    products: tuple[Product, ...]
    left: tuple[Left, ...]


def find(outputs: Sequence[Node], names: Mapping[Node, str], skip: Sequence[str] = ()) -> Found:
    """Products and tables below ``outputs``. ``names``: of the leaves that hold the model's values.

    ``skip`` are shell patterns of names to leave in floats.
    """
    order = graph.topological(outputs)
    moving = _moving(order)
    products: list[Product] = []
    left: list[Left] = []
    uses: dict[tuple[Node, int], int] = {}
    taken: set[str] = set()
    for node in order:
        if node not in moving or not _is_candidate(node, moving):
            continue
        reason = _refusal(node, moving)
        side = _weight_side(node, moving)
        weight = None if side is None else _without_batch(node, side)
        name = _distinct(_name(weight, names, node), taken)
        if not reason and any(fnmatchcase(name, pattern) for pattern in skip):
            reason = "skipped by its name"
        if reason or weight is None or side is None:
            left.append(Left(name, operations_of(node), reason))
            continue
        use = uses[weight, side] = uses.get((weight, side), -1) + 1
        products.append(Product(Key(weight, side, use), node, name))
    return Found(tuple(products), (*left, *_in_loops(order)))


def operations_of(node: Node) -> int:
    """Multiplications and additions of a DOT; 0 for anything else."""
    if node.op is not Op.DOT:
        return 0
    return 2 * node.elements * node.src[0].shape[2]


def _moving(order: Iterable[Node]) -> set[Node]:
    """The nodes that an input, a seed or a step index reaches."""
    moving: set[Node] = set()
    for node in order:
        varies = node.op is Op.INPUT and node.arg[0] not in ("frozen", "buffer")
        if varies or any(source in moving for source in node.src):
            moving.add(node)
    return moving


def _is_candidate(node: Node, moving: set[Node]) -> bool:
    if node.op is Op.DOT:
        return node.dtype.is_float
    table = node.op is Op.GATHER and node.arg == (0,) and node.src[0] not in moving
    return table and node.dtype.is_float and len(node.src[0].shape) > 1


def _refusal(node: Node, moving: set[Node]) -> str:
    """Why a candidate stays in floats; '' if it need not."""
    if float64 in (node.dtype, *(source.dtype for source in node.src)):
        return "computes in float64"
    if node.op is Op.DOT and all(source in moving for source in node.src[:2]):
        return "both operands are computed from inputs"
    if node.op is Op.DOT and not (node.elements and node.src[0].shape[2]):
        return "is empty"
    if len(node.src) == 3 and node.src[0] not in moving:
        return "has weights on the left and a valid length"
    return ""


def _weight_side(node: Node, moving: set[Node]) -> int | None:
    if node.op is Op.GATHER:
        return WEIGHT_LEFT
    sides = [side for side in (WEIGHT_RIGHT, WEIGHT_LEFT) if node.src[side] not in moving]
    return sides[0] if sides else None


def _without_batch(node: Node, side: int) -> Node:
    """The weight operand, or the one matrix below it that is repeated for every batch entry."""
    operand = node.src[side]
    best = below = operand
    while node.op is Op.DOT and below.op is Op.VIEW and below.arg[0] in ("reshape", "expand"):
        below = below.src[0]
        if below.shape[-2:] != operand.shape[-2:]:
            break
        if prod(below.shape[:-2]) == 1:
            best = below
    return best


def _name(weight: Node | None, names: Mapping[Node, str], node: Node) -> str:
    """The stored values that the weights are made of, else the shape of the product."""
    if weight is not None:
        found = [names[leaf] for leaf in graph.topological([weight]) if leaf in names]
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            return found[0].encode()[: limits.MAX_LAYER_NAME_BYTES].decode(errors="ignore") + more
    batch, rows, terms = node.src[0].shape[:3] if node.op is Op.DOT else (1, *node.shape[:1], 1)
    word = "table" if node.op is Op.GATHER else "product"
    return f"{word} {batch}x{rows}x{terms}x{node.shape[-1]}"


def _distinct(name: str, taken: set[str]) -> str:
    """``name``, numbered if it is ``taken``, which it is from now on."""
    number, given = 1, name
    while name in taken:
        number += 1
        name = f"{given} #{number}"
    taken.add(name)
    return name


def _in_loops(order: Iterable[Node]) -> list[Left]:
    """Products inside the bodies of loops; their operations are those of one turn."""
    return [
        Left(f"product in a loop {list(node.shape)}", operations_of(node), "is inside a loop")
        for body in loop.bodies(order)
        for node in body.nodes
        if node.op is Op.DOT and node.dtype.is_float
    ]
