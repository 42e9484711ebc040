"""``fm.quantize`` on whole models: integers inside, the report, refusals, equal bits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import flopmarket as fm
from flopmarket.engine import functional, graph, nn
from flopmarket.engine.graph import Op
from flopmarket.engine.quantize import Quantized, Ranking, quantize
from flopmarket.engine.runtime.realise import Realiser
from flopmarket.engine.trace import inference_step, trace

from .conftest import Small, agreement, images

Array = np.ndarray[Any, Any]
WAYS = [
    {"bits": 8},
    {"bits": 8, "activations": "dynamic"},
    {"bits": 4, "group": 16},
    {"bits": 4, "activations": "dynamic"},
]


def quantised(model: nn.Module, **options: Any) -> Quantized:
    """On images, with a wide gate, on the reference."""
    given = {
        "evaluate": agreement(model, images(40, 9)),
        "max_loss": 1.0,
        "device": "reference",
    }
    return quantize(model, images(24), **given | options)


def program_of(model: nn.Module, x: Array) -> fm.Program:
    return trace(inference_step(model), {}, {"x": x}, frozen=model.state_dict())


@pytest.mark.parametrize("options", WAYS)
def test_products_become_integer_and_the_answers_stay(small: Small, options: Any) -> None:
    result = quantised(small, **options, max_loss=0.15)
    assert result.report.after >= 0.85
    assert result.report.integer_share == 1.0
    dots = [n for n in program_of(result, images(3)).nodes if n.op is Op.DOT]
    assert sum(not dot.dtype.is_float for dot in dots) == 4
    narrow = {s.dtype.name for dot in dots if not dot.dtype.is_float for s in dot.src}
    assert narrow <= {"int8", "uint8"}
    stored = result.state_dict()
    assert not {"first.weight", "second.weight", "third.weight", "last.weight"} & set(stored)
    assert {"first.bias", "norm.running_mean"} <= set(stored)


@pytest.mark.parametrize("options", [WAYS[0], WAYS[3]])
def test_every_way_of_running_gives_equal_bits(
    small: Small, options: Any, realisers: list[Realiser]
) -> None:
    result = quantised(small, **options)
    x = images(5, 3)
    expected = result.run(x, "reference")
    program = program_of(result, x)
    arrays = {"frozen": result.state_dict(), "input": {"x": x}}
    leaves = {leaf: arrays[leaf.arg[0]][leaf.arg[1]] for leaf in program.leaves}
    for realiser in realisers:
        (found,) = realiser.realise(program.output_nodes, leaves)
        assert found.tobytes() == expected.tobytes()
    called = result(fm.Tensor(x, device="reference"))
    assert called.numpy().tobytes() == expected.tobytes()


def test_a_row_does_not_depend_on_its_batch(small: Small) -> None:
    result = quantised(small)
    x = images(7, 4)
    whole = result.run(x, "reference")
    parts = [result.run(x[at : at + 1], "reference") for at in range(7)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_it_is_a_job(small: Small) -> None:
    result = quantised(small)
    job = fm.InferenceJob(model=result, inputs=images(10, 5), batch=4)
    rows = job.run_local("reference").rows("y")
    assert rows.tobytes() == result.run(images(10, 5), "reference").tobytes()
    assert fm.Program.from_bytes(job.prepare().program.to_bytes()) is not None
    again = Small()
    again.load_state_dict(small.state_dict())
    other = quantised(again)
    assert other.state_dict().keys() == result.state_dict().keys()
    assert program_of(other, images(4)).digest == program_of(result, images(4)).digest


def test_values_can_be_saved_and_loaded(small: Small) -> None:
    result = quantised(small)
    saved = result.state_dict()
    changed = {name: np.zeros_like(array) for name, array in saved.items()}
    before = result.run(images(2), "reference")
    assert not result.load_state_dict(changed).run(images(2), "reference").any()
    assert (result.load_state_dict(saved).run(images(2), "reference") == before).all()


# ---------------------------------------------------------------- the report and the gate


def test_the_report_says_what_was_done(small: Small) -> None:
    report = quantised(small, skip=["last.*"]).report
    assert [layer.name for layer in report.layers] == [
        "first.weight",
        "second.weight",
        "third.weight",
    ]
    assert [(item.name, item.reason) for item in report.left] == [
        ("last.weight", "skipped by its name")
    ]
    assert 0.9 < report.integer_share < 1
    assert report.bytes_before == sum(a.nbytes for a in small.state_dict().values())
    assert report.bytes_after < 0.4 * report.bytes_before
    assert all(30 < (layer.own_db or 0) < 70 for layer in report.layers)
    assert report.layers[0].own_db == report.layers[0].total_db
    assert report.worst in report.layers
    assert "zero at" in report.layers[1].activation
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["accepted"] is True
    assert plain["worst"] == report.worst.name  # type: ignore[union-attr]
    text = str(report)
    assert "accuracy" in text
    assert "skipped by its name" in text
    assert "third.weight" in text


def test_four_bits_lose_more_than_eight(small: Small) -> None:
    eight, four = (quantised(small, bits=bits).report for bits in (8, 4))
    for first, second in zip(eight.layers, four.layers, strict=True):
        assert (first.own_db or 0) > (second.own_db or 0) + 10
    assert four.bytes_after < eight.bytes_after


def test_a_loss_above_the_limit_is_refused_with_the_figures(small: Small) -> None:
    figures = iter([0.9, 0.7])
    with pytest.raises(fm.EngineError, match=r"0\.9000 -> 0\.7000") as caught:
        quantised(small, evaluate=lambda predict: next(figures), max_loss=0.1)
    assert caught.value.code == "QUANTIZE_LOSS"
    assert "weight" in caught.value.hint


def test_a_figure_that_is_no_number_is_refused(small: Small) -> None:
    with pytest.raises(fm.EngineError) as caught:
        quantised(small, evaluate=lambda predict: float("nan"))
    assert caught.value.code == "QUANTIZE_LOSS"


def test_nothing_is_quantised_unmeasured(small: Small) -> None:
    with pytest.raises(fm.EngineError) as caught:
        fm.quantize(small, images(4))
    assert caught.value.code == "QUANTIZE_UNEVALUATED"


def test_embeddings_are_judged_by_their_ranking(small: Small) -> None:
    report = quantised(small, evaluate=Ranking(images(12, 6))).report
    assert report.before == pytest.approx(1.0)
    assert 0.9 < report.after <= 1
    assert report.neighbours_kept is not None


# ---------------------------------------------------------------- models of other kinds


class Left(nn.Module):
    """Weights on the left of a product, for every batch entry the same."""

    def __init__(self) -> None:
        self.mix = nn.Parameter((6, 9), nn.normal(1.0))

    def forward(self, x: Any) -> Any:
        return (self.mix @ x).relu()


def test_weights_on_the_left_are_found_in_any_batch() -> None:
    model = Left()
    model.load_state_dict(model.init(1, "reference"))
    x = np.random.default_rng(0).normal(0, 1, (4, 9, 5)).astype(np.float32)

    def near(predict: Any) -> float:
        exact = np.maximum(model.state_dict()["mix"] @ x, 0)
        return -float(np.abs(predict(x) - exact).max())

    for options in WAYS:
        for calibration in (x, x[:1]):
            result = quantize(
                model, calibration, evaluate=near, max_loss=1.5, device="reference", **options
            )
            assert result.report.layers[0].activation.endswith("(weights on the left)")
            alone = result.run(x[1:2], "reference")
            assert alone.tobytes() == result.run(x, "reference")[1:2].tobytes()


def test_a_transformer_layer_keeps_its_attention_in_floats() -> None:
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model.load_state_dict(model.init(2, "reference"))
    x = np.random.default_rng(1).normal(0, 1, (3, 7, 16)).astype(np.float32)
    result = quantize(
        model,
        x,
        evaluate=lambda predict: -np.abs(predict(x)).max(),
        max_loss=0.2,
        device="reference",
    )
    names = [layer.name for layer in result.report.layers]
    assert {"linear1.weight", "linear2.weight", "self_attn.out_proj.weight"} <= set(names)
    assert sum(name.startswith("self_attn.in_proj_weight") for name in names) in (1, 3)
    assert {item.reason for item in result.report.left} == {
        "both operands are computed from inputs"
    }
    assert result.run(x[:2, :5], "reference").shape == (2, 5, 16)


class Tied(nn.Module):
    """One weight that is a table, and the weights of two products."""

    def __init__(self) -> None:
        self.words = nn.Embedding(11, 8)

    def forward(self, ids: Any) -> Any:
        x = self.words(ids)
        scores = functional.linear(x, self.words.weight)
        return functional.linear(scores.softmax(-1) @ self.words.weight, self.words.weight)


def test_tables_and_weights_with_several_uses() -> None:
    model = Tied()
    model.load_state_dict(model.init(3, "reference"))
    ids = np.arange(10, dtype=np.int32).reshape(2, 5)
    options: Any = {"evaluate": lambda predict: 0.0, "device": "reference"}
    report = quantize(model, ids, **options).report
    assert report.layers[0].activation == "rows are looked up"
    assert len(report.layers) == 4
    assert len({layer.name for layer in report.layers}) == 4
    report = quantize(model, ids, tables=False, **options).report
    assert [item.reason for item in report.left] == ["tables are to stay"]


def test_products_inside_loops_stay_floats_and_are_named() -> None:
    class Scanned(nn.Module):
        def __init__(self) -> None:
            self.read = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            weight = self.read.weight

            def turn(carry: Any, item: Any) -> Any:
                (state,) = carry
                state = functional.tanh(state @ weight + item[0])
                return (state,), (state,)

            start = self.read(x[0])
            return functional.scan(turn, (start,), (x,))[0][0]

    model = Scanned()
    model.load_state_dict(model.init(3, "reference"))
    x = np.random.default_rng(1).normal(0, 1, (6, 2, 4)).astype(np.float32)
    report = quantize(model, x, evaluate=lambda predict: 0.0, device="reference", bits=8).report
    assert [layer.name for layer in report.layers] == ["read.weight"]
    assert [item.reason for item in report.left] == ["is inside a loop"]


# ---------------------------------------------------------------- bad input


def test_bad_calibration(small: Small) -> None:
    for empty in (images(0), [], {}, {"x": images(0)}):
        with pytest.raises(fm.EngineError) as caught:
            fm.quantize(small, empty, evaluate=lambda predict: 1.0)
        assert caught.value.code == "QUANTIZE_CALIBRATION"
    with pytest.raises(fm.EngineError):
        fm.quantize(small, images(4)[:, :1], evaluate=lambda predict: 1.0)
    for bad in (np.nan, np.inf):
        x = images(4)
        x[1, 0, 2, 2] = bad
        with pytest.raises(fm.EngineError, match=r"first\.weight") as caught:
            fm.quantize(small, x, evaluate=lambda predict: 1.0, device="reference")
        assert caught.value.code == "QUANTIZE_VALUES"


def test_bad_options(small: Small) -> None:
    for options in (
        {"bits": 5},
        {"group": 3},
        {"group": 0},
        {"activations": "none"},
        {"ranges": "best"},
        {"max_loss": float("nan")},
    ):
        with pytest.raises(fm.EngineError) as caught:
            fm.quantize(small, images(2), evaluate=lambda predict: 1.0, **options)  # type: ignore[arg-type]
        assert caught.value.code == "QUANTIZE_OPTION"
    with pytest.raises(fm.EngineError) as caught:
        fm.quantize(small, images(2), evaluate=3)
    assert caught.value.code == "QUANTIZE_EVALUATE"


def test_weights_that_are_no_numbers(small: Small) -> None:
    state = small.state_dict()
    state["last.weight"][0, 0] = np.inf
    with pytest.raises(fm.EngineError, match=r"last\.weight") as caught:
        fm.quantize(
            small.load_state_dict(state),
            images(2),
            evaluate=lambda predict: 1.0,
            device="reference",
        )
    assert caught.value.code == "QUANTIZE_VALUES"


@pytest.mark.parametrize("options", WAYS)
def test_weights_and_activations_of_zeros(small: Small, options: Any) -> None:
    state = small.state_dict()
    state["second.weight"][:] = 0
    state["third.weight"][3] = 0
    small.load_state_dict(state)
    result = quantize(
        small,
        np.zeros((2, 2, 6, 6), np.float32),
        evaluate=lambda predict: 1.0,
        device="reference",
        **options,
    )
    assert np.isfinite(result.run(images(3), "reference")).all()


def test_a_model_without_products_is_refused() -> None:
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(fm.EngineError) as caught:
        fm.quantize(model, images(2), evaluate=lambda predict: 1.0)
    assert caught.value.code == "QUANTIZE_NOTHING"


def test_other_inputs_than_calibrated(small: Small) -> None:
    result = quantised(small)
    with pytest.raises(fm.EngineError):
        result.run(images(2)[:, :1], "reference")
    with pytest.raises(fm.EngineError) as caught:
        result(fm.Tensor(images(1)), fm.Tensor(images(1)))
    assert caught.value.code == "QUANTIZE_INPUT"
    leaves = [n for n in graph.topological([result(fm.Tensor(images(2))).node]) if not n.src]
    assert all(leaf.op is not Op.INPUT or leaf.arg[0] == "buffer" for leaf in leaves)
