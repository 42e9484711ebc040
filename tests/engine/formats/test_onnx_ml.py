"""ai.onnx.ml operators against scikit-learn's models and against numpy."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, SVR

from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.forest import Forest
from tests.engine.formats import single
from tests.engine.formats.single import Array

FEATURES, CLASSES = load_iris(return_X_y=True)
X = FEATURES.astype(np.float32)[::3]
NAMES = ["setosa", "versicolor", "virginica"]


def run(op_type: str, x: Array, outputs: int = 1, **attributes: Any) -> Any:
    """One operator of ai.onnx.ml on an array."""
    return single.run(op_type, x, outputs=outputs, domain="ai.onnx.ml", **attributes)


# ---------------------------------------------------------------- trees


def below(threshold: float) -> np.float32:
    """The largest float32 not above: the same split of float32 features."""
    near = np.float32(threshold)
    return near if near <= threshold else np.nextafter(near, np.float32(-np.inf))


def forest_attributes(trees: list[Any], votes: str, share: float) -> dict[str, Any]:
    """The attributes of the older operators for fitted trees; ``share`` scales every vote."""
    rows: dict[str, list[Any]] = {
        f"nodes_{name}": [] for name in ("treeids", "nodeids", "featureids", "values", "modes")
    } | {f"{votes}_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    rows |= {"nodes_truenodeids": [], "nodes_falsenodeids": []}
    for number, tree in enumerate(trees):
        for at in range(tree.node_count):
            leaf = tree.children_left[at] < 0
            values = {
                "treeids": number,
                "nodeids": at,
                "featureids": max(0, int(tree.feature[at])),
                "values": float(below(tree.threshold[at])),
                "modes": "LEAF" if leaf else "BRANCH_LEQ",
                "truenodeids": max(0, int(tree.children_left[at])),
                "falsenodeids": max(0, int(tree.children_right[at])),
            }
            for name, value in values.items():
                rows[f"nodes_{name}"].append(value)
            for target, weight in enumerate(tree.value[at].reshape(-1) if leaf else ()):
                rows[f"{votes}_treeids"].append(number)
                rows[f"{votes}_nodeids"].append(at)
                rows[f"{votes}_ids"].append(target)
                rows[f"{votes}_weights"].append(float(weight) * share)
    return rows


def test_a_regression_forest_predicts_what_scikit_learn_does() -> None:
    model = RandomForestRegressor(7, max_depth=5, random_state=0).fit(X, X[:, 3] * X[:, 0])
    attributes = forest_attributes([e.tree_ for e in model.estimators_], "target", 1.0)
    found = run("TreeEnsembleRegressor", X, n_targets=1, aggregate_function="AVERAGE", **attributes)
    np.testing.assert_allclose(found[:, 0], model.predict(X), rtol=1e-5)
    base = run("TreeEnsembleRegressor", X, n_targets=1, base_values=[10.0], **attributes)
    np.testing.assert_allclose(base[:, 0], 7 * model.predict(X) + 10, rtol=1e-5)
    trees = np.stack([e.predict(X) for e in model.estimators_])
    for kind, fold in (("MIN", trees.min(0)), ("MAX", trees.max(0))):
        found = run("TreeEnsembleRegressor", X, aggregate_function=kind, n_targets=1, **attributes)
        np.testing.assert_allclose(found[:, 0], fold, rtol=1e-5)


def test_a_classification_forest_gives_labels_and_probabilities() -> None:
    model = RandomForestClassifier(5, max_depth=4, random_state=0).fit(X, CLASSES[::3])
    attributes = forest_attributes([e.tree_ for e in model.estimators_], "class", 0.2)
    labels, scores = run("TreeEnsembleClassifier", X, 2, classlabels_strings=NAMES, **attributes)
    assert labels.tolist() == [NAMES[at] for at in model.predict(X)]
    np.testing.assert_allclose(scores, model.predict_proba(X), atol=1e-6)
    numbers, _ = run("TreeEnsembleClassifier", X, 2, classlabels_int64s=[7, 8, 9], **attributes)
    np.testing.assert_array_equal(numbers, 7 + model.predict(X))


def test_votes_for_one_of_two_classes_stand_for_both() -> None:
    stump: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.0, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LT", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "nodes_missing_value_tracks_true": [1, 0, 0],
        "class_treeids": [0, 0],
        "class_nodeids": [1, 2],
        "class_ids": [0, 0],
        "classlabels_int64s": [3, 4],
    }
    x = np.array([[-1.0], [1.0], [np.nan]], np.float32)
    labels, scores = run("TreeEnsembleClassifier", x, 2, class_weights=[0.25, 0.75], **stump)
    assert labels.tolist() == [3, 4, 3]
    assert scores.tolist() == [[0.75, 0.25], [0.25, 0.75], [0.75, 0.25]]
    labels, scores = run("TreeEnsembleClassifier", x, 2, class_weights=[-0.25, 0.1], **stump)
    assert labels.tolist() == [3, 4, 3]
    np.testing.assert_allclose(scores, [[0.25, -0.25], [-0.1, 0.1], [0.25, -0.25]], rtol=1e-6)


def test_nodes_that_form_no_trees_are_refused() -> None:
    circle = Forest()
    first, second = circle.add(0, 0.0, 0, False), circle.add(0, 0.0, 0, False)
    circle.yes[first], circle.yes[second] = second, first
    circle.roots = [first]
    with pytest.raises(OnnxIllegal, match="do not form trees"):
        circle.depth()
    with pytest.raises(EngineError, match="more than 4 features"):
        run(
            "TreeEnsembleRegressor", X, nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2],
            nodes_featureids=[4, 0, 0], nodes_values=[0.0] * 3, nodes_truenodeids=[1, 0, 0],
            nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_falsenodeids=[2, 0, 0],
            target_treeids=[0], target_nodeids=[1], target_ids=[0], target_weights=[1.0],
        )  # fmt: skip


# ---------------------------------------------------------------- linear models and machines


def test_logistic_regression() -> None:
    model = LogisticRegression(max_iter=500).fit(X, CLASSES[::3])
    labels, scores = run(
        "LinearClassifier", X, 2, classlabels_strings=NAMES, post_transform="SOFTMAX",
        coefficients=model.coef_.ravel().tolist(), intercepts=model.intercept_.tolist(),
    )  # fmt: skip
    assert labels.tolist() == [NAMES[at] for at in model.predict(X)]
    np.testing.assert_allclose(scores, model.predict_proba(X), atol=1e-5)


def kernel_attributes(model: Any, kernel: str, gamma: float) -> dict[str, Any]:
    return {
        "kernel_type": kernel.upper(),
        "kernel_params": [gamma, 0.5, 3.0],
        "support_vectors": model.support_vectors_.ravel().tolist(),
        "coefficients": model.dual_coef_.ravel().tolist(),
        "rho": model.intercept_.tolist(),
    }


@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf", "sigmoid"])
def test_support_vector_machines(kernel: str) -> None:
    gamma = 0.05
    options = {"kernel": kernel, "gamma": gamma, "coef0": 0.5, "degree": 3, "C": 1.0}
    machine = SVC(decision_function_shape="ovo", **options).fit(X, CLASSES[::3])
    labels, scores = run(
        "SVMClassifier", X, 2, classlabels_ints=[0, 1, 2],
        vectors_per_class=machine.n_support_.tolist(), **kernel_attributes(machine, kernel, gamma),
    )  # fmt: skip
    wanted = machine.decision_function(X)
    np.testing.assert_allclose(scores, wanted, rtol=1e-3, atol=2e-3 * np.abs(wanted).max())
    clear = np.abs(wanted).min(axis=1) > 0.01
    np.testing.assert_array_equal(labels[clear], machine.predict(X)[clear])
    regression = SVR(**options).fit(X, X[:, 0])
    found = run(
        "SVMRegressor", X, n_supports=len(regression.support_vectors_),
        **kernel_attributes(regression, kernel, gamma),
    )  # fmt: skip
    wanted = regression.predict(X)
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-3, atol=2e-3 * np.abs(wanted).max())


def test_pairwise_probabilities_are_coupled() -> None:
    # With decisions of 0 every pair is even, so all classes are equally likely.
    even: dict[str, Any] = {
        "kernel_type": "LINEAR",
        "support_vectors": [0.0] * 12,
        "coefficients": [0.0] * 6,
        "vectors_per_class": [1, 1, 1],
        "rho": [0.0, 0.0, 0.0],
        "prob_a": [-1.0, -1.0, -1.0],
        "classlabels_ints": [0, 1, 2],
    }
    _, scores = run("SVMClassifier", X[:2], 2, prob_b=[0.0, 0.0, 0.0], **even)
    np.testing.assert_allclose(scores, np.full((2, 3), 1 / 3), rtol=1e-6)
    # Pairs that come from probabilities p_i / (p_i + p_j) nearly give those probabilities back.
    p = np.array([0.2, 0.5, 0.3])
    odds: list[float] = [np.log(p[j] / p[i]) for i, j in ((0, 1), (0, 2), (1, 2))]
    _, scores = run("SVMClassifier", X[:2], 2, prob_b=odds, **even)
    np.testing.assert_allclose(scores, np.tile(p, (2, 1)), atol=5e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_stop_where_libsvm_stops(classes: int) -> None:
    # libsvm ends its iteration well before the minimum, and its users have seen those numbers.
    labels = np.minimum(CLASSES[::3], classes - 1)
    machine = SVC(kernel="linear", decision_function_shape="ovo").fit(X, labels)
    pairs = classes * (classes - 1) // 2
    slope, offset = np.linspace(-3.0, -1.0, pairs), np.linspace(-0.5, 0.5, pairs)
    _, scores = run(
        "SVMClassifier", X, 2, classlabels_ints=list(range(classes)),
        vectors_per_class=machine.n_support_.tolist(), prob_a=slope.tolist(),
        prob_b=offset.tolist(), **kernel_attributes(machine, "linear", 1.0),
    )  # fmt: skip
    decisions = np.asarray(machine.decision_function(X), np.float64).reshape(len(X), pairs)
    pairwise = np.clip(1 / (1 + np.exp(decisions * slope + offset)), 1e-7, 1 - 1e-7)
    wanted = np.stack([coupled(row, classes) for row in pairwise])
    np.testing.assert_allclose(scores, wanted, atol=1e-4)


def coupled(pairwise: Array, classes: int) -> Array:
    """Wu, Lin and Weng's second algorithm as libsvm runs it: 0.005 / classes is near enough."""
    r = np.zeros((classes, classes))
    for value, (i, j) in zip(pairwise, combinations(range(classes), 2), strict=True):
        r[i, j], r[j, i] = value, 1 - value
    form = -r * r.T
    form[np.diag_indices(classes)] = (r * r).sum(0)
    p = np.full(classes, 1 / classes)
    for _ in range(100):
        product = form @ p
        value = p @ product
        if np.abs(product - value).max() < 0.005 / classes:
            break
        for t in range(classes):
            step = (value - product[t]) / form[t, t]
            value = (value + step * (step * form[t, t] + 2 * product[t])) / (1 + step) ** 2
            product = (product + step * form[t]) / (1 + step)
            p[t] += step
            p /= 1 + step
    return p


