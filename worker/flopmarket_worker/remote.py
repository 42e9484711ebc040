"""Failures of the coordinator's answers as errors of the project.

The coordinator sends ``google.rpc.Status`` with an ErrorInfo; its reason becomes the code here.
Callers ask ``retryable``; nothing parses messages.
"""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from flopmarket.client.failures import clean_text
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

_KINDS: dict[grpc.StatusCode, type[FlopmarketError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: QuotaExceeded,
    grpc.StatusCode.UNIMPLEMENTED: InvalidInput,
}


def error_of(failure: aio.AioRpcError) -> FlopmarketError:
    """The error behind a failed call. A status that says nothing definite counts as unavailable:
    a connection that broke (also INTERNAL, CANCELLED, UNKNOWN) is worth another attempt."""
    message, reason, hint, retryable = clean_text(failure.details() or ""), "", "", False
    try:
        status = rpc_status.from_call(failure)  # type: ignore[arg-type]
    except ValueError:  # the details contradict the status: not ours, not trusted
        status = None
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            reason, hint = clean_text(info.reason), clean_text(info.metadata.get("hint", ""))
        retryable = retryable or detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    kind = _KINDS.get(failure.code())
    if kind is None:
        return Unavailable(
            message or f"the coordinator cannot be reached ({failure.code().name})",
            code=reason or "COORDINATOR_UNAVAILABLE",
            hint=hint,
        )
    retryable = retryable or kind is QuotaExceeded
    return kind(message, code=reason or None, retryable=retryable, hint=hint)
