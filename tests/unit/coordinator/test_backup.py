"""Backups: whole and consistent while the market runs, refused when a byte of them is wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flopmarket.errors import Conflict, FlopmarketError, NotFound
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator import backup
from flopmarket_coordinator.artifacts import FileArtifactStore, artifact_file
from flopmarket_coordinator.data_dir import DataDirectory
from flopmarket_coordinator.store import migrate, work
from flopmarket_coordinator.store.engine import open_store, read, write
from tests.unit.coordinator.databases import sqlite_only
from tests.unit.coordinator.world import World

pytestmark = sqlite_only

NOW_US = 1_000_000_000

MANIFEST_FIELDS = {
    "format": backup.FORMAT, "made_at_us": 1, "key_id": "k", "revision": "1",
    "database_sha256": "d", "database_bytes": 1, "artifacts": [], "artifact_bytes": 0,
}  # fmt: skip


@dataclass
class Place:
    """A coordinator's folder with one account and three artifacts."""

    directory: DataDirectory
    world: World
    digests: list[str]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    directory = DataDirectory.create(tmp_path / "market", now_us=NOW_US)
    engine = open_store(directory.database_url)
    migrate.upgrade(engine)
    engine.dispose()
    (tmp_path / "scratch").mkdir()
    world = World(tmp_path / "scratch")
    world.store.dispose()
    world.database.path = directory.database
    world.start()
    _, account = world.account("ann")
    world.deposit(account, 5, "first")
    store = FileArtifactStore(directory.artifacts, lambda: "upload")
    store.prepare()
    digests = []
    for content in (b"", b"one", b"two" * 1_000_000):
        digests.append(put(store, content))
        with write(world.store, world.now_us) as tx:
            work.add_artifact(tx, digests[-1], len(content), account)
    return Place(directory, world, sorted(digests))


def put(store: FileArtifactStore, content: bytes) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    digest = hashlib.sha256(content).hexdigest()
    asyncio.run(store.write(digest, len(content), chunks()))
    return digest


def test_a_restored_market_is_the_one_that_was_copied(place: Place, tmp_path: Path) -> None:
    manifest = backup.back_up(place.directory, tmp_path / "copy", now_us=NOW_US)
    assert list(manifest.artifacts) == place.digests
    assert manifest == backup.verify(tmp_path / "copy")
    place.world.account("came after the backup")
    backup.restore(tmp_path / "copy", tmp_path / "again")
    again = DataDirectory.open(tmp_path / "again")
    secret = tmp_path / "again" / "keys" / "chains.secret"
    assert again.chain_secret == secret.read_bytes()
    assert secret.stat().st_mode & 0o777 == 0o600
    assert again.key.key_id == place.directory.key.key_id
    assert again.authority_file.read_bytes() == place.directory.authority_file.read_bytes()
    for digest in place.digests:
        content = artifact_file(again.artifacts, digest).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
    store = open_store(again.database_url)
    with read(store, place.world.now_us) as tx:
        assert place.world.application.check(tx) == ()
        names = tx.connection.exec_driver_sql("SELECT display_name FROM account").scalars().all()
    store.dispose()
    assert names == ["ann"]


def test_a_backup_beside_a_busy_writer_is_consistent(place: Place, tmp_path: Path) -> None:
    stop, rounds = threading.Event(), [0]

    def keep_writing() -> None:
        while not stop.is_set():
            rounds[0] += 1
            place.world.account(f"account {rounds[0]}")
            place.world.deposit(place.world.account("ann")[1], 1, f"round {rounds[0]}")

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        for name in ("first", "second", "third"):
            backup.back_up(place.directory, tmp_path / name, now_us=NOW_US)
    finally:
        stop.set()
        writer.join()
    assert rounds[0] > 3
    for name in ("first", "second", "third"):
        backup.restore(tmp_path / name, tmp_path / f"{name} restored")
        store = open_store(DataDirectory.open(tmp_path / f"{name} restored").database_url)
        with read(store, place.world.now_us) as tx:
            assert place.world.application.check(tx) == ()
        store.dispose()


