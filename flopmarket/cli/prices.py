"""``flop prices``: spot, offers, the book and history. Needs no key."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.accuracy import accuracy
from flopmarket.cli.options import connect, connection_options, json_option, output
from flopmarket.cli.output import instant, plain, scaled, size
from flopmarket.cli.tape import snapshot, trades, verify, watch
from flopmarket.cli.tape_options import (
    amount,
    any_mode_option,
    class_option,
    csv_option,
    mode_option,
    range_of,
    range_options,
    write_csv,
)

if TYPE_CHECKING:
    from flopmarket.client.money import Money
    from flopmarket.client.results_prices import BookLevel, Candle, History, Offer, Spot, SpotPrice

METRICS = (
    "price",
    "ask_per_hour",
    "flops",
    "flops_per_dollar",
    "flops_per_watt",
    "flops_per_card_dollar",
    "memory",
    "bandwidth",
    "launch",
    "watts",
    "card_price",
    "reliability",
    "verified_segments",
    "rejected_segments",
    "updated",
)
RESOLUTIONS = ("1m", "5m", "1h", "1d")
_NOT_NOW = "-"


@click.group()
def prices() -> None:
    """What work costs and what it cost; no key needed."""


for command in (accuracy, trades, watch, snapshot, verify):
    prices.add_command(command)


@prices.command()
@class_option
@mode_option
@json_option
@connection_options
def spot(work_class: str, mode: str, as_json: bool, **connection: Any) -> None:
    """Cheapest ask, best bid, mid and last trade of each class of work in a mode."""
    with connect(connection, with_key=False) as client:
        found = client.spot(work_class, mode)
    out = output(as_json)
    if as_json:
        out.record(_spot_json(found))
        return
    out.say(f"{found.mode} mode as of {instant(found.as_of_us)} UTC")
    unit = _unit(found.currency)
    columns = (
        "class",
        ">ask per PFLOP",
        ">bid",
        ">mid",
        ">last",
        f">per {unit}",
        f">rate for 1 {unit}/h",
        ">per watt",
        "watts",
        "cheapest device",
        ">offers",
        ">orders",
    )
    rows = [_spot_row(price) for price in found.prices]
    out.table(columns, rows, "no offers now; ask again later")


@prices.command()
@click.option(
    "--sort",
    "--order-by",
    "order_by",
    type=click.Choice([sign + name for name in METRICS for sign in ("", "-")]),
    metavar="METRIC",
    default="price",
    help=f"One of {', '.join(METRICS)}; a leading '-' reverses.",
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="CONDITION",
    help="Such as 'flops_per_watt>=2e10' or suited_for=inference; may be repeated.",
)
@click.option("--min-memory", type=click.FloatRange(min=0), default=0.0, metavar="GIB")
@click.option("--work-class", "--class", "work_class", default="", help="Class of the figures.")
@any_mode_option
@json_option
@connection_options
def offers(
    order_by: str,
    filters: tuple[str, ...],
    min_memory: float,
    work_class: str,
    mode: str | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Live offers, sorted and filtered."""
    filters = filters if mode is None else (*filters, f"mode={mode}")
    out = output(as_json)
    with connect(connection, with_key=False) as client:
        found = client.offers(
            order_by=order_by,
            min_memory_bytes=int(min_memory * (1 << 30)),
            work_class=work_class,
            filters=filters,
        )
        if as_json:
            for offer in found:
                out.record(offer)
            return
        rows = [_offer_row(offer, work_class or "dot-f32") for offer in found]
    columns = (
        "offer",
        "device",
        "region",
        "state",
        ">per hour",
        ">per PFLOP",
        ">memory",
        f">{work_class or 'dot-f32'}",
        "proved",
        ">per $",
        ">per watt",
        "watts",
        ">right/wrong",
        "good for",
        "modes",
        "class",
    )
    out.table(columns, rows, "no offers now; ask again later")


@prices.command()
@class_option
@mode_option
@click.option("--levels", type=click.IntRange(0, 200), default=10, help="Prices of each side.")
@json_option
@connection_options
def book(work_class: str, mode: str, levels: int, as_json: bool, **connection: Any) -> None:
    """The order book of a class in a mode: what is asked and what is bid, best first."""
    with connect(connection, with_key=False) as client:
        found = client.book(work_class, levels, mode)
    out = output(as_json)
    if as_json:
        out.record(found)
        return
    out.say(
        f"{found.work_class}, {found.mode} mode, as of {instant(found.as_of_us)} UTC: "
        f"{found.offers} offers, {found.orders} open orders; prices per PFLOP"
    )
    asks = [("ask", *_level_row(level, "offers")) for level in reversed(found.asks)]
    bids = [("bid", *_level_row(level, "orders")) for level in found.bids]
    columns = ("side", ">price", ">count", ">wanted", ">an hour", ">idle an hour")
    out.table(columns, asks + bids, "nothing is asked and nothing is bid")


