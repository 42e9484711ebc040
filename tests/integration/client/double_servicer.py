"""What every service of the fake coordinator does: count, refuse, know who calls."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_status import rpc_status

from tests.integration.client.doubles import (
    FakeCoordinator,
    Refused,
)


class Servicer:
    def __init__(self, fake: FakeCoordinator) -> None:
        self.fake = fake

    async def answer(self, context: Any, name: str, work: Any) -> Any:
        self.fake.count(name)
        if "refuse" in self.fake.tricks:
            await self._refuse(
                context,
                Refused(
                    grpc.StatusCode.UNAVAILABLE,
                    "DRAINING",
                    "the coordinator \x1b[2J is going away",
                    hint="try again soon",
                    retryable=True,
                ),
            )
        try:
            return work()
        except Refused as refused:
            return await self._refuse(context, refused)

    async def _refuse(self, context: Any, refused: Refused) -> None:
        await context.abort_with_status(rpc_status.to_status(refused.status))

    def account(self, context: Any) -> str:
        headers = dict(context.invocation_metadata() or ())
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.fake.tokens:
            raise Refused(
                grpc.StatusCode.UNAUTHENTICATED, "SESSION_UNKNOWN", "no session has this token"
            )
        return self.fake.tokens[token]
