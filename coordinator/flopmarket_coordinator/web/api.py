"""The figures over HTTP: JSON, CSV and event streams, for programs without gRPC.

Prices are integers of nano-units of ``currency`` per PFLOP (1e15 counted operations of the class)
under names that end in ``_nano``; instants are microseconds since the epoch; counts of operations
are decimal text, because a busy day passes 2**53. Every answer has ``as_of_us``.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flopmarket.errors import InvalidInput
from flopmarket.limits import (
    BOARD_CACHE_SECONDS,
    BOARD_HISTORY_CACHE_SECONDS,
    BOARD_STREAM_TRADES,
    BOARD_TAPE_TRADES,
    MAX_REQUEST_TEXT_CHARACTERS,
)
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web.answers import PRIVATE, answer, event_stream, public
from flopmarket_coordinator.web.board import Board, mode_of, resolution_of
from flopmarket_coordinator.web.cache import Answer
from flopmarket_coordinator.web.model import Candle, Job, JobEvent, Offer, TapeMessage, Trade
from flopmarket_coordinator.web.query import DEFAULT_CLASS, OfferForm

JSON = "application/json"
CSV_COLUMNS = (
    "start_us",
    "open_nano",
    "high_nano",
    "low_nano",
    "close_nano",
    "p10_nano",
    "p50_nano",
    "p90_nano",
    "operations",
    "paid_nano",
    "trades",
    "joules_measured",
    "joules_declared",
    "joules_unknown_pflop",
)


def board_of(request: Request) -> Board:
    """The board this request is for."""
    board: Board = request.app.state.board
    return board


async def spot(request: Request) -> Response:
    """``spot.json``: every class now, in one mode."""
    found = await board_of(request).spot(_mode(request))
    classes = [dataclasses.asdict(one) for one in found.value.classes]
    return _json(request, found, {"mode": found.value.mode, "classes": classes})


async def offers(request: Request) -> Response:
    """``offers.json``: one page of live offers; the parameters are those of the offers page."""
    form = OfferForm.read(request.query_params)
    found = await board_of(request).offers(form.query())
    body = {
        "work_class": form.work_class,
        "matching": found.value.matching,
        "next_page": found.value.next_page_token,
        "offers": [offer_json(offer) for offer in found.value.offers],
    }
    return _json(request, found, body)


async def book(request: Request) -> Response:
    """``book.json``: depth of one class in one mode."""
    found = await board_of(request).book(_class(request), _mode(request))
    body = dataclasses.asdict(found.value)
    return _json(request, found, body)


async def history(request: Request) -> Response:
    """``history.json``: candles of one class in one mode."""
    wanted = resolution_of(request.query_params.get("resolution", ""))
    found = await board_of(request).history(_class(request), wanted, _mode(request))
    body = {
        "work_class": found.value.work_class,
        "mode": found.value.mode,
        "resolution_seconds": found.value.resolution_seconds,
        "kept_since_us": found.value.kept_since_us,
        "candles": [candle_json(candle) for candle in found.value.candles],
    }
    return _json(request, found, body, BOARD_HISTORY_CACHE_SECONDS)


async def history_csv(request: Request) -> Response:
    """``history.csv``: the same candles for a spreadsheet."""
    wanted = resolution_of(request.query_params.get("resolution", ""))
    work_class, mode = _class(request), _mode(request)
    found = await board_of(request).history(work_class, wanted, mode)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for candle in found.value.candles:
        row = candle_json(candle)
        writer.writerow([row[column] for column in CSV_COLUMNS])
    # Names of classes are ours, but the file's name is built from what was asked.
    plain = "".join(c for c in work_class if c.isascii() and (c.isalnum() or c == "-"))
    name = plain if mode is Mode.EXACT else f"{plain}-{mode}"
    return answer(
        request,
        text.getvalue(),
        "text/csv; charset=utf-8",
        public(BOARD_HISTORY_CACHE_SECONDS),
        headers={
            "content-disposition": f'attachment; filename="{name}-{wanted.key}.csv"',
            "x-as-of-us": str(found.value.as_of_us),
        },
    )


async def trades(request: Request) -> Response:
    """``trades.json``: the newest trades of all modes or of one, newest first."""
    tape = board_of(request).tape
    if tape.trouble is not None and not tape.as_of_us:
        raise tape.trouble
    wanted, mode = request.query_params.get("work_class", ""), _mode_or_all(request)
    body = {
        "as_of_us": tape.as_of_us,
        "currency": (await board_of(request).spot()).value.currency,
        "trades": [trade_json(trade) for trade in tape.recent(wanted, mode=mode)],
    }
    return answer(request, _dump(body), JSON, public(BOARD_CACHE_SECONDS))


async def snapshot(request: Request) -> Response:
    """``snapshot.json``: the newest signed price snapshot, byte for byte as it was signed."""
    found = await board_of(request).snapshot()
    return answer(request, found.value, JSON, public(BOARD_CACHE_SECONDS))


async def live_trades(request: Request) -> Response:
    """Trades as they happen, oldest first, as server-sent events; ``work_class`` selects a class,
    ``mode`` a mode.

    The first event ``begins``: its trades replace what the reader has.
    """
    tape = board_of(request).tape
    wanted, mode = request.query_params.get("work_class", ""), _mode_or_all(request)

    def event(as_of_us: int, shown: Iterable[Trade], begins: bool) -> tuple[str, Any]:
        found = [trade_json(trade) for trade in shown]
        return "tape", {"as_of_us": as_of_us, "begins": begins, "trades": found}

    def begin() -> tuple[str, Any]:
        newest = tape.recent(wanted, BOARD_STREAM_TRADES, mode)
        return event(tape.as_of_us, reversed(newest), True)

    def render(message: TapeMessage) -> tuple[str, Any]:
        chosen = [
            t for t in message.trades if wanted in ("", t.work_class) and mode in ("", t.mode)
        ]
        return event(message.as_of_us, chosen[-BOARD_TAPE_TRADES:], False)

    return event_stream(tape.listeners, render, begin)


async def job(request: Request) -> Response:
    """``jobs/ID.json``: a job of ours with the curve of its scalar outputs so far."""
    board, job_id = board_of(request), request.path_params["job_id"]
    found = await board.job(job_id)
    story = board.job_feeds.story(job_id)
    body = {
        **job_json(found.value),
        "step": max(story.step, found.value.steps_committed),
        "curves": story.curves,
    }
    return answer(request, _dump(body), JSON, PRIVATE)


async def live_job(request: Request) -> Response:
    """The story of a job of ours as it goes on."""
    board, job_id = board_of(request), request.path_params["job_id"]
    await board.job(job_id)

    def render(event: JobEvent) -> tuple[str, Any]:
        return "progress" if event.kind == "progress" else "story", dataclasses.asdict(event)

    return event_stream(board.job_feeds.listeners(job_id), render)


ROUTES = [
    Route("/api/v1/spot.json", spot),
    Route("/api/v1/offers.json", offers),
    Route("/api/v1/book.json", book),
    Route("/api/v1/history.json", history),
    Route("/api/v1/history.csv", history_csv),
    Route("/api/v1/trades.json", trades),
    Route("/api/v1/snapshot.json", snapshot),
    Route("/api/v1/trades", live_trades),
    Route("/api/v1/jobs/{job_id:str}.json", job),
    Route("/api/v1/jobs/{job_id:str}/events", live_job),
]


def offer_json(offer: Offer) -> dict[str, Any]:
    """An offer with its derived share of right segments."""
    return {**dataclasses.asdict(offer), "reliability": offer.reliability}


def candle_json(candle: Candle) -> dict[str, Any]:
    """A candle; ``operations`` as text, ``pflop`` beside it for charts."""
    return {
        **dataclasses.asdict(candle),
        "operations": str(candle.operations),
        "pflop": candle.pflop,
    }


def trade_json(trade: Trade) -> dict[str, Any]:
    """A trade; ``operations`` as text, ``pflop`` beside it for charts."""
    return {**dataclasses.asdict(trade), "operations": str(trade.operations), "pflop": trade.pflop}


def job_json(job: Job) -> dict[str, Any]:
    """A job with its segments."""
    return dataclasses.asdict(job)


def _class(request: Request) -> str:
    work_class = request.query_params.get("work_class", DEFAULT_CLASS)
    if len(work_class) > MAX_REQUEST_TEXT_CHARACTERS:
        raise InvalidInput("work_class is too long", code="BOARD_PARAMETER")
    return work_class


def _mode(request: Request) -> Mode:
    return mode_of(request.query_params.get("mode", ""))


def _mode_or_all(request: Request) -> str:
    return _mode(request) if request.query_params.get("mode") else ""


def _json(
    request: Request,
    found: Answer[Any],
    body: dict[str, Any],
    seconds: float = BOARD_CACHE_SECONDS,
) -> Response:
    """``body`` with when it was true; ``stale`` says why it is not newer."""
    full = {"as_of_us": found.value.as_of_us, "currency": found.value.currency, **body}
    if found.trouble is not None:
        full["stale"] = found.trouble.code
    return answer(request, _dump(full), JSON, public(seconds))


def _dump(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=True, separators=(",", ":"))
