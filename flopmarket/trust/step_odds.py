"""What a level of verification is worth, and costs, where only drawn steps are looked at.

An audit of ``m`` of ``n`` steps sees one wrong step with ``d = m / n`` and recomputes as much of
the segment. So a level asks for its rate over ``d``, until every segment is audited, and what its
audits cost is what they see. Nobody computes the whole a second time, whatever was asked for:
so nobody is billed for that.
"""

from __future__ import annotations

from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust.audit_policy import (
    AuditRules,
    Level,
    LevelTerms,
    audit_load_ppm,
    least_terms,
    seen_as_often,
    surcharge_ppm,
)
from flopmarket.trust.modes import Mode


def priced_level(mode: Mode, level: Level) -> Level:
    """The level whose price a job of this level has.

    In tolerance mode steps of every segment are looked at, as many of them, whatever is asked for:
    so more than the least changes nothing there, and costs nothing.
    """
    return Level.DETER if mode is Mode.TOLERANCE else level


def steps_terms(rules: AuditRules, level: Level, fee_ppm: int, detection_ppm: int) -> LevelTerms:
    """A level's terms where an audit sees one wrong step with ``detection_ppm``; with a million,
    what :func:`~flopmarket.trust.audit_policy.least_terms` says."""
    whole = least_terms(rules, level, fee_ppm)
    if detection_ppm == PARTS_PER_MILLION:
        return whole
    seen = min(whole.audited_ppm, detection_ppm)
    cost = max(fee_ppm, min(audit_load_ppm(rules, seen), PARTS_PER_MILLION))
    audited = seen_as_often(whole.audited_ppm, detection_ppm)
    return LevelTerms(level, audited, PARTS_PER_MILLION + cost)


def steps_surcharge_ppm(rules: AuditRules, level: Level, fee_ppm: int, detection_ppm: int) -> int:
    """What the level costs beyond the fee there, as a share of the price of a segment: no more than
    where segments are recomputed whole."""
    factor_ppm = steps_terms(rules, level, fee_ppm, detection_ppm).price_factor_ppm
    return min(
        max(0, factor_ppm - PARTS_PER_MILLION - fee_ppm), surcharge_ppm(rules, level, fee_ppm)
    )
