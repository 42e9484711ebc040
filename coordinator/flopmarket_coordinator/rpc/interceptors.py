"""What every call passes before its servicer: errors, deadline, who is calling, how often.

One interceptor wraps each handler in the same order: map errors, count open calls, authenticate,
take rate tokens, bound the time. Servicers ask :func:`caller` who stands behind the call and raise
errors of the project; no servicer touches metadata or statuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio

from flopmarket.engine.errors import EngineError
from flopmarket.errors import FlopmarketError, Unauthenticated, Unavailable
from flopmarket.limits import MAX_TOKEN_CHARACTERS, MAX_UNARY_SECONDS
from flopmarket.trust.tls import client_key_id
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.rpc.errors import incident_status, status_of, to_grpc
from flopmarket_coordinator.rpc.open_streams import OpenStreams
from flopmarket_coordinator.rpc.rates import ConcurrencyLimiter, RateLimiter

PACKAGE = "flopmarket.v1"
TRANSFERS = f"/{PACKAGE}.ArtifactService/"
WORKER_STREAM = f"/{PACKAGE}.WorkerService/Session"
OPEN_METHODS = frozenset(
    {
        f"/{PACKAGE}.IdentityService/GetCoordinator",
        f"/{PACKAGE}.IdentityService/Register",
        f"/{PACKAGE}.LedgerService/Deposit",  # the operator's signature is the authority
        f"/{PACKAGE}.LedgerService/DecideWithdrawal",
        f"/{PACKAGE}.LedgerService/GrantCoins",
        f"/{PACKAGE}.LedgerService/GetLedgerHead",  # anybody may hold the books to their past
        f"/{PACKAGE}.IdentityService/OpenSession",
        # The document's signature is the authority; a lost key opens no session.
        f"/{PACKAGE}.IdentityService/RotateKey",
        f"/{PACKAGE}.IdentityService/RevokeKey",
        f"/{PACKAGE}.IdentityService/GetOwnership",
        f"/{PACKAGE}.IdentityService/SetRecoveryKey",
        f"/{PACKAGE}.IdentityService/StartRecovery",
        f"/{PACKAGE}.IdentityService/ObjectToRecovery",
        f"/{PACKAGE}.IdentityService/Join",
    }
)
OPEN_SERVICES = (
    f"/{PACKAGE}.MarketService/",
    f"/{PACKAGE}.AuditService/",
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)
COSTS: dict[str, float] = {
    f"/{PACKAGE}.IdentityService/Register": 5.0,
    f"/{PACKAGE}.IdentityService/OpenSession": 5.0,
    f"/{PACKAGE}.IdentityService/RotateKey": 5.0,
    f"/{PACKAGE}.IdentityService/RevokeKey": 5.0,
    f"/{PACKAGE}.IdentityService/GetOwnership": 5.0,
    f"/{PACKAGE}.IdentityService/SetRecoveryKey": 5.0,
    f"/{PACKAGE}.IdentityService/StartRecovery": 5.0,
    f"/{PACKAGE}.IdentityService/ObjectToRecovery": 5.0,
    f"/{PACKAGE}.IdentityService/Join": 5.0,
    f"/{PACKAGE}.IdentityService/IssueCertificate": 5.0,
    f"/{PACKAGE}.JobService/QuoteJob": 5.0,
    f"/{PACKAGE}.JobService/SubmitJob": 10.0,
    f"/{PACKAGE}.JobService/ExplainJob": 10.0,  # looks at the whole book
    f"/{PACKAGE}.MarketService/ExplainOffer": 10.0,
}
"""Rate tokens of a call; every other call costs one."""

_CALLER: ContextVar[Session | None] = ContextVar("flopmarket_caller", default=None)

Authenticate = Callable[[str], Awaitable[Session]]
"""Who a bearer token belongs to; raises ``Unauthenticated``."""


def caller() -> Session:
    """Who stands behind the call that runs now; ``Unauthenticated`` for a stranger."""
    identity = _CALLER.get()
    if identity is None:
        raise Unauthenticated(
            "this call needs a session",
            code="SESSION_MISSING",
            hint="open a session and send its token as `authorization: Bearer <token>`",
        )
    return identity


def is_open(method: str) -> bool:
    """Whether a stranger may call the method."""
    return method in OPEN_METHODS or method.startswith(OPEN_SERVICES)


def bearer_token(metadata: Any) -> str | None:
    """The token of a call's metadata, or None without the header."""
    values = [value for key, value in metadata or () if key == "authorization"]
    if not values:
        return None
    if len(values) > 1 or not isinstance(values[0], str):
        raise _bad_header("more than one authorization header")
    scheme, _, token = values[0].partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(token) <= MAX_TOKEN_CHARACTERS:
        raise _bad_header("the authorization header is not `Bearer <token>`")
    return token


@dataclass(frozen=True, slots=True)
class EndedCall:
    """What is known of a call afterwards. ``code`` is the name of its gRPC status, ``reason`` the
    project's code of a failure, ``caller`` a key id or a peer's address."""

    method: str
    code: str
    reason: str
    caller: str
    seconds: float
    unary: bool


@dataclass(frozen=True, slots=True)
class Gate:
    """What a call must pass. ``strangers`` is the rate without a session, ``known`` with one."""

    authenticate: Authenticate
    strangers: RateLimiter
    known: RateLimiter
    open_calls: ConcurrencyLimiter
    new_id: Callable[[], str]
    now: Callable[[], float]
    """Seconds, monotonic."""
    ended: Callable[[EndedCall], None]
    """Hears of every call when it is over; must not wait."""
    streams: OpenStreams
    """Those that end with their sessions."""
    certified: tuple[str, ...] = ()
    """Beginnings of methods that take a client certificate of the session's key."""


