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
    ARBITER = "arbiter"
    """Two of a class of devices differ: this is one of those who are asked who is right."""
    LOOK_BACK = "look-back"
    """A fault of its worker was found, and its class is all who can look again."""


class AuditPhase(StrEnum):
    """Where an audit is: the phases of :mod:`flopmarket.trust.sealing`, and what comes after."""

    DELAYED = "delayed"
    ASKING = "asking"
    SEALING = "sealing"
    AUDITOR_OPENS = "auditor-opens"
    WORKER_OPENS = "worker-opens"
    DISPUTE = "dispute"
    ARBITRATION = "arbitration"
    HOUSE = "house"
    ENDED = "ended"


class RulingKind(StrEnum):
    """What decided about a segment where no dispute of lists did."""

    ARBITRATION = "arbitration"
    """Further accounts of its class of devices."""
    STEPS = "steps"
    """Drawn steps, from what its worker itself has signed."""
    HOUSE = "house"
    """The house alone: by the files, or because nobody was there to answer."""


class StepPhase(StrEnum):
    """Where an audit of single steps is (:mod:`flopmarket.trust.step_audit`)."""

    ROOTS = "roots"
    """The worker is asked for the roots of all states."""
    STATES = "states"
    """Steps are drawn, and it is asked for the states before them."""
    HOUSE = "house"
    """The house runs the drawn steps."""
    ENDED = "ended"


class AuditEnd(StrEnum):
    """Outcomes beside those of :class:`flopmarket.trust.sealing.Outcome`."""

    VOID = "VOID"
    """The segment counts no more: an earlier one was wrong, or its job was refused."""
    CONFIRMED = "CONFIRMED"
    """The house, or a dispute, found the worker right."""
    REFUTED = "REFUTED"
    """The house, or a dispute, found the worker wrong."""
    UNDECIDED = "UNDECIDED"
    """Nobody of the class could say who is right."""
    SILENT = "SILENT"
    """An arbiter took the work and did not answer."""
