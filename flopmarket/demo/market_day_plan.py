"""What the buyers of a market day want, and when: drawn from a seed. Pure.

Hours are hours of the day, as fractions. Prices are shares of what a quote says at that moment, so
the plan fits any machine and any currency.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum

BUYERS = ("ines", "jonas", "keiko")
LAST_HOUR = 23.0
"""When orders that still rest end."""


class Work(StrEnum):
    """What a job computes."""

    TRAINING = "training"
    SHORT_BATCH = "short batch"
    LONG_BATCH = "long batch"


class Wish(StrEnum):
    """What an order asks of the devices, beside its price."""

    NOTHING = ""
    EFFICIENT = "at least the median FLOPS/W"
    EUROPE = "region eu"
    NOT_TEXAS = "not in us-tx"
    MEMORY = "at least 16 GiB"
    NOT_THE_CHEAPEST = "not the cheapest owner"
    ONLY_NIGHT_OWNER = "only hopper"


@dataclass(frozen=True, slots=True)
class Planned:
    """One order. ``limit_percent`` of the quoted unit price; None is a market order.

    A resting order ends at ``ends_hour`` by its deadline; ``cancel_hour`` and ``why_hour`` are when
    its buyer cancels it, and asks why it waits.
    """

    hour: float
    buyer: str
    work: Work
    wish: Wish = Wish.NOTHING
    limit_percent: int | None = None
    ends_hour: float = LAST_HOUR
    cancel_hour: float | None = None
    why_hour: float | None = None

    @property
    def title(self) -> str:
        """What people see."""
        price = "market" if self.limit_percent is None else f"limit {self.limit_percent}%"
        return ", ".join(part for part in (self.work.value, price, self.wish.value) if part)


FIXED = (
    Planned(0.2, "ines", Work.TRAINING),
    Planned(0.6, "jonas", Work.LONG_BATCH),
    Planned(1.0, "keiko", Work.SHORT_BATCH, limit_percent=1, cancel_hour=12.0, why_hour=3.0),
    Planned(1.5, "ines", Work.SHORT_BATCH, limit_percent=1, cancel_hour=5.0),
    Planned(2.0, "jonas", Work.SHORT_BATCH, limit_percent=1, ends_hour=6.0),
    Planned(3.0, "keiko", Work.SHORT_BATCH, Wish.EFFICIENT),
    Planned(4.0, "ines", Work.LONG_BATCH, Wish.EUROPE),
    Planned(5.0, "jonas", Work.SHORT_BATCH, Wish.MEMORY),
    Planned(6.5, "keiko", Work.SHORT_BATCH, Wish.ONLY_NIGHT_OWNER, limit_percent=55),
    Planned(7.0, "jonas", Work.SHORT_BATCH, Wish.ONLY_NIGHT_OWNER, limit_percent=55),
    Planned(7.5, "ines", Work.SHORT_BATCH, Wish.ONLY_NIGHT_OWNER, limit_percent=55),
    Planned(8.0, "ines", Work.SHORT_BATCH, Wish.NOT_THE_CHEAPEST),
    Planned(9.0, "keiko", Work.TRAINING, Wish.NOT_TEXAS, limit_percent=150),
)
"""Orders that every day has: each feature at least once. The three for ``hopper`` are equal, come
while its power is dear, and rest until it is cheap. Those at one percent never fill: the
first quotes of the day take kernels to be built cold, and are many times the later ones."""

_WISHES = (Wish.NOTHING, Wish.NOTHING, Wish.EFFICIENT, Wish.EUROPE, Wish.NOT_TEXAS, Wish.MEMORY)
_LIMITS = (None, None, None, 130, 110, 95, 85)
_WORKS = (Work.SHORT_BATCH, Work.SHORT_BATCH, Work.LONG_BATCH, Work.TRAINING)


def plan(seed: int, more: int) -> tuple[Planned, ...]:
    """The fixed orders and ``more`` drawn ones, by hour."""
    chance = random.Random(seed)
    drawn = [
        Planned(
            hour=chance.randint(100, 2_150) / 100,
            buyer=chance.choice(BUYERS),
            work=chance.choice(_WORKS),
            wish=chance.choice(_WISHES),
            limit_percent=chance.choice(_LIMITS),
        )
        for _ in range(more)
    ]
    return tuple(sorted((*FIXED, *map(_spread, drawn)), key=lambda item: item.hour))


def _spread(item: Planned) -> Planned:
    """Market orders have no end of their own."""
    return item if item.limit_percent is not None else replace(item, ends_hour=0.0)
