"""Errors over HTTP: problem+json (RFC 9457) for programs; pages have a template of their own."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from flopmarket.errors import FlopmarketError, Kind

STATUS: dict[Kind, int] = {
    Kind.INTERNAL: 502,
    Kind.INVALID: 400,
    Kind.UNAUTHENTICATED: 403,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.QUOTA: 503,
    Kind.UNAVAILABLE: 503,
}
RETRY_SECONDS = 5


def status_of(error: FlopmarketError) -> int:
    """The HTTP status of one of our errors; a slow coordinator is a gateway's time-out."""
    return 504 if error.code == "DEADLINE_EXCEEDED" else STATUS[error.kind]


def problem(status: int, code: str, detail: str, hint: str = "") -> Response:
    """An ``application/problem+json`` answer. ``type`` is ``about:blank``: see ``code``."""
    body: dict[str, Any] = {"title": detail, "status": status, "code": code}
    if hint:
        body["hint"] = hint
    response = Response(
        json.dumps(body, ensure_ascii=True), status, media_type="application/problem+json"
    )
    response.headers["cache-control"] = "no-store"
    if status == 503:
        response.headers["retry-after"] = str(RETRY_SECONDS)
    return response


def problem_of(error: FlopmarketError) -> Response:
    """One of our errors as an answer."""
    return problem(status_of(error), error.code, error.message, error.hint)
