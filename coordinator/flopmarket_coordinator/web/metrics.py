"""``/metrics``: the market's figures in exact mode for Prometheus.

Base units as Prometheus has it: operations (not PFLOP), seconds, joules, currency units. Money is
rounded to a float here and nowhere else that counts; the exact figures are in the JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flopmarket.errors import FlopmarketError
from flopmarket.limits import BOARD_CACHE_SECONDS
from flopmarket.market.money import NANO_PER_UNIT
from flopmarket_coordinator.web.answers import answer, public
from flopmarket_coordinator.web.api import board_of
from flopmarket_coordinator.web.board import Board, Overview
from flopmarket_coordinator.web.model import PFLOP, Book

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECOND_US = 1_000_000


async def metrics(request: Request) -> Response:
    """The exposition; with the coordinator away it says ``flopmarket_up 0`` and nothing else."""
    board = board_of(request)
    try:
        overview = await board.overview()
        books = await _books(board, overview.value)
        found = list(figures(overview.value, books, overview.trouble is None))
    except FlopmarketError:
        found = [_up(False)]
    registry = CollectorRegistry()
    registry.register(_Fixed(found))
    return answer(request, generate_latest(registry), MEDIA_TYPE, public(BOARD_CACHE_SECONDS))


ROUTES = [Route("/metrics", metrics)]


class _Fixed(Collector):
    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


async def _books(board: Board, overview: Overview) -> list[Book]:
    classes = [row.spot.work_class for row in overview.rows]
    found = await asyncio.gather(*(board.book(c) for c in classes), return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, FlopmarketError):
            raise one
    return [one.value for one in found if not isinstance(one, BaseException)]


def figures(overview: Overview, books: Iterable[Book], is_fresh: bool) -> Iterable[Metric]:
    """Metric families of one moment. A price that does not exist has no sample."""
    yield _up(is_fresh)
    as_of = GaugeMetricFamily("flopmarket_as_of_timestamp_seconds", "Instant of the figures.")
    as_of.add_metric([], overview.spot.as_of_us / SECOND_US)
    yield as_of
    currency = overview.spot.currency
    price = GaugeMetricFamily(
        "flopmarket_price_per_pflop",
        "Price of 1e15 operations of the class in exact mode, in units of the currency; kind is "
        "best_ask, best_bid, mid or last_trade.",
        labels=["work_class", "currency", "kind"],
    )
    offers = _by_class("flopmarket_offers", "Live offers with a rate for the class.")
    orders = _by_class("flopmarket_open_orders", "Open orders of the class.")
    per_watt = GaugeMetricFamily(
        "flopmarket_best_offer_operations_per_joule",
        "Operations per joule of the cheapest offer, by who states its watts.",
        labels=["work_class", "source"],
    )
    volume = _by_class("flopmarket_traded_operations_24h", "Operations traded in 24 hours.")
    trades = _by_class("flopmarket_trades_24h", "Trades (settled segments) in 24 hours.")
    joules = _by_class("flopmarket_traded_joules_24h", "Joules of trades that state them.")
    for row in overview.rows:
        spot, day, name = row.spot, row.day, row.spot.work_class
        for kind, nano in (
            ("best_ask", spot.ask_nano),
            ("best_bid", spot.bid_nano),
            ("mid", spot.mid_nano),
            ("last_trade", spot.last_nano),
        ):
            if nano is not None:
                price.add_metric([name, currency, kind], nano / NANO_PER_UNIT)
        offers.add_metric([name], spot.offers)
        orders.add_metric([name], spot.orders)
        if spot.flops_per_watt is not None:
            per_watt.add_metric([name, spot.watts_source], spot.flops_per_watt)
        volume.add_metric([name], day.pflop * PFLOP)
        trades.add_metric([name], day.trades)
        if day.joules is not None:
            joules.add_metric([name], day.joules)
    yield from (price, offers, orders, per_watt, volume, trades, joules)
    yield from _depth(books)


def _depth(books: Iterable[Book]) -> Iterable[Metric]:
    wanted = _by_class("flopmarket_bid_operations", "Operations that open orders still want.")
    rate = GaugeMetricFamily(
        "flopmarket_ask_operations_per_second",
        "Sustained operations per second of the offers in the book; state is all or idle.",
        labels=["work_class", "state"],
    )
    for book in books:
        wanted.add_metric([book.work_class], sum(level.pflop for level in book.bids) * PFLOP)
        for state, hourly in (
            ("all", sum(level.pflop_per_hour for level in book.asks)),
            ("idle", sum(level.idle_pflop_per_hour for level in book.asks)),
        ):
            rate.add_metric([book.work_class, state], hourly * PFLOP / 3_600)
    yield from (wanted, rate)


def _up(is_fresh: bool) -> GaugeMetricFamily:
    up = GaugeMetricFamily("flopmarket_up", "1 when the coordinator answered just now.")
    up.add_metric([], float(is_fresh))
    return up


def _by_class(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["work_class"])
