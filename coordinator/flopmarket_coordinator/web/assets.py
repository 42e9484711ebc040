"""Files that browsers load: our own, and the chart library out of its package.

The library is TradingView's Lightweight Charts 5.1.0 (Apache-2.0), as the package ``litecharts``
carries it. Its digest is written here and goes into every page, so a browser refuses any other
file, whatever package is installed.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from flopmarket.errors import FlopmarketError, NotFound

CHARTS_PACKAGE = "litecharts"
CHARTS_PATH = ("js", "lightweight-charts.js")
CHARTS_NAME = "lightweight-charts.js"
CHARTS_SHA256 = "756b0ba9f58930226d6b8b9d47ad310448ab85d799ea1f7c2c02304777c10b52"
CHARTS_INTEGRITY = "sha256-" + base64.b64encode(bytes.fromhex(CHARTS_SHA256)).decode()

_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
OWN = ("board.css", "tables.css", "theme.js", "figures.js", "charts.js", "live.js", "icon.svg")


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, whole."""

    content: bytes
    media_type: str
    digest: str


@cache
def asset(name: str) -> Asset:
    """A file by name; NotFound for any other, FlopmarketError BOARD_CHARTS_MISSING."""
    if name == CHARTS_NAME:
        content = _charts()
    elif name in OWN:
        content = resources.files(__package__).joinpath("static", name).read_bytes()
    else:
        raise NotFound(f"no file {name[:40]!r}", code="BOARD_NO_FILE")
    digest = hashlib.sha256(content).hexdigest()
    return Asset(content, _TYPES[name.rpartition(".")[2]], digest)


def address(name: str) -> str:
    """Where pages load a file from; it changes with the content, so browsers may keep it."""
    return f"/static/{asset(name).digest[:12]}/{name}"


def _charts() -> bytes:
    try:
        file = resources.files(CHARTS_PACKAGE).joinpath(*CHARTS_PATH)
        return file.read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise FlopmarketError(
            f"the package {CHARTS_PACKAGE} does not have {'/'.join(CHARTS_PATH)}",
            code="BOARD_CHARTS_MISSING",
            hint="pip install 'flopmarket[board]'",
        ) from None
