"""One model beside onnxruntime on the same input, and the table of the differences."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import flopmarket as fm

Array = np.ndarray[Any, Any]
Feed = Mapping[str, Array]

LIMIT = 1e-4
"""Largest |ours - theirs| over the largest |theirs|, for every output."""


class Peer:
    """A model in onnxruntime and in the engine."""

    def __init__(self, model: Path | bytes, device: str | None = None) -> None:
        source = model if isinstance(model, bytes) else str(model)
        self.theirs = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        self.ours = fm.onnx.load(model)
        self.device = device
        self.errors: list[float] = []
        self.seconds: list[float] = []
        self.peer_seconds: list[float] = []

    def run(self, feed: Feed) -> tuple[dict[str, Array], dict[str, Array]]:
        """(ours, theirs) by output name; the difference and both times are noted."""
        names = [output.name for output in self.theirs.get_outputs()]
        started = time.perf_counter()
        theirs = dict(zip(names, self.theirs.run(None, dict(feed)), strict=True))
        between = time.perf_counter()
        ours = self.ours.run(feed, device=self.device)
        self.seconds.append(time.perf_counter() - between)
        self.peer_seconds.append(between - started)
        self.errors.append(max(relative_error(ours[name], theirs[name]) for name in names))
        return ours, theirs

    def row(self, name: str, *facts: tuple[str, bool]) -> Row:
        """What the table says of this model; ``facts`` are claims about its use."""
        return Row(
            name,
            len(self.errors),
            max(self.errors),
            statistics.median(self.seconds),
            statistics.median(self.peer_seconds),
            tuple(facts),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One model: number of runs, worst relative error, median seconds of both, claims."""

    name: str
    runs: int
    error: float
    seconds: float
    peer_seconds: float
    facts: tuple[tuple[str, bool], ...]

    @property
    def holds(self) -> bool:
        """Whether the error is below the limit and every claim true."""
        return self.error <= LIMIT and all(true for _, true in self.facts)


def relative_error(ours: Array, theirs: Array) -> float:
    """Largest distance over the largest magnitude of ``theirs``; infinite for other shapes."""
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    distance = np.max(np.abs(ours.astype(np.float64) - theirs), initial=0.0)
    return float(distance / max(np.max(np.abs(theirs), initial=0.0), 1e-30))


def report(title: str, cases: Sequence[Callable[[], Row]]) -> int:
    """Run and print every case; the number of those that do not hold."""
    print(f"{title}\n{'model':34} {'runs':>4} {'error':>9} {'ours s':>8} {'ort s':>8}")
    failed = 0
    for case in cases:
        row = case()
        failed += not row.holds
        times = f"{row.seconds:8.3f} {row.peer_seconds:8.4f}"
        mark = "" if row.holds else "  FAILED"
        print(f"{row.name:34} {row.runs:4} {row.error:9.1e} {times}{mark}")
        for text, true in row.facts:
            print(f"    {'yes' if true else 'NO '}  {text}")
    print(f"\n{len(cases) - failed} passed, {failed} failed")
    return failed
