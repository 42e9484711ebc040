"""Listings page by page: every page once, and an end to what has none."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from flopmarket.client.failures import AnswerRefused
from flopmarket.client.paging import pages
from flopmarket.limits import MAX_CLIENT_PAGES


@dataclass(frozen=True)
class Page:
    asked_with: str
    next_page_token: str


def test_pages_are_asked_for_until_there_is_no_token() -> None:
    following = {"": "a", "a": "b", "b": ""}
    found = [page.asked_with for page in pages(lambda token: Page(token, following[token]), "it")]
    assert found == ["", "a", "b"]


def test_a_listing_without_an_end_is_refused_and_nothing_is_cut_short() -> None:
    seen = 0
    with pytest.raises(AnswerRefused, match=f"more than {MAX_CLIENT_PAGES} pages of jobs") as error:
        for _ in pages(lambda token: Page(token, token + "x"), "jobs"):
            seen += 1
    assert (seen, error.value.code) == (MAX_CLIENT_PAGES, "TOO_MANY_PAGES")
