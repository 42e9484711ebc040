"""One realiser for each way of running a program on the default device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flopmarket.engine.codegen.templates.gemm import GemmTile, legal_tiles
from flopmarket.engine.runtime.devices import find
from flopmarket.engine.runtime.realise import Realiser
from flopmarket.engine.runtime.resident import CompileOptions

Ways = dict[str, Realiser]


@pytest.fixture(scope="session")
def ways() -> Iterator[Ways]:
    """Fused and unfused, on poisoned memory."""
    made = {
        name: Realiser(CompileOptions(fusion=fusion, poison=True), max_plans=2)
        for name, fusion in (("fused", True), ("unfused", False))
    }
    yield made
    for realiser in made.values():
        realiser.close()


@pytest.fixture(scope="session")
def device(ways: Ways) -> Realiser:
    """The usual way."""
    return ways["fused"]


@pytest.fixture(scope="session")
def tiles() -> Iterator[dict[GemmTile, Realiser]]:
    """Every tile of the matrix product that is legal on the default device."""
    made = {
        tile: Realiser(CompileOptions(gemm_tile=tile, poison=True), max_plans=2)
        for tile in legal_tiles(find(None))
    }
    yield made
    for realiser in made.values():
        realiser.close()
