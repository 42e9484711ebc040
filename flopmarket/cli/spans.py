"""Spans of time as people write them: ``90s``, ``20min``, ``2h``, ``30d``."""

from __future__ import annotations

import re

_SPAN = re.compile(r"(?P<count>[0-9]{1,9}) ?(?P<unit>s|m|min|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LONGEST_SECONDS = 100 * 366 * 86_400


def span_seconds(text: str, option: str) -> int:
    """Seconds of a span above zero; InvalidInput ``SPAN_MALFORMED``."""
    from flopmarket.errors import InvalidInput

    match = _SPAN.fullmatch(text)
    seconds = int(match["count"]) * _SECONDS[match["unit"]] if match else 0
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise InvalidInput(
            f"{option} {text[:40]!r} is not a span of time",
            code="SPAN_MALFORMED",
            hint="write 90s, 20min, 2h, 30d or 4w",
        )
    return seconds