@prices.command()
@class_option
@mode_option
@click.option("--resolution", type=click.Choice(RESOLUTIONS), default="1h", show_default=True)
@range_options
@csv_option
@json_option
@connection_options
def history(
    work_class: str,
    mode: str,
    resolution: str,
    since: str,
    until: str,
    as_csv: bool,
    as_json: bool,
    **connection: Any,
) -> None:
    """Prices, volume and energy of a class in a mode over time; periods without a trade are left
    out."""
    since_us, until_us = range_of(since, until)
    with connect(connection, with_key=False) as client:
        found = client.history(work_class, resolution, since_us, until_us, mode)
    out = output(as_json)
    if as_csv:
        write_csv(_csv_header(found), (_csv_row(candle) for candle in found.candles))
        return
    if as_json:
        out.record(found)
        return
    out.say(
        f"{found.work_class}, {found.mode} mode, as of {instant(found.as_of_us)} UTC, "
        "prices per PFLOP"
        + (f"; kept since {instant(found.kept_since_us)}" if found.kept_since_us else "")
    )
    figures = ("open", "high", "low", "close", "p10", "p50", "p90", "PFLOP", "paid", "trades")
    columns = ("from (UTC)", *(f">{name}" for name in (*figures, "joules")))
    out.table(columns, map(_candle_row, found.candles), "no trades in this time")


def _spot_row(price: SpotPrice) -> tuple[str, ...]:
    asked = price.per_pflop is not None
    return (
        price.work_class,
        _amount(price.per_pflop),
        _amount(price.bid),
        _amount(price.mid),
        _amount(price.last),
        scaled(price.flop_per_dollar, "FLOP") if asked else _NOT_NOW,
        scaled(price.flops_per_dollar_hour, "FLOP/s") if asked else _NOT_NOW,
        _per_watt(price.flops_per_watt) if asked else _NOT_NOW,
        price.watts_source,
        price.device_name,
        str(price.offers),
        str(price.orders),
    )


def _spot_json(found: Spot) -> dict[str, Any]:
    """Prices that do not exist are null under the names that they have when they do."""
    record: dict[str, Any] = plain(found)
    for price in record["prices"]:
        price["currency"] = found.currency
        for name in ("per_pflop", "bid", "mid", "last"):
            if name in price:
                price[f"{name}_nano"] = price.pop(name)
    return record


def _offer_row(offer: Offer, work_class: str) -> tuple[str, ...]:
    per_pflop = {price.work_class: price.per_pflop for price in offer.prices}
    return (
        offer.offer_id,
        offer.device_name,
        offer.region or _NOT_NOW,
        offer.state,
        str(offer.ask_per_hour),
        _amount(per_pflop.get(work_class)),
        size(offer.memory_bytes),
        scaled(offer.flops_per_second.get(work_class, 0), "FLOP/s"),
        _proof_age(offer),
        scaled(offer.flops_per_dollar, "FLOP"),
        _per_watt(offer.flops_per_watt),
        offer.watts_source,
        f"{offer.verified_segments}/{offer.rejected_segments}",
        " ".join(offer.suited_for),
        " ".join(offer.modes),
        offer.device_class[:12] or _NOT_NOW,
    )


def _proof_age(offer: Offer) -> str:
    """How long ago the device proved its rates."""
    if not offer.proved_at_us:
        return "unproved"
    hours = max(0.0, time.time() - offer.proved_at_us / 1e6) / 3_600
    return f"{hours:.1f} h ago" if hours < 48 else f"{hours / 24:.0f} d ago"


def _level_row(level: BookLevel, noun: str) -> tuple[str, ...]:
    return (
        str(level.per_pflop),
        f"{level.count} {noun}",
        f"{level.pflop:.4g} PFLOP" if level.pflop else "",
        f"{level.pflop_per_hour:.4g} PFLOP" if level.pflop_per_hour else "",
        f"{level.idle_pflop_per_hour:.4g} PFLOP" if level.pflop_per_hour else "",
    )


def _candle_row(candle: Candle) -> tuple[str, ...]:
    known = candle.joules_measured + candle.joules_declared
    return (
        instant(candle.start_us),
        *(str(price) for price in _candle_prices(candle)),
        f"{candle.pflop:.4g}",
        str(candle.paid),
        str(candle.trades),
        scaled(known, "J") if known else "unknown",
    )


def _candle_prices(candle: Candle) -> Iterable[Money]:
    return (
        candle.open,
        candle.high,
        candle.low,
        candle.close,
        candle.p10,
        candle.p50,
        candle.p90,
    )


def _csv_header(found: History) -> list[str]:
    """Names with their units."""
    price = f"{found.currency}_per_PFLOP"
    names = ("open", "high", "low", "close", "p10", "p50", "p90")
    return [
        "start_UTC",
        "start_us",
        *(f"{name}_{price}" for name in names),
        "volume_PFLOP",
        "volume_FLOP",
        f"paid_{found.currency}",
        "trades",
        "measured_J",
        "declared_J",
        "unknown_power_PFLOP",
    ]


def _csv_row(candle: Candle) -> list[str]:
    return [
        instant(candle.start_us),
        str(candle.start_us),
        *(amount(price) for price in _candle_prices(candle)),
        repr(candle.pflop),
        str(candle.flops),
        amount(candle.paid),
        str(candle.trades),
        repr(candle.joules_measured),
        repr(candle.joules_declared),
        repr(candle.joules_unknown_pflop),
    ]


def _unit(currency: str) -> str:
    return "$" if currency == "USD" else currency


def _amount(price: Money | None) -> str:
    return str(price) if price is not None else _NOT_NOW


def _per_watt(value: float) -> str:
    return scaled(value, "FLOP/s/W") if value else "unknown"
