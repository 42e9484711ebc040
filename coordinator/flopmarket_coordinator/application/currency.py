"""The currency of a market: chosen once, when it is initialised, and kept in its store."""

from __future__ import annotations

from dataclasses import replace

from flopmarket.errors import Conflict
from flopmarket.market.coin import DEFAULT_OVERDRAFT_NANO
from flopmarket.market.money import FLOPCOIN, Nano
from flopmarket_coordinator.parameters import Parameters
from flopmarket_coordinator.store import settings
from flopmarket_coordinator.store.engine import Transaction

CURRENCY = "currency"
OVERDRAFT = "overdraft_nano"


def choose(tx: Transaction, currency: str, overdraft_nano: Nano | None = None) -> Parameters:
    """Write the choice down; the same choice again changes nothing.

    ``overdraft_nano`` is how far below zero a new account may go; without one it is
    :data:`DEFAULT_OVERDRAFT_NANO` in flopcoin, and 0 in money, where nothing else is allowed.
    :class:`Conflict` ``CURRENCY_FIXED`` when the market has another currency.
    """
    if overdraft_nano is None:
        overdraft_nano = DEFAULT_OVERDRAFT_NANO if currency == FLOPCOIN else 0
    chosen = Parameters(currency=currency, overdraft_nano=overdraft_nano)
    known = settings.get(tx, CURRENCY)
    if known is not None and known != currency:
        raise Conflict(
            f"this market counts in {known}, and what is in its books stays {known}",
            code="CURRENCY_FIXED",
            hint="make another data directory for another currency",
        )
    settings.put(tx, CURRENCY, currency)
    settings.put(tx, OVERDRAFT, str(overdraft_nano))
    return chosen


def adopt(tx: Transaction, parameters: Parameters) -> Parameters:
    """``parameters`` with the market's own currency; a market without one takes theirs."""
    known = settings.get(tx, CURRENCY)
    if known is None:
        overdraft = parameters.overdraft_nano
        choose(tx, parameters.currency, overdraft if overdraft else None)
        known = parameters.currency
    stored = int(settings.get(tx, OVERDRAFT) or 0)
    return replace(parameters, currency=known, overdraft_nano=stored)
