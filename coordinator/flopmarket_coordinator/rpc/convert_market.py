"""Messages of the market: prices, offers, depth, candles, trades."""

from __future__ import annotations

from collections.abc import Sequence

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.errors import LimitExceeded
from flopmarket.limits import DEFAULT_BOOK_LEVELS, MAX_BOOK_LEVELS, MAX_OFFER_FILTERS
from flopmarket.market.money import MAX_NANO, NANO_PER_UNIT, MoneyError, round_up_nano
from flopmarket.market.offer import PFLOP, SECONDS_PER_HOUR
from flopmarket.market.proof import ONE_PPM
from flopmarket.market.tape import MICROJOULES_PER_JOULE, Trade
from flopmarket.v1 import common_pb2, market_pb2
from flopmarket_coordinator.application.types_market import DepthReport, OfferPage, OfferView
from flopmarket_coordinator.application.types_tape import (
    ClassPrices,
    HistoryPage,
    PriceReport,
    TradesPage,
)
from flopmarket_coordinator.core.book.depth import AskLevel, BidLevel
from flopmarket_coordinator.core.book.listing import OfferFilter
from flopmarket_coordinator.core.tape import Candle
from flopmarket_coordinator.rpc.convert import rates, text_of


def filters_of(messages: Sequence[market_pb2.OfferFilter]) -> tuple[OfferFilter, ...]:
    """Conditions of a stranger's request, bounded."""
    if len(messages) > MAX_OFFER_FILTERS:
        raise LimitExceeded(
            f"{len(messages)} filters, at most {MAX_OFFER_FILTERS}",
            details={"field": "filters", "limit": str(MAX_OFFER_FILTERS)},
        )
    return tuple(
        OfferFilter(
            text_of(item.field, "filters.field"),
            text_of(item.op, "filters.op"),
            text_of(item.value, "filters.value"),
        )
        for item in messages
    )


def levels_of(value: int) -> int:
    """Levels of each side: ours when it is left open, at most ``MAX_BOOK_LEVELS``."""
    return min(value or DEFAULT_BOOK_LEVELS, MAX_BOOK_LEVELS)


def number_of(value: int) -> int:
    """A 64-bit number without sign as a database can compare it: what is larger does not exist."""
    return min(value, MAX_NANO)


def money(nano: int | None) -> common_pb2.Money | None:
    """An amount, absent for None."""
    return None if nano is None else common_pb2.Money(nano=nano)


def spot(report: PriceReport, work_class: str) -> market_pb2.GetSpotResponse:
    """Prices of all classes, or of one."""
    return market_pb2.GetSpotResponse(
        as_of_us=report.as_of_us,
        currency=report.currency,
        prices=[_spot(item) for item in report.prices if work_class in ("", item.work_class)],
        trade_sequence=report.trades,
        mode=report.mode,
    )


def _spot(item: ClassPrices) -> market_pb2.SpotPrice:
    spot, last = item.spot, item.last
    message = market_pb2.SpotPrice(
        work_class=item.work_class,
        mid_per_pflop=money(item.mid_nano),
        last_per_pflop=money(last.per_pflop_nano) if last else None,
        last_trade_us=last.time_us if last else 0,
    )
    if spot is not None:
        message.MergeFrom(
            market_pb2.SpotPrice(
                best_offer_id=spot.best_offer_id,
                device_name=spot.device_name,
                per_pflop=money(spot.per_pflop_nano),
                flops_per_dollar_hour=spot.flops_per_dollar_hour,
                flop_per_dollar=spot.flop_per_dollar,
                flops_per_watt=spot.flops_per_watt,
                watts_source=spot.watts_source,
                offers=spot.offers,
                bid_per_pflop=money(spot.bid_nano),
                orders=spot.orders,
            )
        )
    return message


def offers(page: OfferPage) -> market_pb2.ListOffersResponse:
    """A page of offers."""
    return market_pb2.ListOffersResponse(
        as_of_us=page.as_of_us,
        offers=[_offer(view) for view in page.offers],
        next_page_token=page.next_page_token,
        matching=page.matching,
    )


def _offer(view: OfferView) -> market_pb2.Offer:
    message = market_pb2.Offer(
        offer_id=view.offer_id,
        account_id=view.account_id,
        device_id=view.device_id,
        device_name=view.device_name,
        driver=view.driver,
        profile=view.profile,
        memory_bytes=view.memory_bytes,
        rates=rates(view.rates),
        bandwidth_bytes_per_second=view.bandwidth_bytes_per_second,
        launch_nanoseconds=view.launch_nanoseconds,
        ask_per_hour=money(view.ask_nano_per_hour),
        milliwatts=view.milliwatts,
        watts_source=view.watts_source,
        card_price=money(view.card_price_nano),
        state=view.state,
        flops_per_dollar=view.flops_per_dollar,
        flops_per_watt=view.flops_per_watt,
        verified_segments=view.verified_segments,
        rejected_segments=view.rejected_segments,
        region=view.region,
        reliability=view.reliability,
        suited_for=view.suited_for,
        prices=[price for name in WORK_CLASSES if (price := _class_price(view, name)) is not None],
        flops_per_card_dollar=view.flops_per_card_dollar,
        updated_at_us=view.updated_at_us,
        modes=[mode.value for mode in view.modes],
        class_digest=bytes.fromhex(view.device_class),
    )
    if view.proof is not None:
        message.proved_at_us = view.proof.proved_at_us
        message.proved_flops_per_second = view.proof.flops_per_second
        message.proved_bandwidth_bytes_per_second = view.proof.bandwidth_bytes_per_second
        message.proved_memory_bytes = view.proof.memory_bytes
        message.delivered = view.proof.delivered_ppm / ONE_PPM
    return message


