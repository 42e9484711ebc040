"""Modes: what numerics a job runs with, and so what its verification relies on (docs/modes.md).

The word stands in the signed job, in offers and in receipts, and decides which kernels an engine
builds and how a segment is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from flopmarket.trust.encoding import DIGEST_BYTES

NO_CLASS = bytes(DIGEST_BYTES)
"""The class digest of a job that is bound to none, and the two of an offer that is in none."""


class Mode(StrEnum):
    """Numerics that verification relies on.

    ``EXACT``: the bits are those of the profile, on every device. ``CLASS``: they are equal among
    devices of one class (:mod:`flopmarket.trust.device_class`). ``TOLERANCE``: the prescribed order
    of sums with the device's own rounding details, judged within bounds.
    """

    EXACT = "exact"
    CLASS = "class"
    TOLERANCE = "tolerance"


def in_order(modes: Sequence[Mode]) -> bool:
    """Whether there is at least one mode, each once, ascending by name."""
    names = [mode.value for mode in modes]
    return bool(names) and names == sorted(set(names))
