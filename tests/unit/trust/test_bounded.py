"""What is bounded and not prevented: a single wrong segment, and steering inside a tolerance."""

from __future__ import annotations

import hashlib
from math import sqrt

import numpy as np
import pytest

from flopmarket.trust.audit_policy import RULES, Level, detection_ppm, rate_ppm
from flopmarket.trust.challenge import Chain, ChainName, Purpose, draw, is_drawn
from flopmarket.trust.tolerance import (
    FORMATS,
    SAFETY,
    Array,
    Expected,
    Judgement,
    Opinion,
    OpKind,
    judge,
    most_steering,
    profile_of,
)

ONE = 1_000_000
SEGMENTS = 100
JOBS = 4_000
WELL_KNOWN = 1_000
"""Audited right segments: far beyond every schedule for newcomers."""


@pytest.mark.parametrize("level", Level)
def test_one_wrong_segment_of_a_hundred_is_seen_as_often_as_the_quote_says(level: Level) -> None:
    """A worker of good standing with its whole stake spoils one segment of each of 4,000 jobs."""
    stake = (RULES.bond_units + RULES.held_units) * 1_000
    rate = rate_ppm(RULES, level, WELL_KNOWN, 1_000, stake)
    seen = 0
    for job in range(JOBS):
        wrong = 1 + job % SEGMENTS
        secret = hashlib.sha256(f"secret {job}".encode()).digest()
        value = Chain(secret, ChainName(f"lease {job}", Purpose.AUDIT), SEGMENTS).value(wrong)
        commitment = hashlib.sha256(f"spoilt {job}".encode()).digest()
        seen += is_drawn(draw(Purpose.AUDIT, value, commitment), rate)
    said = detection_ppm(RULES, rate, 1) / ONE
    print(f"{level}: seen {seen} of {JOBS}, said {said:.4f}")
    assert abs(seen - said * JOBS) <= 3.3 * sqrt(JOBS * said * (1 - said))
    assert {Level.DETER: said < 0.015, Level.CHECK: said == 0.2, Level.DUAL: said == 1}[level]


def test_steering_inside_a_tolerance_adds_up_and_never_passes_equality_of_bits() -> None:
    """Twenty products, each nudged one way inside its profile: all accepted, and the sum grows in
    proportion, below the bound of the page. Bits differ at the first, so exact mode has none of it.
    """
    terms, count, rounds = 1_024, 4_096, 20
    form, profile = FORMATS["float32"], profile_of(OpKind.DOT, terms)
    right = np.full(count, 0.5, np.float32)
    within = (profile.quantiles_milli[0] * SAFETY // 1_000) * form.unit

    def judged(claimed: Array) -> Judgement:
        return judge(claimed, Expected(OpKind.DOT, form, [right], np.ones(count), terms, 261.0))

    claimed = (right + within).astype(np.float32)
    total = np.zeros(count)
    for _ in range(rounds):
        assert judged(claimed).opinion is Opinion.INSIDE
        assert claimed.tobytes() != right.tobytes()
        total += claimed.astype(np.float64) - right
    drift = float(np.sqrt(np.mean(total**2)))
    assert drift == rounds * within > 0, "nothing cancels"
    assert drift <= rounds * most_steering(profile) * form.unit
    far = (right + 2 * within).astype(np.float32)
    assert judged(far).opinion is Opinion.SECOND_OPINION