class GateInterceptor(aio.ServerInterceptor):  # type: ignore[type-arg]
    """Wraps every handler of the server, health and reflection included."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Called by gRPC once a call; None means that no such method exists."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        metadata = handler_call_details.invocation_metadata
        if handler.response_streaming:
            streaming = _streaming_behaviour(handler)

            async def stream(request: Any, context: Any) -> None:
                async with (
                    self._passed(method, metadata, context, unary=False),
                    self._while_session_lasts(method),
                ):
                    await streaming(request, context)

            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(stream, handler.request_deserializer, handler.response_serializer)
        unary = handler.stream_unary if handler.request_streaming else handler.unary_unary
        bounded = not handler.request_streaming

        async def single(request: Any, context: Any) -> Any:
            async with self._passed(method, metadata, context):
                if not bounded:
                    async with self._while_session_lasts(method):
                        return await unary(request, context)
                return await _in_time(unary(request, context))

        make = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(single, handler.request_deserializer, handler.response_serializer)

    @contextlib.asynccontextmanager
    async def _while_session_lasts(self, method: str) -> AsyncIterator[None]:
        """A stream ends with its session; strangers have none, and workers' end in good order."""
        session = _CALLER.get()
        if session is None or method == WORKER_STREAM:
            yield
            return
        transfer = method.startswith(TRANSFERS)
        async with self._gate.streams.bounded(session, outlasts=transfer):
            yield

    @contextlib.asynccontextmanager
    async def _passed(
        self, method: str, metadata: Any, context: Any, *, unary: bool = True
    ) -> AsyncIterator[None]:
        """Errors become statuses; inside, the caller is known and within its limits."""
        gate = self._gate
        entered: str | None = None
        began = gate.now()
        name = f"peer {_host(context.peer())}"
        code, reason = grpc.StatusCode.OK, ""
        try:
            identity = await self._identify(method, metadata)
            if identity is not None:
                _check_certificate(
                    identity, context, demanded=method.startswith(gate.certified or ("\0",))
                )
            name = identity.key_id if identity else name
            limiter = gate.known if identity else gate.strangers
            limiter.take(name, COSTS.get(method, 1.0))
            gate.open_calls.enter(name)
            entered = name
            _CALLER.set(identity)
            yield
        except (asyncio.CancelledError, aio.AbortError):
            code = grpc.StatusCode.CANCELLED
            raise
        except (FlopmarketError, EngineError) as error:
            answer = to_grpc(status_of(error))
            code, reason = answer[0], error.code
            await context.abort(*answer)
        except Exception as error:  # the boundary: whatever else it is must not reach the peer
            answer = to_grpc(incident_status(error, method, gate.new_id))
            code, reason = answer[0], type(error).__name__
            await context.abort(*answer)
        finally:
            seconds = gate.now() - began
            gate.ended(EndedCall(method, code.name, reason, name, seconds, unary))
            if entered is not None:
                gate.open_calls.leave(entered)

    async def _identify(self, method: str, metadata: Any) -> Session | None:
        """The session's identity. A bad token is refused even where none is needed."""
        token = bearer_token(metadata)
        if token is not None:
            return await self._gate.authenticate(token)
        if is_open(method):
            return None
        raise Unauthenticated(
            f"{method} needs a session",
            code="SESSION_MISSING",
            hint="open a session and send its token as `authorization: Bearer <token>`",
            details={"method": method},
        )


def _streaming_behaviour(handler: Any) -> Callable[[Any, Any], Awaitable[None]]:
    """One shape for generators and for coroutines that write to the context themselves."""
    behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
    if not inspect.isasyncgenfunction(behaviour):
        return behaviour  # type: ignore[no-any-return]

    async def written(request: Any, context: Any) -> None:
        async with contextlib.aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return written


async def _in_time(work: Awaitable[Any]) -> Any:
    """The result within our own limit. A caller's deadline is gRPC's to enforce: it cancels."""
    try:
        async with asyncio.timeout(MAX_UNARY_SECONDS):
            return await work
    except TimeoutError as error:
        raise Unavailable(
            f"no answer within {MAX_UNARY_SECONDS} s",
            code="DEADLINE_EXCEEDED",
            hint="the request may have taken effect: repeat it with the same request id",
        ) from error


def _check_certificate(identity: Session, context: Any, *, demanded: bool) -> None:
    """The key that a client certificate is bound to is the session's.

    gRPC has checked the certificate against the coordinator's authority in the handshake. That a
    key was revoked meanwhile shows in its session, however long the certificate lives.
    """
    shown = context.auth_context().get("x509_pem_cert", ())
    if not shown:
        if demanded:
            raise Unauthenticated(
                "workers of this coordinator come with a client certificate",
                code="CERTIFICATE_MISSING",
                hint="connect to its worker port: a newer `flop worker up` does so by itself",
            )
        return
    if client_key_id(shown[0]) != identity.key_id:
        raise Unauthenticated(
            "the client certificate is bound to another key than the session's",
            code="CERTIFICATE_OTHER_KEY",
        )


def _host(peer: str) -> str:
    """``ipv4:10.0.0.7:41532`` without the port: one machine is one stranger."""
    return peer.rpartition(":")[0] or peer


def _bad_header(message: str) -> Unauthenticated:
    return Unauthenticated(message, code="SESSION_HEADER_MALFORMED")
