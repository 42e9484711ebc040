"""From protobuf to the client's values: prices, offers, the book, history, trades."""

from __future__ import annotations

from collections.abc import Iterable

from flopmarket.client.failures import AnswerRefused, clean_text
from flopmarket.client.messages import class_from_proto, finite, price_of
from flopmarket.client.money import Money
from flopmarket.client.results_prices import (
    Book,
    BookLevel,
    BookMessage,
    Candle,
    ClassPrice,
    Offer,
    Spot,
    SpotPrice,
    TradeInfo,
    TradeMessage,
)
from flopmarket.v1 import common_pb2, market_pb2

_MAX_COUNT_DIGITS = 60
_CURRENCY_CHARACTERS = 16


def currency_of(text: str) -> str:
    """The currency that an answer is in."""
    return clean_text(text, _CURRENCY_CHARACTERS)


def spot_from_proto(message: market_pb2.GetSpotResponse) -> Spot:
    """Spot prices."""
    currency = currency_of(message.currency)
    return Spot(
        as_of_us=message.as_of_us,
        currency=currency,
        prices=tuple(_spot_price(price, currency) for price in message.prices),
        trade_sequence=message.trade_sequence,
        mode=clean_text(message.mode),
    )


def _spot_price(price: market_pb2.SpotPrice, currency: str) -> SpotPrice:
    def optional(name: str) -> Money | None:
        amount: common_pb2.Money = getattr(price, name)
        return price_of(amount.nano, currency) if price.HasField(name) else None  # type: ignore[arg-type]

    return SpotPrice(
        work_class=clean_text(price.work_class),
        best_offer_id=clean_text(price.best_offer_id),
        device_name=clean_text(price.device_name),
        per_pflop=optional("per_pflop"),
        flops_per_dollar_hour=finite(price.flops_per_dollar_hour),
        flop_per_dollar=finite(price.flop_per_dollar),
        flops_per_watt=finite(price.flops_per_watt),
        watts_source=clean_text(price.watts_source),
        offers=price.offers,
        bid=optional("bid_per_pflop"),
        mid=optional("mid_per_pflop"),
        last=optional("last_per_pflop"),
        last_trade_us=price.last_trade_us,
        orders=price.orders,
    )


def offer_from_proto(message: market_pb2.Offer, currency: str) -> Offer:
    """One live offer."""
    return Offer(
        offer_id=clean_text(message.offer_id),
        account_id=clean_text(message.account_id),
        device_id=clean_text(message.device_id),
        device_name=clean_text(message.device_name),
        driver=clean_text(message.driver),
        profile=clean_text(message.profile),
        memory_bytes=message.memory_bytes,
        flops_per_second={clean_text(r.work_class): r.flops_per_second for r in message.rates},
        bandwidth_bytes_per_second=message.bandwidth_bytes_per_second,
        launch_nanoseconds=message.launch_nanoseconds,
        ask_per_hour=price_of(message.ask_per_hour.nano, currency),
        milliwatts=message.milliwatts,
        watts_source=clean_text(message.watts_source),
        card_price=price_of(message.card_price.nano, currency),
        state=clean_text(message.state),
        flops_per_dollar=finite(message.flops_per_dollar),
        flops_per_watt=finite(message.flops_per_watt),
        verified_segments=message.verified_segments,
        rejected_segments=message.rejected_segments,
        region=clean_text(message.region),
        reliability=finite(message.reliability),
        suited_for=tuple(clean_text(use) for use in message.suited_for),
        prices=tuple(
            ClassPrice(
                clean_text(item.work_class),
                price_of(item.per_pflop.nano, currency),
                finite(item.flop_per_dollar),
                finite(item.flops_per_dollar_hour),
                finite(item.flops_per_watt),
            )
            for item in message.prices
        ),
        flops_per_card_dollar=finite(message.flops_per_card_dollar),
        updated_at_us=message.updated_at_us,
        proved_at_us=message.proved_at_us,
        proved_flops_per_second=message.proved_flops_per_second,
        proved_bandwidth_bytes_per_second=message.proved_bandwidth_bytes_per_second,
        proved_memory_bytes=message.proved_memory_bytes,
        delivered=finite(message.delivered),
        modes=tuple(clean_text(mode) for mode in message.modes),
        device_class=class_from_proto(message.class_digest),
    )


