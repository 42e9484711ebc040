"""``flop demo``: start the demonstration, which lives in :mod:`flopmarket.demo`."""

from __future__ import annotations

import importlib

import click


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> int:
    """The whole market on this machine, end to end: quote, train, catch a cheat, pay, verify."""
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
