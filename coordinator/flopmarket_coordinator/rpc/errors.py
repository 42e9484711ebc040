"""Our errors as ``google.rpc.Status``: the one place where a failure becomes a gRPC status.

Every error of the project carries a stable code; on the wire that is ``ErrorInfo.reason`` of domain
``flopmarket.dev``, with the variables of the message as metadata, the hint under the key ``hint``,
and ``RetryInfo`` when a retry can help (AIP-193). Anything else is a fault of ours: it is logged
under a fresh id, and the peer sees the id and nothing more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import (
    code_pb2,
    error_details_pb2,
    status_pb2,
)
from grpc_status import rpc_status

from flopmarket.engine.errors import EngineError
from flopmarket.errors import FlopmarketError, Kind
from flopmarket.limits import MAX_ERROR_DETAIL_CHARACTERS, MAX_ERROR_MESSAGE_CHARACTERS

ERROR_DOMAIN = "flopmarket.dev"
HINT_KEY = "hint"
INCIDENT_KEY = "incident"
RETRY_AFTER_KEY = "retry_after_ms"
DEFAULT_RETRY_AFTER_MS = 1_000

STATUS_CODES: dict[Kind, int] = {
    Kind.INTERNAL: code_pb2.INTERNAL,
    Kind.INVALID: code_pb2.INVALID_ARGUMENT,
    Kind.UNAUTHENTICATED: code_pb2.UNAUTHENTICATED,
    Kind.FORBIDDEN: code_pb2.PERMISSION_DENIED,
    Kind.NOT_FOUND: code_pb2.NOT_FOUND,
    Kind.CONFLICT: code_pb2.FAILED_PRECONDITION,
    Kind.QUOTA: code_pb2.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: code_pb2.UNAVAILABLE,
}

Metadata = tuple[tuple[str, str | bytes], ...]

_log = logging.getLogger(__name__)


def status_of(error: FlopmarketError | EngineError) -> status_pb2.Status:
    """The status message of one of our errors.

    An engine error is about a program the caller gave, unless it is retryable, when the device is
    at fault. Long texts are cut: a status travels in headers of bounded size.
    """
    if isinstance(error, EngineError):
        code = code_pb2.UNAVAILABLE if error.retryable else code_pb2.INVALID_ARGUMENT
        details: dict[str, str] = {}
    else:
        code, details = STATUS_CODES[error.kind], dict(error.details)
        if error.code == "DEADLINE_EXCEEDED":
            code = code_pb2.DEADLINE_EXCEEDED
    if error.hint:
        details.setdefault(HINT_KEY, error.hint)
    info = error_details_pb2.ErrorInfo(
        reason=str(error.code),
        domain=ERROR_DOMAIN,
        metadata={key: _cut(value, MAX_ERROR_DETAIL_CHARACTERS) for key, value in details.items()},
    )
    status = status_pb2.Status(code=code, message=_cut(error.message, MAX_ERROR_MESSAGE_CHARACTERS))
    status.details.append(_packed(info))
    if error.retryable:
        delay_ms = _retry_after_ms(details)
        retry = error_details_pb2.RetryInfo(
            retry_delay=duration_pb2.Duration(
                seconds=delay_ms // 1000, nanos=delay_ms % 1000 * 1_000_000
            )
        )
        status.details.append(_packed(retry))
    return status


def incident_status(
    error: BaseException, method: str, new_id: Callable[[], str]
) -> status_pb2.Status:
    """The status of a fault of ours: an id that finds the traceback in the log, nothing else."""
    incident = new_id()
    _log.error("incident %s in %s", incident, method, exc_info=error)
    return status_of(
        FlopmarketError(
            f"the coordinator failed on this request; incident {incident}",
            code="INTERNAL",
            hint="report the incident id to the operator",
            details={INCIDENT_KEY: incident},
        )
    )


def to_grpc(
    status: status_pb2.Status,
) -> tuple[grpc.StatusCode, str, Metadata]:
    """Code, details and trailing metadata, as ``context.abort`` takes them."""
    converted = rpc_status.to_status(status)
    return converted.code, converted.details, converted.trailing_metadata


def _retry_after_ms(details: dict[str, str]) -> int:
    text = details.get(RETRY_AFTER_KEY, "")
    return int(text) if text.isdecimal() else DEFAULT_RETRY_AFTER_MS


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
