"""Listings page by page, up to a named maximum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from flopmarket.client.failures import AnswerRefused
from flopmarket.limits import MAX_CLIENT_PAGES


class Paged(Protocol):
    """One page of an answer; the token is empty on the last one."""

    @property
    def next_page_token(self) -> str: ...


class PageRequest(Protocol):
    """A request for one page."""

    page_size: int
    page_token: str


Page = TypeVar("Page", bound=Paged)


def pages(page: Callable[[str], Page], what: str) -> Iterator[Page]:
    """Every page, asked for by its token; at least one.

    AnswerRefused ``TOO_MANY_PAGES`` for a listing of ``what`` that does not end.
    """
    token = ""
    for _ in range(MAX_CLIENT_PAGES):
        answer = page(token)
        yield answer
        token = answer.next_page_token
        if not token:
            return
    raise AnswerRefused(f"more than {MAX_CLIENT_PAGES} pages of {what}", code="TOO_MANY_PAGES")
