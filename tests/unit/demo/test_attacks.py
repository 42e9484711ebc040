"""The league's own logic: what counts as caught, what is printed, and when the command fails."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flopmarket.client.money import Money
from flopmarket.demo import attacks
from flopmarket.demo.attacks.league import End, League
from flopmarket.demo.attacks.liars import LIARS, Liar
from flopmarket.demo.attacks.players import PLAYERS, Player, judge
from flopmarket.demo.attacks.stage import Fate
from flopmarket.demo.economics import Floats
from flopmarket.errors import Unavailable


def league() -> tuple[League, io.StringIO]:
    """An empty league and what it prints."""
    text = io.StringIO()
    return League(Console(file=text, width=132, highlight=False)), text


def test_a_league_of_nobody_shows_nothing() -> None:
    empty, _ = league()
    assert not empty.all_hold


def test_one_bot_that_gets_away_is_enough() -> None:
    found, text = league()
    found.add("mallory", (1, 5), "skips", End.CAUGHT, "STATE_DIFFERS", True)
    assert found.all_hold
    found.add("trudy", (), "lies", End.REFUSED, "accepted", False)
    assert not found.all_hold
    assert "trudy: refused, accepted" in text.getvalue()


def test_the_table_has_a_row_for_each_in_order() -> None:
    found, text = league()
    found.add("mallory", (1, 5), "skips", End.CAUGHT, "STATE_DIFFERS", True)
    found.add("trudy", (), "lies", End.REFUSED, "accepted", False)
    text.truncate(0)
    found.show(12.4)
    shown = text.getvalue()
    assert "after 12 s" in shown
    first, second = (line for line in shown.splitlines() if "mallory" in line or "trudy" in line)
    cells = [cell.strip() for cell in first.strip("│┃").split("│")]
    assert cells == ["mallory", "1, 5", "skips", "caught", "STATE_DIFFERS", "yes"]
    assert second.strip("│┃").split("│")[-1].strip() == "NO"


@pytest.mark.parametrize(("holds", "status"), [(True, 0), (False, 1)])
def test_the_command_fails_when_a_bot_gets_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], holds: bool, status: int
) -> None:
    folders: list[tuple[Path, Path | None]] = []

    def acts(found: League, console: Console, folder: Path, cache_dir: Path | None) -> None:
        folders.append((folder, cache_dir))
        found.add("mallory", (1,), "skips", End.CAUGHT, "STATE_DIFFERS", True)
        found.add("trudy", (2,), "lies", End.CAUGHT, "nothing", holds)

    kept = tmp_path / "kept"
    arguments = ["--keep", str(kept), "--cache-dir", str(tmp_path)]
    assert attacks.tell(arguments, acts) == status
    assert folders == [(kept, tmp_path)] and kept.is_dir()
    assert ("NO" in capsys.readouterr().out) is not holds


def test_what_was_found_is_shown_though_the_market_broke_down(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders: list[Path] = []

    def acts(found: League, console: Console, folder: Path, cache_dir: Path | None) -> None:
        folders.append(folder)
        found.add("mallory", (1,), "skips", End.CAUGHT, "STATE_DIFFERS", True)
        raise Unavailable("a worker ended", code="DEMO_CHILD_ENDED")

    with pytest.raises(Unavailable):
        attacks.tell([], acts)
    assert "Attacks, after" in capsys.readouterr().out
    assert not folders[0].exists(), "nothing is left behind unless it is asked for"


def test_a_run_without_any_act_is_no_success() -> None:
    assert attacks.tell([], lambda *_: None) == 1


LIAR = Liar("wrong-op", (3,), "another operation", ("STATE_DIFFERS",))
FLIP = Liar("flipped-bit", (22,), "one bit", ("STATE_DIFFERS",), keeps_bond=True)


@pytest.mark.parametrize(
    ("liar", "rejected", "paid", "bond", "caught"),
    [
        (LIAR, {"STATE_DIFFERS"}, 0, 0, True),
        (LIAR, set(), 0, 0, False),
        (LIAR, {"STATE_DIFFERS", "OUTPUTS_MALFORMED"}, 0, 0, False),
        (LIAR, {"STATE_DIFFERS"}, 1, 0, False),
        (LIAR, {"STATE_DIFFERS"}, 0, 5, False),
        (FLIP, {"STATE_DIFFERS"}, 0, 5, True),
        (FLIP, {"STATE_DIFFERS"}, 0, 0, False),
    ],
)
def test_caught_is_convicted_unpaid_and_without_its_bond(
    liar: Liar, rejected: set[str], paid: int, bond: int, caught: bool
) -> None:
    fate = Fate(frozenset(rejected), paid, Money(bond, "USD"))
    assert liar.is_caught(fate) is caught
    if not liar.keeps_bond:
        assert fate.lost_all("STATE_DIFFERS") is caught


def test_every_bot_has_a_name_of_its_own() -> None:
    for names in ([liar.fault for liar in LIARS], [player.bot for player in PLAYERS]):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(("mean", "loses"), [(-5.0, True), (0.0, False), (5.0, False)])
def test_a_player_loses_when_its_whole_interval_is_below_zero(mean: float, loses: bool) -> None:
    profit: Floats = mean + np.resize([-1.0, 1.0], 1_000)
    found, _ = league()
    judge(found, Player("cheat", (1,), "cheats", lambda: profit))
    assert found.all_hold is loses
    assert f"{mean:+.0f} units a run" in found.results[0].evidence


def test_a_small_loss_within_chance_is_none() -> None:
    profit: Floats = -0.01 + np.resize([-1.0, 1.0], 1_000)
    found, _ = league()
    judge(found, Player("cheat", (1,), "cheats", lambda: profit))
    assert not found.all_hold
