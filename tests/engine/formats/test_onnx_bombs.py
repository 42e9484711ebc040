"""A few bytes that ask for much: sizes, turns and tables without end, and contradictions.

As in test_onnx_hostile.py, each model is computed or refused with a code of the engine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx import load
from tests.engine.formats.hostile import DATA, FAR, ML, X, Y, ints, one, refusal, run, survived
from tests.engine.formats.models import BOOL, FLOAT, INT64, graph, model, node

pytestmark = pytest.mark.usefixtures("bounded")


# ---------------------------------------------------------------- a few bytes that ask for much


def image(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def number(value: Any, dtype: Any = np.int64) -> Any:
    return np.array(value, dtype)


BOMBS: dict[str, list[onnx.ModelProto]] = {
    "a constant": [
        one("ConstantOfShape", ["s"], {"s": ints(*shape)})
        for shape in ([2**34], [2**40], [FAR], [2**20, 2**20], [-1], [2**33, 0, 2**60])
    ],
    "an expansion": [
        one("Expand", ["q", "s"], {"q": image(1), "s": ints(*shape)})
        for shape in ([2**34], [FAR], [2**20, 2**20])
    ],
    "a repetition": [
        one("Tile", ["x", "n"], {"n": ints(*counts)})
        for counts in ([2**40, 1], [FAR, FAR], [2**15, 2**15], [-1, 1])
    ],
    "a range": [
        one("Range", ["a", "b", "c"], {n: number(v, d) for n, v in zip("abc", values, strict=True)})
        for values, d in (
            ((0, 2**40, 1), np.int64),
            ((-(2**63), 2**63 - 1, 1), np.int64),
            ((0, 1, 0), np.int64),
            ((0, 1e38, 1), np.float32),
            ((0, 1e300, 1e-300), np.float64),
            ((np.nan, 1, 1), np.float64),
        )
    ],
    "a border": [
        one("Pad", ["x", "p"], {"p": ints(*pads)}, mode=mode)
        for pads in ([2**40, 0, 0, 0], [FAR] * 4, [-5, 0, 0, 0], [2**16] * 4, [1, 1])
        for mode in ("constant", "reflect", "edge", "wrap")
    ],
    "a resize": [
        one("Resize", ["x", "", "s"], {"s": np.array(scales, np.float32)}, mode=mode)
        for scales in ([1e9, 1e9], [1e38, 1], [np.inf, 1], [np.nan, 1], [-1, 1], [1e5, 1e5])
        for mode in ("nearest", "linear", "cubic")
    ],
    "a resize to sizes": [
        one("Resize", ["x", "", "", "s"], {"s": ints(*sizes)}, mode="linear")
        for sizes in ([FAR, 1], [2**20, 2**20], [-1, -1])
    ],
    "an old resize": [
        one("Upsample", ["x", "s"], {"s": np.array(scales, np.float32)}, opset=9)
        for scales in ([1e9, 1e9], [np.nan, 1], [-1, 1])
    ],
    "a window": [
        one(f"{name}Window", ["n"], {"n": number(n)})
        for name in ("Hann", "Hamming", "Blackman")
        for n in (2**40, FAR, -1)
    ],
    "one hot": [
        one("OneHot", ["i", "d", "v"], {"i": ints(1, 2), "d": ints(d), "v": image(2)})
        for d in (2**41, FAR, -1)
    ],
    "places": [
        one("AffineGrid", ["t", "n"], {"t": image(1, 2, 3), "n": ints(1, 1, 2**40, 2**40)}),
        one(
            *("RoiAlign", ["q", "r", "i"], {"q": image(1, 1, 4, 4), "r": image(1, 4)}),
            sampling_ratio=2**40,
        ),
        one("CenterCropPad", ["x", "n"], {"n": ints(2**20, 2**20)}),
        one("LRN", ["q"], {"q": image(1, 4, 8, 8)}, size=2**21),
    ],
    "parts": [one("Split", ["x"], num_outputs=n) for n in (2**40, FAR, 0, -1)],
    "outer products": [one("Einsum", ["q"] * 5, {"q": image(1000)}, equation="a,b,c,d,e->abcde")],
    "tables": [
        one(
            *("SVMClassifier", ["x"]),
            domain=ML,
            outputs=2,
            kernel_type="RBF",
            kernel_params=[0.5, 0.0, 3.0],
            vectors_per_class=[1] * 600,
            classlabels_ints=list(range(600)),
            support_vectors=[1.0] * 1800,
            coefficients=[1.0] * (599 * 600),
            rho=[0.0],
        )
    ],
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs(kind: str) -> None:
    for m in BOMBS[kind]:
        refusal(m)


def in_loop(trips: int, *nodes: Any, stacked: bool = False) -> onnx.ModelProto:
    body = graph(
        [node("Identity", ["c"], ["c2"]), *nodes],
        [("i", INT64, []), ("c", BOOL, []), ("v", FLOAT, None)],
        [("c2", BOOL, []), ("w", FLOAT, None), *([("w", FLOAT, None)] if stacked else [])],
    )
    call = node("Loop", ["n", "", "x"], ["y", "z"][: 1 + stacked], body=body)
    return model([call], X, Y, {"n": number(trips)})


@pytest.mark.parametrize("trips", [2**60, 2**24])
@pytest.mark.parametrize("stacked", [False, True])
def test_endless_loops(trips: int, stacked: bool) -> None:
    add = node("Add", ["v", "v"], ["w"])
    assert refusal(in_loop(trips, add, stacked=stacked)).code == "ONNX_LIMIT"
    grow = node("Concat", ["v", "v"], ["w"], axis=0)
    refusal(in_loop(trips, grow, stacked=stacked))


def nested(depth: int) -> list[Any]:
    if not depth:
        return [node("Add", ["v", "v"], ["w"])]
    body = graph(
        [node("Identity", ["c"], ["c2"]), *nested(depth - 1)],
        [("i", INT64, []), ("c", BOOL, []), ("v", FLOAT, None)],
        [("c2", BOOL, []), ("w", FLOAT, None)],
    )
    return [node("Loop", ["n", "", "v"], ["w"], body=body)]


@pytest.mark.parametrize(("depth", "trips"), [(3, 100), (5, 100), (16, 2), (16, 10), (5, 2**20)])
def test_loops_multiply_to_a_bound(depth: int, trips: int) -> None:
    nodes = [node("Identity", ["x"], ["v"]), *nested(depth), node("Identity", ["w"], ["y"])]
    assert refusal(model(nodes, X, Y, {"n": number(trips)})).code == "ONNX_LIMIT"


@pytest.mark.parametrize(("count", "depth"), [(100, 2), (1000, 3), (10_001, 0)])
def test_scans_multiply_to_a_bound(count: int, depth: int) -> None:
    def body(inner: int) -> onnx.GraphProto:
        scan = (
            node("Scan", ["s", "big"], ["t"], num_scan_inputs=1, body=body(inner - 1))
            if inner
            else node("Add", ["s", "e"], ["t"])
        )
        return graph([scan], [("s", FLOAT, []), ("e", FLOAT, [])], [("t", FLOAT, [])])

    call = node("Scan", ["a", "big"], ["y"], num_scan_inputs=1, body=body(depth))
    constants = {"a": np.zeros((), np.float32), "big": np.zeros(count, np.float32)}
    assert refusal(model([call], X, Y, constants)).code == "ONNX_LIMIT"


@pytest.mark.parametrize("count", [0, -1, 3, FAR])
def test_scans_of_no_such_number(count: int) -> None:
    body = graph([node("Neg", ["s"], ["t"])], [("s", FLOAT, None)], [("t", FLOAT, None)])
    refusal(model([node("Scan", ["x", "x"], ["y"], num_scan_inputs=count, body=body)], X, Y))


def chain(op_type: str, first: Any, last: Any, **attributes: Any) -> onnx.ModelProto:
    """An operator applied to (v, v) sixty times."""
    nodes = [node(op_type, [f"v{at}", f"v{at}"], [f"v{at + 1}"], **attributes) for at in range(60)]
    m = model([first, *nodes, last], X, Y)
    m.graph.output[0].ClearField("type")
    return m


WORD = node("Constant", [], ["v0"], value_strings=["abc"])
SAME = node("Identity", ["v60"], ["y"])


@pytest.mark.parametrize(
    "m",
    [
        chain("Concat", node("Identity", ["x"], ["v0"]), SAME, axis=0),
        chain("Concat", WORD, SAME, axis=0),
        chain("StringConcat", WORD, SAME),
        chain(
            *("SequenceConstruct", node("Identity", ["x"], ["v0"])),
            node("SequenceLength", ["v60"], ["y"]),
        ),
    ],
    ids=["tensors", "arrays of strings", "strings", "sequences"],
)
def test_doubling_sixty_times(m: onnx.ModelProto) -> None:
    assert refusal(m).code in ("GRAPH_TOO_LARGE", "ONNX_LIMIT", "ONNX_UNSUPPORTED")


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Concat", ["v", "v"], ["y"], axis=0)],
        [node("Equal", ["v", "v"], ["y"])],
        [node("StringConcat", ["v", "v"], ["y"])],
        [node("StringSplit", ["v"], ["y", "n"])],
        [node("Tile", ["w", "s"], ["y"])],
        [node("Reshape", ["v", "flat"], ["y"])],
    ],
)
def test_strings_that_are_expanded(nodes: list[Any]) -> None:
    word = node("Constant", [], ["w"], value_strings=["abc"])
    m = model(
        [word, node("Expand", ["w", "s"], ["v"]), *nodes],
        *(X, Y, {"s": ints(2**36), "flat": ints(-1)}),
    )
    assert refusal(m).code == "ONNX_LIMIT"


def test_additions_that_share_cost_what_they_are() -> None:
    add = chain("Add", node("Identity", ["x"], ["v0"]), SAME)
    assert (run(add)["y"] == np.float32(2**60)).all()


# ---------------------------------------------------------------- attributes that contradict

GRAMS: dict[str, Any] = {
    "max_gram_length": 2,
    "max_skip_count": 1,
    "min_gram_length": 1,
    "mode": "TF",
    "ngram_counts": [0, 2],
    "ngram_indexes": [0, 1, 2, 3],
    "pool_int64s": [1, 2, 3, 4, 5, 6],
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "X"},
        {"ngram_counts": [5, 0]},
        {"ngram_counts": [0, FAR]},
        {"ngram_counts": [-3, -1]},
        {"ngram_indexes": [0, 2**40, 1, 2]},
        {"ngram_indexes": [0, -1]},
        {"pool_int64s": [1]},
    ],
)
def test_grams(wrong: dict[str, Any]) -> None:
    refusal(one("TfIdfVectorizer", ["i"], {"i": ints(1, 2, 3, 1)}, **GRAMS | wrong))


def test_skips_without_end_count_what_fits() -> None:
    far = GRAMS | {"max_skip_count": FAR}
    near = GRAMS | {"max_skip_count": 5}
    row = {"i": ints(1, 2, 3, 5, 6, 1)}
    found = [run(one("TfIdfVectorizer", ["i"], row, **a))["y0"].tolist() for a in (far, near)]
    assert found[0] == found[1]
    long = {"i": np.arange(10_000)}
    assert refusal(one("TfIdfVectorizer", ["i"], long, **far)).code == "ONNX_LIMIT"


TREE: dict[str, Any] = {
    "nodes_falsenodeids": [2, 0, 0],
    "nodes_featureids": [0, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_nodeids": [0, 1, 2],
    "nodes_treeids": [0, 0, 0],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_values": [0.5, 0.0, 0.0],
    "target_ids": [0, 0],
    "target_nodeids": [1, 2],
    "target_treeids": [0, 0],
    "target_weights": [1.0, 2.0],
    "n_targets": 1,
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes_truenodeids": [99, 0, 0]},
        {"nodes_truenodeids": [-1, 0, 0]},
        {"nodes_featureids": [99, 0, 0]},
        {"nodes_featureids": [FAR, 0, 0]},
        {"nodes_modes": ["X", "LEAF", "LEAF"]},
        {"nodes_modes": ["BRANCH_LEQ"] * 3},
        {"nodes_modes": ["LEAF"]},
        {"nodes_nodeids": [0, 0, 0]},
        {"nodes_treeids": [0, 1, 2]},
        {"target_ids": [FAR, -1]},
        {"target_nodeids": [0, 9]},
        {"target_treeids": [9, 9]},
        {"n_targets": FAR},
        {"n_targets": -1},
        {"post_transform": "X"},
        {"aggregate_function": "X"},
    ],
)
def test_trees(wrong: dict[str, Any]) -> None:
    assert survived(one("TreeEnsembleRegressor", ["x"], domain=ML, **TREE)) == "computed"
    refusal(one("TreeEnsembleRegressor", ["x"], domain=ML, **TREE | wrong))


def test_a_tree_as_deep_as_it_has_nodes() -> None:
    inner = 20_000  # node 2k branches to the leaf 2k + 1 and to node 2k + 2
    ids = range(2 * inner + 1)
    branches = [at % 2 == 0 and at < 2 * inner for at in ids]
    deep = TREE | {
        "nodes_truenodeids": [at + 1 if b else 0 for at, b in zip(ids, branches, strict=True)],
        "nodes_falsenodeids": [at + 2 if b else 0 for at, b in zip(ids, branches, strict=True)],
        "nodes_modes": ["BRANCH_LEQ" if b else "LEAF" for b in branches],
        "nodes_nodeids": list(ids),
        "nodes_featureids": [0] * len(ids),
        "nodes_treeids": [0] * len(ids),
        "nodes_values": [0.5] * len(ids),
    }
    assert refusal(one("TreeEnsembleRegressor", ["x"], domain=ML, **deep)).code == "ONNX_LIMIT"


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-45])
def test_scales_that_are_no_scales(scale: float) -> None:
    constants = {"s": np.array(scale, np.float32), "q": np.ones((2, 3), np.uint8)}
    assert survived(one("QuantizeLinear", ["x", "s"], constants)) == "computed"
    assert survived(one("DequantizeLinear", ["q", "s"], constants)) == "computed"


@pytest.mark.parametrize("to", [0, 14, 99, -1, 2**40])
def test_casts_to_nowhere(to: int) -> None:
    refusal(one("Cast", ["x"], to=to))
    refusal(one("EyeLike", ["x"], dtype=to))


def test_branches_that_are_both_illegal() -> None:
    bad = graph([node("Reshape", ["x", "s"], ["r"])], [], [("r", FLOAT, None)])
    nodes = [
        node("ReduceSum", ["x"], ["t"], keepdims=0),
        node("Cast", ["t"], ["c"], to=BOOL),
        node("If", ["c"], ["y"], then_branch=bad, else_branch=bad),
    ]
    assert "Reshape 'r'" in str(refusal(model(nodes, X, Y, {"s": ints(7, 7)})))


# ---------------------------------------------------------------- operators and what they are fed


@pytest.mark.parametrize("op_type", sorted({s.name for s in onnx.defs.get_all_schemas()}))
def test_every_operator_on_nothing_and_on_the_wrong_things(op_type: str) -> None:
    schema = onnx.defs.get_schema(op_type) if onnx.defs.has(op_type) else None
    count = 1 if schema is None else max(1, schema.min_input)
    outputs = 1 if schema is None else max(1, schema.min_output)
    empty, words = np.zeros((0, 3), np.float32), np.array([["a", "b"]], object)
    for value in (empty, empty.reshape(3, 0), empty[:, 0].astype(np.int64), words, DATA > 0):
        m = one(op_type, ["v"] * count, {"v": value}, outputs=outputs, opset=23)
        survived(m)


@pytest.mark.parametrize(
    "feed",
    [
        {},
        {"x": DATA, "z": 1},
        {"x": DATA.astype(np.float64)},
        {"x": DATA.T},
        {"x": [[1, 2], [3]]},
        {"x": "abc"},
        {"x": [["a"] * 3] * 2},
        {"x": None},
        {"x": object()},
        {"x": DATA * 1j},
        {"x": np.broadcast_to(np.float32(1), (2**20, 2**20))},
        {5: 5},
    ],
)
def test_feeds_of_another_form(feed: dict[Any, Any]) -> None:
    assert refusal(one("Neg", ["x"]), feed).code in ("ONNX_FEED", "ONNX_SHAPES")


def test_feeds_of_another_kind() -> None:
    counts = model([node("Neg", ["x"], ["y"])], [("x", INT64, [2])], Y)
    words = model([node("Identity", ["x"], ["y"])], [("x", TensorProto.STRING, [2])], Y)
    assert run(counts, {"x": [True, 3.0]})["y"].tolist() == [-1, -3]
    for value in ([1.5, 2], [float("nan"), 2], [2**70, 1], ["a", "b"]):
        assert refusal(counts, {"x": value}).code == "ONNX_FEED"
    wrong: tuple[Any, ...] = ([1, 2], [[1], [2, 3]], np.array([object(), None], object))
    for text in wrong:
        assert refusal(words, {"x": text}).code == "ONNX_FEED"
    assert survived(one("Neg", ["x"]), {"x": DATA * np.nan}) == "computed"


@pytest.mark.parametrize("shape", [(-1, 3), (1.5, 3), "ab", None, (FAR, 3), {"x": 1}])
def test_shapes_of_another_kind(shape: Any) -> None:
    m = model([node("Neg", ["x"], ["y"])], [("x", FLOAT, ["batch", 3])], Y)
    with pytest.raises(EngineError):
        load(m, shapes={"x": shape}).program()
    for lengths in ({"batch": -1}, {"nobody": 3}):
        with pytest.raises(EngineError) as caught:
            load(m, shapes=lengths)
        assert caught.value.code == "ONNX_SHAPES"
