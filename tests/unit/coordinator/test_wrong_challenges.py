"""Wrong answers to challenges count against a device, and only a passed one ends a quarantine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.trust.audit_policy import RULES, Consequence, after_wrong_benchmark
from flopmarket.trust.benchmark import REMEDIES, WRONG_ANSWERS, BenchmarkReason
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.reason_codes import REASON_CODES
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.store import penalties, schema
from flopmarket_coordinator.store.engine import Transaction
from tests.unit.coordinator.challenged import REQUIRED, Rented, Yard
from tests.unit.trust import benchmark_bots as bots

HOUR = 3_600
ALLOWED = RULES.allowed_silences


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path)
    yield made
    made.world.check()
    made.world.close()


def strikes(yard: Yard) -> int:
    query = sa.select(sa.func.count()).where(
        schema.strike.c.kind == StrikeKind.BENCHMARK_WRONG.value
    )
    return yard.world.see(lambda tx: int(tx.connection.execute(query).scalar_one()))


def in_quarantine(yard: Yard, device: Rented) -> bool:
    return yard.world.see(penalties.in_quarantine, device.key.key_id) is not None


def fail(yard: Yard, device: Rented, times: int) -> None:
    """As many wrong answers, each when its time has come."""
    device.bot = bots.Precomputer()
    for _ in range(times):
        before = len(device.verdicts)
        while len(device.verdicts) == before:
            yard.wait(600)
            yard.challenge()


def quarantine_by_hand(yard: Yard, device: Rented) -> None:
    """As after a soft error in a segment."""

    def act(tx: Transaction) -> None:
        yard.world.application._quarantine(tx, device.key.key_id, "flip", "a soft error")

    yard.world.do(act)


def test_four_wrong_answers_cost_the_proof_and_the_fifth_is_a_quarantine(yard: Yard) -> None:
    device = yard.rent("card")
    yard.challenge()
    assert yard.rate(device)
    for number in range(1, ALLOWED + 1):
        fail(yard, device, 1)
        assert strikes(yard) == number and not yard.rate(device)
        assert not in_quarantine(yard, device)
    fail(yard, device, 1)
    assert strikes(yard) == ALLOWED + 1 and in_quarantine(yard, device)
    session = yard.world.session(yard.world.operator, "", KeyRole.OPERATOR)
    page = yard.world.see(
        yard.world.application.list_decisions, session, "quarantine", device.key.key_id, 10, ""
    )
    assert [item.reason for item in page.decisions] == ["BENCHMARK_WRONG"]
    kept = yard.world.see(penalties.in_quarantine, device.key.key_id)
    assert kept is not None and "BENCHMARK_TILE_WRONG" in kept.reason


def test_an_hour_and_a_new_offer_do_not_end_a_quarantine(yard: Yard) -> None:
    device = yard.rent("card")
    yard.challenge()
    buyer = yard.world.buyer()
    buyer.submit()
    quarantine_by_hand(yard, device)
    assert [item.code for item in device.hello().refused] == ["DEVICE_QUARANTINED"]
    yard.wait(HOUR)
    assert device.hello().refused == ()
    # Listed again, without proof: no work yet.
    assert not yard.rate(device) and yard.world.offers() == []
    assert in_quarantine(yard, device)
    assert "DEVICE_QUARANTINED" in yard.standing(device).reason
    fail(yard, device, 1)
    assert in_quarantine(yard, device)
    device.bot = bots.Device()
    while not device.verdicts or device.verdicts[-1].reason != "BENCHMARK_ACCEPTED":
        yard.wait(60)
        yard.challenge()
        if len(device.verdicts) > 3:
            break
    yard.wait(HOUR)
    yard.challenge()
    assert not in_quarantine(yard, device)
    assert yard.rate(device)
    assert [lease.device_key_id for lease in yard.world.offers()] == [device.key.key_id]


def test_a_challenge_that_was_under_way_does_not_end_it(yard: Yard) -> None:
    device = yard.rent("card")
    yard.challenge()
    yard.wait(2 * 86_400)
    assert yard.look() == 1
    quarantine_by_hand(yard, device)
    yard.play()
    assert device.verdicts[-1].reason == "BENCHMARK_ACCEPTED"
    assert in_quarantine(yard, device)
    yard.wait(HOUR)
    device.hello()
    assert not yard.rate(device)
    assert yard.challenge() == 1
    assert yard.rate(device) and not in_quarantine(yard, device)


def test_where_nobody_is_challenged_a_later_offer_ends_a_quarantine(tmp_path: Path) -> None:
    yard = Yard(tmp_path, replace(REQUIRED, benchmark_required=False))
    device = yard.rent("card")
    quarantine_by_hand(yard, device)
    yard.wait(HOUR)
    assert device.hello().refused == ()
    assert not in_quarantine(yard, device)
    yard.world.close()


def test_late_answers_are_no_strikes(yard: Yard) -> None:
    device = yard.rent("card", opening_delay_us=60 * SECOND_US)
    for _ in range(ALLOWED + 2):
        yard.challenge()
        yard.wait(6 * HOUR)
    assert {verdict.reason for verdict in device.verdicts} == {"BENCHMARK_OPENING_LATE"}
    assert len(device.verdicts) > ALLOWED + 1
    assert strikes(yard) == 0 and not in_quarantine(yard, device)


def test_every_code_of_a_wrong_answer_says_what_to_do() -> None:
    assert set(BenchmarkReason) > WRONG_ANSWERS and BenchmarkReason.ACCEPTED not in WRONG_ANSWERS
    assert all(REMEDIES[reason] for reason in WRONG_ANSWERS)
    for code in ("benchmark-wrong", "BENCHMARK_WRONG", "DEVICE_QUARANTINED"):
        assert REASON_CODES[code].remedy and REASON_CODES[code].seen


@given(
    unit=st.integers(0, 2_000),
    earlier=st.lists(st.integers(0, 2_000), max_size=12).map(sorted),
)
def test_wrong_answers_lapse_as_silences_do(unit: int, earlier: list[int]) -> None:
    before = [other for other in earlier if other <= unit]
    recent = [other for other in before if unit - other < RULES.strike_window_units]
    found = after_wrong_benchmark(RULES, unit, before)
    assert (found is Consequence.QUARANTINE) == (len(recent) >= ALLOWED)
    assert found is not Consequence.SLASH
