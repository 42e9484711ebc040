"""A forest of decision trees as tables, and its evaluation as gathers.

Every tree of every row walks at once: a matrix [rows, trees] of node numbers moves one level down
with a gather of the node's feature, a comparison, and a gather of the next node; leaves point to
themselves. The number of levels is that of the deepest tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import DType, bool_, int32
from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.functional.tables import check_table
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]

MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER")
"""Comparisons by the numbers that the newest operator uses for them."""


@dataclass(slots=True)
class Forest:
    """Nodes of all trees. A node compares ``x[feature]`` with ``split`` and goes to ``yes`` or
    ``no``; a leaf goes to itself. ``missing`` says whether NaN goes to ``yes``, ``members`` holds
    what a node of mode MEMBER looks for."""

    feature: list[int] = field(default_factory=list)
    split: list[float] = field(default_factory=list)
    mode: list[int] = field(default_factory=list)
    yes: list[int] = field(default_factory=list)
    no: list[int] = field(default_factory=list)
    missing: list[bool] = field(default_factory=list)
    members: dict[int, list[float]] = field(default_factory=dict)
    roots: list[int] = field(default_factory=list)

    def add(self, feature: int, split: float, mode: int, missing: bool) -> int:
        """One more node, its children unknown yet: a leaf until they are set."""
        number = len(self.feature)
        if number >= limits.MAX_FOREST_NODES:
            raise OnnxIllegal(
                f"a forest of more than {limits.MAX_FOREST_NODES} nodes", code="ONNX_LIMIT"
            )
        self.feature.append(feature)
        self.split.append(split)
        self.mode.append(mode)
        self.missing.append(missing)
        self.yes.append(number)
        self.no.append(number)
        return number

    def leaf(self) -> int:
        """One more leaf."""
        return self.add(0, 0.0, 0, False)

    def depth(self) -> int:
        """Levels of the deepest tree. Raises OnnxIllegal for nodes that form no trees."""
        levels, seen, live = 0, set(self.roots), list(self.roots)
        while True:
            below = []
            for number in live:
                for child in {self.yes[number], self.no[number]} - {number}:
                    if child in seen:
                        raise OnnxIllegal("the nodes of a forest do not form trees")
                    seen.add(child)
                    below.append(child)
            if not below:
                return levels
            levels, live = levels + 1, below
            if levels > limits.MAX_FOREST_DEPTH:
                raise OnnxIllegal(
                    f"a tree of more than {limits.MAX_FOREST_DEPTH} levels", code="ONNX_LIMIT"
                )

    def leaves(self, x: Tensor) -> Node:
        """int32 [rows, trees]: the leaf where each row of ``x`` [rows, features] ends."""
        if min(self.feature, default=0) < 0 or max(self.feature, default=0) >= x.shape[1]:
            raise OnnxIllegal(f"a forest that wants more than {x.shape[1]} features")
        rows, features = x.shape
        shape = (rows, len(self.roots))
        flat = graph.reshape(x.node, (rows * features,))
        first = graph.mul(graph.iota(0, shape), graph.filled(features, int32, shape))
        at = compose.broadcast_to(_table(self.roots, int32), shape)
        tables = self._tables(x.dtype)
        for _ in range(self.depth()):
            place = graph.add(first, graph.gather(tables.feature, at, 0))
            taken = self._compared(graph.gather(flat, place, 0), at, tables)
            yes, no = graph.gather(tables.yes, at, 0), graph.gather(tables.no, at, 0)
            at = graph.where(taken, yes, no)
        return at

    def _tables(self, dtype: DType) -> _Tables:
        return _Tables(
            _table(self.feature, int32),
            _table(self.split, dtype),
            _table(self.mode, int32),
            _table(self.yes, int32),
            _table(self.no, int32),
            _table(self.missing, bool_),
            self._members(dtype) if self.members else None,
        )

    def _members(self, dtype: DType) -> Node:
        """[nodes, length of the longest set]: sets are padded with NaN."""
        width = max(1, *map(len, self.members.values()))
        check_table(len(self.feature) * width)
        table = np.full((len(self.feature), width), np.nan)
        for number, values in self.members.items():
            table[number, : len(values)] = values
        return _table(table, dtype)

    def _compared(self, value: Node, at: Node, tables: _Tables) -> Node:
        inner = [n for n, (yes, no) in enumerate(zip(self.yes, self.no, strict=True)) if yes != no]
        used = sorted({self.mode[number] for number in inner})
        mode, split = graph.gather(tables.mode, at, 0), graph.gather(tables.split, at, 0)
        result = graph.cmp("eq", value, split)
        for place, kind in enumerate(used):
            held = _holds(MODES[kind], value, split, at, tables)
            mine = graph.cmp("eq", mode, compose.like(kind, mode))
            result = graph.where(mine, held, result) if place else held
        if any(self.missing[number] for number in inner):
            tracks = graph.gather(tables.missing, at, 0)
            no_number = compose.invert(graph.cmp("eq", value, value))
            result = graph.bit("or", result, graph.bit("and", no_number, tracks))
        return result


@dataclass(frozen=True, slots=True)
class _Tables:
    """A forest's columns as nodes."""

    feature: Node
    split: Node
    mode: Node
    yes: Node
    no: Node
    missing: Node
    members: Node | None


