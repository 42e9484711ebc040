"""HTTP answers with their cache headers, and the event streams of live pages."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from flopmarket.limits import BOARD_ALIVE_SECONDS
from flopmarket_coordinator.web.feed import Listeners

Message = TypeVar("Message")

PRIVATE = "private, no-store"
RETRY_MS = 3_000  # how long a browser waits before it connects again


def public(seconds: float) -> str:
    """``Cache-Control`` of a figure that everybody may see and keep this long."""
    return f"public, max-age={int(seconds)}"


def answer(
    request: Request,
    body: bytes | str,
    media_type: str,
    cache_control: str,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """``body`` with an ETag, or 304 when the reader has it already."""
    content = body.encode() if isinstance(body, str) else body
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    kept = {"etag": tag, "cache-control": cache_control, **(headers or {})}
    known = {part.strip().removeprefix("W/") for part in _if_none_match(request).split(",")}
    if status == 200 and tag in known:
        return Response(status_code=304, headers=kept)
    return Response(content, status, headers=kept, media_type=media_type)


def _if_none_match(request: Request) -> str:
    return request.headers.get("if-none-match", "")


def event_stream(
    listeners: Listeners[Message],
    render: Callable[[Message], tuple[str, Any]],
    begin: Callable[[], tuple[str, Any]] | None = None,
) -> Response:
    """Server-sent events of what is published; ``render`` gives an event's name and its data.

    ``begin`` is the first event: the state that the others change, so that a page which lost its
    connection misses nothing. The last event is ``end``: the page may connect again later. Raises
    QuotaExceeded BOARD_FULL.
    """
    listeners.seats.check()

    async def events() -> AsyncIterator[str]:
        async with listeners.follow() as queue:
            yield f"retry: {RETRY_MS}\n\n"
            if begin is not None:
                yield _event(*begin())
            while True:
                try:
                    message = await asyncio.wait_for(queue.get(), BOARD_ALIVE_SECONDS)
                except TimeoutError:
                    yield ": alive\n\n"
                    continue
                if message is None:
                    yield _event("end", {})
                    return
                yield _event(*render(message))

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(events(), media_type="text/event-stream", headers=headers)


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=True)}\n\n"
