"""Options of an order: what an offer must be, and whether the job waits for one.

``@order_options`` gives a command one keyword argument, ``order``; quote, run and submit share it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flopmarket.cli.order_times import microseconds, parse_deadline

if TYPE_CHECKING:
    from flopmarket.client.orders import Order

Function = TypeVar("Function", bound=Callable[..., Any])

_SI = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DECIMAL = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kKMGTP]?)(?:FLOPS/W|FLOPS|FLOP/J)?")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kKMGT]?i?B?)")

_OPTIONS = (
    click.option("--wait", is_flag=True, help="Rest in the book until offers fit."),
    click.option(
        "--limit", metavar="PRICE", help="Most per PFLOP of the job's headline class, all in."
    ),
    click.option("--deadline", metavar="WHEN", help="`Fri 18:00`, `18:00`, `24h`, or an ISO time."),
    click.option(
        "--min-flops-per-watt", metavar="N", help="Such as 20G, of the job's headline class."
    ),
    click.option("--min-memory", metavar="SIZE", help="Of the device, such as 8GiB."),
    click.option("--region", "regions", multiple=True, metavar="R", help="Only there; repeatable."),
    click.option(
        "--not-region", "not_regions", multiple=True, metavar="R", help="Not there; repeatable."
    ),
    click.option(
        "--owner", "owners", multiple=True, metavar="A", help="Only this account; repeatable."
    ),
    click.option(
        "--not-owner", "not_owners", multiple=True, metavar="A", help="Not this one; repeatable."
    ),
    click.option("--work-class", default="", metavar="CLASS", help="Class of --limit and FLOPS/W."),
)
_NAMES = (
    "wait",
    "limit",
    "deadline",
    "min_flops_per_watt",
    "min_memory",
    "regions",
    "not_regions",
    "owners",
    "not_owners",
    "work_class",
)


def order_options(function: Function) -> Function:
    """Add the options of an order; the command receives ``order``, a client ``Order``."""

    @functools.wraps(function)
    def command(**options: Any) -> Any:
        said = {name: options.pop(name) for name in _NAMES}
        return function(order=_order(said), **options)

    wrapped: Any = command
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    result: Function = wrapped
    return result


def parse_flops_per_watt(text: str) -> int:
    """Operations per second and watt: ``20G``, ``20 GFLOPS/W``, ``20000000000``."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text[:40]!r} is not FLOPS/W; write it like 20G")
    return _whole(Fraction(match[1]) * _SI[match[2]], text)


def parse_size(text: str) -> int:
    """Bytes: ``8GiB``, ``500 MB``, ``1048576``."""
    match = _SIZE.fullmatch(text.strip())
    unit = match[2] if match else ""
    scale = {**_DECIMAL, **_BINARY}.get(unit)
    if match is None or scale is None:
        raise click.BadParameter(f"{text[:40]!r} is not a size; write it like 8GiB")
    return _whole(Fraction(match[1]) * scale, text)


def _whole(value: Fraction, text: str) -> int:
    if value.denominator != 1:
        raise click.BadParameter(f"{text[:40]!r} is not a whole number")
    return int(value)


def _order(said: dict[str, Any]) -> Order:
    from flopmarket.client.orders import Order

    deadline_us = 0
    if said["deadline"] is not None:
        deadline_us = microseconds(parse_deadline(said["deadline"], datetime.now().astimezone()))
    efficiency, memory = said["min_flops_per_watt"], said["min_memory"]
    return Order(
        wait=said["wait"],
        limit=said["limit"],
        deadline_us=deadline_us,
        min_flops_per_watt=parse_flops_per_watt(efficiency) if efficiency is not None else 0,
        min_memory_bytes=parse_size(memory) if memory is not None else 0,
        regions=said["regions"],
        not_regions=said["not_regions"],
        owners=said["owners"],
        not_owners=said["not_owners"],
        work_class=said["work_class"],
    )