def _is_member(value: Node, at: Node, members: Node | None) -> Node:
    """Whether each value is in the set of its node; without any sets none is."""
    if members is None:
        return graph.filled(False, bool_, value.shape)
    known = graph.gather(members, at, 0)
    shown = graph.expand(graph.reshape(value, (*value.shape, 1)), known.shape)
    return graph.reduce("max", graph.cmp("eq", shown, known), (2,))


def _holds(mode: str, a: Node, b: Node, at: Node, tables: _Tables) -> Node:
    if mode == "MEMBER":
        return _is_member(a, at, tables.members)
    less, more, same = graph.cmp("lt", a, b), graph.cmp("lt", b, a), graph.cmp("eq", a, b)
    if mode in ("EQ", "NEQ"):
        return same if mode == "EQ" else compose.invert(same)
    strict = less if mode in ("LEQ", "LT") else more
    return graph.bit("or", strict, same) if mode in ("LEQ", "GTE") else strict


def _table(values: Sequence[Any] | Array, dtype: DType) -> Node:
    """A column of the tables as data, which two equal tables share."""
    return Tensor(np.asarray(values, dtype=dtype.numpy)).node


@dataclass(frozen=True, slots=True)
class Votes:
    """What leaves are worth: entry i gives ``weights[i]`` to target ``targets[i]`` where a row ends
    in leaf ``leaves[i]``."""

    leaves: Sequence[int]
    targets: Sequence[int]
    weights: Sequence[float]

    def gathered(self, forest: Forest, ends: Node, targets: int, dtype: DType, kind: str) -> Node:
        """[rows, targets]: the votes of all trees folded by SUM, AVERAGE, MIN or MAX.

        A target that no tree votes for gets 0.
        """
        if any(not 0 <= target < targets for target in self.targets):
            raise OnnxIllegal(f"a vote for a target outside 0..{targets - 1}")
        absent = {"MIN": np.inf, "MAX": -np.inf}.get(kind, 0.0)
        check_table(len(forest.feature) * targets)
        table = np.full((len(forest.feature), targets), absent, dtype=dtype.numpy)
        for leaf, target, weight in zip(self.leaves, self.targets, self.weights, strict=True):
            held = table[leaf, target]
            table[leaf, target] = weight if held == absent else held + weight
        values = graph.gather(Tensor(table).node, ends, 0)
        if kind in ("SUM", "AVERAGE"):
            total = graph.reduce("sum", values, (1,))
            if kind == "SUM":
                return total
            return graph.div(total, compose.like(float(len(forest.roots)), total))
        if kind not in ("MIN", "MAX"):
            raise OnnxIllegal(f"no way to fold votes is called {kind!r}")
        best = graph.reduce(kind.lower(), values, (1,))
        nobody = graph.cmp("eq", best, compose.like(absent, best))
        return graph.where(nobody, compose.like(0.0, best), best)
