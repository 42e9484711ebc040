"""Where a device is, as its owner states it: words with dashes from the large to the small.

``eu-de-berlin`` is within ``eu-de`` and ``eu``. Nobody verifies it; orders may ask for it.
"""

from __future__ import annotations

import re

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_REGION_CHARACTERS

_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def check_region(region: str, *, empty: bool = False) -> str:
    """``region`` if it is words of a-z and 0-9 with dashes between, such as ``eu-de``."""
    if (empty and not region) or (
        len(region) <= MAX_REGION_CHARACTERS and _REGION.fullmatch(region)
    ):
        return region
    raise InvalidInput(
        f"{region[:MAX_REGION_CHARACTERS]!r} is not a region",
        code="REGION_MALFORMED",
        hint=f"write it like eu-de: at most {MAX_REGION_CHARACTERS} of a-z, 0-9 and dashes",
    )


def region_within(region: str, area: str) -> bool:
    """Whether ``region`` is ``area`` or a part of it."""
    return region == area or region.startswith(f"{area}-")
