"""Amounts of money: integers of nano-units, one rounding rule, no floats.

An amount (``Nano``) is an ``int`` that counts billionths of the coordinator's currency unit and
fits signed 64 bits, so the same number is exact in Python, protobuf and SQL. Every division of
money goes through :func:`round_up_nano`; there is no other rounding in the project. The price
function, the ledger, the command line and receipts use this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import TypeAlias

from flopmarket.errors import InvalidInput

Nano: TypeAlias = int
"""Billionths of one unit of the coordinator's currency, in signed 64 bits."""

DOLLAR = "USD"
FLOPCOIN = "flopcoin"
CURRENCIES = (DOLLAR, FLOPCOIN)
NANO_PER_UNIT = 1_000_000_000
NANO_DECIMALS = 9
MAX_NANO = 2**63 - 1
MIN_NANO = -(2**63)

_AMOUNT = re.compile(r"(?P<sign>-?)\$?(?P<whole>[0-9]{1,10})(?:\.(?P<part>[0-9]{1,9}))?")


class MoneyError(InvalidInput):
    """An amount is not an integer, does not fit, or is not written as one."""

    default_code = "MONEY_INVALID"


def check_nano(value: int, name: str = "amount") -> Nano:
    """``value`` if it is an amount of either sign; :class:`MoneyError` ``MONEY_OUT_OF_RANGE``."""
    if type(value) is not int:
        raise MoneyError(
            f"{name} must be an int of nano-units, not {type(value).__name__}",
            code="MONEY_NOT_INTEGER",
        )
    if not MIN_NANO <= value <= MAX_NANO:
        raise MoneyError(
            f"{name} = {value} does not fit 64 bits of nano-units", code="MONEY_OUT_OF_RANGE"
        )
    return value


def check_price(value: int, name: str = "price") -> Nano:
    """``value`` if it is an amount of zero or more."""
    if check_nano(value, name) < 0:
        raise MoneyError(f"{name} = {value} is negative", code="MONEY_NEGATIVE")
    return value


def sum_nano(amounts: Iterable[Nano], name: str = "sum") -> Nano:
    """The exact sum of amounts; each of them and the sum must be in range."""
    return check_nano(sum(check_nano(amount, name) for amount in amounts), name)


def round_up_nano(amount: Fraction | int, divisor: int = 1, name: str = "price") -> Nano:
    """The smallest whole number of nano-units that is not below ``amount / divisor``.

    The rule for every price, fee and charge: exact rational in, one ceiling at the end. Rounding up
    keeps a price above zero when the work is, and a ceiling no lower than any invoice under it.
    ``amount`` is in nano-units, zero or more; ``divisor`` is above zero.
    """
    if type(amount) not in (int, Fraction) or type(divisor) is not int:
        raise MoneyError(f"{name} must be an exact ratio of integers", code="MONEY_NOT_INTEGER")
    if divisor <= 0 or amount < 0:
        raise MoneyError(
            f"{name} = {amount} / {divisor} is negative or has no value", code="MONEY_NEGATIVE"
        )
    exact = Fraction(amount) / divisor
    return check_price(-(-exact.numerator // exact.denominator), name)


def part_of_nano(amount: Nano, parts: int, whole: int, name: str = "share") -> Nano:
    """``amount * parts / whole``, rounded up: a fee of 3 % is ``part_of_nano(price, 3, 100)``.

    At most ``amount`` when ``parts <= whole``, so a share never exceeds what it is taken from.
    """
    return round_up_nano(check_price(amount, name) * parts, whole, name)


def parse_nano(text: str) -> Nano:
    """The amount written as ``1.5``, ``$0.0123``, ``-$2`` or ``0.000000001``.

    Plain decimals with at most nine places: nothing is rounded, no exponent, no thousands marks.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise MoneyError(
            f"{text[:40]!r} is not an amount",
            code="MONEY_MALFORMED",
            hint="write it like $0.0123, with at most nine decimal places",
        )
    part = (match["part"] or "").ljust(NANO_DECIMALS, "0")
    value = int(match["whole"]) * NANO_PER_UNIT + int(part)
    return check_nano(-value if match["sign"] else value)


def format_nano(value: Nano, *, symbol: str = "$", min_decimals: int = 2) -> str:
    """The exact amount in decimals, such as ``$0.0123`` or ``-$2.00``; never rounded.

    Trailing zeros go, down to ``min_decimals`` (0 to 9) places. :func:`parse_nano` reads it back.
    """
    check_nano(value)
    if not 0 <= min_decimals <= NANO_DECIMALS:
        raise MoneyError(f"min_decimals = {min_decimals} is not in 0..{NANO_DECIMALS}")
    whole, part = divmod(abs(value), NANO_PER_UNIT)
    digits = f"{part:0{NANO_DECIMALS}d}"
    digits = digits[:min_decimals] + digits[min_decimals:].rstrip("0")
    return f"{'-' if value < 0 else ''}{symbol}{whole}{'.' + digits if digits else ''}"


def format_amount(value: Nano, currency: str) -> str:
    """The exact amount with its currency: ``$0.0123``, or ``0.0123 flopcoin``."""
    if currency == DOLLAR:
        return format_nano(value)
    return f"{format_nano(value, symbol='')} {currency}"
