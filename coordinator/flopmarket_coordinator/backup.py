"""Backups of an embedded coordinator: made while it runs, restored into an empty folder.

A backup is a folder: a consistent copy of the database, every artifact that it names, the keys, and
a manifest that is written last. Without its manifest a folder is no backup, so an interrupted one
cannot be mistaken for a whole one. A restored market is that of the moment of the copy: what
happened later is lost, and account owners who kept later ledger heads will notice it
(``flop account verify``), as they should.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from flopmarket.errors import Conflict, FlopmarketError, InvalidInput, NotFound
from flopmarket.limits import MAX_BACKUP_MANIFEST_BYTES
from flopmarket_coordinator.artifacts import artifact_file, check_digest
from flopmarket_coordinator.data_dir import DataDirectory, DirectoryLock
from flopmarket_coordinator.store import copies

FORMAT = "flopmarket-backup-1"
MANIFEST = "manifest.json"
_DATABASE = "coordinator.db"
_KEYS = "keys"
_ARTIFACTS = "artifacts"
_ATTEMPTS = 3
_BLOCK_BYTES = 1 << 20


class BackupDamaged(FlopmarketError):
    """A backup's files are not those that its manifest names."""

    default_code = "BACKUP_DAMAGED"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds. ``artifacts`` are sha256 digests; sizes are bytes."""

    format: str
    made_at_us: int
    key_id: str
    revision: str
    database_sha256: str
    database_bytes: int
    artifacts: tuple[str, ...]
    artifact_bytes: int


def back_up(directory: DataDirectory, target: Path, *, now_us: int) -> Manifest:
    """Copy a coordinator's data into the new folder ``target``, beside a running coordinator.

    :class:`Conflict` ``BACKUP_EXISTS`` when the folder exists. Artifacts that the collector removes
    between the copy of the database and their own copy lead to another try.
    """
    if not directory.database.is_file():
        raise NotFound(f"{directory.root} has no database yet", code="DATABASE_MISSING")
    try:
        target.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise Conflict(
            f"{target} exists", code="BACKUP_EXISTS", hint="name a new folder for every backup"
        ) from None
    shutil.copytree(directory.root / _KEYS, target / _KEYS, copy_function=shutil.copy2)
    for attempt in range(_ATTEMPTS):
        copies.copy_database(directory.database, target / _DATABASE)
        named = copies.named_artifacts(target / _DATABASE)
        missing = [digest for digest in named if not _copy_artifact(directory, target, digest)]
        if not missing:
            break
        if attempt + 1 == _ATTEMPTS:
            raise NotFound(
                f"artifact {missing[0]} is in the database and not in {directory.artifacts}",
                code="ARTIFACT_MISSING",
                hint="run `flop coordinator check`",
                details={"digest": missing[0], "missing": str(len(missing))},
            )
    _drop_unnamed(target / _ARTIFACTS, set(named))
    manifest = Manifest(
        format=FORMAT,
        made_at_us=now_us,
        key_id=directory.key.key_id,
        revision=copies.revision(target / _DATABASE),
        database_sha256=_sha256(target / _DATABASE),
        database_bytes=(target / _DATABASE).stat().st_size,
        artifacts=tuple(named),
        artifact_bytes=sum(
            artifact_file(target / _ARTIFACTS, digest).stat().st_size for digest in named
        ),
    )
    _write_durably(target / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
    return manifest


def read_manifest(source: Path) -> Manifest:
    """The manifest of a backup; :class:`NotFound` ``BACKUP_INCOMPLETE`` without a whole one."""
    try:
        with (source / MANIFEST).open("rb") as file:
            content = file.read(MAX_BACKUP_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(
            f"{source} has no {MANIFEST}: it is no backup, or one that was interrupted",
            code="BACKUP_INCOMPLETE",
        ) from None
    if len(content) > MAX_BACKUP_MANIFEST_BYTES:
        raise BackupDamaged(f"{MANIFEST} has more than {MAX_BACKUP_MANIFEST_BYTES} bytes")
    try:
        fields = json.loads(content)
        manifest = Manifest(**{**fields, "artifacts": tuple(fields["artifacts"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BackupDamaged(f"{MANIFEST} cannot be read: {str(error)[:200]!a}") from error
    texts = (manifest.key_id, manifest.revision, manifest.database_sha256, *manifest.artifacts)
    sizes = (manifest.made_at_us, manifest.database_bytes, manifest.artifact_bytes)
    if any(type(text) is not str for text in texts) or any(type(n) is not int for n in sizes):
        raise BackupDamaged(f"{MANIFEST} has a member of another type")
    if manifest.format != FORMAT:
        raise InvalidInput(
            f"a backup of format {str(manifest.format)[:40]!a}", code="BACKUP_FORMAT"
        )
    for digest in manifest.artifacts:
        check_digest(digest)  # each becomes a path
    return manifest


def verify(source: Path) -> Manifest:
    """Read every byte of a backup and compare; :class:`BackupDamaged` names the first file."""
    manifest = read_manifest(source)
    if DataDirectory.key_id_of(source / _KEYS) != manifest.key_id:
        raise BackupDamaged("the coordinator's key is not the one the manifest names")
    if _sha256(source / _DATABASE) != manifest.database_sha256:
        raise BackupDamaged(f"{_DATABASE} is not the file the manifest names")
    for digest in manifest.artifacts:
        file = artifact_file(source / _ARTIFACTS, digest)
        if not file.is_file() or _sha256(file) != digest:
            raise BackupDamaged(f"artifact {digest} is missing or damaged")
    return manifest


def restore(source: Path, root: Path) -> Manifest:
    """Make the data directory ``root`` from a backup, whose every byte is checked first.

    :class:`Conflict` ``DATA_DIR_NOT_EMPTY`` when there is anything: a market is never overwritten.
    """
    manifest = verify(source)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with DirectoryLock(root):
        if any(entry.name != "lock" for entry in root.iterdir()):
            raise Conflict(
                f"{root} is not empty",
                code="DATA_DIR_NOT_EMPTY",
                hint="restore into a new folder, then serve from it",
            )
        for digest in manifest.artifacts:
            place = artifact_file(root / _ARTIFACTS, digest)
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(artifact_file(source / _ARTIFACTS, digest), place)
        shutil.copyfile(source / _DATABASE, root / _DATABASE)
        # The keys come last: without them the folder is no data directory.
        shutil.copytree(source / _KEYS, root / _KEYS, copy_function=shutil.copy2)
    directory = DataDirectory.open(root)
    directory.authority_file.write_bytes(directory.authority.identity.certificate_pem)
    return manifest


def _copy_artifact(directory: DataDirectory, target: Path, digest: str) -> bool:
    """Whether the artifact is in the backup now; False when the store has it no more."""
    place = artifact_file(target / _ARTIFACTS, digest)
    if place.is_file():
        return True
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = place.with_name(f".{digest}")
    try:
        shutil.copyfile(artifact_file(directory.artifacts, digest), partial)
    except FileNotFoundError:
        return False
    if _sha256(partial) != digest:
        partial.unlink()
        raise FlopmarketError(
            f"artifact {digest} is damaged in {directory.artifacts}",
            code="ARTIFACT_DAMAGED",
            hint="restore it from an earlier backup before the next one",
        )
    partial.replace(place)
    return True


def _drop_unnamed(folder: Path, named: set[str]) -> None:
    """Artifacts copied for an earlier try whose rows are gone."""
    for file in folder.glob("*/*"):
        if file.name not in named:
            file.unlink()


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                hasher.update(block)
    except FileNotFoundError:
        raise BackupDamaged(f"{path.name} is missing") from None
    return hasher.hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    """The manifest appears whole, after everything it names."""
    partial = path.with_name(f".{path.name}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
