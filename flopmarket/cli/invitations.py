"""What ``flop invite`` and ``flop admin invite`` share: options, the list, and names cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

import click

from flopmarket.cli.output import Output, instant

Function = TypeVar("Function", bound=Callable[..., Any])

_SHORTEST_PREFIX = 8


class Invitation(Protocol):
    """One invitation, for a machine or for an account."""

    @property
    def invitation_id(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def expires_at_us(self) -> int: ...


Shown = TypeVar("Shown", bound=Invitation)


def invitation_options(*, expires: str, invited: str) -> Callable[[Function], Function]:
    """Options of a command that invites for so long by default, lists and revokes; they arrive as
    ``expires``, ``reached_at``, ``listing`` and ``revoked``."""
    where = f"Where {invited} finds the coordinator, if not where we do."
    options = (
        click.option(
            "--expires", default=expires, show_default=True, metavar="SPAN", help="At most 30d."
        ),
        click.option("--at", "reached_at", metavar="HOST:PORT", help=where),
        click.option("--list", "listing", is_flag=True, help="Show invitations instead."),
        click.option("--revoke", "revoked", metavar="ID", help="End an invitation instead."),
    )

    def add(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def show_invitations(
    out: Output,
    found: Iterable[Shown],
    names: tuple[str, str],
    texts: Callable[[Shown], tuple[str, str]],
) -> None:
    """A list with two columns of the caller's: what it is for, and what came with it."""

    def cells(item: Shown) -> tuple[str, ...]:
        purpose, came = texts(item)
        until = instant(item.expires_at_us)
        return item.invitation_id[:16], purpose, item.state, until, came[:16]

    columns = ("invitation", names[0], "state", "until (UTC)", names[1])
    out.listing(found, columns, cells, "no invitations")


def full_id(found: Iterable[Invitation], prefix: str) -> str:
    """The one invitation that begins so; what was typed where there is none, or more."""
    named = [item.invitation_id for item in found if item.invitation_id.startswith(prefix)]
    return named[0] if len(named) == 1 and len(prefix) >= _SHORTEST_PREFIX else prefix
