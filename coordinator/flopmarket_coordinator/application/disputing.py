"""Disputes between two workers about one segment."""

from __future__ import annotations

from flopmarket_coordinator.application.judging import JudgingUseCases


class DisputingUseCases(JudgingUseCases):
    """The protocol of docs/disputes.md between the parties."""
