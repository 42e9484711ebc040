"""Words of audits: what for, and where one stands."""

from __future__ import annotations

from enum import StrEnum


class AuditPurpose(StrEnum):
    """Why a segment is recomputed by another account."""

    AUDIT = "audit"
    """It was drawn."""
    CROSS = "cross"
    """An audit of it was drawn to be repeated by a second auditor."""
    CANARY = "canary"
    """The right answer is known: the auditor is watched, not the worker."""
    DUAL = "dual"
    """The buyer pays for two owners."""


class AuditPhase(StrEnum):
    """Where an audit is: the phases of :mod:`flopmarket.trust.sealing`, and what comes after."""

    DELAYED = "delayed"
    ASKING = "asking"
    SEALING = "sealing"
    AUDITOR_OPENS = "auditor-opens"
    WORKER_OPENS = "worker-opens"
    DISPUTE = "dispute"
    HOUSE = "house"
    ENDED = "ended"


class AuditEnd(StrEnum):
    """Outcomes beside those of :class:`flopmarket.trust.sealing.Outcome`."""

    VOID = "VOID"
    """The segment counts no more: an earlier one was wrong, or its job was refused."""
    CONFIRMED = "CONFIRMED"
    """The house, or a dispute, found the worker right."""
    REFUTED = "REFUTED"
    """The house, or a dispute, found the worker wrong."""
