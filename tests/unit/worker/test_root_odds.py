"""When a worker expects to be asked for the roots of its states."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flopmarket.trust.audit_policy import RULES, Level
from flopmarket.trust.challenge import AuditorList, ChallengeTerms
from flopmarket.trust.encoding import digest
from flopmarket.trust.modes import Mode
from flopmarket_worker.root_odds import roots_asked_ppm

CERTAIN = 1_000_000
BIG = 10**15
ALONE = ChallengeTerms(
    lease_id="lease",
    device_key_id="d" * 64,
    anchor=bytes(32),
    cross_anchor=bytes(32),
    values=1,
    rules=digest(RULES),
    level=Level.DETER,
    streak=1_000,
    stake_nano=BIG,
    candidates=digest(AuditorList(())),
    house=bytes(32),
    audit_steps=64,
    detection_ppm=64_000,
)
"""An established device, a whole stake, 64 of 1,000 steps, and nobody else to audit it."""
OTHERS = replace(ALONE, candidates=bytes(32), detection_ppm=CERTAIN)


@pytest.mark.parametrize(
    ("terms", "mode", "chance"),
    [
        (None, Mode.EXACT, 0),
        (replace(ALONE, audit_steps=0), Mode.EXACT, 0),
        (ALONE, Mode.TOLERANCE, CERTAIN),
        (ALONE, Mode.EXACT, 156_250),
        (replace(ALONE, streak=19), Mode.EXACT, CERTAIN),
        (replace(ALONE, streak=49, detection_ppm=CERTAIN), Mode.EXACT, 100_000),
        (replace(ALONE, stake_nano=0), Mode.EXACT, CERTAIN),
        (replace(ALONE, level=Level.CHECK), Mode.EXACT, CERTAIN),
        (replace(ALONE, level=Level.DUAL), Mode.EXACT, CERTAIN),
        (OTHERS, Mode.EXACT, 1_000),
        (replace(OTHERS, streak=0), Mode.EXACT, 100_000),
    ],
)
def test_how_likely_a_worker_is_asked(
    terms: ChallengeTerms | None, mode: Mode, chance: int
) -> None:
    assert roots_asked_ppm(terms, mode) == chance
