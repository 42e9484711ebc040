"""Streams end with the session that opened them, and nobody else's do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from grpc import aio

from flopmarket.errors import Unauthenticated
from flopmarket.trust.administration import AdminAction, AdminOrder
from flopmarket.trust.key_documents import rotation
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.v1 import admin_pb2, admin_pb2_grpc, identity_pb2, job_pb2, market_pb2
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.core.changes import SessionsEnded
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_coordinator.rpc.open_streams import OpenStreams
from tests.integration.coordinator.market import CALL_SECONDS, Market, Person, reason, wire
from tests.integration.coordinator.scripted import Buyer, buyer_of, in_market

End = Callable[[Person], Awaitable[None]]


async def end_all_sessions(person: Person) -> None:
    await person.call(person.identity.EndSessions, identity_pb2.EndSessionsRequest())


async def end_this_session(person: Person) -> None:
    listed = await person.call(person.identity.ListSessions, identity_pb2.ListSessionsRequest())
    (only,) = listed.sessions
    request = identity_pb2.EndSessionsRequest(session_id=only.session_id)
    await person.call(person.identity.EndSessions, request)


async def rotate_the_key(person: Person) -> None:
    body = rotation(person.account_id, KeyRole.OWNER, person.key.public, KeyPair.generate())
    request = identity_pb2.RotateKeyRequest(rotation=person.sign(body))
    await person.call(person.identity.RotateKey, request)


async def ban(person: Person) -> None:
    operator = person.market.coordinator.directory.operator_key
    order = AdminAction(AdminOrder.BAN, person.account_id, "", "ABUSE", "ban")
    action = wire(order, operator, person.market.key_id)
    stranger = Person(person.market)
    service = admin_pb2_grpc.AdminServiceStub(stranger.channel)
    await stranger.open_session(operator, KeyRole.OPERATOR)
    await stranger.call(service.Act, admin_pb2.ActRequest(action=action))
    await stranger.close()


class Watcher:
    """One stream, and how it ended."""

    def __init__(self, call: aio.UnaryStreamCall) -> None:  # type: ignore[type-arg]
        self._call = call
        self.begun = asyncio.Event()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> tuple[grpc.StatusCode, str]:
        try:
            async for _ in self._call:
                self.begun.set()
        except aio.AioRpcError as error:
            return error.code(), reason(error)
        return grpc.StatusCode.OK, ""

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        async with asyncio.timeout(CALL_SECONDS):
            return await self.task

    async def stop(self) -> None:
        self._call.cancel()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def watch(person: Person, job_id: str) -> Watcher:
    request = job_pb2.WatchJobRequest(job_id=job_id)
    watcher = Watcher(person.jobs.WatchJob(request, metadata=person.metadata))
    await watcher.begun.wait()
    return watcher


ENDED = (grpc.StatusCode.UNAUTHENTICATED, "SESSION_ENDED")


@pytest.mark.parametrize("end", [end_all_sessions, end_this_session, rotate_the_key, ban])
def test_a_watch_ends_with_its_session_and_another_buyers_goes_on(tmp_path: Path, end: End) -> None:
    async def scenario(market: Market) -> None:
        buyer, other = await buyer_of(market), await another_buyer(market)
        ours = await watch(buyer, (await buyer.submit()).job_id)
        theirs = await watch(other, (await other.submit()).job_id)
        prices = Watcher(
            buyer.prices.StreamTrades(market_pb2.StreamTradesRequest(), metadata=buyer.metadata)
        )
        strangers = Watcher(other.prices.StreamTrades(market_pb2.StreamTradesRequest()))
        for stream in (prices, strangers):
            await stream.begun.wait()
        await end(buyer)
        assert await ours.ended() == ENDED
        assert await prices.ended() == ENDED
        await asyncio.sleep(0.2)
        for stream in (theirs, strangers):
            assert not stream.task.done()
            await stream.stop()
        await other.close()
        await buyer.close()

    in_market(tmp_path / "market", scenario)


async def another_buyer(market: Market) -> Buyer:
    other = Buyer(market)
    await other.join("another")
    await other.credit(1_000_000_000)
    return other


def a_session(name: str, seconds: float, session_id: str = "one") -> Session:
    return Session("account", name, KeyRole.OWNER, int(seconds * SECOND_US), session_id)


def test_a_stream_ends_when_the_time_of_its_session_is_over_and_a_transfer_does_not() -> None:
    async def scenario() -> None:
        streams = OpenStreams(lambda: 0)
        with pytest.raises(Unauthenticated):
            async with streams.bounded(a_session("ann", 0.02)):
                await asyncio.sleep(CALL_SECONDS)
        async with streams.bounded(a_session("ann", 0.02), outlasts=True):
            await asyncio.sleep(0.1)
        with pytest.raises(TimeoutError):  # of somebody else's
            async with streams.bounded(a_session("ann", 60)), asyncio.timeout(0.01):
                await asyncio.sleep(CALL_SECONDS)
        assert len(streams) == 0

    asyncio.run(scenario())


def test_a_transfer_ends_when_somebody_ends_its_session() -> None:
    async def scenario() -> None:
        streams = OpenStreams(lambda: 0)
        others = asyncio.create_task(hold(streams, a_session("ann", 60, "two")))
        ours = asyncio.create_task(hold(streams, a_session("ann", 0.01)))
        await asyncio.sleep(0.05)
        assert len(streams) == 2
        streams.committed([SessionsEnded("bob"), SessionsEnded("ann", "one")], 0)
        with pytest.raises(Unauthenticated):
            await ours
        assert not others.done()
        streams.committed([SessionsEnded("ann")], 0)
        with pytest.raises(Unauthenticated):
            await others

    async def hold(streams: OpenStreams, session: Session) -> None:
        async with streams.bounded(session, outlasts=True):
            await asyncio.sleep(CALL_SECONDS)

    asyncio.run(scenario())
