"""Options of ``flop coordinator serve`` that say how long audits and disputes wait.

Defaults stand here as numbers, as the other options' do, so that a help text imports nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from flopmarket.trust.dispute import DisputeWaits
    from flopmarket.trust.sealing import Waits

Function = TypeVar("Function", bound=Callable[..., Any])

_SECOND_US = 1_000_000
_MOST_SECONDS = 30 * 86_400
_AUDIT_WAITS: Mapping[str, tuple[str, float, float, str]] = {
    "audit_jitter": ("jitter_us", 0, 600, "within which audits by others begin after their draw"),
    "audit_idle": ("idle_us", 1, 600, "for a drawn auditor to be free; then the next is asked"),
    "audit_answer": ("answer_us", 1, 1_800, "for an auditor's answer, beside its computing"),
    "audit_opening": ("opening_us", 1, 60, "for an auditor to open what it sealed"),
    "worker_opening": ("worker_us", 1, 86_400, "for a worker to open; then the house recomputes"),
}
"""Names of options: the field they set, least and default in seconds, what these are for."""


def wait_options(function: Function) -> Function:
    """Add the options; the command receives them as keyword arguments, in seconds, for
    :func:`audit_waits` and :func:`dispute_waits`."""
    what = "for each answer in a dispute; silence loses it"
    function = _seconds("dispute_answer", 1, 210, what)(function)
    for name, (_, least, default, what) in reversed(list(_AUDIT_WAITS.items())):
        function = _seconds(name, least, default, what)(function)
    return function


def _seconds(name: str, least: float, default: float, what: str) -> Callable[[Function], Function]:
    return click.option(
        f"--{name.replace('_', '-')}",
        type=click.FloatRange(least, _MOST_SECONDS),
        default=default,
        show_default=True,
        help=f"Seconds {what}.",
    )


def audit_waits(given: Mapping[str, float]) -> Waits:
    """The waits of audits among the options' values."""
    from flopmarket.trust.sealing import Waits

    values = {field: int(given[name] * _SECOND_US) for name, (field, *_) in _AUDIT_WAITS.items()}
    return Waits(**values)


def dispute_waits(given: Mapping[str, float]) -> DisputeWaits:
    """The waits of disputes among the options' values."""
    from flopmarket.trust.dispute import DisputeWaits

    return DisputeWaits(int(given["dispute_answer"] * _SECOND_US))
