"""A fresh market for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.coordinator.auditors import Club, club_parameters
from tests.unit.coordinator.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.check()  # whatever a test did, the books are right
    made.close()


@pytest.fixture
def club(tmp_path: Path) -> Iterator[Club]:
    made = Club(World(tmp_path, club_parameters()))
    yield made
    made.world.check()
    made.world.close()
