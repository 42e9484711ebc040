"""One Chromium and one board for all tests of this folder; without Chromium they are skipped.

They end with the folder: Playwright keeps an event loop running in the thread of the tests, and
other tests start loops of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Response

from tests.browser.chromium import CHROMIUM, browser
from tests.browser.serving import Served, served
from tests.web.sample import SampleMarket

DESK = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 740}

WATCH = """
addEventListener("securitypolicyviolation", (event) => {
  (window.violations ??= []).push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, headless."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with browser() as opened:
        yield opened


@pytest.fixture(scope="package")
def board() -> Iterator[Served]:
    """The sample market, with a key."""
    with served(SampleMarket(days=20)) as running:
        yield running


@pytest.fixture(scope="package")
def hostile() -> Iterator[Served]:
    """The same with names that attack."""
    with served(SampleMarket(days=2, hostile=True)) as running:
        yield running


@dataclass
class Tab:
    """A page that remembers everything it complained about."""

    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        """Go there and wait until its charts are drawn."""
        answer = self.page.goto(self.address + path)
        assert answer is not None
        for chart in self.page.locator("[data-chart]:visible").all():
            chart.locator("xpath=self::*[@data-drawn='yes']").wait_for(timeout=10_000)
        return self.page

    def check(self) -> None:
        """Fail for any error, warning, blocked or foreign file so far."""
        violations = self.page.evaluate("window.violations ?? []")
        assert not [*self.complaints, *violations]


OpenTab = Callable[..., Tab]


@pytest.fixture
def tab(chromium: Browser, board: Served) -> Iterator[OpenTab]:
    """Open tabs; ``served`` chooses another board, other arguments are Playwright's."""
    with ExitStack() as stack:

        def open_(on: Served = board, **options: Any) -> Tab:
            context = chromium.new_context(**{"viewport": DESK, **options})
            stack.callback(context.close)
            if options.get("java_script_enabled", True):
                context.add_init_script(WATCH)
            made = Tab(context.new_page(), on.address)

            def on_response(response: Response) -> None:
                if not response.url.startswith(on.address):
                    made.complaints.append(f"foreign: {response.url}")
                elif response.status >= 400:
                    made.complaints.append(f"{response.status}: {response.url}")

            made.page.on("response", on_response)
            made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
            made.page.on(
                "console",
                lambda message: (
                    made.complaints.append(message.text)
                    if message.type in ("error", "warning")
                    else None
                ),
            )
            return made

        yield open_
