"""Migration 0017 on a store with rows: audits and strikes stay, and may say what is new."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from flopmarket_coordinator.store import engine, migrate
from tests.unit.coordinator.test_orders_migration import insert, upgrade


@pytest.fixture
def before(tmp_path: Path) -> Iterator[sa.Engine]:
    """A database of the revision before."""
    store = engine.open_store(f"sqlite:///{tmp_path / 'old.db'}")
    with migrate._references_later(store):  # rows here stand alone
        upgrade(store, "0016")
        yield store
    store.dispose()


def audit(store: sa.Engine, audit_id: str, purpose: str, phase: str = "ended") -> None:
    insert(store, "audit", audit_id=audit_id, purpose=purpose, phase=phase, segment_id=1)


def test_rows_stay_and_may_say_what_is_new(before: sa.Engine) -> None:
    audit(before, "old", "cross", "house")
    insert(before, "strike", number=1, device_key_id="key", kind="silence")
    upgrade(before, "0017")
    with before.connect() as connection:
        rows = connection.exec_driver_sql("SELECT audit_id, phase, parent_id FROM audit").all()
        strikes = connection.exec_driver_sql("SELECT number, kind FROM strike").all()
    assert [tuple(row) for row in rows] == [("old", "house", "")]
    assert [tuple(row) for row in strikes] == [(1, "silence")]
    audit(before, "new", "arbiter", "asking")
    audit(before, "another", "look-back", "arbitration")
    insert(before, "strike", device_key_id="key", kind="class-undecided")


def test_what_is_unknown_is_still_refused(before: sa.Engine) -> None:
    upgrade(before, "0017")
    for purpose, phase in (("favour", "ended"), ("audit", "asleep")):
        with pytest.raises(sa.exc.IntegrityError):
            audit(before, purpose, purpose, phase)
    with pytest.raises(sa.exc.IntegrityError):
        insert(before, "strike", device_key_id="key", kind="dislike")


def test_one_audit_of_a_segment_is_open_beside_arbiters_and_second_looks(
    before: sa.Engine,
) -> None:
    upgrade(before, "0017")
    audit(before, "first", "audit", "arbitration")
    for purpose in ("arbiter", "cross"):
        for number in range(2):
            audit(before, f"{purpose} {number}", purpose, "asking")
    with pytest.raises(sa.exc.IntegrityError):
        audit(before, "second", "look-back", "asking")
