"""Every rational cheat loses money, and honest people keep theirs: a thousand runs each.

``pytest -s tests/sim/test_economics.py`` prints the figures that ``docs/audits.md`` quotes. Seeds
are fixed; intervals are of 99 %.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from flopmarket.demo.economics import (
    Estimate,
    Floats,
    Tables,
    World,
    always,
    play,
    reenter,
    share,
    warm_up,
    when_unwatched,
)
from flopmarket.demo.scenarios import club, flaky, flips, lazy_auditor, own_buyer, vanish, wash
from flopmarket.trust.audit_policy import RULES, Level, audit_load_ppm, detection_ppm
from flopmarket_coordinator.core.planning import Market, plan

ONE = 1_000_000


def loses(name: str, profit: Floats) -> Estimate:
    """Print the mean profit in units of pay; its whole interval must be below zero."""
    estimate = Estimate.of(profit)
    print(f"{name:<44} {estimate}")
    assert estimate.high < 0
    return estimate


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("warm", [0, 2_000])
def test_skipping_a_fraction(fraction: float, warm: int) -> None:
    played = play(2, share(fraction), warm=warm, most=20_000)
    loses(f"skip {fraction:.0%} after {warm} units", played.profit)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5])
def test_detection_is_what_a_quote_says(fraction: float) -> None:
    """Wrong units until capture, against ``1 - (1-p)^m``, within 3.3 deviations."""
    runs = 1_000
    played = play(11, share(fraction), warm=2_000, most=40_000, runs=runs)
    for wrong in (10, 50, 100, 200):
        expected = detection_ppm(RULES, 14_286, wrong) / ONE
        seen = float((played.caught & (played.cheated <= wrong)).mean())
        band = 3.3 * sqrt(expected * (1 - expected) / runs)
        print(f"skip {fraction:.0%}: {wrong} wrong units seen with {seen:.3f}, said {expected:.3f}")
        assert abs(seen - expected) < band


def test_a_level_is_seen_as_often_as_it_is_sold() -> None:
    runs = 1_000
    played = play(12, always, warm=2_000, most=500, runs=runs, level=Level.CHECK)
    expected = detection_ppm(RULES, RULES.check_ppm, 5) / ONE
    seen = float((played.cheated <= 5).mean())
    assert abs(seen - expected) < 3.3 * sqrt(expected * (1 - expected) / runs)
    dual = play(13, always, warm=100, most=5, level=Level.DUAL)
    assert dual.caught.all()
    assert (dual.cheated == 1).all()


@pytest.mark.parametrize("warm", [100, 2_000, 50_000])
@pytest.mark.parametrize("saved", [0.7, 1.0])
def test_milking_a_reputation(warm: int, saved: float) -> None:
    played = play(1, always, warm=warm, most=20_000, saved=saved)
    estimate = loses(f"milk after {warm} units, saves {saved}", played.profit)
    assert estimate.above_zero < 0.05


@pytest.mark.parametrize("warm", [0, 20, 50, 100, 500])
def test_entering_again_after_each_slash(warm: int) -> None:
    """Also whitewashing: a new name costs its own first audits and whatever the old one held."""
    profit = reenter(4, when_unwatched, warm=warm, cycles=1_000)
    loses(f"1,000 identities, honest for {warm} units", profit)
    assert profit.sum() < 0


@pytest.mark.parametrize("pause", [0, 500])
def test_vanishing_when_drawn(pause: int) -> None:
    loses(f"vanish when drawn, then honest for {pause}", vanish(5, roots_differ=True, pause=pause))


def test_silence_as_a_mere_strike_would_pay() -> None:
    """Why the roots are compared without the worker: a strike that lapses after 500 honest units
    costs one unit, and 70 wrong ones were paid before it.
    """
    estimate = Estimate.of(vanish(5, roots_differ=False, pause=RULES.strike_window_units))
    print(f"{'(vanish, were silence a strike alone)':<44} {estimate}")
    assert estimate.low > 0


def test_a_lazy_auditor_meets_a_canary() -> None:
    profit, first = lazy_auditor(7)
    loses("agree without computing", profit)
    expected = ONE / RULES.canary_ppm
    assert abs(first.mean() - expected) < 3.3 * expected / sqrt(len(first))


@pytest.mark.parametrize("colluding", [0.1, 0.2, 0.3, 0.4, 0.5])
@pytest.mark.parametrize("warm", [0, 2_000])
def test_colluding_with_auditors(colluding: float, warm: int) -> None:
    played = play(3, always, warm=warm, most=20_000, world=World(colluding=colluding))
    loses(f"{colluding:.0%} friends, after {warm} units", played.profit)


def test_without_looking_back_newcomers_with_friends_would_lose_nothing() -> None:
    """Why the house recomputes what outsiders found right, once a worker is caught."""
    world = World(colluding=0.5, look_back=False)
    estimate = Estimate.of(play(3, always, warm=0, most=20_000, world=world).profit)
    print(f"{'(50% friends, 0 units, were nobody to look back)':<44} {estimate}")
    assert estimate.high > 0


@pytest.mark.parametrize("units", [100, 1_000, 5_000])
def test_wash_trading(units: int) -> None:
    loses(f"buy {units} units of oneself, then milk", wash(8, units=units))


@pytest.mark.parametrize("colluding", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("follower_units", [0, 1_000])
def test_being_slashed_in_ones_own_job_first(colluding: float, follower_units: int) -> None:
    """Where buyer, auditor and follower are friends: together they have half of the bond back."""
    returned = own_buyer(colluding, 1, follower_units)
    world = World(colluding=colluding)
    played = play(17, always, warm=2_000, most=20_000, world=world, returned=returned)
    name = "slashed in one's own job" if not follower_units else "friend follows"
    loses(f"{name}, {colluding:.0%} friends", played.profit)
    assert returned <= 0.5


def test_a_stake_that_goes_to_followers_would_be_none() -> None:
    """Why what they are paid is bounded: a friend who is owed enough carries the stake out."""
    for share_ in (0.5, 0.8):
        played = play(
            17, always, warm=2_000, most=20_000, world=World(colluding=0.3),
            returned=share_, held_returned=share_,
        )  # fmt: skip
        estimate = Estimate.of(played.profit)
        print(f"{f'(friend follows, were {share_:.0%} of all stake his)':<44} {estimate}")
    unbounded = play(17, always, warm=2_000, most=20_000, returned=1.0, held_returned=1.0)
    estimate = Estimate.of(unbounded.profit)
    print(f"{'(friend follows, were all of it his)':<44} {estimate}")
    assert estimate.low > 0


def test_an_honest_worker_that_drops_sessions_keeps_its_earnings() -> None:
    kept, slashed = flaky(6)
    print(f"drops 2 % of its sessions: keeps {kept.mean():.4f}, least {kept.min():.4f}")
    assert slashed == 0
    assert kept.min() > 0.95


def test_bit_flips_do_not_slash() -> None:
    slashed, unpaid = flips(14, rate=1e-5)
    worse, lost = flips(15, rate=1e-3)
    print(f"a flip in 10^5 units: {slashed} of 1000 slashed, {unpaid:.4f} units unpaid of 20,000")
    print(f"a flip in 10^3 units: {worse} of 1000 slashed, {lost:.4f} units unpaid of 20,000")
    assert slashed == 0
    assert unpaid < 0.02


def test_honest_workers_lose_nothing_and_newcomers_cost_what_is_said() -> None:
    workers = warm_up(np.random.default_rng(10), Tables(RULES), 1_000, 1_000)
    assert workers.settled()
    assert workers.rate().tolist() == [14_286] * 1_000
    # After 1,000 units: everything earned is bond, held, paid out, or paid for its own audits.
    own = float(workers.own_audits.mean()) / 2
    print(f"a newcomer pays for {own:.1f} audits itself")
    assert 30 < own < 40


def test_trust_costs_a_club_at_most_three_percent() -> None:
    market = Market(workers=50, newcomers_per_day=0)
    planned = plan(market)
    # An auditor's card waits for a start state on its own bus only: the download overlaps.
    transfers = 14_286 / ONE * market.state_bytes / 6e9 / market.segment_seconds
    cost = club(
        9,
        hash_share=planned.hashing_ppm / ONE,
        transfer_share=transfers,
        benchmark_share=planned.benchmark_ppm / ONE,
    )
    print(
        f"club of 50: audits {cost.audits:.3%}, canaries {cost.canaries:.3%}, cross-audits "
        f"{cost.cross:.3%}, hashing {cost.hashing:.3%}, loading {cost.transfers:.3%}, benchmarks "
        f"{cost.benchmarks:.3%}: {cost.total:.3%}"
    )
    assert cost.total <= 0.03
    assert cost.audits + cost.canaries + cost.cross == pytest.approx(
        audit_load_ppm(RULES, 14_286) / ONE, rel=0.05
    )


def test_a_lower_rate_or_stake_would_not_do() -> None:
    """The model can say no: without bond and with little held pay, milking pays."""
    rules = replace(RULES, safety=1, bond_units=1, held_units=20, floor_ppm=1, colluding_ppm=0)
    played = play(16, always, warm=2_000, most=20_000, world=World(rules, colluding=0.5))
    assert Estimate.of(played.profit).high > 0
