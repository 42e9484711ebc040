"""Every elementary function over all 2^32 float32 inputs: digests, checksums, largest errors.

    python -m tests.tools.exhaustive                       # all functions, first device, 2^32
    python -m tests.tools.exhaustive --sample 24 sin cos   # a sample of 2^24, two functions
    python -m tests.tools.exhaustive --write FILE          # and record, as golden/macros.json
    python -m tests.tools.exhaustive --document            # no sweep: the table of docs/numerics.md

The results come from the engine's own kernels, the truth (``macro_truth.py``) from the same device,
for the reference from the first OpenCL device.

Blocks of 2^24 results that are done are kept under ``--state``; a second run continues there. State
is bound to the graphs, so that a changed function begins anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flopmarket.engine import graph
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.dtypes import float32
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.golden import macros as golden
from flopmarket.engine.macros import MACROS
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.memory import Buffer
from flopmarket.engine.runtime.open import REFERENCE, open_target, opened
from flopmarket.engine.runtime.opencl import Device
from tests.tools.macro_truth import Truth

Array = np.ndarray[Any, Any]

STATE = Path("build/exhaustive")
PAGE = Path(__file__).parents[2] / "docs" / "numerics.md"
TABLE_HEAD = "| function | largest error, ulp | at | inputs |"
WORKERS = 8  # threads that hash; each holds a block of 64 MiB, and as much again waits
BLOCKS_PER_SAVE = 8
DIFFERENT = "DIFFERS from the golden data"


@dataclass
class Progress:
    """What is known of one function after some blocks."""

    graph: str
    blocks: list[str] = field(default_factory=list)
    checksum: int = 0
    max_ulp: float = -1.0
    worst_input: int = 0

    def take(self, block: bytes, checksum: int, max_ulp: float, worst_input: int) -> None:
        self.blocks.append(block.hex())
        self.checksum = (self.checksum + checksum) % 2**64
        if max_ulp > self.max_ulp:
            self.max_ulp, self.worst_input = max_ulp, worst_input

    def digest(self) -> str:
        return golden.digest_of([bytes.fromhex(block) for block in self.blocks])


class Ledger:
    """Progress by function, one JSON file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, name: str) -> Progress:
        """What an earlier run found, if the function is still the same graph."""
        known_as = graph_digest(name)
        path = self._folder / f"{name}.json"
        if path.exists():
            known = Progress(**json.loads(path.read_text(encoding="utf-8")))
            if known.graph == known_as:
                return known
        return Progress(known_as)

    def save(self, name: str, progress: Progress) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.json"
        path.with_suffix(".new").write_text(json.dumps(asdict(progress)), encoding="utf-8")
        path.with_suffix(".new").replace(path)


def graph_digest(name: str) -> str:
    """SHA-256 over a function's graph, as hex: what its results are a function of."""
    root = MACROS[name](graph.input_("input", "x", float32, (1,)))
    order = graph.topological([root])
    place = {node: at for at, node in enumerate(order)}
    rows = [(n.op.name, n.arg, n.dtype.name, [place[s] for s in n.src]) for n in order]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


class Measurement:
    """One function measured over a sweep, a block of 2^24 inputs at a time."""

    def __init__(self, name: str, bench: Bench, log2_count: int) -> None:
        target = None if bench.on_reference else bench.target
        chunk = min(2**log2_count, 2**18 if bench.on_reference else golden.BLOCK)
        self._name, self._bench = name, bench
        self._results = golden.Sweep([name], target, log2_count=log2_count, chunk=chunk)
        self._sums = golden.Sweep([name], target, log2_count=log2_count, chunk=chunk, sums=True)
        self._truth = Truth(bench.target[0], name, chunk, log2_count)
        self.block = min(golden.BLOCK, 2**log2_count)

    def __call__(self, start: int, into: Array) -> tuple[int, float, int]:
        """Results of one block into ``into``; (checksum, largest error, where)."""
        checksum, worst, where = 0, -1.0, 0
        chunk = self._results.chunk
        for at in range(start, start + self.block, chunk):
            checksum += int(self._sums(at)[self._name].sum(dtype=np.uint64))
            part = into[at - start : at - start + chunk]
            error, place = self._truth.largest(self._on_device(at, part), at)
            if error > worst:
                worst, where = error, place
        return checksum % 2**64, worst, where

    def _on_device(self, at: int, part: Array) -> Buffer:
        device = self._bench.target[0]
        prepared = self._results.prepared
        if prepared is None:
            part[:] = self._results(at)[self._name]
            device.upload(self._truth.results, part)
            return self._truth.results
        prepared.compute(self._results.leaves(at))
        buffer = prepared.buffer(self._results.nodes[self._name])
        device.download(buffer, part)
        return buffer

    def close(self) -> None:
        self._results.close()
        self._sums.close()
        self._truth.close()


@dataclass(frozen=True)
class Bench:
    """Where the truth is computed, and whether the results come from the reference instead."""

    target: tuple[Device, Target]
    on_reference: bool


