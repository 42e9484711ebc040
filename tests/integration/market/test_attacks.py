"""The quickest act of `flop demo --attacks` with real processes: forgers against a market.

The league's own logic is in tests/unit/demo; all acts together are the command itself.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from flopmarket.demo.attacks import forgers
from flopmarket.demo.attacks.league import End, League
from flopmarket.demo.attacks.stage import Stage
from flopmarket.demo.processes import Cast
from flopmarket.engine.runtime.cache import default_directory


@pytest.mark.slow
def test_forgers_are_refused_and_the_books_balance(calibration: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    console = Console(file=said, width=160)
    league = League(console)
    with Cast(tmp_path / "logs") as cast:
        stage = Stage(console, tmp_path / "market", cast, default_directory(), calibration)
        stage.open()
        forgers.play(stage, league)
        stage.check(league, "books")
    assert league.all_hold, said.getvalue()
    ends = [(result.bot, result.end) for result in league.results]
    assert ends == [
        ("forger", End.REFUSED),
        ("replayer", End.REFUSED),
        ("counterfeiter", End.REFUSED),
        ("accountant", End.REFUSED),
        ("the house", End.NO_EFFECT),
    ]