def book_from_proto(message: market_pb2.GetBookResponse) -> Book:
    """Depth of one class."""
    currency = currency_of(message.currency)
    return Book(
        as_of_us=message.as_of_us,
        currency=currency,
        work_class=clean_text(message.work_class),
        asks=_levels(message.asks, currency),
        bids=_levels(message.bids, currency),
        offers=message.offers,
        orders=message.orders,
        mode=clean_text(message.mode),
    )


def candle_from_proto(message: market_pb2.Candle, currency: str) -> Candle:
    """One period."""
    return Candle(
        start_us=message.start_us,
        open=price_of(message.open.nano, currency),
        high=price_of(message.high.nano, currency),
        low=price_of(message.low.nano, currency),
        close=price_of(message.close.nano, currency),
        p10=price_of(message.p10.nano, currency),
        p50=price_of(message.p50.nano, currency),
        p90=price_of(message.p90.nano, currency),
        flops=_count(message.flops),
        pflop=finite(message.pflop),
        paid=price_of(message.paid.nano, currency),
        trades=message.trades,
        joules_measured=finite(message.joules_measured),
        joules_declared=finite(message.joules_declared),
        joules_unknown_pflop=finite(message.joules_unknown_pflop),
    )


def trade_from_proto(message: market_pb2.Trade, currency: str) -> TradeInfo:
    """One trade."""
    return TradeInfo(
        number=message.number,
        time_us=message.time_us,
        work_class=clean_text(message.work_class),
        per_pflop=price_of(message.per_pflop.nano, currency),
        flops=_count(message.flops),
        pflop=finite(message.pflop),
        price=price_of(message.price.nano, currency),
        joules=finite(message.joules),
        joules_source=clean_text(message.joules_source),
        offer_id=clean_text(message.offer_id),
        device_name=clean_text(message.device_name),
        commitment_digest=message.commitment_digest,
        mode=clean_text(message.mode),
    )


def trade_message_from_proto(
    message: market_pb2.StreamTradesResponse, currency: str
) -> TradeMessage:
    """One message of a trade stream."""
    is_snapshot = message.HasField("snapshot")
    trades = message.snapshot.trades if is_snapshot else message.batch.trades
    return TradeMessage(
        as_of_us=message.as_of_us,
        sequence=message.sequence,
        resume_token=clean_text(message.resume_token),
        trades=tuple(trade_from_proto(trade, currency) for trade in trades),
        is_snapshot=is_snapshot,
        gap=message.snapshot.gap,
    )


def book_message_from_proto(message: market_pb2.StreamBookResponse, currency: str) -> BookMessage:
    """One message of a book stream."""
    is_snapshot = message.HasField("snapshot")
    body = message.snapshot if is_snapshot else message.change
    return BookMessage(
        as_of_us=message.as_of_us,
        sequence=message.sequence,
        resume_token=clean_text(message.resume_token),
        asks=_levels(body.asks, currency),
        bids=_levels(body.bids, currency),
        offers=body.offers,
        orders=body.orders,
        is_snapshot=is_snapshot,
        is_change=message.HasField("change"),
        gap=message.snapshot.gap,
    )


def _levels(levels: Iterable[market_pb2.BookLevel], currency: str) -> tuple[BookLevel, ...]:
    return tuple(
        BookLevel(
            per_pflop=price_of(level.per_pflop.nano, currency),
            count=level.count,
            pflop=finite(level.pflop),
            pflop_per_hour=finite(level.pflop_per_hour),
            idle_pflop_per_hour=finite(level.idle_pflop_per_hour),
        )
        for level in levels
    )


def _count(text: str) -> int:
    """An exact count of operations, written in decimal."""
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_COUNT_DIGITS:
        raise AnswerRefused(f"{clean_text(text, 80)!r} is not a count of operations")
    return int(text)
