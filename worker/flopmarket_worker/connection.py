"""The session with the coordinator, opened again whenever it ends; work goes on beside it.

What is said is decided by a :class:`Party`; here are greeting, heartbeats, tokens that grow old,
and which failures another attempt may mend.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from grpc import aio

from flopmarket.errors import FlopmarketError, Forbidden, Unauthenticated, Unavailable
from flopmarket.trust.keys import PublicKey
from flopmarket.v1 import worker_pb2
from flopmarket_worker.backoff import Backoff, Jitter
from flopmarket_worker.conversation import Conversation
from flopmarket_worker.core.events import LeaseKey
from flopmarket_worker.link import CoordinatorLink
from flopmarket_worker.local_state import Notes
from flopmarket_worker.remote import error_of
from flopmarket_worker.signing import Clock, Sealer

logger = logging.getLogger("flopmarket.worker")

_DEFAULT_HEARTBEAT_MS = 10_000
_SHORTEST_HEARTBEAT_MS = 50
_LASTING_SECONDS = 5.0


class Party(Protocol):
    """Who speaks and listens over a connection."""

    def hello(self, sealer: Sealer) -> worker_pb2.Hello:
        """The greeting, before there is anything else."""

    def welcomed(self, kept: tuple[LeaseKey, ...]) -> None:
        """The coordinator knows us and these leases; messages can be sent from now on."""

    def heartbeat(self) -> worker_pb2.Heartbeat:
        """What is said in every period."""

    def received(self, message: worker_pb2.SessionResponse) -> None:
        """Anything else the coordinator says."""

    def lost(self) -> None:
        """The connection is gone, or there was none."""


class Connection:
    """What there is of a connection now. One instance, one run of :meth:`keep`."""

    def __init__(
        self, link: CoordinatorLink, notes: Notes, *, now_us: Clock, jitter: Jitter
    ) -> None:
        self._link = link
        self._notes = notes
        self._now_us = now_us
        self._jitter = jitter
        self._conversation: Conversation | None = None
        self._sealer: Sealer | None = None
        self._coordinator_key: PublicKey | None = None

    @property
    def sealer(self) -> Sealer:
        """What seals documents for the coordinator; there is none before the first welcome."""
        assert self._sealer is not None
        return self._sealer

    @property
    def coordinator_key(self) -> PublicKey:
        """Whose signatures are the coordinator's; unknown before the first greeting."""
        assert self._coordinator_key is not None
        return self._coordinator_key

    def send(self, **message: Any) -> None:
        """Queue one message of the session, by its field. Without a connection nothing is sent:
        whatever matters is said again after the next welcome."""
        if self._conversation is not None:
            self._conversation.send(worker_pb2.SessionRequest(**message))

    async def finish(self) -> None:
        """Write what is queued, and say that no more comes."""
        if self._conversation is not None:
            await self._conversation.finish()

    async def keep(self, party: Party) -> None:
        """Connect, again and again; raises the first error that no retry can mend."""
        backoff = Backoff(self._jitter)
        while True:
            try:
                delay = await self._converse(party, backoff)
            except FlopmarketError as error:
                if not error.retryable:
                    raise
                delay = backoff.next_seconds()
                self._notes.phase("connecting", str(error))
                logger.warning("%s; again in %.1f s", error, delay)
            await asyncio.sleep(delay)

    async def _converse(self, party: Party, backoff: Backoff) -> float:
        """One connection, from greeting to end; returns the pause before the next."""
        sealer = await self._link.sealer()
        self._coordinator_key = (await self._link.coordinator()).public_key
        metadata = await self._link.credentials()
        call = self._link.worker.Session(metadata=metadata)  # type: ignore[call-arg]
        conversation = Conversation(call)
        helpers: list[asyncio.Task[None]] = []
        welcomed: float | None = None
        try:
            welcome = await conversation.greet(party.hello(sealer))
            welcomed = asyncio.get_running_loop().time()
            self._sealer, self._conversation = sealer, conversation
            period_ms = max(_SHORTEST_HEARTBEAT_MS, welcome.heartbeat_ms or _DEFAULT_HEARTBEAT_MS)
            helpers = [
                asyncio.create_task(conversation.write_all()),
                asyncio.create_task(conversation.beat(period_ms / 1000, party.heartbeat)),
            ]
            kept = tuple(LeaseKey(held.lease_id, held.fence) for held in welcome.kept)
            party.welcomed(kept)
            logger.info("connected; %d leases held", len(kept))
            self._notes.phase("connected")
            async with asyncio.timeout(self._token_seconds()):
                async for message in conversation.messages():
                    if message.HasField("drain"):
                        return message.drain.reconnect_after_ms / 1000
                    party.received(message)
            raise Unavailable("the coordinator ended the connection", code="SESSION_ENDED")
        except aio.AioRpcError as failure:
            raise self._stream_error(failure) from failure
        except TimeoutError:
            return 0.0  # the token is old, or the greeting went unanswered: begin anew
        finally:
            self._conversation = None
            if welcomed is not None:
                # Only a connection that lasts shows that nothing we send is what ends it.
                lasted = asyncio.get_running_loop().time() - welcomed
                if lasted >= _LASTING_SECONDS:
                    backoff.reset()
            for helper in helpers:
                helper.cancel()
            call.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            party.lost()

    def _stream_error(self, failure: aio.AioRpcError) -> FlopmarketError:
        """A broken stream is worth another try, unless we are banned or somebody took our place."""
        error = error_of(failure)
        if isinstance(error, Unauthenticated):
            self._link.forget_session()
        if error.code.startswith("CERTIFICATE_"):
            self._link.forget_certificate()
        if isinstance(error, Forbidden) or error.code == "SESSION_SUPERSEDED":
            return error
        return Unavailable(error.message, code=error.code, hint=error.hint)

    def _token_seconds(self) -> float:
        return max(1.0, (self._link.token_renew_us - self._now_us()) / 1e6)
