"""From the client's values to the board's."""

from __future__ import annotations

from flopmarket.client import results, results_orders, results_prices
from flopmarket.client.money import Money
from flopmarket_coordinator.web.model import (
    Book,
    Candle,
    ClassSpot,
    History,
    Job,
    JobEvent,
    Level,
    Offer,
    Offers,
    Reason,
    Segment,
    Spot,
    TapeMessage,
    Trade,
    Why,
)

UNKNOWN = "unknown"


def spot(found: results_prices.Spot) -> Spot:
    """Every class now."""
    classes = tuple(_class_spot(one) for one in found.prices)
    return Spot(found.as_of_us, found.currency, classes, found.mode)


def _class_spot(one: results_prices.SpotPrice) -> ClassSpot:
    return ClassSpot(
        work_class=one.work_class,
        ask_nano=_nano(one.per_pflop),
        bid_nano=_nano(one.bid),
        mid_nano=_nano(one.mid),
        last_nano=_nano(one.last),
        last_trade_us=one.last_trade_us,
        offer_id=one.best_offer_id,
        device_name=one.device_name,
        flop_per_unit=one.flop_per_dollar,
        rate_per_unit_hour=one.flops_per_dollar_hour,
        flops_per_watt=one.flops_per_watt or None,
        watts_source=one.watts_source,
        offers=one.offers,
        orders=one.orders,
    )


def offers(page: results_prices.OfferPage, currency: str) -> Offers:
    """One page of offers."""
    shown = tuple(_offer(one) for one in page.offers)
    return Offers(page.as_of_us, currency, shown, page.matching, page.next_page_token)


def _offer(one: results_prices.Offer) -> Offer:
    return Offer(
        offer_id=one.offer_id,
        account_id=one.account_id,
        device_id=one.device_id,
        device_name=one.device_name,
        driver=one.driver,
        profile=one.profile,
        region=one.region,
        state=one.state,
        memory_bytes=one.memory_bytes,
        rates=dict(one.flops_per_second),
        prices={price.work_class: price.per_pflop.nano for price in one.prices},
        bandwidth_bytes_per_second=one.bandwidth_bytes_per_second,
        ask_nano_per_hour=one.ask_per_hour.nano,
        milliwatts=one.milliwatts,
        watts_source=one.watts_source,
        card_price_nano=one.card_price.nano,
        suited_for=one.suited_for,
        verified_segments=one.verified_segments,
        rejected_segments=one.rejected_segments,
        proved_at_us=one.proved_at_us,
        proved_flops_per_second=one.proved_flops_per_second,
        modes=one.modes,
        device_class=one.device_class,
    )


def book(found: results_prices.Book) -> Book:
    """Depth of one class."""
    return Book(
        as_of_us=found.as_of_us,
        currency=found.currency,
        work_class=found.work_class,
        asks=tuple(_level(level) for level in found.asks),
        bids=tuple(_level(level) for level in found.bids),
        offers=found.offers,
        orders=found.orders,
        mode=found.mode,
    )


def _level(level: results_prices.BookLevel) -> Level:
    return Level(
        price_nano=level.per_pflop.nano,
        count=level.count,
        pflop=level.pflop,
        pflop_per_hour=level.pflop_per_hour,
        idle_pflop_per_hour=level.idle_pflop_per_hour,
    )


def history(found: results_prices.History, most: int) -> History:
    """Candles of one class, the newest ``most`` of them."""
    return History(
        as_of_us=found.as_of_us,
        currency=found.currency,
        work_class=found.work_class,
        resolution_seconds=found.resolution_seconds,
        candles=tuple(_candle(candle) for candle in found.candles[-most:]),
        kept_since_us=found.kept_since_us,
        mode=found.mode,
    )


def _candle(candle: results_prices.Candle) -> Candle:
    return Candle(
        start_us=candle.start_us,
        open_nano=candle.open.nano,
        high_nano=candle.high.nano,
        low_nano=candle.low.nano,
        close_nano=candle.close.nano,
        p10_nano=candle.p10.nano,
        p50_nano=candle.p50.nano,
        p90_nano=candle.p90.nano,
        operations=candle.flops,
        paid_nano=candle.paid.nano,
        trades=candle.trades,
        joules_measured=candle.joules_measured,
        joules_declared=candle.joules_declared,
        joules_unknown_pflop=candle.joules_unknown_pflop,
    )


def tape(message: results_prices.TradeMessage) -> TapeMessage:
    """What a trade stream says."""
    trades = tuple(_trade(one) for one in message.trades)
    return TapeMessage(message.as_of_us, trades, message.is_snapshot)


def _trade(one: results_prices.TradeInfo) -> Trade:
    return Trade(
        number=one.number,
        time_us=one.time_us,
        work_class=one.work_class,
        operations=one.flops,
        unit_nano=one.per_pflop.nano,
        price_nano=one.price.nano,
        joules=None if one.joules_source == UNKNOWN else one.joules,
        joules_source=one.joules_source,
        offer_id=one.offer_id,
        device_name=one.device_name,
        mode=one.mode,
    )


def job(found: results.JobInfo) -> Job:
    """One job of ours."""
    return Job(
        job_id=found.job_id,
        title=found.title,
        state=str(found.state),
        has_ended=found.state.has_ended,
        kind=found.kind,
        created_at_us=found.created_at_us,
        ended_at_us=found.ended_at_us,
        steps=found.steps,
        steps_committed=found.steps_committed,
        steps_verified=found.steps_verified,
        ceiling_nano=found.ceiling.nano,
        billed_nano=found.billed.nano,
        currency=found.ceiling.currency,
        reason=found.reason,
        segments=tuple(_segment(segment) for segment in found.segments),
        segment_count=found.segment_count or len(found.segments),
        verification=found.verification,
        surcharge_nano=found.surcharge.nano if found.surcharge else 0,
    )


def _segment(segment: results.SegmentInfo) -> Segment:
    return Segment(
        index=segment.index,
        first_step=segment.first_step,
        steps=segment.steps,
        state=segment.state,
        device_name=segment.device_name,
        price_nano=segment.price.nano,
        reason=segment.reason,
    )


def job_event(event: results.JobEvent) -> JobEvent:
    """One line of a job's story."""
    return JobEvent(
        sequence=event.sequence,
        time_us=event.time_us,
        kind=event.kind,
        text=event.text,
        step=event.step,
        scalars=dict(event.scalars),
    )


def why(summary: str, reasons: tuple[results_orders.Why, ...]) -> Why:
    """Why a job waits or a device idles."""
    shown = tuple(Reason(one.code, one.text, one.hint, one.count) for one in reasons)
    return Why(summary, shown)


def _nano(amount: Money | None) -> int | None:
    return None if amount is None else amount.nano
