"""What an operator is told to expect, against the arithmetic and against drawn audits."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from click.testing import CliRunner

from flopmarket.demo.economics import Tables, warm_up
from flopmarket.errors import InvalidInput
from flopmarket.trust.audit_policy import RULES
from flopmarket_coordinator.cli import coordinator
from flopmarket_coordinator.core.planning import Market, onboarding, plan

CLUB = Market(workers=50)


def test_the_plan_of_a_club() -> None:
    outcome = plan(CLUB)
    assert outcome.segments == 50 * 12 * 3600 // 90 == 24_000
    assert outcome.rate_ppm == 14_286
    assert outcome.audits == 343 + outcome.newcomer_audits
    assert outcome.house_audits == -(-outcome.audits // 10)
    assert outcome.sold_nano == 24_000 * 2_500_000
    assert outcome.fee_nano * 100 == outcome.sold_nano * 3
    assert (outcome.bond_nano, outcome.stake_nano) == (250_000_000, 750_000_000)
    assert outcome.checkpoint_seconds == 2 * 596
    assert outcome.house_cpu_minutes == pytest.approx(250 * outcome.house_card_minutes, rel=0.02)
    assert outcome.trust_ppm <= 30_000
    assert outcome.warnings == ()


def test_fees_pay_for_audits() -> None:
    for workers in (5, 50, 5_000):
        outcome = plan(Market(workers=workers, newcomers_per_day=max(workers // 50, 1)))
        assert outcome.audit_cost_nano - outcome.newcomers_pay_nano < outcome.fee_nano


def test_more_workers_cost_more_of_everything() -> None:
    small, large = plan(CLUB), plan(replace(CLUB, workers=500))
    for name in ("audits", "house_card_minutes", "checkpoint_bytes", "audit_bytes", "disk_bytes"):
        assert 5 < getattr(large, name) / getattr(small, name) <= 10


def test_links_that_are_too_slow_are_named() -> None:
    slow = plan(replace(CLUB, uplink_bits=2_000_000, segment_seconds=30))
    assert any("uplinks" in warning for warning in slow.warnings)
    assert any("does not arrive" in warning for warning in slow.warnings)
    assert any("coordinator's link" in warning for warning in plan(Market(5_000)).warnings)


def test_a_market_without_states_or_newcomers() -> None:
    outcome = plan(Market(1, state_bytes=0, newcomers_per_day=0, benchmark_seconds=0))
    assert outcome.newcomer_audits == outcome.disk_bytes == outcome.audit_bytes == 0
    assert outcome.trust_ppm < 17_000


@pytest.mark.parametrize(
    "changes", [{"workers": 0}, {"hours_per_day": 25}, {"state_bytes": -1}, {"uplink_bits": 0}]
)
def test_impossible_markets_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(CLUB, **changes)
    assert caught.value.code == "PLAN_INPUT"


def test_the_mean_course_of_a_newcomer_is_that_of_drawn_ones() -> None:
    workers = warm_up(np.random.default_rng(1), Tables(RULES), 1_000, 300)
    mean = onboarding(RULES, 300)
    assert mean.audits_ppm / 1e6 == pytest.approx(workers.audits.mean(), rel=0.05)
    assert mean.own_ppm / 1e6 == pytest.approx(workers.own_audits.mean() / 2, rel=0.05)


def test_the_command_prints_the_plan() -> None:
    result = CliRunner().invoke(coordinator, ["plan", "--workers", "50", "--json"])
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["plan"] == {**asdict(plan(CLUB)), "warnings": []}
    assert facts["market"] == asdict(CLUB)
    table = CliRunner().invoke(coordinator, ["plan", "--workers", "5000", "--uplink", "1"])
    assert table.exit_code == 0
    assert "audits a day" in table.stdout
    assert "warning: the workers' uplinks are too slow" in table.stderr
