"""What counts against a device beside a slash, and what becomes of an auditor's pay."""

from __future__ import annotations

from enum import StrEnum


class StrikeKind(StrEnum):
    """Why a device has a strike. Flips and silences are counted within a window of units."""

    FLIP = "flip"
    """A few wrong bits and no work saved: a soft error."""
    SILENCE = "silence"
    """It did not open a commitment in time."""
    AUDITOR_SILENT = "auditor-silent"
    """It took an audit and did not answer, or did not open its answer."""
    AUDITOR_WRONG = "auditor-wrong"
    """It answered an audit, and the house found otherwise."""
    TOLERANCE_OUTSIDE = "tolerance-outside"
    """Its values differ more from FX1 than an honest device's were ever seen to."""
    CLASS_UNDECIDED = "class-undecided"
    """It was one of two of a class that differ, and the class could not say who is right."""
    BENCHMARK_WRONG = "benchmark-wrong"
    """It answered a benchmark challenge with something else than what it was to compute."""


class AuditPayState(StrEnum):
    """Where the money promised to an auditor is."""

    RESERVED = "reserved"
    PAID = "paid"
    FREED = "freed"
