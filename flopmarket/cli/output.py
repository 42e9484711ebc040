"""How commands print: data on stdout, talk on stderr, tables for people, JSON for programs.

JSON is one object, or one object a line. Amounts are integers of nano-units under a name that ends
in ``_nano``, with ``currency`` beside them; bytes are hex. Colours and live displays appear on a
terminal only, and never with ``NO_COLOR``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

TABLE_WIDTH = 1000  # columns a table may have before its cells are cut

_SCALES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY_SCALES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class Output:
    """Where one command prints. ``as_json`` decides the form of data; talk is always text."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def say(self, text: str) -> None:
        """A sentence for a person, on stderr."""
        click.echo(printable(text), err=True)

    def line(self, text: str) -> None:
        """One line of data, on stdout."""
        click.echo(printable(text))

    def record(self, value: Any) -> None:
        """One JSON object on one line of stdout; flushed, so that a reader sees it now."""
        click.echo(json.dumps(plain(value), ensure_ascii=True))
        sys.stdout.flush()

    def fields(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Names and values, aligned."""
        shown = [(name, printable(value)) for name, value in pairs]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            click.echo(f"{name:<{width}}  {value}")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
        """A table; ``empty`` is said on stderr when there are no rows. ``>`` before a column's name
        aligns it to the right.
        """
        from rich.table import Table
        from rich.text import Text

        content = [[Text(printable(cell)) for cell in row] for row in rows]
        if not content:
            self.say(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            right = column.startswith(">")
            table.add_column(
                column.removeprefix(">"), justify="right" if right else "left", no_wrap=True
            )
        for cells in content:
            table.add_row(*cells)
        console(wide=True).print(table)

    def listing(
        self,
        found: Iterable[Item],
        columns: Sequence[str],
        cells: Callable[[Item], Sequence[str]],
        empty: str,
    ) -> None:
        """Every item as a JSON object of its own, or a table with a row of ``cells`` for each."""
        if not self.as_json:
            self.table(columns, map(cells, found), empty)
            return
        for item in found:
            self.record(item)


def console(*, stderr: bool = False, wide: bool = False) -> Console:
    """A rich console on today's stdout or stderr.

    ``wide`` is for tables: a narrow terminal wraps their lines, and no amount or id is cut short.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() and not wide else TABLE_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def plain(value: Any) -> Any:
    """``value`` in the types of JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain_fields(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (str, int, float)) or value is None:
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def _plain_fields(value: Any) -> dict[str, Any]:
    from flopmarket.client.money import Money

    result: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if isinstance(item, Money):
            result[f"{field.name}_nano"] = item.nano
            result["currency"] = item.currency
        else:
            result[field.name] = plain(item)
    return result


def printable(text: str) -> str:
    """``text`` without anything a terminal would obey (control, format and bidirectional marks)."""
    return "".join(
        " "
        if c in "\t\n"
        else c
        if unicodedata.category(c)[0] != "C"
        else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def scaled(value: float, unit: str) -> str:
    """``value`` with a decimal prefix: ``1.23 TFLOP``."""
    for scale, prefix in _SCALES:
        if abs(value) >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def size(count_bytes: int) -> str:
    """Bytes with a binary prefix: ``1.5 GiB``."""
    for scale, unit in _BINARY_SCALES:
        if count_bytes >= scale:
            return f"{count_bytes / scale:.1f} {unit}"
    return f"{count_bytes} B"


def duration(seconds: float) -> str:
    """Seconds for people: ``0.8 s``, ``2 min 5 s``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def instant(time_us: int) -> str:
    """An instant in UTC, or ``-`` for none."""
    if time_us <= 0:
        return "-"
    try:
        return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError):
        return "?"
