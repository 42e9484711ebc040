"""``flop prices``: the open tape. Needs no key."""

from __future__ import annotations

from typing import Any

import click

from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.output import instant, scaled, size

ORDERS = ("price", "flops_per_dollar", "flops_per_watt", "memory")


@click.group()
def prices() -> None:
    """What work costs now; no key needed."""


@prices.command()
@json_option
@connection_options
def spot(as_json: bool, **connection: Any) -> None:
    """The cheapest offer of each class of work."""
    with connect(connection, with_key=False) as client:
        found = client.spot()
    out = output(as_json)
    if as_json:
        out.record(found)
        return
    out.say(f"as of {instant(found.as_of_us)} UTC")
    rows = [
        (
            price.work_class,
            str(price.per_pflop),
            scaled(price.flop_per_dollar, "FLOP"),
            scaled(price.flops_per_dollar_hour, "FLOP/s"),
            _per_watt(price.flops_per_watt),
            price.watts_source,
            price.device_name,
            str(price.offers),
        )
        for price in found.prices
    ]
    unit = "$" if found.currency == "USD" else found.currency
    columns = (
        "class",
        ">per PFLOP",
        f">per {unit}",
        f">rate for 1 {unit}/h",
        ">per watt",
        "watts",
        "cheapest device",
        ">offers",
    )
    out.table(columns, rows, "no offers now; ask again later")


@prices.command()
@click.option(
    "--order-by",
    type=click.Choice([sign + name for name in ORDERS for sign in ("", "-")]),
    default="price",
    help="A leading '-' reverses.",
)
@click.option("--min-memory", type=click.FloatRange(min=0), default=0.0, metavar="GIB")
@click.option("--work-class", default="", help="Class that rates are compared in.")
@json_option
@connection_options
def offers(
    order_by: str, min_memory: float, work_class: str, as_json: bool, **connection: Any
) -> None:
    """Live offers, sorted and filtered."""
    out = output(as_json)
    with connect(connection, with_key=False) as client:
        found = client.offers(
            order_by=order_by,
            min_memory_bytes=int(min_memory * (1 << 30)),
            work_class=work_class,
        )
        if as_json:
            for offer in found:
                out.record(offer)
            return
        rows = [
            (
                offer.offer_id,
                offer.device_name,
                offer.state,
                str(offer.ask_per_hour),
                size(offer.memory_bytes),
                scaled(offer.flops_per_second.get(work_class or "dot-f32", 0), "FLOP/s"),
                scaled(offer.flops_per_dollar, "FLOP"),
                _per_watt(offer.flops_per_watt),
                offer.watts_source,
                f"{offer.verified_segments}/{offer.rejected_segments}",
            )
            for offer in found
        ]
    columns = (
        "offer",
        "device",
        "state",
        ">per hour",
        ">memory",
        f">{work_class or 'dot-f32'}",
        ">per $",
        ">per watt",
        "watts",
        ">right/wrong",
    )
    out.table(columns, rows, "no offers now; ask again later")


def _per_watt(value: float) -> str:
    return scaled(value, "FLOP/s/W") if value else "unknown"