# ---------------------------------------------------------------- features and labels


def test_normalising_scaling_and_imputing() -> None:
    x = np.array([[3.0, -4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(
        run("Normalizer", x, norm="L2"), [[0.6, -0.8], [0.0, 0.0]], rtol=1e-6
    )
    np.testing.assert_allclose(run("Normalizer", x, norm="L1"), x / np.array([[7], [1]]), rtol=1e-6)
    np.testing.assert_allclose(run("Normalizer", x, norm="MAX"), [[0.75, -1.0], [0.0, 0.0]])
    scaled = run("Scaler", x, offset=[1.0, 2.0], scale=[2.0, 0.5])
    assert scaled.tolist() == [[4, -3], [-2, -1]]
    gaps = np.array([[np.nan, 1.0], [2.0, np.nan]], np.float32)
    filled = run("Imputer", gaps, imputed_value_floats=[7.0, 8.0], replaced_value_float=np.nan)
    assert filled.tolist() == [[7, 1], [2, 8]]
    counts = np.array([[0, 5]], np.int64)
    assert run("Imputer", counts, imputed_value_int64s=[9]).tolist() == [[9, 5]]


def test_labels_by_table_whatever_their_type() -> None:
    words = np.array([["b", "z"], ["a", "b"]], dtype=object)
    keys: dict[str, Any] = {"keys_strings": ["a", "b", "b"]}
    found = run("LabelEncoder", words, values_int64s=[1, 2, 3], default_int64=-9, **keys)
    assert found.tolist() == [[3, -9], [1, 3]]
    numbers = np.array([1.5, np.nan, 4.0], np.float32)
    found = run("LabelEncoder", numbers, keys_floats=[1.5, np.nan], values_floats=[10.0, 20.0])
    np.testing.assert_array_equal(found, [10, 20, 0])
    found = run("LabelEncoder", numbers, keys_floats=[1.5], values_strings=["yes"])
    assert found.tolist() == ["yes", "_Unused", "_Unused"]
    mapped = run("CategoryMapper", words, cats_strings=["a", "b"], cats_int64s=[5, 6])
    assert mapped.tolist() == [[6, -1], [5, 6]]


def test_one_hot_of_numbers_and_words() -> None:
    numbers = np.array([[2.0, 7.0]], np.float32)
    assert run("OneHotEncoder", numbers, cats_int64s=[1, 2, 3]).tolist() == [[[0, 1, 0], [0, 0, 0]]]
    words = np.array(["b"], dtype=object)
    assert run("OneHotEncoder", words, cats_strings=["a", "b"]).tolist() == [[0, 1]]
    with pytest.raises(EngineError, match="no category"):
        run("OneHotEncoder", np.array(["q"], dtype=object), cats_strings=["a"], zeros=0)
