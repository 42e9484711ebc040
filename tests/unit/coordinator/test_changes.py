"""What commands note reaches observers: at once, after the commit, and never when undone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest
import sqlalchemy as sa

from flopmarket.errors import Conflict, Unavailable
from flopmarket_coordinator.core.changes import Change, JobChanged
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.tick import Tick
from tests.unit.coordinator.world import World


class Ear:
    """An observer that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, tuple[str, ...]]] = []
        self.fail_in = ""

    def applied(self, tx: Transaction, changes: Sequence[Change]) -> None:
        self._hear("applied", changes)

    def committed(self, changes: Sequence[Change], now_us: int) -> None:
        self._hear("committed", changes)

    def reset(self, tx: Transaction) -> None:
        self._hear("reset", ())

    def _hear(self, what: str, changes: Sequence[Change]) -> None:
        ids = tuple(change.job_id for change in changes if isinstance(change, JobChanged))
        self.heard.append((what, ids))
        if self.fail_in == what:
            raise RuntimeError(f"the observer fails in {what}")


def note(*jobs: str, fail: bool = False) -> Callable[[Transaction], str]:
    def run(tx: Transaction) -> str:
        for job in jobs:
            tx.note(JobChanged(job))
        if fail:
            raise Conflict("undone", code="UNDONE")
        return "done"

    return run


def scenario(world: World, ear: Ear, *commands: Callable[[Transaction], str]) -> list[object]:
    """Run commands as one batch and return their answers or errors."""

    async def run() -> list[object]:
        tick = Tick(
            world.store, lambda: world.now_us, observers=[ear],
            max_commands=len(commands), max_wait_seconds=5.0,
        )  # fmt: skip
        await tick.start()
        try:
            submitted = [tick.submit(command) for command in commands]
            return list(await asyncio.gather(*submitted, return_exceptions=True))
        finally:
            await tick.stop()

    return asyncio.run(run())


def test_each_command_is_heard_at_once_and_the_batch_after_its_commit(world: World) -> None:
    ear = Ear()
    assert scenario(world, ear, note("a", "b"), note(), note("b")) == ["done"] * 3
    assert ear.heard == [
        ("reset", ()),
        ("applied", ("a", "b")),
        ("applied", ("b",)),
        ("committed", ("a", "b", "b")),
    ]


def test_what_a_failed_command_noted_is_dropped(world: World) -> None:
    ear = Ear()
    first, second = scenario(world, ear, note("a", fail=True), note("b"))
    assert isinstance(first, Conflict) and second == "done"
    assert ear.heard == [("reset", ()), ("applied", ("b",)), ("committed", ("b",))]


def test_a_failed_commit_resets_before_anybody_hears_of_it(world: World) -> None:
    ear = Ear()
    heard_at_answer: list[int] = []

    def refuse(_connection: sa.Connection) -> None:
        raise sa.exc.OperationalError("COMMIT", None, OSError("disk full"))

    async def run() -> None:
        tick = Tick(world.store, lambda: world.now_us, observers=[ear])
        await tick.start()
        sa.event.listen(world.store, "commit", refuse)
        with pytest.raises(Unavailable):
            await tick.submit(note("lost"))
        heard_at_answer.append(len(ear.heard))
        sa.event.remove(world.store, "commit", refuse)
        await tick.submit(note("kept"))
        await tick.stop()

    asyncio.run(run())
    lost = [("reset", ()), ("applied", ("lost",)), ("reset", ())]
    assert ear.heard == [*lost, ("applied", ("kept",)), ("committed", ("kept",))]
    assert heard_at_answer == [3]


def test_an_observer_that_cannot_follow_fails_the_batch(world: World) -> None:
    ear = Ear()
    ear.fail_in = "applied"
    first, second = scenario(world, ear, note("a"), note())
    assert isinstance(first, Unavailable) and isinstance(second, Unavailable)
    assert ear.heard[-1] == ("reset", ())


def test_trouble_after_the_commit_holds_no_answer_back(world: World) -> None:
    ear = Ear()
    ear.fail_in = "committed"
    assert scenario(world, ear, note("a")) == ["done"]


def test_the_store_is_read_before_the_first_command(world: World) -> None:
    ear = Ear()
    ear.fail_in = "reset"

    async def run() -> None:
        tick = Tick(world.store, lambda: world.now_us, observers=[ear])
        with pytest.raises(RuntimeError):
            await tick.start()
        assert not [t for t in threading.enumerate() if t.name == "store-writer"]

    asyncio.run(run())
