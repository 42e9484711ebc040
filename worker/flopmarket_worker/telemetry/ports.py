"""Power readings of one device, and the two readers that need no hardware.

The offer shows watts with their source. Readers for cards that can be asked (amdgpu, NVML, RAPL)
implement the same port.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flopmarket.errors import InvalidInput
from flopmarket.trust.documents import WattsSource

MAX_MILLIWATTS = 100_000_000


@dataclass(frozen=True, slots=True)
class PowerReading:
    """``milliwatts`` under load and where that comes from; zero when, and only when, unknown."""

    milliwatts: int
    source: WattsSource


class PowerReader(Protocol):
    """Port: tells what one device draws under load."""

    def read(self) -> PowerReading:
        """The present figure; never fails (an unreadable sensor is unknown power)."""
        ...


@dataclass(frozen=True, slots=True)
class UnknownPower:
    """Nobody says."""

    def read(self) -> PowerReading:
        """Zero, unknown."""
        return PowerReading(0, WattsSource.UNKNOWN)


@dataclass(frozen=True, slots=True)
class DeclaredPower:
    """What the owner says. Raises InvalidInput (POWER_RANGE) beyond 100 kW or not above zero."""

    milliwatts: int

    def __post_init__(self) -> None:
        if not 0 < self.milliwatts <= MAX_MILLIWATTS:
            raise InvalidInput(
                f"declared power of {self.milliwatts} mW is not in 1..{MAX_MILLIWATTS}",
                code="POWER_RANGE",
            )

    def read(self) -> PowerReading:
        """The declared figure."""
        return PowerReading(self.milliwatts, WattsSource.DECLARED)
