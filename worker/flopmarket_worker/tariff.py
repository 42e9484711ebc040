"""What electricity costs at an hour of the week: one price, or windows from a TOML file.

::

    default = 0.32                              # currency per kWh, exact decimals

    [[window]]
    days = ["mon", "tue", "wed", "thu", "fri"]  # all days when absent
    from = 22
    to = 6                                      # past midnight: still the evening's day
    price = 0.18

The first window that holds an hour decides. Hours are those of the owner's own clock. Prices are
exact and may be negative, as exchange prices are at times.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_TARIFF_BYTES, MAX_TARIFF_WINDOWS
from flopmarket_worker.week import DAYS, HOURS_OF_DAY, Hour, Span

MAX_PRICE_PER_KWH = 1_000
MAX_SHOWN_BITS = 128

_PRICE = re.compile(r"-?[0-9]{1,6}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class Window:
    """A price in some hours of the week."""

    span: Span
    price: Fraction


@dataclass(frozen=True, slots=True)
class Tariff:
    """Currency per kWh by hour of the week."""

    default: Fraction
    windows: tuple[Window, ...] = ()

    def price(self, at: Hour) -> Fraction:
        """Currency per kWh in that hour."""
        return next(
            (window.price for window in self.windows if window.span.holds(at)), self.default
        )


def read_tariff(text: str) -> Tariff:
    """The tariff of ``--tariff``: a price such as ``0.30``, or the name of a TOML file.

    InvalidInput ``TARIFF_...`` names the line of the file that makes no sense.
    """
    if _PRICE.fullmatch(text.strip()):
        return Tariff(_price(text.strip(), "--tariff"))
    path = Path(text)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TARIFF_BYTES + 1)
    except OSError as error:
        raise InvalidInput(
            f"tariff {text[:200]!r} is neither a price per kWh nor a file that can be read "
            f"({error.strerror})",
            code="TARIFF_UNREADABLE",
            hint="write --tariff 0.30, or --tariff FILE.toml",
        ) from error
    if len(data) > MAX_TARIFF_BYTES:
        raise InvalidInput(f"a tariff has at most {MAX_TARIFF_BYTES} bytes", code="TARIFF_TOO_BIG")
    return parse_tariff(data)


def parse_tariff(data: bytes) -> Tariff:
    """The tariff of a TOML file's bytes; numbers are read as exact decimals."""
    try:
        content = tomllib.loads(data.decode("utf-8"), parse_float=str)
    except (ValueError, RecursionError) as error:  # tomllib's own, and a number of 5,000 digits
        reason = str(error)[:200]
        raise InvalidInput(f"the tariff is not TOML: {reason}", code="TARIFF_MALFORMED") from error
    _known(content, {"default", "window"}, "a tariff")
    windows = content.get("window", [])
    if not isinstance(windows, list) or len(windows) > MAX_TARIFF_WINDOWS:
        raise _malformed(f"a tariff has at most {MAX_TARIFF_WINDOWS} [[window]] tables")
    if "default" not in content:
        raise _malformed("a tariff needs `default`, the price outside all windows")
    return Tariff(
        _price(content["default"], "default"),
        tuple(_window(item, f"window {at + 1}") for at, item in enumerate(windows)),
    )


def _window(item: Any, name: str) -> Window:
    if not isinstance(item, dict):
        raise _malformed(f"{name} is not a table")
    _known(item, {"days", "from", "to", "price"}, name)
    for key in ("from", "to", "price"):
        if key not in item:
            raise _malformed(f"{name} needs `{key}`")
    days = item.get("days", list(DAYS))
    if not isinstance(days, list) or not days or any(day not in DAYS for day in days):
        raise _malformed(f"days of {name} are some of {', '.join(DAYS)}")
    first = _hour(item["from"], f"`from` of {name}", HOURS_OF_DAY - 1)
    end = _hour(item["to"], f"`to` of {name}", HOURS_OF_DAY)
    if first == end:
        raise _malformed(f"{name} is empty: it begins and ends at {first}")
    span = Span(frozenset(DAYS.index(day) for day in days), first, end)
    return Window(span, _price(item["price"], name))


def _hour(value: Any, name: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise _malformed(f"{name} is an hour from 0 to {most}, not {_shown(value)}")
    return value


def _price(value: Any, name: str) -> Fraction:
    text = _shown(value)
    if type(value) not in (str, int) or not _PRICE.fullmatch(text):
        raise _malformed(f"the price of {name} is a decimal per kWh, not {text!r}")
    price = Fraction(text)
    if abs(price) > MAX_PRICE_PER_KWH:
        raise _malformed(f"the price of {name} is beyond {MAX_PRICE_PER_KWH} a kWh")
    return price


def _shown(value: Any) -> str:
    """The value as it was written, as far as a message shows it."""
    if type(value) is int and value.bit_length() <= MAX_SHOWN_BITS:
        return str(value)
    # Python may refuse to spell a longer number, also inside of a list.
    return value[:40] if isinstance(value, str) else f"some {type(value).__name__}"


def _known(content: Mapping[str, Any], names: set[str], where: str) -> None:
    unknown = sorted(set(content) - names)
    if unknown:
        raise _malformed(f"{where} has no `{unknown[0][:40]}`, only {', '.join(sorted(names))}")


def _malformed(message: str) -> InvalidInput:
    return InvalidInput(message, code="TARIFF_MALFORMED")
