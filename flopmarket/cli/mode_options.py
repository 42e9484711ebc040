"""Options of a job's mode, which quote, submit and run share (docs/modes.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

MODES = ("exact", "class", "tolerance")
"""As :class:`flopmarket.trust.modes.Mode`, which is not loaded for ``--help``."""
DEFAULT_MODE = MODES[0]

MEANINGS = {
    "exact": "the bits of a specification, on any admitted device: equal hashes prove the result",
    "class": (
        "fast kernels, with equal bits inside one class of devices (name, driver, kernels): equal "
        "hashes of other owners of that class speak for the result, and nobody outside can check it"
    ),
    "tolerance": (
        "the device's own roundings: drawn steps were judged within error bounds, not for equality"
    ),
}
"""What each mode means for what is proved, in words."""

_OPTIONS = (
    click.option(
        "--mode",
        type=click.Choice(MODES),
        help="What the job runs with and is verified by; without it what JOB.py says, or exact.",
    ),
    click.option(
        "--class",
        "device_class",
        metavar="HEX",
        default="",
        help="With --mode class: the class of devices, from a quote; else the cheapest.",
    ),
)


def mode_options(function: Function) -> Function:
    """Add the options of a mode: the command gets ``mode``, None if it was not named, and
    ``device_class``."""
    wrapped: Any = function
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    result: Function = wrapped
    return result
