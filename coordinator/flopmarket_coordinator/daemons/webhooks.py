"""The loop that delivers webhooks: what is due goes out, signed; how it went is written down.

Delivery is at least once: the message is in the store first, and a process that dies between the
answer and its record sends it again under the same id. The receiver is a stranger's choice, so it
is reached with care: its name is resolved here and every address judged, the connection goes to the
address that was judged, nothing is redirected, no proxy or cookie is used, one deadline covers the
whole attempt, and the answer's body is read up to a limit and thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import httpx

from flopmarket.errors import FlopmarketError, Unavailable
from flopmarket.limits import (
    MAX_CONCURRENT_DELIVERIES,
    MAX_WEBHOOK_RESPONSE_BYTES,
    WEBHOOK_SECONDS,
)
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.webhooks import webhook_headers
from flopmarket_coordinator.application.types_accounts import DueDelivery
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.webhook_address import check_address, target_of

_log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
_FAILURE_PAUSE_SECONDS = 5.0

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The IP addresses of a host."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """The system's answer, in its order; :class:`OSError` when there is none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class WebhookPost:
    """One attempt to deliver one message. ``private_allowed`` is the operator's choice."""

    def __init__(
        self,
        key: KeyPair,
        clock_us: Callable[[], int],
        *,
        private_allowed: bool,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve = resolve,
        seconds: float = WEBHOOK_SECONDS,
    ) -> None:
        self._key = key
        self._clock_us = clock_us
        self._private_allowed = private_allowed
        self._tls = tls or ssl.create_default_context()
        self._resolve = resolve
        self._seconds = seconds

    async def deliver(self, delivery: DueDelivery) -> str:
        """Empty when the receiver answered with 2xx, else what went wrong, for the owner."""
        try:
            async with asyncio.timeout(self._seconds):
                status = await self._post(delivery)
        except TimeoutError:
            return f"no answer within {self._seconds:g} s"
        except FlopmarketError as error:
            return error.message
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            return f"{type(error).__name__}: {error}"
        return "" if 200 <= status < 300 else f"the receiver answered {status}"

    async def _post(self, delivery: DueDelivery) -> int:
        target = target_of(delivery.url, private_allowed=self._private_allowed)
        address = await self._address(target.host, target.port)
        url = httpx.URL(delivery.url)
        shown_host = url.netloc.decode("ascii")
        headers = {
            "host": shown_host,
            "content-type": "application/json",
            "user-agent": "flopmarket-webhooks/1",
            "accept-encoding": "identity",
            **webhook_headers(
                self._key, delivery.message_id, self._clock_us() // 1_000_000, delivery.body
            ),
        }
        async with (
            self._client() as client,
            client.stream(
                "POST",
                url.copy_with(host=address),
                content=delivery.body,
                headers=headers,
                # The certificate must be that of the name, whatever address was chosen.
                extensions={"sni_hostname": target.host},
            ) as response,
        ):
            received = 0
            async for chunk in response.aiter_raw():
                received += len(chunk)
                if received > MAX_WEBHOOK_RESPONSE_BYTES:
                    break
            return response.status_code

    async def _address(self, host: str, port: int) -> str:
        """An address of the host, after all of them were judged."""
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            return host  # judged with the URL
        found = await self._resolve(host, port)
        for address in found:
            check_address(address, private_allowed=self._private_allowed)
        if not found:
            raise Unavailable(f"{host} has no address", code="WEBHOOK_UNRESOLVED")
        return found[0]

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one request: no proxy or .netrc of ours, no redirects, no cookies kept."""
        async with httpx.AsyncClient(
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            timeout=self._seconds,
            limits=httpx.Limits(max_keepalive_connections=0),
        ) as client:
            yield client


class WebhookSender:
    """Takes what is due from the outbox and reports what became of it. One a coordinator."""

    def __init__(self, backend: Backend, post: WebhookPost) -> None:
        self._backend = backend
        self._post = post
        self._running: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled. A failed round is logged and repeated: nothing of it was kept."""
        try:
            while True:
                seen = self._backend.changed.version
                try:
                    await self.round()
                except Exception:  # the boundary of a daemon
                    _log.exception("webhook round failed")
                    await asyncio.sleep(_FAILURE_PAUSE_SECONDS)
                await self._backend.changed.wait_past(seen, POLL_SECONDS)
        finally:
            running = list(self._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def round(self) -> None:
        """Start what is due, one message a webhook at a time."""
        room = MAX_CONCURRENT_DELIVERIES - len(self._running)
        if room <= 0:
            return
        application, busy = self._backend.application, frozenset(self._running)
        due = await self._backend.query(lambda tx: application.due_deliveries(tx, busy, room))
        for delivery in due:
            self._running[delivery.webhook_id] = asyncio.create_task(self._one(delivery))

    async def _one(self, delivery: DueDelivery) -> None:
        application = self._backend.application
        try:
            error = await self._post.deliver(delivery)
            # As a command of the backend: its end wakes this loop for the next message.
            await self._backend.command(
                lambda tx: application.delivery_done(tx, delivery.message_id, error)
            )
        except FlopmarketError as failure:
            _log.warning("outcome of %s is not recorded: %s", delivery.message_id, failure)
        finally:
            del self._running[delivery.webhook_id]
