"""What is remembered of a device, and what audits read of it."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.market.money import Nano


@dataclass(frozen=True, slots=True)
class DeviceHistory:
    """Outcomes of one device under one key; ``streak`` is right segments since the last wrong."""

    verified_segments: int
    rejected_segments: int
    streak: int


@dataclass(frozen=True, slots=True)
class Stake:
    """What a device's owner would lose now."""

    bond_nano: Nano
    held_nano: Nano
