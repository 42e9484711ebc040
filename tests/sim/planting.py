"""Planting a bug in the real code for as long as a hunt lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from tests.sim.bots import BOTS
from tests.sim.scenario import play
from tests.sim.seeds import kind_of
from tests.sim.worker import Worker

Change = Callable[[contextlib.ExitStack], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug and what it is about."""

    name: str
    plant: Change
    bots: tuple[type[Worker], ...] = BOTS
    """Who misbehaves while it is hunted: of most bugs anybody can make use, of some only few."""
    only: int | None = None
    """The remainder of the seeds whose market has what the bug is in (:mod:`tests.sim.seeds`)."""


@dataclass(frozen=True, slots=True)
class Caught:
    """Which law a mutant broke, and in which seed (counted from one)."""

    law: str
    seeds: int
    text: str


def hunt(mutant: Mutant, seeds: Iterable[int]) -> Caught | None:
    """Play ``seeds`` with the bug in place; None when all of them were clean."""
    with contextlib.ExitStack() as stack:
        mutant.plant(stack)
        for count, seed in enumerate(seeds, 1):
            if mutant.only is not None and kind_of(seed) != mutant.only:
                continue
            outcome = play(seed, bots=mutant.bots)
            if outcome.broken is not None:
                return Caught(outcome.broken.law, count, outcome.broken.text)
    return None


def instead(where: Any, name: str, make: Callable[[Any], Any]) -> Change:
    """Put ``make(original)`` in the place of ``where.name``."""

    def plant(stack: contextlib.ExitStack) -> None:
        stack.enter_context(patch.object(where, name, make(getattr(where, name))))

    return plant


def all_of(*changes: Change) -> Change:
    """One change after the other."""

    def plant(stack: contextlib.ExitStack) -> None:
        for change in changes:
            change(stack)

    return plant
