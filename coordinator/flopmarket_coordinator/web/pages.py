"""The pages. Each gathers its figures and renders a template; without JavaScript all of it reads.

A figure that cannot be had leaves its part of the page empty with a sentence; only a page whose
main figure is missing becomes an error page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import jinja2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flopmarket.errors import FlopmarketError, InvalidInput, NotFound
from flopmarket.market.money import parse_nano
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web import assets, present
from flopmarket_coordinator.web.answers import PRIVATE, answer
from flopmarket_coordinator.web.api import board_of
from flopmarket_coordinator.web.board import (
    RESOLUTIONS,
    SECOND_US,
    Board,
    electricity_nano,
    mode_of,
    resolution_of,
)
from flopmarket_coordinator.web.cache import Answer
from flopmarket_coordinator.web.model import Day, Earnings, Offer, OfferQuery, Why
from flopmarket_coordinator.web.problems import RETRY_SECONDS, status_of
from flopmarket_coordinator.web.query import DEFAULT_CLASS, SUITED, OfferForm

HTML = "text/html; charset=utf-8"
PUBLIC_PAGE = "no-cache"  # kept, but asked about each time: 304 while nothing moved
TRADES_SHOWN = 12
CLASS_TRADES_SHOWN = 20
CHEAPEST_SHOWN = 8

Value = TypeVar("Value")


@cache
def environment() -> jinja2.Environment:
    """Templates with every value escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("flopmarket_coordinator.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(present.FILTERS)
    made.globals.update(
        asset=assets.address,
        charts_integrity=assets.CHARTS_INTEGRITY,
        watts_words=present.WATTS,
        modes=tuple(Mode),
        mode_words=present.MODES,
    )
    return made


async def market(request: Request) -> Response:
    """Every class of work in one mode, the newest trades, the cheapest devices."""
    board, mode = board_of(request), mode_of(request.query_params.get("mode", ""))
    overview = await board.overview(mode)
    rows = overview.value.rows
    names = [row.spot.work_class for row in rows]
    first = DEFAULT_CLASS if DEFAULT_CLASS in names or not names else names[0]
    cheapest, accuracy = await asyncio.gather(
        _or_none(board.offers(OfferQuery(work_class=first, page_size=CHEAPEST_SHOWN, mode=mode))),
        _or_none(board.accuracy()),
    )
    return _page(
        request,
        "market.html",
        overview,
        rows=rows,
        first=first,
        cheapest=cheapest,
        accuracy=accuracy,
        trades=board.tape.recent(count=TRADES_SHOWN, mode=mode),
        mode=mode,
    )


async def work_class(request: Request) -> Response:
    """One class in one mode: history, depth, trades."""
    board, name = board_of(request), request.path_params["work_class"]
    resolution = resolution_of(request.query_params.get("resolution", ""))
    mode = mode_of(request.query_params.get("mode", ""))
    answered, spot = await board.class_spot(name, mode)
    history, book, day = await asyncio.gather(
        _or_none(board.history(name, resolution, mode)),
        _or_none(board.book(name, mode)),
        board.day(name, mode),
    )
    return _page(
        request,
        "class.html",
        answered,
        spot=spot,
        day=day,
        history=history,
        book=book,
        resolution=resolution,
        resolutions=RESOLUTIONS.values(),
        trades=board.tape.recent(name, CLASS_TRADES_SHOWN, mode),
        mode=mode,
    )


async def offers(request: Request) -> Response:
    """Live offers, sorted and filtered by the coordinator."""
    board = board_of(request)
    form = OfferForm.read(request.query_params)
    try:
        spot = await board.spot(mode_of(form.mode))
        classes = [one.work_class for one in spot.value.classes]
    except FlopmarketError:
        classes = []
    found = await board.offers(form.query())
    if form.work_class not in classes:
        classes.append(form.work_class)
    return _page(
        request,
        "offers.html",
        found,
        form=form,
        classes=classes,
        suited=SUITED,
        orders=form.choices(),
        page=found.value,
    )


async def jobs(request: Request) -> Response:
    """Our jobs."""
    found = await board_of(request).jobs()
    return _page(request, "jobs.html", found, jobs=found.value, is_private=True)


async def job(request: Request) -> Response:
    """One job of ours."""
    board, job_id = board_of(request), request.path_params["job_id"]
    found = await board.job(job_id)
    story = await board.job_feeds.begun(job_id)
    why: Answer[Why] | None = None
    if found.value.state == "queued":
        why = await _or_none(board.why(job_id))
    return _page(
        request,
        "job.html",
        found,
        job=found.value,
        story=story,
        step=max(story.step, found.value.steps_committed),
        why=why,
        is_private=True,
    )


@dataclass(frozen=True, slots=True)
class DayLine:
    """One day of a device with its electricity; None where watts or tariff are unknown."""

    day: Day
    electricity_nano: int | None
    net_nano: int | None


async def devices(request: Request) -> Response:
    """Our devices."""
    found = await board_of(request).devices()
    return _page(request, "devices.html", found, offers=found.value.offers, is_private=True)


async def device(request: Request) -> Response:
    """One device of ours: what it earned, what its electricity cost."""
    board, offer_id = board_of(request), request.path_params["offer_id"]
    found = await board.devices()
    mine = {offer.offer_id: offer for offer in found.value.offers}
    if offer_id not in mine:
        raise NotFound(
            "no live device of yours has this offer",
            code="OFFER_NOT_FOUND",
            hint="a device that is away has no offer; its trades stay on the tape",
        )
    offer: Offer = mine[offer_id]
    tariff = _tariff(board, request.query_params.get("tariff", ""))
    earnings = await _or_none(board.earnings(offer_id))
    why = await _or_none(board.why_idle(offer_id)) if offer.state != "busy" else None
    lines = _lines(earnings, tariff)
    return _page(
        request,
        "device.html",
        found,
        offer=offer,
        earnings=earnings,
        lines=lines,
        total=_total(lines),
        tariff_nano=tariff,
        why=why,
        is_private=True,
    )


async def about(request: Request) -> Response:
    """Units, what a trade is, how to check a snapshot."""
    return _render(request, "about.html", 200, as_of_us=0, age_seconds=0.0, trouble=None)


ROUTES = [
    Route("/", market),
    Route("/class/{work_class:str}", work_class),
    Route("/offers", offers),
    Route("/jobs", jobs),
    Route("/jobs/{job_id:str}", job),
    Route("/devices", devices),
    Route("/devices/{offer_id:str}", device),
    Route("/about", about),
]


def error_page(request: Request, error: FlopmarketError) -> Response:
    """One of our errors as a page."""
    status = status_of(error)
    response = _render(
        request,
        "error.html",
        status,
        as_of_us=0,
        age_seconds=0.0,
        trouble=None,
        is_private=True,
        error=error,
        code=status,
        can_retry=status in (503, 504),
    )
    if status in (503, 504):
        response.headers["retry-after"] = str(RETRY_SECONDS)
    return response


def _tariff(board: Board, text: str) -> int | None:
    if not text.strip():
        return board.tariff_nano_per_kwh
    nano = parse_nano(text)
    if nano < 0:
        raise InvalidInput("a tariff is zero or more", code="BOARD_PARAMETER")
    return nano


def _lines(earnings: Answer[Earnings] | None, tariff: int | None) -> list[DayLine]:
    if earnings is None:
        return []
    lines = []
    for day in earnings.value.days:
        cost = electricity_nano(day.joules, tariff)
        net = None if cost is None else day.gross_nano - day.fee_nano - cost
        lines.append(DayLine(day, cost, net))
    return lines


def _total(lines: list[DayLine]) -> DayLine | None:
    """All days together; electricity is unknown when that of any day is."""
    if not lines:
        return None
    days = [line.day for line in lines]
    joules = [day.joules for day in days if day.joules is not None]
    costs = [line.electricity_nano for line in lines if line.electricity_nano is not None]
    whole = Day(
        start_us=days[0].start_us,
        gross_nano=sum(day.gross_nano for day in days),
        fee_nano=sum(day.fee_nano for day in days),
        segments=sum(day.segments for day in days),
        joules=sum(joules) if len(joules) == len(days) else None,
    )
    if len(costs) < len(lines):
        return DayLine(whole, None, None)
    return DayLine(whole, sum(costs), whole.gross_nano - whole.fee_nano - sum(costs))


async def _or_none(question: Awaitable[Answer[Value]]) -> Answer[Value] | None:
    try:
        return await question
    except FlopmarketError:
        return None


def _page(request: Request, template: str, main: Answer[Any], **values: Any) -> Response:
    """A page whose age and trouble are those of its main figure."""
    as_of_us = getattr(main.value, "as_of_us", None)
    if as_of_us is None:
        spot = getattr(main.value, "spot", None)
        asked_at = board_of(request).clock() - main.age_seconds
        as_of_us = spot.as_of_us if spot is not None else int(asked_at * SECOND_US)
    return _render(
        request,
        template,
        200,
        as_of_us=as_of_us,
        age_seconds=main.age_seconds,
        trouble=main.trouble,
        currency=_currency(main.value),
        **values,
    )


def _currency(value: Any) -> str:
    if isinstance(value, tuple):
        value = value[0] if value else None
    spot = getattr(value, "spot", value)
    return str(getattr(spot, "currency", ""))


def _render(
    request: Request, template: str, status: int, *, is_private: bool = False, **values: Any
) -> Response:
    board = board_of(request)
    body = (
        environment()
        .get_template(template)
        .render(
            path=request.url.path,
            notice=board.gateway.notice,
            has_key=bool(board.gateway.account_id),
            tape_trouble=board.tape.trouble,
            **values,
        )
    )
    cache_control = PRIVATE if is_private or status != 200 else PUBLIC_PAGE
    return answer(request, body, HTML, cache_control, status=status)
