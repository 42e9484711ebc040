"""The web application: routes, files, errors, and the guard around all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flopmarket.errors import FlopmarketError, NotFound
from flopmarket_coordinator.web import api, assets, metrics, pages
from flopmarket_coordinator.web.board import Board
from flopmarket_coordinator.web.problems import problem, problem_of
from flopmarket_coordinator.web.security import Guard

FOR_EVER = "public, max-age=31536000, immutable"


def application(board: Board, hosts: Iterable[str] = ()) -> Guard:
    """The board as an ASGI application. ``hosts`` are names it is reached by beside loopback.

    The guard is outermost, so that even the answer to a fault of ours has its headers.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        board.tape.start()
        try:
            yield
        finally:
            await board.close()

    app = Starlette(
        routes=[
            *pages.ROUTES,
            *api.ROUTES,
            *metrics.ROUTES,
            Route("/static/{digest:str}/{name:str}", static),
        ],
        exception_handlers={FlopmarketError: on_error, HTTPException: on_http_error},
        lifespan=lifespan,
    )
    app.state.board = board
    return Guard(app, hosts)


async def static(request: Request) -> Response:
    """A file under the digest of its content: it never changes."""
    found = assets.asset(request.path_params["name"])
    if found.digest[:12] != request.path_params["digest"]:
        raise NotFound("another version of that file is served now", code="BOARD_NO_FILE")
    headers = {"cache-control": FOR_EVER, "etag": f'"{found.digest}"'}
    return Response(found.content, media_type=found.media_type, headers=headers)


async def on_error(request: Request, error: Exception) -> Response:
    """Our errors: problem+json for programs, a page for people."""
    assert isinstance(error, FlopmarketError)
    return problem_of(error) if _is_program(request) else pages.error_page(request, error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path."""
    assert isinstance(error, HTTPException)
    if _is_program(request):
        return problem(error.status_code, "NOT_FOUND", "there is nothing at this address")
    missing = NotFound("there is nothing at this address", hint="the menu leads to what there is")
    return pages.error_page(request, missing)


def _is_program(request: Request) -> bool:
    path = request.url.path
    return path.startswith(("/api/", "/static/")) or path == "/metrics"
