"""Webhooks over real sockets on loopback: delivered, signed, repeated, and never led astray."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from flopmarket.client import Client, WebhookMessage, verify_webhook
from flopmarket.client.results_owner import Webhook, WebhookTest
from flopmarket.errors import FlopmarketError
from flopmarket.limits import MAX_WEBHOOK_RESPONSE_BYTES
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.tls import CertificateAuthority
from flopmarket.v1 import buyer_pb2
from flopmarket_coordinator.application.types_accounts import DueDelivery
from flopmarket_coordinator.daemons.webhooks import WebhookPost
from flopmarket_coordinator.parameters import Parameters
from tests.integration.coordinator.market import Market, Person, refused, running_market

KEY = KeyPair.from_seed(b"c" * 32)
ANSWER = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


@dataclass
class Receiver:
    """A bare HTTP server on loopback; ``answer`` says what each request gets."""

    answer: Callable[[asyncio.StreamWriter], Awaitable[None]] | bytes = ANSWER
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            exact = dict(line.split(": ", 1) for line in head[1:] if line)
            headers["webhook-signature"] = exact.get("webhook-signature", "")
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append((head[0], headers, body))
            self.arrived.set()
            if isinstance(self.answer, bytes):
                writer.write(self.answer)
                await writer.drain()
            else:
                await self.answer(writer)
        writer.close()

    async def next(self) -> tuple[str, dict[str, str], bytes]:
        async with asyncio.timeout(10):
            while not self.requests:
                self.arrived.clear()
                await self.arrived.wait()
        return self.requests.pop(0)


@contextlib.asynccontextmanager
async def receiving(
    answer: Callable[[asyncio.StreamWriter], Awaitable[None]] | bytes = ANSWER,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Receiver]:
    receiver = Receiver(answer)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


def attempt(url: str, body: bytes = b"{}") -> DueDelivery:
    return DueDelivery(1, "msg_1", "w", url, body)


def post(**options: object) -> WebhookPost:
    values: dict[str, object] = {"private_allowed": True, "seconds": 1.0}
    return WebhookPost(KEY, lambda: time.time_ns() // 1000, **(values | options))  # type: ignore[arg-type]


def test_a_message_arrives_once_whole_and_signed() -> None:
    async def scenario() -> None:
        body = b'{"type":"job.queued","data":{}}'
        async with receiving() as receiver:
            url = f"http://127.0.0.1:{receiver.port}/hook?a=b"
            assert await post().deliver(attempt(url, body)) == ""
            line, headers, received = await receiver.next()
        assert line == "POST /hook?a=b HTTP/1.1"
        assert headers["host"] == f"127.0.0.1:{receiver.port}"
        assert headers["content-type"] == "application/json"
        assert "cookie" not in headers and "authorization" not in headers
        message = verify_webhook(headers, received, KEY.public)
        assert (message.message_id, message.type) == ("msg_1", "job.queued")

    asyncio.run(scenario())


def redirect(port: int) -> bytes:
    return (
        f"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:{port}/\r\n"
        "content-length: 0\r\nconnection: close\r\n\r\n"
    ).encode()


async def endless(writer: asyncio.StreamWriter) -> None:
    """More than anybody wants to read."""
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
    for _ in range(1000):
        writer.write(b"x" * MAX_WEBHOOK_RESPONSE_BYTES)
        await writer.drain()


async def dripping(writer: asyncio.StreamWriter) -> None:
    """Never silent for long, and never done."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(1000):
        writer.write(f"x-{number}: y\r\n".encode())
        await writer.drain()
        await asyncio.sleep(0.05)


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nthanks", ""),
        (b"HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n", "the receiver answered 500"),
        (b"HTTP/1.1 404 No\r\nconnection: close\r\n\r\n", "the receiver answered 404"),
        (b"not http at all\r\n\r\n", "RemoteProtocolError"),
        (b"", "RemoteProtocolError"),
        (endless, ""),
        (dripping, "no answer within 1 s"),
        (silent, "no answer within 1 s"),
    ],
)
def test_every_answer_comes_to_an_end(answer: object, expected: str) -> None:
    async def scenario() -> None:
        async with receiving(answer) as receiver:  # type: ignore[arg-type]
            began = time.monotonic()
            error = await post().deliver(attempt(f"http://127.0.0.1:{receiver.port}/"))
            assert error.startswith(expected) if expected else error == ""
            assert time.monotonic() - began < 5

    asyncio.run(scenario())


def test_a_redirect_is_an_answer_not_an_order() -> None:
    async def scenario() -> None:
        async with receiving() as inside, receiving(redirect(inside.port)) as outside:
            error = await post().deliver(attempt(f"http://127.0.0.1:{outside.port}/"))
            assert error == "the receiver answered 307"
            assert inside.requests == []

    asyncio.run(scenario())