def test_an_interrupted_backup_is_none(place: Place, tmp_path: Path) -> None:
    backup.back_up(place.directory, tmp_path / "copy", now_us=NOW_US)
    (tmp_path / "copy" / backup.MANIFEST).unlink()
    with pytest.raises(NotFound) as refused:
        backup.restore(tmp_path / "copy", tmp_path / "again")
    assert refused.value.code == "BACKUP_INCOMPLETE"
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("what", ["database", "artifact", "no artifact", "manifest", "key"])
def test_damage_is_named_and_nothing_is_restored(place: Place, tmp_path: Path, what: str) -> None:
    copy = tmp_path / "copy"
    backup.back_up(place.directory, copy, now_us=NOW_US)
    file = artifact_file(copy / "artifacts", place.digests[0])
    if what == "database":
        content = bytearray((copy / "coordinator.db").read_bytes())
        content[len(content) // 2] ^= 1
        (copy / "coordinator.db").write_bytes(content)
    elif what == "artifact":
        file.write_bytes(file.read_bytes() + b"x")
    elif what == "no artifact":
        file.unlink()
    elif what == "manifest":
        (copy / backup.MANIFEST).write_text("[1, 2")
    else:
        (copy / "keys" / "coordinator.pem").unlink()
        KeyPair.generate().save(copy / "keys" / "coordinator.pem")
    with pytest.raises(FlopmarketError) as refused:
        backup.restore(copy, tmp_path / "again")
    assert refused.value.code == "BACKUP_DAMAGED"
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"artifacts": 7}',
        '{"artifacts": [], "format": "flopmarket-backup-1"}',
        '{"artifacts": [], "\\ud800": 1}',
        json.dumps({**MANIFEST_FIELDS, "artifacts": [["ab"]]}),
        json.dumps({**MANIFEST_FIELDS, "database_bytes": "4096"}),
        json.dumps({**MANIFEST_FIELDS, "key_id": None}),
    ],
    ids=lambda text: text[:40],
)
def test_a_manifest_of_another_form_is_damage(tmp_path: Path, content: str) -> None:
    (tmp_path / backup.MANIFEST).write_text(content)
    with pytest.raises(FlopmarketError) as refused:
        backup.read_manifest(tmp_path)
    assert refused.value.code == "BACKUP_DAMAGED"
    refused.value.message.encode("utf-8")


def test_paths_in_a_manifest_stay_inside(place: Place, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    backup.back_up(place.directory, copy, now_us=NOW_US)
    fields = json.loads((copy / backup.MANIFEST).read_text())
    fields["artifacts"] = ["../../etc/passwd"]
    (copy / backup.MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(FlopmarketError) as refused:
        backup.verify(copy)
    assert refused.value.code == "ARTIFACT_DIGEST_MALFORMED"


def test_nothing_is_overwritten(place: Place, tmp_path: Path) -> None:
    backup.back_up(place.directory, tmp_path / "copy", now_us=NOW_US)
    with pytest.raises(Conflict) as refused:
        backup.back_up(place.directory, tmp_path / "copy", now_us=NOW_US)
    assert refused.value.code == "BACKUP_EXISTS"
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for folder in (tmp_path / "taken", place.directory.root):
        with pytest.raises(Conflict) as refused:
            backup.restore(tmp_path / "copy", folder)
        assert refused.value.code == "DATA_DIR_NOT_EMPTY"


def test_a_missing_or_damaged_artifact_is_said_while_it_can_be_mended(
    place: Place, tmp_path: Path
) -> None:
    file = artifact_file(place.directory.artifacts, place.digests[1])
    file.write_bytes(b"something else")
    with pytest.raises(FlopmarketError) as refused:
        backup.back_up(place.directory, tmp_path / "damaged", now_us=NOW_US)
    assert refused.value.code == "ARTIFACT_DAMAGED"
    file.unlink()
    with pytest.raises(NotFound) as missing:
        backup.back_up(place.directory, tmp_path / "missing", now_us=NOW_US)
    assert missing.value.code == "ARTIFACT_MISSING"
    shutil.rmtree(tmp_path / "missing")
