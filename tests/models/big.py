"""``make big-models``: small Whisper, Stable Diffusion and others, beside onnxruntime.

Their weights are random and seeded, so what is shown is that the importer computes these networks:
not that they hear or paint. Whisper writes a greedy text, the UNet denoises as one scan.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np

import flopmarket as fm
from flopmarket.engine.runtime.open import open_session
from tests.models import exports, families
from tests.models.agreement import Peer, Row, relative_error, report
from tests.models.exports import Export

Array = np.ndarray[Any, Any]

STEPS = 8
"""Steps of the denoising."""


def once(build: Callable[[], Export], device: str | None) -> Row:
    """The exported example."""
    export = build()
    peer = Peer(export.onnx, device)
    peer.run(export.feed)
    return peer.row(export.name)


def whisper(device: str | None) -> Iterator[Callable[[], Row]]:
    """The encoder, and a decoder that writes twelve tokens, each chosen from its own output."""
    encoder, decoder = exports.whisper()

    def listen() -> Row:
        peer = Peer(encoder.onnx, device)
        peer.run(encoder.feed)
        return peer.row(encoder.name)

    def write() -> Row:
        peer = Peer(decoder.onnx, device)
        (ids_name, _), (hidden_name, hidden) = decoder.feed.items()
        tokens = {"ours": [1], "theirs": [1]}
        length = decoder.feed[ids_name].shape[1]
        for at in range(length - 1):
            ids = np.zeros((1, length), np.int64)
            ids[0, : at + 1] = tokens["ours"]
            results = peer.run({ids_name: ids, hidden_name: hidden})
            for whose, result in zip(tokens, results, strict=True):
                tokens[whose].append(int(next(iter(result.values()))[0, at].argmax()))
        same = tokens["ours"] == tokens["theirs"]
        return peer.row(decoder.name, (f"{length - 1} greedy tokens are the same", same))

    yield listen
    yield write


def denoise(export: Export, device: str | None) -> Row:
    """DDIM (Song et al., 2020) without noise: one program with the network inside a scan.

    The peer calls its network eight times from Python.
    """
    peer = Peer(export.onnx, device)
    (noisy_name, noisy), (step_name, _), (text_name, text) = export.feed.items()
    steps = np.linspace(999, 0, STEPS + 1).round().astype(np.int64)
    kept = np.cos(steps / 1000 * np.pi / 2) ** 2 * 0.98 + 0.01
    keep = np.sqrt(kept[1:] / kept[:-1])
    remove = np.sqrt(1 - kept[1:]) - keep * np.sqrt(1 - kept[:-1])
    keep, remove = keep.astype(np.float32), remove.astype(np.float32)

    def program(frozen: Any, state: Any, inputs: Any) -> Any:
        def body(carry: tuple[fm.Tensor, ...], item: tuple[fm.Tensor, ...]) -> Any:
            (latents,), (step, a, b) = carry, item
            feed = {noisy_name: latents, step_name: step.reshape(1), text_name: inputs["text"]}
            noise, _ = peer.ours.apply(frozen, feed)
            return (a * latents + b * noise,), ()

        scanned = fm.Tensor(steps[:-1]), fm.Tensor(keep), fm.Tensor(remove)
        (clean,), _ = fm.functional.scan(body, (inputs["noisy"],), scanned)
        return {}, {"clean": clean}

    weights = peer.ours.state_dict()
    traced = fm.trace(program, {}, {"noisy": noisy, "text": text}, frozen=weights)
    started = time.perf_counter()
    session = open_session(traced, device)
    session.load(weights, {})
    ours = session.step({"noisy": noisy, "text": text}, seed=0, step=0)["clean"]
    session.close()
    between = time.perf_counter()
    latents = noisy
    for step, a, b in zip(steps, keep, remove, strict=False):
        feed = {noisy_name: latents, step_name: np.array([step]), text_name: text}
        latents = a * latents + b * peer.theirs.run(None, feed)[0]
    peer.errors.append(relative_error(ours, latents))
    peer.seconds.append(between - started)
    peer.peer_seconds.append(time.perf_counter() - between)
    return peer.row(f"  denoised, {STEPS} steps in a scan")


def main() -> int:
    """Print the table; 1 if anything does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", help="OpenCL device, or 'reference'")
    parser.add_argument("--match", default="", help="run networks whose name contains this")
    options = parser.parse_args()
    unet = cache(exports.stable_diffusion_unet)
    cases: dict[str, Callable[[], Row]] = {
        "unet": lambda: once(unet, options.device),
        "denoise": lambda: denoise(unet(), options.device),
    }
    for build in (*exports.families(), *families.more()):
        cases[build.__name__] = partial(once, build, options.device)
    chosen = [case for name, case in cases.items() if options.match in name]
    if options.match in "whisper":
        chosen = [*whisper(options.device), *chosen]
    return 1 if report("exported networks, beside onnxruntime", chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
