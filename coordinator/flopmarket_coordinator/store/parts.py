"""Long lists for statements, a part at a time: databases bound the parameters of one statement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flopmarket.limits import MAX_LISTED_VALUES


def parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """``values`` in order, at most ``MAX_LISTED_VALUES`` together."""
    for first in range(0, len(values), MAX_LISTED_VALUES):
        yield values[first : first + MAX_LISTED_VALUES]
