"""``flop bench``: digests and rates of a device here, without any market."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flopmarket.bench.golden import GoldenReport, GoldenRow, table_row
from flopmarket.engine import admission
from flopmarket.engine.exact import ADMISSION, PROFILE
from flopmarket.engine.golden import suite
from tests.unit.cli.conftest import Flop


@pytest.fixture
def one_program(monkeypatch: pytest.MonkeyPatch) -> str:
    """The suite cut down to one program, so that nothing much is built."""
    every = suite.programs()
    monkeypatch.setattr(suite, "programs", lambda: {"softmax": every["softmax"]})
    monkeypatch.setattr(admission, "LAW", ("exp",))
    return suite.committed()["softmax"].result


def test_golden_prints_digests_and_the_device(flop: Flop, one_program: str) -> None:
    result = flop("bench", "golden", "--device", "PoCL:0")
    assert result.exit_code == 0, result.output
    assert one_program[:16] in result.stdout
    assert PROFILE in result.stdout
    assert "admitted to exact mode" in result.stderr


def test_golden_as_json(flop: Flop, one_program: str) -> None:
    result = flop("bench", "golden", "--device", "PoCL:0", "--json")
    record: dict[str, Any] = json.loads(result.stdout)
    assert record["golden"]["softmax"] == {
        "passed": True,
        "digest": one_program,
        "detail": record["golden"]["softmax"]["detail"],
    }
    assert record["profile"] == PROFILE
    assert record["admission"] == ADMISSION
    assert record["admitted"] is True
    assert record["seconds"] > 0
    assert record["failed_probes"] == {}
    assert table_row(record).count("|") == 7


def test_golden_exits_with_1_on_a_mismatch(
    flop: Flop, one_program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = suite.Committed(suite.committed()["softmax"].program, "0" * 64)
    monkeypatch.setattr(suite, "committed", lambda: {"softmax": wrong})
    result = flop("bench", "golden", "--device", "PoCL:0")
    assert result.exit_code == 1
    assert "not to the committed digest" in result.stdout
    assert "fast-only" in result.stderr


def test_golden_of_a_device_that_is_not_there(flop: Flop) -> None:
    result = flop("bench", "golden", "--device", "no such card")
    assert result.exit_code != 0
    assert "no such card" in result.stderr


def test_a_row_says_why_a_device_is_fast_only() -> None:
    report = GoldenReport(
        device="a card",
        driver="1.0",
        platform="A | B",
        kind="gpu",
        profile=PROFILE,
        admission=ADMISSION,
        admitted=False,
        digest="ab" * 32,
        contract_helper=False,
        rows=(GoldenRow("dot float32", False, "cd" * 32, "wrong"),),
        failed_probes=(("flush: fma", "1 of 4096 differ"),),
        probes=2,
        seconds=1.0,
    )
    row = table_row(report.to_json())
    assert row == (
        "| a card | A / B 1.0 | 1 of 2 | 0 of 1 | `abababababababab` | "
        "fast-only: flush: fma, golden dot float32 |"
    )


def test_engine_prints_rates(flop: Flop, monkeypatch: pytest.MonkeyPatch) -> None:
    from flopmarket.bench.device import REFERENCE_SIZES, benchmark

    def small(device: str | None, **options: Any) -> Any:
        return benchmark(device, sizes=REFERENCE_SIZES, budget_seconds=2.0, **options)

    monkeypatch.setattr("flopmarket.bench.benchmark", small)
    result = flop("bench", "engine", "--device", "reference")
    assert result.exit_code == 0, result.output
    assert "FLOPS" in result.stdout
    assert "bandwidth" in result.stdout
    record = json.loads(flop("bench", "engine", "--device", "reference", "--json").stdout)
    assert record["profile"] == PROFILE
