"""One authenticated conversation with a coordinator: who it is, our token, and every call's rules.

Every unary call has a deadline; every stream is cancelled when its reader is done with it; a failed
call becomes one of our errors. The coordinator's key is learnt once, compared with the pinned one,
and is the audience of all that is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from flopmarket.client import messages
from flopmarket.client.failures import AnswerRefused, from_rpc_error
from flopmarket.client.paging import Page, PageRequest, pages
from flopmarket.client.results import CoordinatorInfo
from flopmarket.errors import FlopmarketError, Unauthenticated
from flopmarket.limits import (
    CLIENT_CALL_SECONDS,
    CLIENT_PAGE_SIZE,
    CLIENT_SESSION_LIFETIME_US,
    CLIENT_SESSION_MARGIN_US,
    ENVELOPE_NONCE_BYTES,
)
from flopmarket.trust.documents import SessionRequest
from flopmarket.trust.encoding import Document
from flopmarket.trust.envelope import seal
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.v1 import common_pb2, identity_pb2, identity_pb2_grpc
from flopmarket.wire import envelope_to_proto

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Ports:
    """What a client takes from outside: the clock, sleep, and randomness."""

    now_us: Callable[[], int]
    sleep: Callable[[float], None]
    random_bytes: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Identity:
    """The key a client acts with, and for which account in which role."""

    key: KeyPair
    account_id: str
    role: KeyRole


class Session:
    """Calls to one coordinator over one channel. Not shared between threads."""

    def __init__(
        self,
        channel: grpc.Channel,
        address: str,
        ports: Ports,
        identity: Identity | None,
        pinned_key_id: str = "",
        authority: bytes | None = None,
    ) -> None:
        """``authority`` is the certificate (PEM) that the channel trusts, if it was told one."""
        self.authority = authority
        self.channel = channel
        self.address = address
        self.ports = ports
        self._identity = identity
        self._pinned_key_id = pinned_key_id
        self._service = identity_pb2_grpc.IdentityServiceStub(channel)
        self._coordinator: CoordinatorInfo | None = None
        self._token = ""
        self._token_expires_us = 0

    @property
    def identity(self) -> Identity:
        """Our key; raises Unauthenticated KEY_NEEDED when the client was made without one."""
        if self._identity is None:
            raise Unauthenticated(
                "this needs a key and none was given",
                code="KEY_NEEDED",
                hint="make one with `flop key new`, or name one with --key",
            )
        return self._identity

    def as_other(self, identity: Identity) -> Session:
        """A session of another key with the same coordinator, on the same channel."""
        pinned = self.coordinator().key_id
        return Session(self.channel, self.address, self.ports, identity, pinned, self.authority)

    def coordinator(self) -> CoordinatorInfo:
        """Who the coordinator is; asked once. Raises AnswerRefused COORDINATOR_KEY_CHANGED."""
        if self._coordinator is None:
            answer = self.call(
                self._service.GetCoordinator,
                identity_pb2.GetCoordinatorRequest(),
                authenticated=False,
            )
            found = messages.coordinator_from_proto(answer)
            if self._pinned_key_id and found.key_id != self._pinned_key_id:
                raise AnswerRefused(
                    f"the coordinator at {self.address} has key {found.key_id}, "
                    f"{self._pinned_key_id} is expected",
                    code="COORDINATOR_KEY_CHANGED",
                    hint="somebody else may be answering; nothing was sent to it",
                )
            self._coordinator = found
        return self._coordinator

    def seal(
        self, body: Document, *, lifetime_us: int, key: KeyPair | None = None
    ) -> common_pb2.Envelope:
        """``body`` signed for this coordinator with ``key`` (ours unless given), as a message."""
        now_us = self.ports.now_us()
        envelope = seal(
            body,
            key or self.identity.key,
            audience=self.coordinator().key_id,
            nonce=self.ports.random_bytes(ENVELOPE_NONCE_BYTES),
            issued_at_us=now_us,
            expires_at_us=now_us + lifetime_us,
        )
        return envelope_to_proto(envelope)

    def call(
        self,
        method: Callable[..., Answer],
        request: object,
        *,
        authenticated: bool = True,
        timeout_seconds: float = CLIENT_CALL_SECONDS,
    ) -> Answer:
        """One unary call. A token that the coordinator no longer knows is replaced once."""
        for attempt in range(2):
            metadata = self.metadata() if authenticated else None
            try:
                return method(request, timeout=timeout_seconds, metadata=metadata)
            except grpc.RpcError as error:
                failure = from_rpc_error(error, self.address)
                if not (authenticated and attempt == 0 and isinstance(failure, Unauthenticated)):
                    raise failure from None
                self.forget_token()
        raise AssertionError("the second attempt returns or raises")

    def pages(
        self,
        method: Callable[..., Page],
        request: PageRequest,
        what: str,
        *,
        authenticated: bool = True,
    ) -> Iterator[Page]:
        """Every page of a listing of ``what``, by as many calls; ``request`` is filled in."""

        def page(token: str) -> Page:
            request.page_size, request.page_token = CLIENT_PAGE_SIZE, token
            return self.call(method, request, authenticated=authenticated)

        return pages(page, what)

    @contextmanager
    def stream(
        self,
        method: Callable[..., Any],
        request: object,
        *,
        timeout_seconds: float | None,
        authenticated: bool = True,
    ) -> Iterator[Iterator[Any]]:
        """A streaming call, cancelled on the way out; its failures become our errors."""
        metadata = self.metadata() if authenticated else None
        call = method(request, timeout=timeout_seconds, metadata=metadata)
        try:
            yield self._translated(call)
        finally:
            call.cancel()

    def _translated(self, call: Any) -> Iterator[Any]:
        try:
            yield from call
        except grpc.RpcError as error:
            raise self.failure(error) from None

    def failure(self, error: grpc.RpcError) -> FlopmarketError:
        """Our error for a failed call; a refused token is forgotten."""
        failure = from_rpc_error(error, self.address)
        if isinstance(failure, Unauthenticated):
            self.forget_token()
        return failure

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Headers of an authenticated call; opens a session when there is none."""
        now_us = self.ports.now_us()
        if not self._token or now_us + CLIENT_SESSION_MARGIN_US >= self._token_expires_us:
            self._open()
        return (("authorization", f"Bearer {self._token}"),)

    def forget_token(self) -> None:
        """The next authenticated call opens a new session."""
        self._token = ""

    def _open(self) -> None:
        identity = self.identity
        request = SessionRequest(
            account_id=identity.account_id, role=identity.role, purpose="flopmarket client"
        )
        answer = self.call(
            self._service.OpenSession,
            identity_pb2.OpenSessionRequest(
                request=self.seal(request, lifetime_us=CLIENT_SESSION_LIFETIME_US)
            ),
            authenticated=False,
        )
        if not answer.token.isascii() or not answer.token.isprintable() or " " in answer.token:
            raise AnswerRefused("the coordinator's session token is not fit for a header")
        self._token = answer.token
        self._token_expires_us = answer.expires_at_us
