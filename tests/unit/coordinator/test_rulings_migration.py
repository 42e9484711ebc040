"""Migration 0020 on a store with rows: arbitrations of before have a beginning, others none."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from flopmarket_coordinator.store import engine, migrate
from tests.unit.coordinator.test_orders_migration import insert, upgrade

OLD = {
    "lasting": ("audit", "arbitration", "", "", "class"),
    "decided": ("audit", "ended", "ROOTS_DIFFER", "REFUTED", "class"),
    "banned": ("audit", "ended", "CONFIRMED", "CONFIRMED", "class"),
    "silent": ("look-back", "ended", "UNANSWERED_DIFFERENCE", "UNDECIDED", "class"),
    "nobody": ("dual", "ended", "NO_AUDITOR", "UNDECIDED", "class"),
    "nobody again": ("look-back", "ended", "NO_AUDITOR", "UNDECIDED", "class"),
    "arbiter": ("arbiter", "ended", "ROOTS_DIFFER", "", "class"),
    "equal": ("audit", "ended", "EQUAL", "", "class"),
    "dropped": ("audit", "ended", "ROOTS_DIFFER", "VOID", "class"),
    "disputed": ("audit", "ended", "ROOTS_DIFFER", "REFUTED", "exact"),
}
KNOWN = ("lasting", "decided", "banned", "silent", "nobody")


def test_what_was_arbitrated_is_known_again(tmp_path: Path) -> None:
    store = engine.open_store(f"sqlite:///{tmp_path / 'old.db'}")
    with migrate._references_later(store):  # rows here stand alone
        upgrade(store, "0019")
        for number, mode in enumerate(("class", "exact"), 1):
            insert(store, "job", number=number, job_id=mode, mode=mode, state="running")
        for number, (name, (purpose, phase, outcome, finding, mode)) in enumerate(OLD.items()):
            insert(
                store,
                "audit",
                audit_id=name,
                purpose=purpose,
                phase=phase,
                outcome=outcome,
                finding=finding,
                job_id=mode,
                segment_id=number,
                created_at_us=7,
            )
        upgrade(store, "0020")
        with store.connect() as connection:
            rows = connection.execute(sa.text("SELECT audit_id, arbitrated_at_us FROM audit")).all()
    since = {row.audit_id: row.arbitrated_at_us for row in rows}
    assert since == dict.fromkeys(OLD, 0) | dict.fromkeys(KNOWN, 7)
    store.dispose()
