"""Calls about prices. None of them needs a key. A part of :class:`Client`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flopmarket.client import messages_prices
from flopmarket.client.failures import AnswerRefused, clean_text
from flopmarket.client.offer_filters import filter_to_proto
from flopmarket.client.paging import pages
from flopmarket.client.results_prices import (
    Book,
    BookMessage,
    Candle,
    History,
    Offer,
    OfferPage,
    Spot,
    TradeInfo,
    TradeMessage,
)
from flopmarket.client.resuming import resumed
from flopmarket.client.session import Session
from flopmarket.errors import InvalidInput
from flopmarket.limits import CLIENT_PAGE_SIZE
from flopmarket.market.snapshot import PriceSnapshot, verify_snapshot
from flopmarket.trust.modes import Mode
from flopmarket.v1 import market_pb2, market_pb2_grpc

RESOLUTIONS = {"1m": 60, "5m": 300, "1h": 3_600, "1d": 86_400}
"""Names of the periods of history, and their seconds."""


class PriceCalls:
    """What :class:`Client` knows about the market."""

    _session: Session
    _market: market_pb2_grpc.MarketServiceStub

    def spot(self, work_class: str = "", mode: str = Mode.EXACT) -> Spot:
        """Ask, bid, mid and last trade of each class of work, or of one, in a mode."""
        request = market_pb2.GetSpotRequest(work_class=work_class, mode=mode)
        answer = self._session.call(self._market.GetSpot, request, authenticated=False)
        return messages_prices.spot_from_proto(answer)

    def offers(
        self,
        *,
        order_by: str = "",
        min_memory_bytes: int = 0,
        work_class: str = "",
        filters: Iterable[str] = (),
    ) -> Iterator[Offer]:
        """Live offers.

        ``order_by`` is any metric that offers advertise (price, flops_per_watt, memory, ...); a
        leading '-' reverses. ``filters`` are conditions such as ``flops_per_watt>=2e10`` or
        ``suited_for=inference``, which must all hold.
        """
        conditions = tuple(filters)

        def page(token: str) -> OfferPage:
            return self.offers_page(
                order_by=order_by,
                min_memory_bytes=min_memory_bytes,
                work_class=work_class,
                filters=conditions,
                page_token=token,
            )

        for answer in pages(page, "offers"):
            yield from answer.offers

    def offers_page(
        self,
        *,
        order_by: str = "",
        min_memory_bytes: int = 0,
        work_class: str = "",
        filters: Iterable[str] = (),
        page_size: int = CLIENT_PAGE_SIZE,
        page_token: str = "",
    ) -> OfferPage:
        """One page of :meth:`offers`; its token asks for the next one of the same list."""
        request = market_pb2.ListOffersRequest(
            page_size=page_size,
            page_token=page_token,
            order_by=order_by,
            min_memory_bytes=min_memory_bytes,
            work_class=work_class,
            filters=[filter_to_proto(text) for text in filters],
        )
        answer = self._session.call(self._market.ListOffers, request, authenticated=False)
        currency = self._session.coordinator().currency
        return OfferPage(
            as_of_us=answer.as_of_us,
            offers=tuple(
                messages_prices.offer_from_proto(offer, currency) for offer in answer.offers
            ),
            next_page_token=answer.next_page_token,
            matching=answer.matching,
        )

    def book(self, work_class: str = "", levels: int = 0, mode: str = Mode.EXACT) -> Book:
        """Depth of a class of work (dot-f32 by default) in a mode: ``levels`` prices of each
        side."""
        request = market_pb2.GetBookRequest(work_class=work_class, levels=levels, mode=mode)
        answer = self._session.call(self._market.GetBook, request, authenticated=False)
        return messages_prices.book_from_proto(answer)

    def history(
        self,
        work_class: str = "",
        resolution: str = "1h",
        since_us: int = 0,
        until_us: int = 0,
        mode: str = Mode.EXACT,
    ) -> History:
        """Candles of a class in a mode that start in ``[since_us, until_us)``; 0 leaves a side
        open.

        ``resolution`` is one of :data:`RESOLUTIONS`.
        """
        if resolution not in RESOLUTIONS:
            raise InvalidInput(
                f"there are no candles of {resolution[:20]!r}",
                code="RESOLUTION_UNKNOWN",
                hint=f"one of {', '.join(RESOLUTIONS)}",
            )
        request = market_pb2.GetHistoryRequest(
            work_class=work_class,
            resolution_seconds=RESOLUTIONS[resolution],
            from_us=since_us,
            to_us=until_us,
            mode=mode,
        )
        candles: list[Candle] = []
        for answer in self._session.pages(
            self._market.GetHistory, request, "history", authenticated=False
        ):
            currency = messages_prices.currency_of(answer.currency)
            candles += [
                messages_prices.candle_from_proto(candle, currency) for candle in answer.candles
            ]
        return History(
            as_of_us=answer.as_of_us,
            currency=currency,
            work_class=answer.work_class,
            resolution_seconds=answer.resolution_seconds,
            candles=tuple(candles),
            kept_since_us=answer.kept_since_us,
            mode=clean_text(answer.mode),
        )

    def trades(
        self,
        work_class: str = "",
        offer_id: str = "",
        since_us: int = 0,
        until_us: int = 0,
        mode: str = "",
    ) -> Iterator[TradeInfo]:
        """Trades settled in ``[since_us, until_us)``, oldest first, page by page; in all modes by
        default."""
        request = market_pb2.ListTradesRequest(
            work_class=work_class, offer_id=offer_id, from_us=since_us, to_us=until_us, mode=mode
        )
        for answer in self._session.pages(
            self._market.ListTrades, request, "trades", authenticated=False
        ):
            currency = messages_prices.currency_of(answer.currency)
            for trade in answer.trades:
                yield messages_prices.trade_from_proto(trade, currency)

    def watch_trades(
        self, work_class: str = "", resume_token: str = "", mode: str = ""
    ) -> Iterator[TradeMessage]:
        """Trades as they are settled, without end; goes on by itself after a lost connection.

        The first message is a snapshot of the newest trades, or what was missed behind
        ``resume_token``. A message without trades says that nothing happened. All modes by default.
        """
        currency = self._session.coordinator().currency

        def connect(token: str) -> Iterator[TradeMessage]:
            request = market_pb2.StreamTradesRequest(
                work_class=work_class, resume_token=token, mode=mode
            )
            for answer in self._listen(self._market.StreamTrades, request):
                yield messages_prices.trade_message_from_proto(answer, currency)

        return resumed(connect, self._session.ports, resume_token)

    def watch_book(
        self, work_class: str = "", resume_token: str = "", mode: str = Mode.EXACT
    ) -> Iterator[BookMessage]:
        """The depth of a class in a mode, then every change of it, without end; resumed as in
        :meth:`watch_trades`."""
        currency = self._session.coordinator().currency

        def connect(token: str) -> Iterator[BookMessage]:
            request = market_pb2.StreamBookRequest(
                work_class=work_class, resume_token=token, mode=mode
            )
            for answer in self._listen(self._market.StreamBook, request):
                yield messages_prices.book_message_from_proto(answer, currency)

        return resumed(connect, self._session.ports, resume_token)

    def snapshot(self, number: int = 0) -> bytes:
        """A signed price snapshot file, the newest for 0; its signature has been checked."""
        request = market_pb2.GetSnapshotRequest(number=number)
        answer = self._session.call(self._market.GetSnapshot, request, authenticated=False)
        found: PriceSnapshot = verify_snapshot(
            answer.snapshot, self._session.coordinator().public_key
        ).snapshot
        if number and found.number != number:
            raise AnswerRefused(f"asked for snapshot {number}, got {found.number}")
        return answer.snapshot

    def _listen(self, method: Callable[..., Any], request: object) -> Iterator[Any]:
        with self._session.stream(
            method, request, timeout_seconds=None, authenticated=False
        ) as answers:
            yield from answers
