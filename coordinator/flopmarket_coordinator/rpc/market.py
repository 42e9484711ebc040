"""MarketService: prices, offers, the book and the tape, for anybody."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

from typing import Any

from flopmarket.trust.modes import Mode
from flopmarket.v1 import market_pb2, market_pb2_grpc
from flopmarket_coordinator.application.types_market import DepthQuery, OfferQuery
from flopmarket_coordinator.application.types_tape import HistoryQuery, TradesQuery
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.core.tape import check_class, check_mode
from flopmarket_coordinator.rpc import convert, convert_market, convert_orders, convert_prediction
from flopmarket_coordinator.rpc.feeds import MarketFeeds
from flopmarket_coordinator.rpc.interceptors import caller


class MarketService(market_pb2_grpc.MarketServiceServicer):
    """Thin: messages in, use cases, messages out."""

    def __init__(self, backend: Backend, feeds: MarketFeeds) -> None:
        self._backend = backend
        self._feeds = feeds

    async def GetSpot(
        self, request: market_pb2.GetSpotRequest, context: Any
    ) -> market_pb2.GetSpotResponse:
        work_class, mode = _class_of(request.work_class), _mode_of(request.mode)
        application = self._backend.application
        report = await self._backend.query(lambda tx: application.prices(tx, mode))
        return convert_market.spot(report, work_class)

    async def ListOffers(
        self, request: market_pb2.ListOffersRequest, context: Any
    ) -> market_pb2.ListOffersResponse:
        query = OfferQuery(
            page_size=convert.page_size_of(request.page_size),
            page_token=convert.text_of(request.page_token, "page_token"),
            order_by=convert.text_of(request.order_by, "order_by"),
            min_memory_bytes=request.min_memory_bytes,
            work_class=convert.text_of(request.work_class, "work_class"),
            filters=convert_market.filters_of(request.filters),
        )
        application = self._backend.application
        page = await self._backend.query(lambda tx: application.list_offers(tx, query))
        return convert_market.offers(page)

    async def GetBook(
        self, request: market_pb2.GetBookRequest, context: Any
    ) -> market_pb2.GetBookResponse:
        work_class = check_class(convert.text_of(request.work_class, "work_class"))
        levels = convert_market.levels_of(request.levels)
        query = DepthQuery(work_class, levels, _mode_of(request.mode))
        application = self._backend.application
        report = await self._backend.query(lambda tx: application.depth(tx, query))
        return convert_market.book(report)

    async def GetHistory(
        self, request: market_pb2.GetHistoryRequest, context: Any
    ) -> market_pb2.GetHistoryResponse:
        query = HistoryQuery(
            work_class=convert.text_of(request.work_class, "work_class"),
            resolution_seconds=request.resolution_seconds,
            from_us=request.from_us,
            to_us=request.to_us,
            page_size=convert.page_size_of(request.page_size),
            page_token=convert.text_of(request.page_token, "page_token"),
            mode=_mode_of(request.mode),
        )
        application = self._backend.application
        page = await self._backend.query(lambda tx: application.history(tx, query))
        return convert_market.history(page)

    async def ListTrades(
        self, request: market_pb2.ListTradesRequest, context: Any
    ) -> market_pb2.ListTradesResponse:
        query = TradesQuery(
            work_class=convert.text_of(request.work_class, "work_class"),
            offer_id=convert.text_of(request.offer_id, "offer_id"),
            from_us=request.from_us,
            to_us=request.to_us,
            page_size=convert.page_size_of(request.page_size),
            page_token=convert.text_of(request.page_token, "page_token"),
            mode=_mode_of(request.mode) if request.mode else None,
        )
        application = self._backend.application
        page = await self._backend.query(lambda tx: application.trades(tx, query))
        return convert_market.trades(page)

    async def StreamTrades(  # type: ignore[override]  # writes to the context, yields nothing
        self, request: market_pb2.StreamTradesRequest, context: Any
    ) -> None:
        convert.text_of(request.work_class, "work_class")
        convert.text_of(request.mode, "mode")
        convert.text_of(request.resume_token, "resume_token")
        await self._feeds.serve_trades(self._backend, request, context.write)

    async def StreamBook(  # type: ignore[override]  # writes to the context, yields nothing
        self, request: market_pb2.StreamBookRequest, context: Any
    ) -> None:
        convert.text_of(request.work_class, "work_class")
        convert.text_of(request.mode, "mode")
        convert.text_of(request.resume_token, "resume_token")
        await self._feeds.serve_book(self._backend, request, context.write)

    async def GetSnapshot(
        self, request: market_pb2.GetSnapshotRequest, context: Any
    ) -> market_pb2.GetSnapshotResponse:
        application, number = self._backend.application, convert_market.number_of(request.number)
        file = await self._backend.query(lambda tx: application.snapshot(tx, number))
        return market_pb2.GetSnapshotResponse(
            as_of_us=file.as_of_us,
            number=file.number,
            snapshot=file.envelope,
            oldest_number=file.oldest_number,
        )

    async def GetAccuracy(
        self, request: market_pb2.GetAccuracyRequest, context: Any
    ) -> market_pb2.GetAccuracyResponse:
        work_class = _class_of(request.work_class)
        offer_id = convert.text_of(request.offer_id, "offer_id")
        application = self._backend.application
        report = await self._backend.query(
            lambda tx: application.accuracy(tx, work_class, offer_id)
        )
        return convert_prediction.accuracy(report)

    async def ExplainOffer(
        self, request: market_pb2.ExplainOfferRequest, context: Any
    ) -> market_pb2.ExplainOfferResponse:
        session, application = caller(), self._backend.application
        offer_id = convert.text_of(request.offer_id, "offer_id")
        as_of_us, found = await self._backend.query(
            lambda tx: (tx.now_us, application.explain_offers(tx, session, offer_id))
        )
        return convert_orders.offer_explanations(as_of_us, found)


def _class_of(name: str) -> str:
    """One class of work, or "" for all."""
    return check_class(convert.text_of(name, "work_class")) if name else ""


def _mode_of(name: str) -> Mode:
    """A mode, exact for none."""
    return check_mode(convert.text_of(name, "mode"))
