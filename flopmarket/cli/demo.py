"""``flop demo``: start the demonstration, which lives in :mod:`flopmarket.demo`."""

from __future__ import annotations

import importlib

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> int:
    """The whole market on this machine, end to end: quote, train, catch a cheat, pay, verify.

    With --market a market day instead: 40 simulated owners with tariffs and schedules, three real
    workers, buyers with market and limit orders, and every claim derived again afterwards.
    --currency USD|flopcoin, --minutes N (of 24 hours), --owners N, --orders N, --seed N, --board.
    With --attacks a league of bots that cheat, each caught, refused, or shown to lose money.
    All: --keep DIR, --cache-dir DIR.
    """
    from flopmarket.errors import FlopmarketError

    try:
        module = importlib.import_module("flopmarket.demo")
    except ModuleNotFoundError as error:
        raise FlopmarketError(
            f"the demonstration cannot start: {error}",
            code="DEMO_NOT_INSTALLED",
            hint="pip install 'flopmarket[demo]'",
        ) from error
    return int(module.main(list(arguments)) or 0)
