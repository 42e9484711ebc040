"""docs/threats.md keeps its word: every threat has its row, every test that a row names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "threats.md"
ATTACKS = ROOT / "flopmarket" / "demo" / "attacks"
THREATS = range(1, 30)
_ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[a-z_/0-9]+\.py)::(\w+)`")


def rows() -> dict[int, tuple[str, ...]]:
    """Cells of the table by the number of their threat: attack, defence, shown, tests."""
    found = _ROW.findall(PAGE.read_text("utf-8"))
    numbered = {int(number): tuple(cells) for number, *cells in found}
    assert len(numbered) == len(found), "a number comes twice"
    return numbered


@cache
def functions_of(path: str) -> frozenset[str]:
    """Names of functions and assigned test cases at the top of a module, which is not imported."""
    names = set()
    for node in ast.parse((ROOT / path).read_text("utf-8"), path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(names)


def numbers_of(path: Path) -> set[int]:
    """Threats that a module of bots names: tuples of numbers, positional or by keyword."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        if name not in ("add", "Liar", "Player", "_disputed"):
            continue
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            if isinstance(argument, ast.Tuple):
                found |= {
                    item.value
                    for item in argument.elts
                    if isinstance(item, ast.Constant) and isinstance(item.value, int)
                }
    return found


def test_every_threat_has_one_row_in_order() -> None:
    assert list(rows()) == list(THREATS)
    assert all(cell.strip() for cells in rows().values() for cell in cells)


@pytest.mark.parametrize("number", THREATS)
def test_every_row_names_tests_that_exist(number: int) -> None:
    named = _TEST.findall(rows()[number][-1])
    assert named, "a threat without a test"
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert name in functions_of(path), f"{path}::{name}"
        assert name.startswith(("test_", "Test"))


def test_nothing_on_the_page_looks_like_a_test_and_is_none() -> None:
    """A name in another form would be checked by nobody."""
    text = PAGE.read_text("utf-8")
    assert len(re.findall(r"tests/[\w/]+\.py::", text)) == len(_TEST.findall(text))


def test_every_bot_of_the_demo_belongs_to_a_row() -> None:
    named = {path.name: numbers_of(path) for path in sorted(ATTACKS.glob("*.py"))}
    assert set().union(*named.values()) <= set(THREATS)
    for module in (
        "blind.py", "buyers.py", "classmates.py", "forgers.py", "liars.py", "players.py",
        "skippers.py", "tolerant.py",
    ):  # fmt: skip
        assert named[module], f"{module} names no threat"
    assert numbers_of(ATTACKS / "liars.py") >= {1, 2, 3, 4, 22}
