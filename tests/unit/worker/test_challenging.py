"""``flop worker bench --challenge``: what it prints, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest

import flopmarket_worker.challenging
import flopmarket_worker.up
from flopmarket.bench.challenge import LocalRun, Recomputer, StageRunner, play
from flopmarket.bench.device import BenchmarkResult
from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.errors import FlopmarketError
from flopmarket.trust.benchmark_prover import Stage
from flopmarket.trust.benchmark_shape import NO_MEMORY, MemoryShape, ProductShape
from flopmarket_worker.calibration import Measured
from flopmarket_worker.challenging import describe_challenge
from tests.unit.bench.test_challenge import MEMORY, SEED, plan_of
from tests.unit.cli.conftest import Flop
from tests.unit.cli.conftest import flop as flop


class Idler(StageRunner):
    """Commits to zeros."""

    def leaves(self, stage: Stage) -> list[bytes]:
        return [bytes(len(leaf)) for leaf in super().leaves(stage)]


def measured() -> Measured:
    benchmark = BenchmarkResult(
        flops_per_second={"dot-f32": 10**9},
        bandwidth_bytes_per_second=10**9,
        launch_nanoseconds=1000,
        step_nanoseconds=1000,
        build_milliseconds=100,
        failures={},
        seconds=1.0,
    )
    return Measured({"name": "Card", "index_name": "Ref:0"}, {"admitted": True}, benchmark)


def challenged(runner: type[StageRunner] = StageRunner, memory: MemoryShape = MEMORY) -> LocalRun:
    plan = plan_of(memory, ProductShape(2, 1, 64, 8), tiles=2)
    ticks = count(step=1000)
    return play(
        plan,
        runner=runner(plan.shapes, ReferenceSession),
        recomputer=Recomputer(plan.shapes, ReferenceSession),
        nonce=b"n" * 32,
        sampling_seed=SEED,
        now_us=lambda: next(ticks),
    )


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """One device that needs no measuring."""

    async def measure(
        specs: Sequence[str], options: object
    ) -> list[tuple[str, Measured | FlopmarketError]]:
        return [("Ref:0", measured())]

    monkeypatch.setattr(flopmarket_worker.up, "measure_devices", measure)


def challenging_with(monkeypatch: pytest.MonkeyPatch, runner: type[StageRunner]) -> None:
    def challenge(given: Measured, cache_dir: Path | None, *, seconds: int, tiles: int) -> LocalRun:
        assert (seconds, tiles) == (5, 2)
        return challenged(runner)

    monkeypatch.setattr(flopmarket_worker.challenging, "challenge_device", challenge)


ARGUMENTS = ("worker", "bench", "--challenge", "--seconds", "5", "--tiles", "2")


def test_a_challenge_prints_stages_rate_and_verdict(
    flop: Flop, devices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenging_with(monkeypatch, StageRunner)
    result = flop(*ARGUMENTS)
    assert result.exit_code == 0, result.output
    for text in ("2 stages of 1 x [64, 8] x [8, 64]", "BENCHMARK_ACCEPTED", "of the plain"):
        assert text in result.stdout
    assert "proven memory" in result.stdout and "2 tiles" in result.stdout


def test_a_challenge_that_fails_says_why_and_exits_with_1(
    flop: Flop, devices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenging_with(monkeypatch, Idler)
    result = flop(*ARGUMENTS)
    assert result.exit_code == 1
    assert "BENCHMARK_TILE_WRONG" in result.stdout and "flop bench golden" in result.stdout


def test_a_challenge_as_json_is_one_record(
    flop: Flop, devices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenging_with(monkeypatch, StageRunner)
    record = json.loads(flop(*ARGUMENTS, "--json").stdout)
    assert record["challenge"]["reason"] == "BENCHMARK_ACCEPTED"
    assert record["challenge"]["product"]["side"] == 64
    assert record["benchmark"]["flops_per_second"]["dot-f32"] == 10**9


def test_a_device_without_memory_stages_shows_none() -> None:
    shown = dict(describe_challenge(measured(), challenged(memory=NO_MEMORY)))
    assert "memory" not in shown and "proven memory" not in shown
    assert shown["verdict"] == "BENCHMARK_ACCEPTED"
