"""Figures and texts as people read them: units named, money exact in the tooltip, names harmless.

Templates call these as filters. Money is rounded for the eye in decimal arithmetic, never in
floats; the exact amount is :func:`exact`.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from urllib.parse import quote

from flopmarket.limits import MAX_BOARD_NAME_CHARACTERS
from flopmarket.market.money import DOLLAR, NANO_PER_UNIT, format_amount
from flopmarket.trust.modes import Mode

NONE = "–"
SHOWN_DIGITS = 4  # significant digits of a price

_SCALES = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

CLASSES = {
    "dot-f32": "matrix products, 32-bit float",
    "dot-f16": "matrix products, 16-bit float",
    "dot-int": "matrix products, integer",
    "elementwise-f32": "element by element, 32-bit float",
    "reduce-f32": "sums and maxima, 32-bit float",
    "integer": "integer arithmetic",
    "f64": "64-bit float",
}
MODES = {
    "exact": "the bits of a specification: any right device computes the same",
    "class": "the bits of one class of devices, checked by others of that class",
    "tolerance": "near the specified result, each operation within bounds",
}
WATTS = {
    "measured": "watts measured by the worker's own agent: reported, not verified",
    "declared": "watts declared by the owner: not verified",
    "unknown": "the owner states no watts",
}


def name(text: str) -> str:
    """A text somebody else chose, on one line: no control or direction marks, bounded."""
    shown = "".join(
        " " if c in "\t\r\n" else "\N{REPLACEMENT CHARACTER}" if _is_obeyed(c) else c
        for c in text[:MAX_BOARD_NAME_CHARACTERS]
    )
    return shown + "…" if len(text) > MAX_BOARD_NAME_CHARACTERS else shown


def _is_obeyed(character: str) -> bool:
    return unicodedata.category(character)[0] == "C"


def class_words(work_class: str) -> str:
    """What a class of work is, in words; empty for one that is new to us."""
    return CLASSES.get(work_class, "")


def in_mode(address: str, mode: str) -> str:
    """The address of a page or figure for a mode; exact is what one shows without."""
    if mode == Mode.EXACT:
        return address
    return f"{address}{'&' if '?' in address else '?'}mode={quote(mode, safe='')}"


def money(nano: int | None, currency: str) -> str:
    """An amount for the eye: four significant digits, and at least two decimals."""
    if nano is None:
        return NONE
    return _with_currency(_rounded(nano), currency)


def bare(nano: int | None) -> str:
    """:func:`money` without the currency, for columns that name it in their heading."""
    return NONE if nano is None else _rounded(nano)


def exact(nano: int | None, currency: str) -> str:
    """The amount to the last nano-unit."""
    return NONE if nano is None else format_amount(nano, currency)


def symbol(currency: str) -> str:
    """How headings name the currency: ``$`` or its name."""
    return "$" if currency == DOLLAR else name(currency)


def _rounded(nano: int) -> str:
    amount = Decimal(nano) / NANO_PER_UNIT
    if amount == 0:
        return "0.00"
    places = max(2, SHOWN_DIGITS - 1 - amount.adjusted())
    return f"{amount.quantize(Decimal(1).scaleb(-min(places, 9)), ROUND_HALF_UP):,f}"


def _with_currency(text: str, currency: str) -> str:
    if currency != DOLLAR:
        return f"{text} {name(currency)}"
    return f"−${text[1:]}" if text.startswith("-") else f"${text}"


def scaled(value: float | None, unit: str) -> str:
    """A figure with a decimal prefix, three significant digits: ``1.23 TFLOP/s``."""
    if value is None:
        return NONE
    for scale, prefix in _SCALES:
        if abs(value) >= scale:
            return f"{_three(value / scale)} {prefix}{unit}"
    return f"{_three(value)} {unit}" if value else f"0 {unit}"


def pflop(value: float) -> str:
    """A volume in PFLOP, without the unit."""
    if value == 0:
        return "0"
    if value >= 1000:
        return f"{value:,.0f}"
    return _three(value) if value >= 0.001 else f"{value:.1e}"


def _three(value: float) -> str:
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def count(value: int) -> str:
    """A whole number with thousands apart."""
    return f"{value:,}"


def percent(share: float | None, places: int = 1) -> str:
    """A share of one as a percentage."""
    return NONE if share is None else f"{share * 100:.{places}f} %"


def change(share: float | None) -> str:
    """A relative change with its sign."""
    if share is None:
        return NONE
    return f"{share * 100:+.2f} %".replace("-", "−")


def energy(joules: float | None) -> str:
    """Joules, or kWh where that is the readable unit."""
    if joules is None:
        return NONE
    return f"{_three(joules / 3.6e6)} kWh" if joules >= 3.6e5 else scaled(joules, "J")


def size(count_bytes: int) -> str:
    """Bytes with a binary prefix."""
    for scale, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count_bytes >= scale:
            return f"{count_bytes / scale:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count_bytes} B"


def moment(time_us: int) -> str:
    """An instant in UTC, to the second; a dash for none."""
    return _formatted(time_us, "%Y-%m-%d %H:%M:%S")


def clock(time_us: int) -> str:
    """The time of day of an instant, UTC."""
    return _formatted(time_us, "%H:%M:%S")


def day(time_us: int) -> str:
    """The date of an instant, UTC."""
    return _formatted(time_us, "%Y-%m-%d")


def iso(time_us: int) -> str:
    """An instant for the ``datetime`` attribute."""
    return _formatted(time_us, "%Y-%m-%dT%H:%M:%SZ")


def _formatted(time_us: int, form: str) -> str:
    if time_us <= 0:
        return NONE
    try:
        return datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return "?"


def age(seconds: float) -> str:
    """How long ago, in the largest fitting unit."""
    for unit_seconds, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit_seconds:
            return f"{int(seconds // unit_seconds)} {unit}"
    return f"{max(0, int(seconds))} s"


def digest(text: str) -> str:
    """The first characters of an id, enough to recognise it."""
    return name(text)[:12]


FILTERS = {
    f.__name__: f
    for f in (
        name,
        class_words,
        in_mode,
        money,
        bare,
        exact,
        symbol,
        scaled,
        pflop,
        count,
        percent,
        change,
        energy,
        size,
        moment,
        clock,
        day,
        iso,
        age,
        digest,
    )
}
