"""The price board in a real browser."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web.model import JobEvent
from tests.browser.conftest import PHONE, OpenTab
from tests.browser.serving import Served, served
from tests.web.sample import NOW_US, Mood, SampleMarket

JOB, WAITING = "5f" * 32, "a1" * 32
PATHS = (
    "/",
    "/class/dot-f32",
    "/class/integer?resolution=1m",
    "/?mode=class",
    "/class/dot-f32?mode=tolerance",
    "/offers",
    "/jobs",
    f"/jobs/{JOB}",
    f"/jobs/{WAITING}",
    "/devices",
    "/about",
)
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}

COLOURS = """(element) => {
  const seen = new Set();
  for (const canvas of element.querySelectorAll("canvas")) {
    if (!canvas.width || !canvas.height) continue;
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    for (let i = 0; i < data.length; i += 4) if (data[i + 3]) seen.add(data.slice(i, i + 3).join());
  }
  return seen.size;
}"""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_pages_load_without_a_complaint(tab: OpenTab, path: str, colours: str) -> None:
    opened = tab(color_scheme=colours)
    opened.open(path)
    opened.page.wait_for_timeout(200)
    opened.check()


def first_device(page: Page) -> str:
    return str(page.locator("tbody a").first.get_attribute("href"))


def test_every_chart_is_drawn(tab: OpenTab) -> None:
    opened = tab()
    opened.open("/devices")
    device = first_device(opened.page)
    counts = {}
    for path in ("/", "/class/dot-f32", f"/jobs/{JOB}", device):
        page = opened.open(path)
        page.wait_for_timeout(150)
        for chart in page.locator("[data-chart]").all():
            kind = str(chart.get_attribute("data-chart"))
            counts[kind] = counts.get(kind, 0) + 1
            assert chart.evaluate(COLOURS) > 3, f"{kind} on {path} is blank"
    assert set(counts) == {"spark", "candles", "depth", "curves", "earnings"}
    opened.check()


def test_the_history_can_be_zoomed(tab: OpenTab) -> None:
    page = tab().open("/class/dot-f32?resolution=1h")
    readout = page.locator("#readout")
    assert not readout.inner_text().startswith("2026-11-08 "), "the newest come first"
    page.get_by_role("button", name="All").click()
    expect(readout).to_contain_text("2026-11-08 ")
    whole = readout.inner_text()
    page.get_by_role("button", name="Zoom in").click()
    expect(readout).not_to_have_text(whole)
    nearer = readout.inner_text()
    page.get_by_role("button", name="Earlier").focus()
    page.keyboard.press("Enter")
    expect(readout).not_to_have_text(nearer)
    page.get_by_role("button", name="All").click()
    expect(readout).to_have_text(whole)
    page.locator("#history").hover()
    page.mouse.wheel(0, -400)
    page.mouse.move(5, 5)
    expect(readout).not_to_have_text(whole)


def test_a_candle_under_the_pointer_is_read_out(tab: OpenTab) -> None:
    page = tab().open("/class/dot-f32?resolution=1d")
    page.locator("#history").hover()
    expect(page.locator("#readout")).to_contain_text("close")
    expect(page.locator("#readout")).to_contain_text("p90")


def test_the_chart_has_the_candles_of_its_table(tab: OpenTab) -> None:
    page = tab().open("/class/dot-f32?resolution=1d")
    page.locator("summary").click()
    shown = page.locator("details tbody tr")
    found = page.request.get(page.url.replace("/class/dot-f32", "/api/v1/history.json")).json()
    assert shown.count() == len(found["candles"])


def prices(page: Page) -> list[float]:
    cells = page.locator("td[data-label='$ per PFLOP']").all_inner_texts()
    return [float(cell.replace("$", "").replace(",", "")) for cell in cells]


def test_offers_are_sorted_by_pointer_and_by_keyboard(tab: OpenTab) -> None:
    opened = tab()
    page = opened.open("/offers")
    assert prices(page) == sorted(prices(page))
    page.get_by_role("link", name="Price", exact=True).click()
    assert prices(page) == sorted(prices(page), reverse=True)
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.get_by_role("link", name="Memory").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**sort=-memory**")
    page.get_by_label("Max. $ per PFLOP").fill("0.003")
    page.get_by_label("Max. $ per PFLOP").press("Enter")
    page.wait_for_url("**price=0.003**")
    assert max(prices(page)) <= 0.003
    assert "sort=-memory" in page.url
    opened.check()


FOCUS = """() => {
  const at = document.activeElement;
  const box = at.getBoundingClientRect();
  const style = getComputedStyle(at);
  return {
    tag: at.tagName, text: at.textContent.trim().slice(0, 30), top: box.top + scrollY,
    width: box.width, outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
  };
}"""


@pytest.mark.parametrize("path", ["/", "/class/dot-f32", "/offers", f"/jobs/{JOB}"])
def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(
    tab: OpenTab, path: str
) -> None:
    page = tab().open(path)
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUS)["text"] == "Skip to content"
    seen: list[dict[str, Any]] = []
    for _ in range(400):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUS)
        if at["tag"] == "BODY":
            break
        seen.append(at)
    assert [at for at in seen if not at["outline"]] == []
    assert min(at["width"] for at in seen) > 0
    wanted = "a[href], button, input, select, summary, [tabindex='0']"
    reachable = page.locator(wanted).locator("visible=true").count()
    assert len(seen) == reachable - 1, "all but the skip link"
    assert seen[-1]["text"].startswith("TradingView")


def test_the_skip_link_skips(tab: OpenTab) -> None:
    page = tab().open("/offers")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("path", PATHS)
def test_a_phone_has_no_sideways_scroll(tab: OpenTab, path: str) -> None:
    page = tab(viewport=PHONE, is_mobile=True, has_touch=True).open(path)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("path", ["/", "/offers?rows=200", "/class/dot-f32", f"/jobs/{JOB}"])
def test_hostile_names_are_inert_and_fit_a_phone(tab: OpenTab, hostile: Served, path: str) -> None:
    opened = tab(hostile, viewport=PHONE)
    page = opened.open(path)
    page.wait_for_timeout(200)
    assert page.title() not in ("owned", "1")
    assert page.locator("img").count() == 0
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
    opened.check()


@pytest.mark.slow
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("window", [None, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing(tab: OpenTab, colours: str, window: dict[str, int] | None) -> None:
    options = {"viewport": window} if window else {}
    opened = tab(color_scheme=colours, reduced_motion="reduce", **options)
    page = opened.open("/devices")
    found = []
    for path in (*PATHS, first_device(page)):
        page = opened.open(path)
        for violation in Axe().run(page, options=AXE).response["violations"]:
            where = [node["target"] for node in violation["nodes"]][:3]
            found.append((path, violation["id"], violation["help"], where))
    assert found == []


def test_the_readers_colours_are_kept(tab: OpenTab) -> None:
    page = tab(color_scheme="light").open("/")
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(paper)
    button = page.locator("#theme")
    button.click()
    assert page.evaluate(paper) == light
    button.click()
    dark = page.evaluate(paper)
    assert dark != light
    page.goto(page.url + "offers")
    assert page.evaluate(paper) == dark
    assert button.inner_text() == "Dark"


def test_trades_arrive_while_the_page_is_open(tab: OpenTab, board: Served) -> None:
    opened = tab()
    page = opened.open("/")
    expect(page.locator("#pulse")).to_have_attribute("data-live", "on")
    board.trade_now("dot-int", 7.25, "Fresh <b>card</b>")
    first = page.locator("#trades tbody tr").first
    expect(first).to_contain_text("Fresh <b>card</b>")
    expect(first).to_contain_text("7.25")
    expect(first.locator("a")).to_have_attribute("href", "/class/dot-int")
    assert page.locator("#trades tbody tr").count() == 12
    opened.check()


def test_a_class_page_hears_of_its_class_only(tab: OpenTab, board: Served) -> None:
    page = tab().open("/class/dot-f32")
    expect(page.locator("#pulse")).to_have_attribute("data-live", "on")
    board.trade_now("dot-int", 1.0, "Another class")
    board.trade_now("dot-f32", 2.0, "This class")
    expect(page.locator("#trades tbody tr").first).to_contain_text("This class")
    assert "Another class" not in page.locator("#trades").inner_text()


def test_a_page_hears_of_its_mode_only(tab: OpenTab, board: Served) -> None:
    opened = tab()
    page = opened.open("/")
    page.get_by_role("navigation", name="Mode").get_by_role("link", name="class").click()
    expect(page.locator("#pulse")).to_have_attribute("data-live", "on")
    board.trade_now("dot-f32", 1.0, "Exact card")
    board.trade_now("dot-f32", 2.0, "Fast card", Mode.CLASS)
    first = page.locator("#trades tbody tr").first
    expect(first).to_contain_text("Fast card")
    expect(first.locator("a")).to_have_attribute("href", "/class/dot-f32?mode=class")
    assert "Exact card" not in page.locator("#trades").inner_text()
    opened.check()


def test_a_job_goes_on_while_the_page_is_open(tab: OpenTab) -> None:
    with served(SampleMarket(days=1)) as own:
        opened = tab(own)
        page = opened.open(f"/jobs/{JOB}")
        expect(page.locator("#pulse")).to_have_attribute("data-live", "on")
        own.job_event(JobEvent(0, NOW_US, "progress", "", 12_345, {"loss": 0.1875}))
        expect(page.locator("#step")).to_have_text("12,345")
        expect(page.locator("#readout")).to_contain_text("loss 0.1875 at step 12,345")
        own.market.end_job(JOB)
        own.job_event(JobEvent(99, NOW_US, "succeeded", "all segments paid", 0, {}))
        expect(page.locator("#story li").first).to_contain_text("all segments paid")
        expect(page.locator("#job-state")).to_have_text("succeeded", timeout=15_000)
        opened.check()


def test_nothing_moves_for_those_who_ask(tab: OpenTab, board: Served) -> None:
    page = tab(reduced_motion="reduce").open("/")
    expect(page.locator("#pulse")).to_have_attribute("data-live", "on")
    board.trade_now("integer", 1.5, "Quiet card")
    expect(page.locator("#trades tbody tr").first).to_contain_text("Quiet card")
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("path", ["/", "/class/dot-f32", "/offers", f"/jobs/{JOB}"])
def test_without_javascript_the_figures_are_there(tab: OpenTab, path: str) -> None:
    page = tab(java_script_enabled=False).page
    page.goto(tab().address + path)
    assert page.locator("table tbody tr").count() > 3
    assert page.locator("#theme").is_hidden()


def test_an_absent_coordinator_is_explained(tab: OpenTab) -> None:
    with served(SampleMarket(mood=Mood.AWAY, days=0)) as away:
        page = tab(away, viewport=PHONE).page
        page.goto(away.address)
        expect(page.get_by_role("heading", level=1)).to_have_text("The coordinator is away")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
        away.market.mood = Mood.WELL
        page.get_by_role("link", name="Try again").click()
        expect(page.get_by_role("heading", level=2).first).to_have_text("Classes of work")
