"""Options that commands about past prices share: class, range of time, CSV."""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flopmarket.cli.mode_options import DEFAULT_MODE, MODES

if TYPE_CHECKING:
    from flopmarket.client.money import Money

Function = TypeVar("Function", bound=Callable[..., Any])

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_TIME = "TIME"

class_option = click.option(
    "--class", "--work-class", "work_class", default="", help="Class of work, such as dot-f32."
)
mode_option = click.option(
    "--mode",
    type=click.Choice(MODES),
    default=DEFAULT_MODE,
    show_default=True,
    help="Prices and orders of this mode.",
)
any_mode_option = click.option(
    "--mode", type=click.Choice(MODES), default=None, help="Only this mode; all by default."
)
csv_option = click.option("--csv", "as_csv", is_flag=True, help="RFC 4180, units in the header.")


def range_options(function: Function) -> Function:
    """Add ``--since`` and ``--until``, texts for :func:`range_of`."""
    until = click.option("--until", default="", metavar=_TIME, help="The end, exclusive.")
    since = click.option(
        "--since",
        default="",
        metavar=_TIME,
        help="2026-11-22, 2026-11-22T18:00, or 24h (ago); UTC.",
    )
    return since(until(function))


def range_of(since: str, until: str) -> tuple[int, int]:
    """Microseconds since 1970 of both texts, 0 where one is empty."""
    now_us = time.time_ns() // 1_000
    return instant_of(since, now_us), instant_of(until, now_us)


def instant_of(text: str, now_us: int) -> int:
    """An instant in UTC: an ISO date or time, or how long ago (``90m``, ``24h``, ``7d``)."""
    from flopmarket.errors import InvalidInput

    if not text:
        return 0
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return max(1, now_us - int(ago[1]) * _SECONDS[ago[2]] * 1_000_000)
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        return max(1, round(found.timestamp() * 1_000_000))
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text[:40]!r} is no time",
            code="TIME_MALFORMED",
            hint="write it like 2026-11-22, 2026-11-22T18:00 or 24h",
        ) from None


def amount(price: Money) -> str:
    """The exact amount as a plain decimal, for a table of numbers."""
    from flopmarket.market.money import format_nano

    return format_nano(price.nano, symbol="", min_decimals=0)


def write_csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """RFC 4180 on stdout: lines end with CR LF, cells are quoted where they need to be."""
    sys.stdout.flush()
    writer = csv.writer(_Lines(), lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(rows)


class _Lines:
    """Stdout that leaves line ends alone, on every system."""

    def write(self, text: str) -> None:
        click.echo(text.encode(), nl=False)
