"""BuyerService: budgets and webhooks."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

import asyncio
from typing import Any

from flopmarket.errors import LimitExceeded
from flopmarket.limits import MAX_WEBHOOK_URL_CHARACTERS, WEBHOOK_TEST_SECONDS
from flopmarket.v1 import buyer_pb2, buyer_pb2_grpc
from flopmarket.wire import envelope_from_proto
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.core.webhooks import SUBSCRIBABLE, DeliveryState
from flopmarket_coordinator.rpc import convert, convert_buyers
from flopmarket_coordinator.rpc.interceptors import caller

_POLL_SECONDS = 0.5


class BuyerService(buyer_pb2_grpc.BuyerServiceServicer):
    """Thin: messages in, use cases, messages out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def GetBudget(
        self, request: buyer_pb2.GetBudgetRequest, context: Any
    ) -> buyer_pb2.GetBudgetResponse:
        session, application = caller(), self._backend.application
        report = await self._backend.query(lambda tx: application.budget(tx, session))
        return convert_buyers.budget_report(report)

    async def SetBudget(
        self, request: buyer_pb2.SetBudgetRequest, context: Any
    ) -> buyer_pb2.SetBudgetResponse:
        caller()
        application, change = self._backend.application, envelope_from_proto(request.change)
        month = await self._backend.command(lambda tx: application.set_budget(tx, change))
        return buyer_pb2.SetBudgetResponse(month=convert_buyers.budget(month))

    async def AddWebhook(
        self, request: buyer_pb2.AddWebhookRequest, context: Any
    ) -> buyer_pb2.AddWebhookResponse:
        session, application = caller(), self._backend.application
        url = convert.text_of(request.url, "url", MAX_WEBHOOK_URL_CHARACTERS)
        if len(request.events) > len(SUBSCRIBABLE):
            raise LimitExceeded(f"{len(request.events)} events, there are {len(SUBSCRIBABLE)}")
        events = tuple(convert.text_of(name, "event") for name in request.events)
        view = await self._backend.command(
            lambda tx: application.add_webhook(tx, session, url, events)
        )
        return buyer_pb2.AddWebhookResponse(webhook=convert_buyers.webhook(view))

    async def ListWebhooks(
        self, request: buyer_pb2.ListWebhooksRequest, context: Any
    ) -> buyer_pb2.ListWebhooksResponse:
        session, application = caller(), self._backend.application
        views = await self._backend.query(lambda tx: application.list_webhooks(tx, session))
        return buyer_pb2.ListWebhooksResponse(
            webhooks=[convert_buyers.webhook(view) for view in views]
        )

    async def RemoveWebhook(
        self, request: buyer_pb2.RemoveWebhookRequest, context: Any
    ) -> buyer_pb2.RemoveWebhookResponse:
        session, application = caller(), self._backend.application
        webhook_id = convert.text_of(request.webhook_id, "webhook_id")
        await self._backend.command(lambda tx: application.remove_webhook(tx, session, webhook_id))
        return buyer_pb2.RemoveWebhookResponse()

    async def TestWebhook(
        self, request: buyer_pb2.TestWebhookRequest, context: Any
    ) -> buyer_pb2.TestWebhookResponse:
        session, backend = caller(), self._backend
        application = backend.application
        webhook_id = convert.text_of(request.webhook_id, "webhook_id")
        message_id = await backend.command(
            lambda tx: application.test_webhook(tx, session, webhook_id)
        )
        loop = asyncio.get_running_loop()
        give_up = loop.time() + WEBHOOK_TEST_SECONDS
        while True:
            seen = backend.changed.version
            view, delivery = await backend.query(
                lambda tx: application.webhook_outcome(tx, session, webhook_id, message_id)
            )
            ended = delivery.state is not DeliveryState.PENDING
            if ended or loop.time() >= give_up:
                return buyer_pb2.TestWebhookResponse(
                    delivered=delivery.state is DeliveryState.DELIVERED,
                    error=delivery.error if ended else "it was not sent yet",
                    webhook=convert_buyers.webhook(view),
                )
            await backend.changed.wait_past(seen, _POLL_SECONDS)
