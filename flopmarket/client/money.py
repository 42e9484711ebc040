"""Amounts as people meet them: exact nano-units with their currency.

Prices a caller gives are text, :class:`~decimal.Decimal` or :class:`Money`. A bare number is
refused: an ``int`` could mean units or nano-units, a ``float`` is not an amount at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

from flopmarket.market.money import (
    DOLLAR,
    MAX_NANO,
    MoneyError,
    check_nano,
    check_price,
    format_amount,
    parse_nano,
)


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount: billionths of one unit of ``currency``."""

    nano: int
    currency: str = DOLLAR

    def __post_init__(self) -> None:
        check_nano(self.nano)

    def __str__(self) -> str:
        return format_amount(self.nano, self.currency)


Amount: TypeAlias = Money | Decimal | str
"""``"$0.25"``, ``Decimal("0.25")`` or ``quote.ceiling``."""


def nano_of(amount: Amount, name: str = "amount") -> int:
    """Nano-units of an amount of zero or more; raises :class:`MoneyError`."""
    if isinstance(amount, Money):
        return check_price(amount.nano, name)
    if isinstance(amount, Decimal):
        if not amount.is_finite() or abs(amount) > MAX_NANO:
            raise MoneyError(f"{name} = {amount} is not an amount", code="MONEY_OUT_OF_RANGE")
        return check_price(parse_nano(f"{amount:f}"), name)
    if isinstance(amount, str):
        return check_price(parse_nano(amount), name)
    raise MoneyError(
        f"{name} is a bare {type(amount).__name__}",
        code="MONEY_AMBIGUOUS",
        hint='write it as text, "$0.25", or pass a Money such as quote.ceiling',
    )
