"""AuditService: what anybody may check of audits."""

# ruff: noqa: N802 - methods are named by the protocol

from __future__ import annotations

from typing import Any

from flopmarket.errors import InvalidInput
from flopmarket.v1 import audit_pb2, audit_pb2_grpc
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.rpc import convert, convert_audits

_MOST_DAYS = 10**6  # beyond any calendar of use


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """Thin: messages in, use cases, messages out. Open to strangers."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def GetCanaryDay(
        self, request: audit_pb2.GetCanaryDayRequest, context: Any
    ) -> audit_pb2.GetCanaryDayResponse:
        day, size = request.day, convert.page_size_of(request.page_size)
        if not 0 <= day <= _MOST_DAYS:
            raise InvalidInput(f"day {day} since the epoch", code="DAY_MALFORMED")
        token = convert.text_of(request.page_token, "page_token")
        application = self._backend.application
        page = await self._backend.query(lambda tx: application.canary_day(tx, day, size, token))
        return convert_audits.canary_page(page)
