"""Blind audits: segments recomputed by workers of other accounts."""

from __future__ import annotations

from flopmarket_coordinator.application.disputing import DisputingUseCases


class ExchangingUseCases(DisputingUseCases):
    """Audits as leases of other accounts' workers."""