def _class_price(view: OfferView, work_class: str) -> market_pb2.ClassPrice | None:
    """What a class costs on a device; None without a rate, or a price that fits 64 bits."""
    rate = view.rates.get(work_class, 0)
    if not rate:
        return None
    try:
        price_nano = round_up_nano(view.ask_nano_per_hour * PFLOP, rate * SECONDS_PER_HOUR)
    except MoneyError:
        return None
    rented = rate * NANO_PER_UNIT / view.ask_nano_per_hour
    return market_pb2.ClassPrice(
        work_class=work_class,
        per_pflop=money(price_nano),
        flop_per_dollar=rented * SECONDS_PER_HOUR,
        flops_per_dollar_hour=rented,
        flops_per_watt=rate * 1_000 / view.milliwatts if view.milliwatts else 0.0,
    )


def ask_level(level: AskLevel) -> market_pb2.BookLevel:
    """Offers at one price."""
    return market_pb2.BookLevel(
        per_pflop=money(level.per_pflop_nano),
        count=level.offers,
        pflop_per_hour=level.flops_per_second * SECONDS_PER_HOUR / PFLOP,
        idle_pflop_per_hour=level.idle_flops_per_second * SECONDS_PER_HOUR / PFLOP,
    )


def bid_level(level: BidLevel) -> market_pb2.BookLevel:
    """Orders at one price."""
    return market_pb2.BookLevel(
        per_pflop=money(level.per_pflop_nano),
        count=level.orders,
        pflop=level.operations / PFLOP,
    )


def book(report: DepthReport) -> market_pb2.GetBookResponse:
    """Both sides of one class in one mode."""
    return market_pb2.GetBookResponse(
        as_of_us=report.as_of_us,
        currency=report.currency,
        work_class=report.work_class,
        asks=[ask_level(level) for level in report.asks],
        bids=[bid_level(level) for level in report.bids],
        offers=report.offers,
        orders=report.orders,
        mode=report.mode,
    )


def history(page: HistoryPage) -> market_pb2.GetHistoryResponse:
    """A page of candles."""
    return market_pb2.GetHistoryResponse(
        as_of_us=page.as_of_us,
        currency=page.currency,
        work_class=page.work_class,
        resolution_seconds=page.resolution_seconds,
        candles=[_candle(candle) for candle in page.candles],
        next_page_token=page.next_page_token,
        kept_since_us=page.kept_since_us,
        mode=page.mode,
    )


def _candle(candle: Candle) -> market_pb2.Candle:
    return market_pb2.Candle(
        start_us=candle.start_us,
        open=money(candle.open_nano),
        high=money(candle.high_nano),
        low=money(candle.low_nano),
        close=money(candle.close_nano),
        p10=money(candle.p10_nano),
        p50=money(candle.p50_nano),
        p90=money(candle.p90_nano),
        flops=str(candle.flops),
        pflop=candle.flops / PFLOP,
        paid=money(candle.paid_nano),
        trades=candle.trades,
        joules_measured=candle.microjoules_measured / MICROJOULES_PER_JOULE,
        joules_declared=candle.microjoules_declared / MICROJOULES_PER_JOULE,
        joules_unknown_pflop=candle.flops_of_unknown_power / PFLOP,
    )


def trades(page: TradesPage) -> market_pb2.ListTradesResponse:
    """A page of trades."""
    return market_pb2.ListTradesResponse(
        as_of_us=page.as_of_us,
        currency=page.currency,
        trades=[trade(item) for item in page.trades],
        next_page_token=page.next_page_token,
    )


def trade(item: Trade) -> market_pb2.Trade:
    """One trade."""
    return market_pb2.Trade(
        number=item.number,
        time_us=item.time_us,
        work_class=item.work_class,
        per_pflop=money(item.per_pflop_nano),
        flops=str(item.flops),
        pflop=item.pflop,
        price=money(item.price_nano),
        joules=item.joules,
        joules_source=item.watts_source.value,
        offer_id=item.offer_id,
        device_name=item.device_name,
        commitment_digest=item.commitment_digest,
        mode=item.mode,
    )
