"""DisputeService: disputes and rulings of an account, as a party or as the buyer of the job."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

from typing import Any

from flopmarket.v1 import dispute_pb2, dispute_pb2_grpc
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.rpc import convert, convert_disputes, convert_rulings
from flopmarket_coordinator.rpc.interceptors import caller


class DisputeService(dispute_pb2_grpc.DisputeServiceServicer):
    """Thin: messages in, use cases, messages out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def ListDisputes(
        self, request: dispute_pb2.ListDisputesRequest, context: Any
    ) -> dispute_pb2.ListDisputesResponse:
        session, application = caller(), self._backend.application
        token = convert.text_of(request.page_token, "page_token")
        found = await self._backend.query(
            lambda tx: application.list_disputes(tx, session, request.page_size, token)
        )
        return convert_disputes.page(found)

    async def GetDispute(
        self, request: dispute_pb2.GetDisputeRequest, context: Any
    ) -> dispute_pb2.GetDisputeResponse:
        session, application = caller(), self._backend.application
        dispute_id = convert.text_of(request.dispute_id, "dispute_id")
        found = await self._backend.query(
            lambda tx: application.get_dispute(tx, session, dispute_id)
        )
        return dispute_pb2.GetDisputeResponse(dispute=convert_disputes.dispute(found))

    async def ListRulings(
        self, request: dispute_pb2.ListRulingsRequest, context: Any
    ) -> dispute_pb2.ListRulingsResponse:
        session, application = caller(), self._backend.application
        token = convert.text_of(request.page_token, "page_token")
        found = await self._backend.query(
            lambda tx: application.list_rulings(tx, session, request.page_size, token)
        )
        return convert_rulings.page(found)

    async def GetRuling(
        self, request: dispute_pb2.GetRulingRequest, context: Any
    ) -> dispute_pb2.GetRulingResponse:
        session, application = caller(), self._backend.application
        ruling_id = convert.text_of(request.ruling_id, "ruling_id")
        found = await self._backend.query(lambda tx: application.get_ruling(tx, session, ruling_id))
        return convert_rulings.whole(found)