def test_a_name_is_resolved_once_judged_and_pinned() -> None:
    """The first answer is used for the connection; a second one would be the attacker's chance."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    async def scenario() -> None:
        async with receiving() as receiver:
            url = f"http://hooks.example:{receiver.port}/"
            assert await post(resolve=resolve).deliver(attempt(url)) == ""
            _, headers, _ = await receiver.next()
            assert headers["host"] == f"hooks.example:{receiver.port}"
        assert asked == ["hooks.example"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::1"], ["169.254.169.254"]]
)
def test_a_public_name_of_a_private_address_is_not_called(addresses: list[str]) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return addresses

    async def scenario() -> None:
        async with receiving() as receiver:
            sender = post(private_allowed=False, resolve=resolve)
            error = await sender.deliver(attempt(f"https://hooks.example:{receiver.port}/"))
            assert "is no public address" in error
            assert receiver.requests == []

    asyncio.run(scenario())


def test_a_name_that_does_not_exist_is_a_failure_like_others() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError("no such host")

    async def scenario() -> None:
        assert await post(resolve=resolve).deliver(attempt("http://nowhere.example/")) == (
            "OSError: no such host"
        )

    asyncio.run(scenario())


def test_a_certificate_must_be_that_of_the_name(tmp_path: Path) -> None:
    authority = CertificateAuthority.create("test", now_us=time.time_ns() // 1000)
    leaf = authority.issue_server(("hooks.example",), now_us=time.time_ns() // 1000)
    (tmp_path / "leaf.pem").write_bytes(leaf.certificate_pem + leaf.private_key_pem)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(tmp_path / "leaf.pem")
    trust = ssl.create_default_context(cadata=authority.identity.certificate_pem.decode())

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async def scenario() -> None:
        async with receiving(tls=server_tls) as receiver:
            sender = post(resolve=resolve, tls=trust)
            good = f"https://hooks.example:{receiver.port}/"
            assert await sender.deliver(attempt(good)) == ""
            other = f"https://other.example:{receiver.port}/"
            assert "CERTIFICATE_VERIFY_FAILED" in await sender.deliver(attempt(other))
            stranger = post(resolve=resolve)
            assert "CERTIFICATE_VERIFY_FAILED" in await stranger.deliver(attempt(good))
            assert len(receiver.requests) == 1

    asyncio.run(scenario())


# --- the whole way --------------------------------------------------------------------------------

PRIVATE = Parameters(heartbeat_ms=200, lease_ttl_us=30_000_000, webhook_private_hosts=True)


async def as_owner(market: Market, work: Callable[[Client, KeyPair], object]) -> object:
    """Run ``work`` with the SDK as a new account's owner, beside the event loop."""
    key = KeyPair.generate()

    def run() -> object:
        with Client(market.coordinator.address, key) as client:
            client.register("owner")
            return work(client, key)

    return await asyncio.to_thread(run)


def test_an_owner_adds_tests_and_removes_a_webhook(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            receiving() as receiver,
            running_market(tmp_path, audit=False, parameters=PRIVATE) as market,
        ):
            url = f"http://127.0.0.1:{receiver.port}/hook"

            def work(client: Client, key: KeyPair) -> tuple[Webhook, WebhookTest]:
                added = client.add_webhook(url, ["job.failed"])
                done = client.test_webhook(added.webhook_id)
                client.remove_webhook(added.webhook_id)
                assert client.webhooks() == ()
                return added, done

            added, done = await as_owner(market, work)  # type: ignore[misc]
            assert (added.url, added.events, added.enabled) == (url, ("job.failed",), True)
            assert done.delivered and not done.error
            _, headers, body = await receiver.next()
            public = market.coordinator.directory.key.public
            message = verify_webhook(headers, body, public)
            assert isinstance(message, WebhookMessage)
            assert message.type == "webhook.test" and message.data == {"url": url}

    asyncio.run(scenario())


def test_a_receiver_that_is_not_there_is_reported(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_market(tmp_path, audit=False, parameters=PRIVATE) as market:

            def work(client: Client, key: KeyPair) -> WebhookTest:
                return client.test_webhook(client.add_webhook("http://127.0.0.1:9/").webhook_id)

            done = await as_owner(market, work)
            assert isinstance(done, WebhookTest)
            assert not done.delivered and "ConnectError" in done.error
            assert done.webhook.failures == 1

    asyncio.run(scenario())


def test_private_addresses_are_refused_by_default(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_market(tmp_path, audit=False) as market:

            def work(client: Client, key: KeyPair) -> str:
                with pytest.raises(FlopmarketError) as caught:
                    client.add_webhook("https://127.0.0.1/")
                return str(caught.value.code)

            assert await as_owner(market, work) == "WEBHOOK_ADDRESS"
            nobody = Person(market)
            async with refused(grpc.StatusCode.UNAUTHENTICATED, "SESSION_MISSING"):
                stub = nobody.channel.unary_unary(
                    "/flopmarket.v1.BuyerService/ListWebhooks",
                    request_serializer=buyer_pb2.ListWebhooksRequest.SerializeToString,
                    response_deserializer=buyer_pb2.ListWebhooksResponse.FromString,
                )
                await stub(buyer_pb2.ListWebhooksRequest())
            await nobody.close()

    asyncio.run(scenario())
