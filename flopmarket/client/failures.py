"""From a failed call to one of the project's errors, and the errors of a client's own checks.

The coordinator answers with a ``google.rpc.Status`` that carries one ``ErrorInfo``: reason = our
code, metadata = our details and the ``hint``, and with a ``RetryInfo`` when a retry can help. Text
from the wire is cut and cleaned before anybody prints it: a server may be hostile, and a terminal
obeys escape sequences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from flopmarket.errors import (
    Conflict,
    FlopmarketError,
    Forbidden,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from flopmarket.limits import MAX_REMOTE_TEXT_CHARACTERS

ERROR_DOMAIN = "flopmarket.dev"

_CLASSES: Mapping[grpc.StatusCode, type[FlopmarketError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: QuotaExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
}
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,62}")


class AnswerRefused(FlopmarketError):
    """The coordinator's answer fails a check of the client; nothing of it was used."""

    default_code = "ANSWER_REFUSED"


class JobEnded(FlopmarketError):
    """A job ended without its result: it failed or was cancelled."""

    default_code = "JOB_FAILED"


def clean_text(text: str, limit: int = MAX_REMOTE_TEXT_CHARACTERS) -> str:
    """Text from elsewhere, fit for one line of a terminal: printable characters, bounded."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:limit])
    return shown + "…" if len(text) > limit else shown


def from_rpc_error(error: grpc.RpcError, address: str) -> FlopmarketError:
    """The error a caller should see for a failed call to ``address``."""
    status = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    details = error.details() if isinstance(error, grpc.Call) else str(error)
    message = clean_text(details or status.name.lower())
    info, retryable = _details(error)
    if info is not None and _CODE.fullmatch(info.reason):
        metadata = {clean_text(key): clean_text(value) for key, value in info.metadata.items()}
        hint = metadata.pop("hint", "")
        return _CLASSES.get(status, FlopmarketError)(
            message, code=info.reason, retryable=retryable, hint=hint, details=metadata
        )
    return _transport_error(status, message, address)


def _transport_error(status: grpc.StatusCode, message: str, address: str) -> FlopmarketError:
    """An error that gRPC itself made: the coordinator said nothing about it."""
    if status is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(
            f"the coordinator at {address} cannot be reached: {message}",
            code="COORDINATOR_UNREACHABLE",
            hint="is it running, and is the address right? see --address and --ca",
        )
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(
            f"the coordinator at {address} did not answer in time",
            code="DEADLINE_EXCEEDED",
            hint="what was asked may have been done; ask again with the same request id",
        )
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return FlopmarketError(
            f"the coordinator at {address} does not offer this call: {message}",
            code="UNIMPLEMENTED",
            hint="its version may differ from this client's",
        )
    return _CLASSES.get(status, FlopmarketError)(
        message, code=f"GRPC_{status.name}", retryable=False
    )


def _details(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo | None, bool]:
    """Our ErrorInfo, if the status has one, and whether it asks for a retry."""
    if not isinstance(error, grpc.Call):
        return None, False
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):  # no status, or one that contradicts the call's own
        return None, False
    found, retryable = None, False
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == ERROR_DOMAIN:
            found = info
        retryable = retryable or detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    return found, retryable
