"""When devices are challenged, who at once, and what their price goes by."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput, LimitExceeded
from flopmarket.limits import MAX_BENCHMARK_DEVICES, MAX_SIMULTANEOUS_CHALLENGES
from flopmarket.trust.benchmark_schedule import (
    DAY_US,
    Sharing,
    Sighting,
    address_block,
    benchmark_average,
    challenge_times_us,
    delivered_average,
    due,
    possible_twins,
    rate_for_price,
    sharing,
)
from tests.unit.trust.benchmark_bots import STAGE_US, Device, plan_of, run

SECRET = b"k" * 32


def test_a_device_is_challenged_once_or_twice_a_day_at_moments_that_spread() -> None:
    counts: Counter[int] = Counter()
    hours: Counter[int] = Counter()
    for day in range(2000):
        times = challenge_times_us(SECRET, "d1", 20_000 + day)
        assert all((20_000 + day) * DAY_US <= at < (20_001 + day) * DAY_US for at in times)
        counts[len(times)] += 1
        hours.update(at % DAY_US * 24 // DAY_US for at in times)
    assert set(counts) == {1, 2} and 850 < counts[1] < 1150
    assert len(hours) == 24 and min(hours.values()) > 80


def test_moments_are_a_function_of_the_secret_and_the_device() -> None:
    assert challenge_times_us(SECRET, "d1", 7) == challenge_times_us(SECRET, "d1", 7)
    assert challenge_times_us(SECRET, "d1", 7) != challenge_times_us(SECRET, "d2", 7)
    assert challenge_times_us(SECRET, "d1", 7) != challenge_times_us(b"x" * 32, "d1", 7)


@given(st.lists(st.integers(1, DAY_US // 3), min_size=1, max_size=20))
def test_every_moment_is_due_exactly_once_however_often_one_looks(steps: list[int]) -> None:
    now = 20_000 * DAY_US
    end = now + sum(steps)
    moments = [
        at
        for day in range(now // DAY_US, end // DAY_US + 1)
        for at in challenge_times_us(SECRET, "d", day)
        if now < at <= end
    ]
    covered = 0
    for step in steps:
        inside = [at for at in moments if now < at <= now + step]
        assert due(SECRET, "d", now, now + step) == bool(inside)
        covered += len(inside)
        now += step
    assert covered == len(moments)


def test_groups_join_by_account_block_and_fingerprint() -> None:
    sightings = [
        Sighting("a", "ada", "192.0.2.10", "f1"),
        Sighting("b", "bob", "192.0.2.200", "f2"),  # a's block
        Sighting("c", "bob", "198.51.100.1", "f3"),  # b's account
        Sighting("d", "dan", "203.0.113.1", "f3"),  # c's card
        Sighting("e", "eve", "2001:db8:1:2::1", "f5"),
        Sighting("f", "fay", "2001:db8:1:9::1", "f6"),  # e's block
        Sighting("g", "gus", "127.0.0.1", ""),
        Sighting("h", "hal", "127.0.0.1", ""),  # loopback says nothing
    ]
    assert possible_twins(sightings) == (("a", "b", "c", "d"), ("e", "f"))
    assert possible_twins(sightings[::-1]) == (("a", "b", "c", "d"), ("e", "f"))


def test_a_group_too_large_for_one_moment_overlaps_and_misses_nobody() -> None:
    sightings = [Sighting(f"d{at:03}", "one", "", f"f{at // 2:03}") for at in range(301)]
    groups = possible_twins(sightings)
    assert all(1 < len(group) <= MAX_SIMULTANEOUS_CHALLENGES for group in groups)
    assert {name for group in groups for name in group} == {s.device_id for s in sightings}
    # Two offers of one card are neighbours, so some moment challenges both.
    for at in range(0, 300, 2):
        pair = {f"d{at:03}", f"d{at + 1:03}"}
        assert any(pair <= set(group) for group in groups)


def test_more_devices_than_the_limit_are_refused() -> None:
    with pytest.raises(LimitExceeded):
        possible_twins([Sighting("d", "a", "", "")] * (MAX_BENCHMARK_DEVICES + 1))


def test_address_blocks() -> None:
    assert address_block("192.0.2.77") == "192.0.2.0/24"
    assert address_block("2001:db8:1:2::5") == "2001:db8:1::/48"
    assert address_block("::1") == address_block("") == ""
    with pytest.raises(InvalidInput):
        address_block("no address")


def test_one_card_offered_twice_is_no_faster_than_one() -> None:
    """Two agents share one device: each of their stages takes twice as long when both run."""

    def rate(stage_us: int, name: str) -> int:
        return run(Device(stage_us=stage_us), plan_of(device=name))[0].rates.dot_flops_per_second

    alone = {name: rate(STAGE_US, name) for name in ("left", "right")}
    together = {name: rate(2 * STAGE_US + 3_000, name) for name in alone}
    assert sum(together.values()) <= 1.1 * max(alone.values())
    assert sharing(alone, together) is Sharing.ONE_CARD

    apart = {name: rate(STAGE_US + 50_000, name) for name in alone}
    assert sharing(alone, apart) is Sharing.SEPARATE


@pytest.mark.parametrize(
    ("alone", "together", "expected"),
    [
        ([100, 100, 100], [33, 33, 34], Sharing.ONE_CARD),
        ([100, 100], [100, 0], Sharing.ONE_CARD),  # the other one failed while the first ran
        ([100, 100, 100], [50, 50, 100], Sharing.UNCLEAR),  # two of three: asked again in pairs
        ([100, 100], [90, 80], Sharing.SEPARATE),
        ([100, 10], [90, 10], Sharing.UNCLEAR),  # too unequal to tell
        ([100], [100], Sharing.UNCLEAR),
    ],
)
def test_decisions(alone: list[int], together: list[int], expected: Sharing) -> None:
    assert sharing(named(alone), named(together)) is expected


def test_a_group_needs_both_measurements() -> None:
    with pytest.raises(InvalidInput):
        sharing({"a": 1}, {"b": 1})
    with pytest.raises(InvalidInput):
        sharing({}, {})


def test_a_fast_card_for_the_benchmark_and_a_slow_one_for_the_work_is_priced_as_the_slow_one() -> (
    None
):
    """Within twenty segments the price is within a tenth of what the slow card delivers."""
    benchmark = benchmark_average(None, 40_000)
    delivered: int | None = None
    for _ in range(50):
        delivered = delivered_average(delivered, 40_000)
    for _ in range(20):
        delivered = delivered_average(delivered, 10_000)
    assert rate_for_price(benchmark, delivered) < 11_000
    fresh = delivered_average(None, 10_000)
    assert rate_for_price(benchmark, fresh) == 10_000


@given(st.lists(st.integers(0, 10**18), min_size=1, max_size=30))
def test_averages_stay_between_what_they_were_made_of(rates: list[int]) -> None:
    for average in (benchmark_average, delivered_average):
        value: int | None = None
        for rate in rates:
            value = average(value, rate)
        assert value is not None and min(rates) - 1 <= value + len(rates)
        assert value <= max(rates)


def test_a_price_goes_by_the_lower_rate_and_never_without_a_benchmark() -> None:
    assert rate_for_price(None, 10) == 0
    assert rate_for_price(10, None) == 10
    assert rate_for_price(10, 20) == rate_for_price(20, 10) == 10
    with pytest.raises(InvalidInput):
        benchmark_average(None, -1)


def named(rates: list[int]) -> dict[str, int]:
    return {f"d{at}": rate for at, rate in enumerate(rates)}
