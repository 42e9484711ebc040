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


class AuditPayState(StrEnum):
    """Where the money promised to an auditor is."""

    RESERVED = "reserved"
    PAID = "paid"
    FREED = "freed"