def measure(
    name: str, bench: Bench, ledger: Ledger, log2_count: int, pool: ThreadPoolExecutor
) -> Progress:
    """The finished progress of one function; saves after every few blocks."""
    progress = ledger.load(name)
    measurement = Measurement(name, bench, log2_count)
    free = [np.empty(measurement.block, np.float32) for _ in range(2 * WORKERS)]
    waiting: deque[tuple[Future[bytes], Array, tuple[int, float, int]]] = deque()

    def take_oldest() -> None:
        future, array, found = waiting.popleft()
        progress.take(future.result(), *found)
        free.append(array)

    try:
        first = len(progress.blocks) * measurement.block
        for start in range(first, 2**log2_count, measurement.block):
            if not free:
                take_oldest()
            array = free.pop()
            found = measurement(start, array)
            waiting.append((pool.submit(sha256, array), array, found))
            if (start // measurement.block) % BLOCKS_PER_SAVE == 0:
                ledger.save(name, progress)
    finally:
        while waiting:
            take_oldest()
        ledger.save(name, progress)
        measurement.close()
    return progress


def sha256(array: Array) -> bytes:
    return hashlib.sha256(array.data).digest()


def write(path: Path, names: Sequence[str], full: Ledger, sample: Ledger) -> None:
    """Record finished sweeps: errors of all inputs where they are known, else of the sample."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"functions": {}}
    rows = known["functions"]
    for name in names:
        everything, part = full.load(name), sample.load(name)
        finished = len(everything.blocks) == 2**golden.ALL // golden.BLOCK
        widest = everything if finished else part
        rows[name] = {
            "log2_inputs": golden.ALL if finished else golden.SAMPLE,
            "max_ulp": float(f"{widest.max_ulp:.4g}"),
            "worst_input": f"0x{widest.worst_input:08x}",
            "digest": everything.digest() if finished else None,
            "checksum": f"{everything.checksum:016x}" if finished else None,
            "sample_digest": part.digest(),
            "sample_checksum": f"{part.checksum:016x}",
        }
    ordered = {name: rows[name] for name in MACROS if name in rows}
    text = json.dumps({"profile": PROFILE, "functions": ordered}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="functions (all of them)")
    parser.add_argument("--device", help='as "PoCL:0", or "reference" (the first device)')
    parser.add_argument(
        "--sample", type=int, default=golden.ALL, help="log2 of how many inputs: 16 to 24, or 32"
    )
    parser.add_argument("--state", type=Path, default=STATE, help=f"progress ({STATE})")
    parser.add_argument("--write", type=Path, help=f"record results there, as {golden.DATA.name}")
    parser.add_argument(
        "--document", action="store_true", help="only put the golden data's table into docs/"
    )
    options = parser.parse_args(arguments)
    if options.document:
        document()
        return 0
    names = options.names or list(MACROS)
    on_reference = options.device == REFERENCE
    device = opened(devices.find(None if on_reference else options.device))
    label = REFERENCE if on_reference else device.info.index_name
    bench = Bench((device, open_target(device)), on_reference)
    counts = {options.sample, golden.SAMPLE} if options.write else {options.sample}
    folder = options.state / label.replace(":", "-")
    print(f"{device.info.name}, {device.info.driver_version}: {label}", flush=True)
    verdicts = []
    with device, ThreadPoolExecutor(WORKERS) as pool:
        for count in sorted(counts):
            ledger = Ledger(folder / str(count))
            for name in names:
                begin = time.perf_counter()
                progress = measure(name, bench, ledger, count, pool)
                seconds = time.perf_counter() - begin
                verdicts.append(compare(name, progress, count))
                print(
                    f"{name:10} 2^{count} {progress.max_ulp:12.6g} ulp at "
                    f"0x{progress.worst_input:08x} {progress.digest()[:16]} "
                    f"{progress.checksum:016x} {seconds:7.1f} s  {verdicts[-1]}",
                    flush=True,
                )
    if options.write:
        ledgers = (Ledger(folder / str(count)) for count in (golden.ALL, golden.SAMPLE))
        write(options.write, names, *ledgers)
    return 1 if DIFFERENT in verdicts else 0


def table() -> str:
    """The rows of the table in docs/numerics.md."""
    rows = [TABLE_HEAD, "|---|---|---|---|"]
    for name, known in golden.golden().items():
        at = struct.unpack(">f", bytes.fromhex(known.worst_input[2:]))[0]
        rows.append(f"| {name} | {known.max_ulp:.2f} | {at:.9g} | 2^{known.log2_inputs} |")
    return "\n".join(rows)


def document() -> None:
    """Put the table into docs/numerics.md, where the old one is."""
    text = PAGE.read_text(encoding="utf-8")
    start = text.index(TABLE_HEAD)
    end = text.find("\n\n", start)
    after = "\n" if end < 0 else text[end:]
    PAGE.write_text(text[:start] + table() + after, encoding="utf-8")


def compare(name: str, progress: Progress, log2_count: int) -> str:
    """How the results stand to the golden data."""
    known = golden.golden().get(name)
    pairs = (
        {}
        if known is None
        else {
            golden.ALL: (known.digest, known.checksum),
            golden.SAMPLE: (known.sample_digest, known.sample_checksum),
        }
    )
    wanted = pairs.get(log2_count, (None, None))
    if wanted[0] is None:
        return "nothing to compare with"
    found = (progress.digest(), f"{progress.checksum:016x}")
    return "golden" if found == wanted else DIFFERENT


if __name__ == "__main__":
    sys.exit(main())
