"""``flop demo --attacks``: bots that cheat, each against the real market, and what becomes of them.

Liars are workers of their own with real kernels, in a market of real processes; forgers and hostile
buyers meet the same coordinator; cheats that play for money over months play a thousand runs each
against the very functions that set audit rates and divide money.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console

from flopmarket.demo.attacks import blind, buyers, forgers, liars, players
from flopmarket.demo.attacks.league import League
from flopmarket.demo.attacks.stage import Stage
from flopmarket.demo.processes import Cast

LEAST_WIDTH = 132
"""Columns of the table; narrower terminals wrap."""


def tell(arguments: list[str]) -> int:
    """Let every bot try; 0 when none of them gets away with more than is documented."""
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
        with Cast(folder / "logs") as cast:
            stage = Stage(console, folder / "market", cast, options.cache_dir)
            console.print("[bold]A market opens[/], with one honest worker")
            stage.open()
            liars.play(stage, league)
            buyers.play(stage, league)
            forgers.play(stage, league)
            stage.check(league)
            blind.play(Stage(console, folder / "blind", cast, options.cache_dir), league)
        players.play(league)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    league.show(time.monotonic() - began)
    return 0 if league.all_hold else 1
