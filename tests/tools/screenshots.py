"""Pictures of the price board for the documentation, from the sample market.

``python -m tests.tools.screenshots`` writes docs/screenshots/. Text is drawn with the fonts of the
machine; the pictures in the repository were made with Inter and JetBrains Mono installed.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from tests.browser.chromium import browser
from tests.browser.serving import Served, served
from tests.web.sample import SampleMarket

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
MAX_BYTES = 150_000
DESK, PHONE = (1280, 860), (360, 740)
JOB, WAITING = "5f" * 32, "a1" * 32

# name, path, colours, window, whole page
SHOTS = (
    ("market", "/", "light", DESK, False),
    ("market-dark", "/", "dark", DESK, False),
    ("market-phone", "/", "light", PHONE, False),
    ("class", "/class/dot-f32", "light", DESK, True),
    ("class-dark", "/class/dot-f32?resolution=1h", "dark", DESK, False),
    ("class-phone", "/class/dot-f32?resolution=1h", "dark", PHONE, False),
    ("offers", "/offers?sort=-flops_per_dollar", "light", DESK, False),
    ("offers-phone", "/offers", "dark", PHONE, False),
    ("job", f"/jobs/{JOB}", "light", DESK, True),
    ("job-waiting", f"/jobs/{WAITING}", "light", DESK, False),
    ("device", "DEVICE", "dark", DESK, True),
    ("device-phone", "DEVICE", "light", PHONE, False),
    ("about", "/about", "light", DESK, False),
)


def main() -> None:
    """Write every picture, or those whose names are given."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:]
    with browser() as opened, served(SampleMarket()) as board:
        for name, path, colours, window, whole in SHOTS:
            if not wanted or name in wanted:
                take(opened, board, name, path, colours, window, whole)


def take(
    opened: Browser,
    board: Served,
    name: str,
    path: str,
    colours: str,
    window: tuple[int, int],
    whole: bool,
) -> None:
    """One picture, in at most 256 colours."""
    width, height = window
    context = opened.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if colours == "dark" else "light",
        device_scale_factor=2 if window == PHONE else 1,
        reduced_motion="reduce",
    )
    page = context.new_page()
    if path == "DEVICE":
        page.goto(f"{board.address}/devices")
        path = str(page.locator("tbody a").first.get_attribute("href"))
    page.goto(board.address + path)
    for chart in page.locator("[data-chart]:visible").all():
        chart.locator("xpath=self::*[@data-drawn]").wait_for()
    page.wait_for_timeout(300)
    png = page.screenshot(full_page=whole)
    context.close()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    target = FOLDER / f"{name}.png"
    for count in (256, 128, 64, 32):
        reduced = picture.quantize(count, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        reduced.save(target, optimize=True)
        if target.stat().st_size <= MAX_BYTES:
            break
    print(f"{target.name}: {target.stat().st_size // 1000} kB, {picture.width}x{picture.height}")


if __name__ == "__main__":
    main()
