"""What a market stream is about: a class of work and a mode, or all of either."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.market.tape import Trade
from flopmarket.trust.modes import Mode

_ALL = "*"


@dataclass(frozen=True, slots=True)
class Series:
    """A class of work and a mode; "" and None stand for all."""

    work_class: str = ""
    mode: Mode | None = None

    def __str__(self) -> str:
        """As resume tokens spell it."""
        name = self.work_class or _ALL
        return name if self.mode is None else f"{name}+{self.mode}"

    def has(self, trade: Trade) -> bool:
        """Whether a trade is of this series."""
        return self.work_class in ("", trade.work_class) and self.mode in (None, trade.mode)
