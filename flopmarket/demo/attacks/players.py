"""Cheats that play for money over months: a thousand runs each of the market's own rules.

No process is started: what they meet are the functions that set audit rates and divide money
(:mod:`flopmarket.trust.audit_policy`). Every one but the last two must lose, its whole 99 %
interval below zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flopmarket.demo.attacks.league import End, League
from flopmarket.demo.economics import (
    Estimate,
    Floats,
    World,
    always,
    reenter,
    share,
    when_unwatched,
)
from flopmarket.demo.economics import (
    play as played,
)
from flopmarket.demo.scenarios import flaky, flips, lazy_auditor, own_buyer, vanish, wash
from flopmarket.trust.audit_policy import RULES, Level, detection_ppm, rate_ppm

RUNS = 1_000
_PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Player:
    """One strategy; ``profit`` is in units (a segment's price), one value a run."""

    bot: str
    threats: tuple[int, ...]
    tried: str
    profit: Callable[[], Floats]


PLAYERS = (
    Player("skipper", (1,), "skips one segment in ten from the first day",
           lambda: played(2, share(0.1), warm=0, most=20_000).profit),
    Player("miser", (1,), "skips one segment in a hundred, well known by then",
           lambda: played(2, share(0.01), warm=2_000, most=20_000).profit),
    Player("milker", (12,), "honest for 50,000 segments, then never again",
           lambda: played(1, always, warm=50_000, most=20_000).profit),
    Player("phoenix", (13,), "a new identity after each slash, 1,000 times",
           lambda: reenter(4, when_unwatched, warm=50, cycles=1_000)),
    Player("vanisher", (11, 24), "cheats, and says nothing when drawn",
           lambda: vanish(5, roots_differ=True)),
    Player("sleeper", (7,), "agrees without computing; workers tell it their sums",
           lambda: lazy_auditor(7)[0]),
    Player("clique", (8,), "half of all auditors are its friends",
           lambda: played(3, always, warm=2_000, most=20_000, world=World(colluding=0.5)).profit),
    Player("washer", (21,), "buys 1,000 segments of itself for a name, then milks it",
           lambda: wash(8, units=1_000)),
    Player("own victim", (8, 21), "has itself slashed in a job of its own first",
           lambda: played(17, always, warm=2_000, most=20_000, world=World(colluding=0.3),
                          returned=own_buyer(0.3, 1)).profit),
    Player("friend follows", (8, 21), "the same, and a friend worked on from the wrong state",
           lambda: played(18, always, warm=2_000, most=20_000, world=World(colluding=0.3),
                          returned=own_buyer(0.3, 1, 1_000)).profit),
)  # fmt: skip


def play(league: League) -> None:
    """All of them, then the two who must not be harmed, and what sampling does not stop."""
    for player in PLAYERS:
        judge(league, player)
    kept, slashed = flaky(6)
    league.add(
        "(flaky)", (11,), "honest, drops 2 % of its sessions", End.NO_EFFECT,
        f"keeps {kept.mean():.1%} of its earnings (least {kept.min():.1%}), {slashed} slashed",
        bool(slashed == 0 and kept.min() > 0.95),
    )  # fmt: skip
    slashed_flips, unpaid = flips(14, rate=1e-5)
    league.add(
        "(soft error)", (22,), "honest, a bit flips in one segment of 100,000", End.NO_EFFECT,
        f"{slashed_flips} of {RUNS} slashed, {unpaid:.3f} of 20,000 segments unpaid",
        slashed_flips == 0,
    )  # fmt: skip
    _single_segment(league)


def judge(league: League, player: Player) -> None:
    """It loses if its whole 99 % interval is below zero."""
    estimate = Estimate.of(player.profit())
    league.add(
        player.bot, player.threats, player.tried, End.LOSES,
        f"{estimate.mean:+.0f} units a run ({estimate.low:+.0f} to {estimate.high:+.0f})",
        estimate.high < 0,
    )  # fmt: skip


def _single_segment(league: League) -> None:
    """Somebody who wants one wrong segment in and does not mind the stake."""
    stake = RULES.bond_units + RULES.held_units
    told = []
    for level in Level:
        audited = rate_ppm(RULES, level, 10_000, 1_000, stake * 1_000)
        told.append(f"{level} {detection_ppm(RULES, audited, 1) / _PPM:.1%}")
    league.add(
        "poisoner", (26,), "one wrong segment, whatever it costs", End.NON_GOAL,
        f"seen with {', '.join(told)}; each quote says so", True,
    )  # fmt: skip
