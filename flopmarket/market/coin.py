"""flopcoin: the credit of a club whose members compute for each other.

A coin is earned by verified work and spent on jobs; it is issued as a bounded overdraft or by the
operator's grant, so the sum of all accounts is zero. It has no price in money: the suggested ask
pegs it to work, one coin a PFLOP of float32 products.
"""

from __future__ import annotations

from collections.abc import Mapping

from flopmarket.market.money import NANO_PER_UNIT, Nano, round_up_nano

COIN_CLASS = "dot-f32"
"""Class of work that one coin buys a PFLOP of, at the suggested ask."""

DEFAULT_OVERDRAFT_NANO = 10 * NANO_PER_UNIT
"""How far below zero a new account may go: 10 PFLOP, a few minutes of a large card."""

_PFLOP = 10**15


def suggested_ask_nano_per_hour(rates: Mapping[str, int]) -> Nano | None:
    """Coins an hour (in nano-units) at one coin a PFLOP of ``dot-f32``, rounded up.

    ``rates`` are operations per second by class of work, as an offer states them. None for a
    device without a rate for that class: its owner has to name an ask.
    """
    rate = rates.get(COIN_CLASS, 0)
    return round_up_nano(rate * 3_600 * NANO_PER_UNIT, _PFLOP, "ask") if rate > 0 else None
