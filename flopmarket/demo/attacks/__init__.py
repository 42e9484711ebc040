"""``flop demo --attacks``: bots that cheat, each against the real market, and what becomes of them.

Liars are workers of their own with real kernels, in a market of real processes; forgers and hostile
buyers meet the same coordinator. Auditors that lie, and liars in the two modes whose bits nobody
else has, have a second one, and whoever skips steps of big segments a third. Cheats that play for
money over months play a thousand runs each against the very functions that set audit rates and
divide money.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from flopmarket.demo.attacks import (
    blind,
    buyers,
    classmates,
    forgers,
    liars,
    players,
    skippers,
    tolerant,
)
from flopmarket.demo.attacks.league import League
from flopmarket.demo.attacks.stage import Stage
from flopmarket.demo.processes import Cast

LEAST_WIDTH = 132
"""Columns of the table; narrower terminals wrap."""


Acts = Callable[[League, Console, Path, Path | None], None]
"""(league, console, folder for everything, folder of compiled kernels)."""


def tell(arguments: list[str], acts: Acts | None = None) -> int:
    """Let every bot try; 0 when none of them gets away with more than is documented.

    ``acts`` are all there are unless others are given.
    """
    parser = argparse.ArgumentParser(prog="flop demo --attacks")
    parser.add_argument("--keep", type=Path, help="keep keys, database, logs and receipts here")
    parser.add_argument("--cache-dir", type=Path, help="compiled kernels (default: the user's)")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=max(Console().width, LEAST_WIDTH))
    folder: Path = options.keep or Path(tempfile.mkdtemp(prefix="flop-attacks-"))
    folder.mkdir(parents=True, exist_ok=True)
    league = League(console)
    began = time.monotonic()
    try:
        (acts or play)(league, console, folder, options.cache_dir)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        league.show(time.monotonic() - began)
    return 0 if league.all_hold else 1


def play(league: League, console: Console, folder: Path, cache_dir: Path | None) -> None:
    """All acts: three markets of processes, then the cheats that need none."""
    with Cast(folder / "logs") as cast:
        stage = Stage(console, folder / "market", cast, cache_dir)
        console.print("[bold]A market opens[/], with one honest worker")
        stage.open()
        liars.play(stage, league)
        buyers.play(stage, league)
        forgers.play(stage, league)
        stage.check(league, "books after all of this")
        stage.close()
        second = Stage(console, folder / "blind", cast, cache_dir, stage.measured)
        blind.play(second, league)
        classmates.play(second, league)
        tolerant.play(second, league)
        second.check(league, "books of the second market")
        second.close()
        third = Stage(console, folder / "big", cast, cache_dir, stage.measured)
        skippers.play(third, league)
        third.check(league, "books of the third market")
    players.play(league)
