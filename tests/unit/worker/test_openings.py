"""What a worker's commitments hide: the same whenever asked, for two days, over restarts."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.limits import KEPT_OPENING_SECONDS
from flopmarket_worker import openings
from flopmarket_worker.openings import FILE_NAME, Openings

KEY = "a" * 64
INNER = b"i" * 32
KEPT_US = KEPT_OPENING_SECONDS * 1_000_000


class Shelf:
    """Openings with a clock that the test moves; ``restart`` reads the file anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_us = 1_000_000_000
        self._salts = itertools.count()
        self.restart()

    def restart(self) -> None:
        self.openings = Openings(
            self.folder, lambda: self.now_us, lambda: next(self._salts).to_bytes(32, "big")
        )


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "leases")


def test_a_secret_is_the_same_whenever_it_is_asked_for(shelf: Shelf) -> None:
    made = shelf.openings.secret("lease", 3, KEY, INNER)
    assert shelf.openings.secret("lease", 3, KEY, INNER) == made
    shelf.restart()
    assert shelf.openings.secret("lease", 3, KEY, INNER) == made
    assert shelf.openings.find("lease", 3) == made
    assert shelf.openings.find("lease", 4) is None
    assert shelf.openings.find("other", 3) is None
    other = shelf.openings.secret("lease", 4, KEY, INNER)
    assert other.salt != made.salt


def test_the_file_is_the_owners_alone(shelf: Shelf) -> None:
    shelf.openings.secret("lease", 0, KEY, INNER)
    assert (shelf.folder / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_secrets_are_kept_for_two_days_after_their_lease(shelf: Shelf) -> None:
    made = shelf.openings.secret("lease", 0, KEY, INNER)
    shelf.now_us += 10 * KEPT_US  # the lease lasts as long as it wants
    shelf.restart()
    assert shelf.openings.find("lease", 0) == made
    shelf.openings.lease_ended("lease")
    shelf.restart()
    shelf.now_us += KEPT_US - 1
    shelf.openings.lease_ended("lease")  # told twice
    assert shelf.openings.find("lease", 0) == made
    shelf.now_us += 1
    assert shelf.openings.find("lease", 0) is None
    shelf.openings.secret("next", 0, KEY, INNER)
    shelf.restart()
    assert shelf.openings.find("lease", 0) is None


def test_leases_that_a_restart_does_not_find_have_ended(shelf: Shelf) -> None:
    for name in ("kept", "lost"):
        shelf.openings.secret(name, 0, KEY, INNER)
    shelf.restart()
    shelf.openings.only_live({"kept"})
    shelf.now_us += KEPT_US
    assert shelf.openings.find("kept", 0) is not None
    assert shelf.openings.find("lost", 0) is None


@given(cut=st.integers(1, 400))
def test_a_torn_line_costs_that_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    shelf = Shelf(tmp_path_factory.mktemp("openings"))
    made = [shelf.openings.secret("lease", index, KEY, INNER) for index in range(3)]
    path = shelf.folder / FILE_NAME
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    left = data[:-cut].count(b"\n")
    shelf.restart()
    for index, secret in enumerate(made):
        assert shelf.openings.find("lease", index) == (secret if index < left else None)
    again = shelf.openings.secret("lease", 9, KEY, INNER)
    shelf.restart()
    assert shelf.openings.find("lease", 9) == again


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"{}\n", b"[1, 2]\n", b'["a", 0, "k", "zz", ""]\n']
)
def test_a_foreign_line_ends_the_file(shelf: Shelf, line: bytes) -> None:
    made = shelf.openings.secret("lease", 0, KEY, INNER)
    with (shelf.folder / FILE_NAME).open("ab") as file:
        file.write(line)
    shelf.restart()
    assert shelf.openings.find("lease", 0) == made


def test_the_oldest_leases_of_too_many_are_forgotten(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openings, "MAX_KEPT_OPENINGS", 5)
    monkeypatch.setattr(openings, "_SLACK_LINES", 3)
    for number in range(40):
        shelf.openings.secret(f"lease {number}", 0, KEY, INNER)
        shelf.openings.lease_ended(f"lease {number}")
    shelf.restart()
    assert [n for n in range(40) if shelf.openings.find(f"lease {n}", 0)] == [35, 36, 37, 38, 39]
    assert len((shelf.folder / FILE_NAME).read_bytes().splitlines()) < 30
    assert (shelf.folder / FILE_NAME).stat().st_mode & 0o777 == 0o600
