"""How likely a worker is asked for the roots of all states of a segment (docs/audits.md)."""

from __future__ import annotations

from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust.audit_policy import RULES, rate_ppm
from flopmarket.trust.challenge import AuditorList, ChallengeTerms
from flopmarket.trust.encoding import digest
from flopmarket.trust.modes import Mode

_NOBODY = digest(AuditorList(()))


def roots_asked_ppm(terms: ChallengeTerms | None, mode: Mode) -> int:
    """The least chance, in ppm, that the house looks at steps of a segment of this lease; 0 where
    it never does. By the project's rules, whichever the market has.

    In tolerance mode it looks at every segment; else as often as the rate of a small unit says.
    Where others could recompute the whole they are asked first, and it looks where none of them
    comes: as rarely, say, as the rules have it audit itself.
    """
    if terms is None or not terms.audit_steps:
        return 0
    if mode is Mode.TOLERANCE:
        return PARTS_PER_MILLION
    rate = rate_ppm(RULES, terms.level, terms.streak, 0, terms.stake_nano, terms.detection_ppm)
    alone = terms.detection_ppm < PARTS_PER_MILLION or terms.candidates == _NOBODY
    return rate if alone else rate * RULES.house_ppm // PARTS_PER_MILLION
