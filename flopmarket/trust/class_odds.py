"""What a class of devices is worth as a judge: exact chances, from who is in it.

A class has ``others`` accounts beside the worker's and the buyer's, of which ``colluding`` act as
one. Auditor and arbiters are drawn from them without replacement (:mod:`arbitration`), so every
chance is a ratio of two products. ``docs/audits.md`` has the table.
"""

from __future__ import annotations

from flopmarket.errors import InvalidInput
from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust.arbitration import EQUAL_ANSWERS
from flopmarket.trust.audit_policy import (
    AuditRules,
    Level,
    LevelTerms,
    audit_load_ppm,
    least_terms,
)

_LEAST_DETECTION_PPM = 1
"""In place of none: the rate that follows from it is certainty."""


def can_decide(others: int, *, house: bool) -> bool:
    """Whether a difference in such a class can come to a decision: an auditor and two arbiters, or
    an auditor and a worker of the house."""
    return others >= EQUAL_ANSWERS or (house and others >= 1)


def outvoted_ppm(others: int, colluding: int, *, house: bool) -> int:
    """Chance that an honest worker loses one audit: all three who are drawn are against it.

    ``k (k-1) (k-2) / (n (n-1) (n-2))``, rounded up. Zero where a worker of the house is in the
    class, which is asked before all other arbiters; whoever answers is taken to be asked, so where
    honest accounts are away, ``others`` are those that are there.
    """
    _check(others, colluding)
    if house or others < EQUAL_ANSWERS:
        return 0
    return _all_of(colluding, others)


def convicted_ppm(others: int, colluding: int, *, house: bool) -> int:
    """Chance that a wrong worker is convicted by one audit, rounded down: nobody of the three is
    its friend; with a worker of the house in the class, the auditor alone is not."""
    _check(others, colluding)
    if not can_decide(others, house=house):
        return 0
    honest = others - colluding
    if house:
        return honest * PARTS_PER_MILLION // others
    ways = honest * (honest - 1) * (honest - 2)
    return ways * PARTS_PER_MILLION // (others * (others - 1) * (others - 2))


def at_worst(rules: AuditRules, others: int, *, house: bool = False) -> tuple[int, int]:
    """The chances in ppm that one audit convicts a wrong device, and an honest one, where as many
    of the others collude as the rules assume; ``house``: it has a worker in the class."""
    colluding = -(-others * rules.colluding_ppm // PARTS_PER_MILLION)
    return (
        convicted_ppm(others, colluding, house=house),
        outvoted_ppm(others, colluding, house=house),
    )


def worth_ppm(rules: AuditRules, others: int, *, house: bool) -> int:
    """What an audit in such a class is worth beside one that a referee decides, for its rate.

    By the rules' own assumption about friends: with the share of honest auditors, which the rate
    has already, it comes to the chance of a conviction. Where that is none nobody is ever slashed,
    so every segment is audited: a wrong one is not paid, and that is all.
    """
    if not can_decide(others, house=house):
        return _LEAST_DETECTION_PPM
    if house:
        return PARTS_PER_MILLION
    convicted, _ = at_worst(rules, others)
    worth = convicted * PARTS_PER_MILLION // (PARTS_PER_MILLION - rules.colluding_ppm)
    return min(max(worth, _LEAST_DETECTION_PPM), PARTS_PER_MILLION)


def class_terms(rules: AuditRules, level: Level, fee_ppm: int, worth: int) -> LevelTerms:
    """A level's terms where an audit is worth ``worth`` ppm (:func:`worth_ppm`) of one that a
    referee decides: the same deterrence takes more audits, up to all. With a million, what
    :func:`~flopmarket.trust.audit_policy.least_terms` says."""
    if level is Level.DUAL or worth == PARTS_PER_MILLION:
        return least_terms(rules, level, fee_ppm)
    asked = rules.check_ppm if level is Level.CHECK else 0
    wanted = -(-max(rules.floor_ppm, asked) * PARTS_PER_MILLION // worth)
    if wanted >= PARTS_PER_MILLION:
        whole = least_terms(rules, Level.DUAL, fee_ppm)
        return LevelTerms(level, whole.audited_ppm, whole.price_factor_ppm)
    cost = max(fee_ppm, audit_load_ppm(rules, wanted))
    return LevelTerms(level, wanted, PARTS_PER_MILLION + cost)


def class_surcharge_ppm(rules: AuditRules, level: Level, fee_ppm: int, worth: int) -> int:
    """What a level costs beyond the fee there, as a share of the price of every segment."""
    factor_ppm = class_terms(rules, level, fee_ppm, worth).price_factor_ppm
    return max(0, factor_ppm - PARTS_PER_MILLION - fee_ppm)


def _all_of(some: int, every: int) -> int:
    ways = some * (some - 1) * (some - 2)
    total = every * (every - 1) * (every - 2)
    return -(-ways * PARTS_PER_MILLION // total)


def _check(others: int, colluding: int) -> None:
    if not 0 <= colluding <= others:
        raise InvalidInput(f"{colluding} of {others} accounts", code="CLASS_ODDS")
