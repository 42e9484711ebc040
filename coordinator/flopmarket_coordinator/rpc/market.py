"""MarketService: prices and offers, for anybody."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

from typing import Any

from flopmarket.v1 import market_pb2, market_pb2_grpc
from flopmarket_coordinator.application.types import OfferQuery
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.rpc import convert


class MarketService(market_pb2_grpc.MarketServiceServicer):
    """Thin: messages in, use cases, messages out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def GetSpot(
        self, request: market_pb2.GetSpotRequest, context: Any
    ) -> market_pb2.GetSpotResponse:
        report = await self._backend.query(self._backend.application.spot)
        return market_pb2.GetSpotResponse(
            as_of_us=report.as_of_us,
            currency=report.currency,
            prices=[convert.spot_price(price) for price in report.prices],
        )

    async def ListOffers(
        self, request: market_pb2.ListOffersRequest, context: Any
    ) -> market_pb2.ListOffersResponse:
        query = OfferQuery(
            page_size=convert.page_size_of(request.page_size),
            page_token=convert.text_of(request.page_token, "page_token"),
            order_by=convert.text_of(request.order_by, "order_by"),
            min_memory_bytes=request.min_memory_bytes,
            work_class=convert.text_of(request.work_class, "work_class"),
        )
        application = self._backend.application
        page = await self._backend.query(lambda tx: application.list_offers(tx, query))
        return market_pb2.ListOffersResponse(
            as_of_us=page.as_of_us,
            offers=[convert.offer(offer) for offer in page.offers],
            next_page_token=page.next_page_token,
        )
