"""What a benchmark challenge costs both sides, beside the plain benchmark, in one run.

``python -m tests.bench.bench_challenge [DEVICE] [--side N] [--terms K] [--doublings D] [--twins]``

Prints the rate of challenge products (operands drawn, tiles folded, leaves hashed) over that of the
plain benchmark's products, taking turns; the bandwidth of walks over that of plain passes; and the
cost of recomputing a tile, a block and a read on the reference and on the device. ``--twins`` has
two agents on the one device, one alone and both at once in turns: what simultaneous challenges see.
Figures are medians with least and most; a large shape takes fewer turns, so that all ends in three
minutes (``--side 16384 --terms 4096 --array-mib 1024 --doublings 2`` for a graphics card: what the
plain benchmark measures there is doubled so often).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from flopmarket.bench import workloads
from flopmarket.bench.challenge import Recomputer, StageRunner
from flopmarket.bench.workloads import Sizes, Workload
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.runtime.session import Session
from flopmarket.trust.benchmark import BlockPlace, ReadPlace, TilePlace, strides_of
from flopmarket.trust.benchmark_prover import LeafTree, Stage
from flopmarket.trust.benchmark_schedule import sharing
from flopmarket.trust.benchmark_shape import (
    ELEMENT_GRAIN,
    READS_PER_LEAF,
    MemoryShape,
    ProductShape,
    Shapes,
)
from flopmarket.trust.benchmark_verifier import Task

KEY = bytes(range(32))
_TURNS = 7
_CONTEST_SECONDS = 25.0  # of one pair; fewer turns then, three at the least
_LEAST_TURNS = 3
_TWIN_SECONDS = 1.5
_TWIN_TURNS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("device", nargs="?", default="PoCL:0")
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--terms", type=int, default=1024)
    parser.add_argument("--array-mib", type=int, default=64)
    parser.add_argument("--doublings", type=int, default=0)
    parser.add_argument("--twins", action="store_true")
    given = parser.parse_args()
    product = ProductShape(1, 1, given.side, given.terms)
    memory = MemoryShape(2, given.array_mib * ELEMENT_GRAIN, 12, 4 * READS_PER_LEAF)
    shapes = Shapes(product, memory)

    def opener(program: Program) -> Session:
        return open_session(program, given.device)

    if given.twins:
        _twins(shapes, opener)
    else:
        _prover(shapes, opener, Sizes().doubled(given.doublings))
        for name in ("reference", given.device):
            _verifier(shapes, name)


def _prover(shapes: Shapes, opener: Callable[[Program], Session], sizes: Sizes) -> None:
    runner = StageRunner(shapes, opener)
    plain = workloads.gemm(sizes, 8)
    passes = workloads.bandwidth(sizes, 1)
    walk = Stage(1, KEY, strides_of(KEY, shapes.memory))
    for title, stage, work, beside in (
        ("products, GFLOP/s", Stage(0, KEY, ()), shapes.product.flops, plain),
        ("walks, GB/s", walk, shapes.memory.moved_bytes, passes),
    ):
        session = _loaded(opener, beside)
        challenge = _Timed(lambda stage=stage: LeafTree(runner.leaves(stage)).root)  # type: ignore[misc]
        peer = _Timed(lambda session=session: session.step({}, seed=0, step=0))  # type: ignore[misc]
        _take_turns([challenge, peer])
        ours, theirs = challenge.rates(work), peer.rates(beside.counted)
        print(
            f"{title}: challenge {_spread(ours)}, plain {_spread(theirs)}, "
            f"ratio {statistics.median(ours) / statistics.median(theirs):.2f}"
        )
        session.close()
    runner.close()


def _verifier(shapes: Shapes, name: str) -> None:
    recomputer = Recomputer(shapes, lambda program: open_session(program, name))
    strides = strides_of(KEY, shapes.memory)
    tiles = [Task(TilePlace(0, 0, at, at), KEY, b"") for at in range(8)]
    block = [Task(BlockPlace(1, 5), KEY, b"", KEY, strides)]
    read = [Task(ReadPlace(2, 5), KEY, b"", KEY, strides)]
    shown = []
    for title, tasks in (("tile", tiles), ("block", block), ("read", read)):
        timed = _Timed(lambda tasks=tasks: recomputer.values(tasks))  # type: ignore[misc]
        _take_turns([timed])
        each = [seconds * 1000 / len(tasks) for seconds in timed.seconds]
        shown.append(f"{title} {_spread(each)} ms")
    print(f"verifying on {name}: {', '.join(shown)}")
    recomputer.close()


def _twins(shapes: Shapes, opener: Callable[[Program], Session]) -> None:
    """Rates of one agent alone and of two at once, in turns, so that noise meets both."""
    runners = [StageRunner(shapes, opener) for _ in range(2)]
    for runner in runners:
        runner.leaves(Stage(0, KEY, ()))
    alone: list[float] = []
    together: list[tuple[float, ...]] = []
    with ThreadPoolExecutor(2) as pool:
        for turn in range(_TWIN_TURNS):
            alone.append(_rate_for(shapes, runners[turn % 2]))
            together.append(tuple(pool.map(lambda r: _rate_for(shapes, r), runners)))
    for runner in runners:
        runner.close()
    single = statistics.median(alone)
    both = [statistics.median(rates) for rates in zip(*together, strict=True)]
    sums = [sum(rates) / single for rates in together]
    verdict = sharing(
        {"a": int(single), "b": int(single)}, dict(zip("ab", map(int, both), strict=True))
    )
    print(
        f"alone {_spread(alone)} GFLOP/s; together {both[0] / 1e9:.1f} and {both[1] / 1e9:.1f}, "
        f"sum over one {_spread(sums)}: {verdict}"
    )


def _rate_for(shapes: Shapes, runner: StageRunner) -> float:
    """Median rate of the stages that end in a window of time."""
    timed = _Timed(lambda: runner.leaves(Stage(0, KEY, ())))
    until = time.perf_counter() + _TWIN_SECONDS
    while time.perf_counter() < until:
        timed.turn()
    return statistics.median(timed.rates(shapes.product.flops))


class _Timed:
    """A call and how long each of its turns took, in seconds."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.seconds: list[float] = []

    def turn(self) -> None:
        """One more."""
        began = time.perf_counter()
        self._call()
        self.seconds.append(time.perf_counter() - began)

    def rates(self, work: int) -> list[float]:
        """Work a second in every turn."""
        return [work / seconds for seconds in self.seconds]


def _take_turns(contestants: Sequence[_Timed]) -> None:
    until = time.perf_counter() + _CONTEST_SECONDS
    for turn in range(_TURNS + 2):
        if turn >= _LEAST_TURNS + 2 and time.perf_counter() > until:
            break
        for timed in contestants:
            timed.turn()
            if turn < 2:  # kernels are built, caches filled
                timed.seconds.clear()


def _loaded(opener: Callable[[Program], Session], workload: Workload) -> Session:
    session = opener(workload.program)
    session.load(workload.frozen, workload.state)
    return session


def _spread(values: Sequence[float]) -> str:
    scale = 1e9 if statistics.median(values) > 1e6 else 1.0
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle / scale:.4g} ({low / scale:.4g} to {high / scale:.4g})"


if __name__ == "__main__":
    main()
