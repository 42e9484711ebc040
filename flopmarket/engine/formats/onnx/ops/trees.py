"""ai.onnx.ml: TreeEnsemble and the two operators that it replaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flopmarket.engine import compose
from flopmarket.engine.dtypes import float32, float64, int64
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.forest import MODES, Forest, Votes
from flopmarket.engine.formats.onnx.ops.features import ML, floats, row
from flopmarket.engine.formats.onnx.ops.scores import (
    TRANSFORMS,
    class_labels,
    columns,
    first_largest,
    labelled,
    transformed,
)
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.tensor import Tensor

FOLDS = ("AVERAGE", "SUM", "MIN", "MAX")
"""Names by the numbers that the newest operator uses for them."""


def _list(node: OpNode, name: str, default: Any = 0) -> Callable[[int], Any]:
    """An attribute that may be a list, a tensor, or missing: entry i, or ``default``."""
    given = node.get(f"{name}_as_tensor")
    if given is None or not np.asarray(given).size:
        given = node.get(name)
    if given is None or not len(given):
        return lambda at: default
    entries = np.asarray(given).reshape(-1).tolist() if isinstance(given, np.ndarray) else given
    return lambda at: entries[at]


# ---------------------------------------------------------------- the newest operator


@op("TreeEnsemble", domain=ML)
def tree_ensemble(node: OpNode, x: Value) -> Tensor:
    """[N, targets] in the dtype of the features."""
    value = tensor(x)
    forest, leaves = _read(node)
    votes = Votes(
        [number for number, _ in leaves],
        [int(node.get("leaf_targetids")[entry]) for _, entry in leaves],
        [float(np.asarray(node.get("leaf_weights")).reshape(-1)[entry]) for _, entry in leaves],
    )
    wide = value if value.dtype is float64 else value.to(float32)
    kind = FOLDS[int(node.get("aggregate_function", 1))]
    targets = int(node.get("n_targets", 1))
    scores = votes.gathered(forest, forest.leaves(wide), targets, wide.dtype, kind)
    transform = TRANSFORMS[int(node.get("post_transform", 0))]
    return transformed(Tensor(scores, device=value.device), transform).to(value.dtype)


def _read(node: OpNode) -> tuple[Forest, list[tuple[int, int]]]:
    """The forest, and (node number, entry of the leaf_* attributes) for every leaf."""
    forest = Forest()
    leaves: list[tuple[int, int]] = []
    modes = np.asarray(node.get("nodes_modes")).reshape(-1)
    splits = np.asarray(node.get("nodes_splits")).reshape(-1)
    features = node.get("nodes_featureids")
    missing = _list(node, "nodes_missing_value_tracks_true")
    branches = [
        (node.get(f"nodes_{side}nodeids"), node.get(f"nodes_{side}leafs"))
        for side in ("true", "false")
    ]
    sets = _members(node, modes)
    waiting: list[tuple[int, int]] = []

    def built(entry: int, is_leaf: bool) -> int:
        """The number of a node whose children are still to come."""
        if is_leaf:
            number = forest.leaf()
            leaves.append((number, entry))
            return number
        if not 0 <= entry < len(modes) or not 0 <= modes[entry] < len(MODES):
            raise OnnxIllegal(f"a forest of {len(modes)} nodes has no node {entry}")
        number = forest.add(
            int(features[entry]), float(splits[entry]), int(modes[entry]), bool(missing(entry))
        )
        if entry in sets:
            forest.members[number] = sets[entry]
        waiting.append((number, entry))
        return number

    def branch(side: int, entry: int) -> tuple[int, bool]:
        numbers, are_leaves = branches[side]
        return int(numbers[entry]), bool(are_leaves[entry])

    for root in node.get("tree_roots"):
        yes, no = branch(0, root), branch(1, root)
        # A tree that is one leaf is spelled as a node whose branches are that leaf.
        forest.roots.append(built(*yes) if yes == no and yes[1] else built(int(root), False))
        while waiting:
            number, entry = waiting.pop()
            forest.yes[number] = built(*branch(0, entry))
            forest.no[number] = built(*branch(1, entry))
    return forest, leaves


def _members(node: OpNode, modes: np.ndarray[Any, Any]) -> dict[int, list[float]]:
    """The values of every MEMBER node, by its entry; NaN separates them in the attribute."""
    sets: list[list[float]] = [[]]
    for value in np.asarray(node.get("membership_values", ())).reshape(-1).tolist():
        if value != value:
            sets.append([])
        else:
            sets[-1].append(value)
    entries = np.flatnonzero(modes == MODES.index("MEMBER")).tolist()
    if len(entries) > len(sets):
        raise OnnxIllegal(f"{len(sets)} sets of members for {len(entries)} nodes")
    return dict(zip(entries, sets, strict=False))


# ---------------------------------------------------------------- the operators before it


def _read_flat(node: OpNode, votes: str) -> tuple[Forest, Votes]:
    """Nodes by (tree, node) numbers, and the votes of the attributes ``votes`` + '_...'."""
    forest = Forest()
    split = _list(node, "nodes_values", 0.0)
    missing = _list(node, "nodes_missing_value_tracks_true")
    feature = _list(node, "nodes_featureids")
    trees, ids = node.ints("nodes_treeids") or (), node.ints("nodes_nodeids") or ()
    modes = [str(mode).removeprefix("BRANCH_") for mode in node.get("nodes_modes")]
    numbers: dict[tuple[int, int], int] = {}
    for at, mode in enumerate(modes):
        if mode == "LEAF":
            number = forest.leaf()
        elif mode in MODES:
            number = forest.add(
                int(feature(at)), float(split(at)), MODES.index(mode), bool(missing(at))
            )
        else:
            raise OnnxIllegal(f"no comparison is called {mode!r}")
        if numbers.setdefault((trees[at], ids[at]), number) != number:
            raise OnnxIllegal(f"tree {trees[at]} has two nodes {ids[at]}")
    children: set[int] = set()
    for at, mode in enumerate(modes):
        if mode != "LEAF":
            number = numbers[trees[at], ids[at]]
            forest.yes[number] = numbers[trees[at], int(node.get("nodes_truenodeids")[at])]
            forest.no[number] = numbers[trees[at], int(node.get("nodes_falsenodeids")[at])]
            children |= {forest.yes[number], forest.no[number]}
    forest.roots = [number for number in numbers.values() if number not in children]
    if len(forest.roots) != len(set(trees)):
        raise OnnxIllegal("the nodes of a forest do not form trees")
    weight = _list(node, f"{votes}_weights", 0.0)
    pairs = zip(node.get(f"{votes}_treeids"), node.get(f"{votes}_nodeids"), strict=True)
    leaves = [numbers[int(tree), int(number)] for tree, number in pairs]
    targets = [int(target) for target in node.get(f"{votes}_ids")]
    return forest, Votes(leaves, targets, [float(weight(at)) for at in range(len(leaves))])


def _scores(node: OpNode, x: Tensor, votes: str, targets: int, kind: str) -> Tensor:
    """[N, targets] float32 with the base values added."""
    forest, given = _read_flat(node, votes)
    found = given.gathered(forest, forest.leaves(x), targets, x.dtype, kind)
    scores = Tensor(found, device=x.device)
    base = node.get("base_values_as_tensor")
    base = node.get("base_values") if base is None or not np.asarray(base).size else base
    if base is not None and len(base):
        scores = scores + row(base, x.dtype)
    return scores.to(float32)


@op("TreeEnsembleRegressor", domain=ML)
def tree_ensemble_regressor(node: OpNode, x: Value) -> Tensor:
    """[N, targets] float32."""
    kind = node.get("aggregate_function", "SUM")
    scores = _scores(node, floats(x), "target", int(node.get("n_targets", 1)), kind)
    return transformed(scores, node.get("post_transform", "NONE"))


@op("TreeEnsembleClassifier", domain=ML)
def tree_ensemble_classifier(node: OpNode, x: Value) -> tuple[Value, Tensor]:
    """Labels [N] and scores [N, classes].

    Where all votes are for one class of two, its score stands for both: as a probability and its
    complement if no weight is negative, else as a decision and its opposite.
    """
    labels = class_labels(node, "classlabels_int64s")
    classes = len(labels) if labels else 1
    transform = node.get("post_transform", "NONE")
    voted = {int(number) for number in node.get("class_ids")}
    scores = _scores(node, floats(x), "class", max(classes, max(voted) + 1), "SUM")
    if len(voted) > 1 or classes > 2:
        choice = first_largest(scores)
        return labelled(node, choice, labels), transformed(scores, transform)
    only = Tensor(compose.part(scores.node, 1, voted.pop(), 1), device=scores.device).reshape(-1)
    weight = _list(node, "class_weights", 0.0)
    positive = all(weight(at) >= 0.0 for at in range(len(node.get("class_ids"))))
    choice = (only > (0.5 if positive else 0.0)).to(int64)
    both = columns(1.0 - only if positive and transform == "NONE" else -only, only)
    return labelled(node, choice, labels), transformed(both, transform)
