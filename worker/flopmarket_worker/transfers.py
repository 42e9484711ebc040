"""Artifacts between a worker and the coordinator, by content hash.

Downloads are bounded in bytes, written to a temporary file, and become visible under their hash
only when the hash is right; program, frozen weights and data stay in a bounded cache between jobs
(oldest use goes first), states do not. Several workers may share one cache folder: a file in it is
whole or absent, and may be evicted by any of them. Uploads name their lease. Every call has a
deadline that follows its size, and is cancelled when its caller goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from grpc import aio

from flopmarket.errors import FlopmarketError, LimitExceeded, Unauthenticated, Unavailable
from flopmarket.limits import (
    DEFAULT_ARTIFACT_CACHE_BYTES,
    MAX_TRANSFER_CHUNK_BYTES,
    MIN_FREE_DISK_BYTES,
    SLOWEST_TRANSFER_BYTES_PER_SECOND,
    TRANSFER_GRACE_SECONDS,
)
from flopmarket.v1 import artifact_pb2
from flopmarket_worker.link_speed import DOWNLOAD, UPLOAD, LinkSpeed
from flopmarket_worker.remote import error_of

if TYPE_CHECKING:
    from flopmarket.v1.artifact_pb2_grpc import ArtifactServiceAsyncStub

_PARTIAL = ".part"
_ABANDONED_SECONDS = 24 * 3600.0
"""Age of a partial download that nobody finishes any more: its process was killed."""
_FETCH_ATTEMPTS = 3


class ArtifactMismatch(FlopmarketError):
    """The bytes that came are not those whose hash was asked for."""

    default_code = "ARTIFACT_HASH_MISMATCH"


class Calls(Protocol):
    """What transfers need of the connection: the artifact stub and fresh credentials."""

    @property
    def artifacts(self) -> ArtifactServiceAsyncStub:
        """The stub of ArtifactService."""
        ...

    async def credentials(self) -> tuple[tuple[str, str], ...]:
        """Metadata of an authenticated call."""
        ...

    def forget_session(self) -> None:
        """The session token was refused; the next call gets a new one."""
        ...


class Transfers:
    """Fetches and stores artifacts for all devices of one agent.

    ``cache_bytes`` bounds what is kept between jobs. Files of one hash are fetched once at a time.
    """

    def __init__(
        self,
        calls: Calls,
        cache_folder: Path,
        *,
        cache_bytes: int = DEFAULT_ARTIFACT_CACHE_BYTES,
        speed: LinkSpeed | None = None,
    ) -> None:
        self._calls = calls
        self._cache = cache_folder
        self._cache_bytes = cache_bytes
        self.speed = LinkSpeed() if speed is None else speed
        self._locks: dict[str, asyncio.Lock] = {}

    async def fetch(
        self,
        artifact: str,
        lease_id: str,
        target: Path,
        *,
        max_bytes: int,
        dispute_id: str = "",
    ) -> None:
        """Put the artifact at ``target``, from the cache if it is there.

        Raises :class:`ArtifactMismatch`, LimitExceeded (ARTIFACT_TOO_LARGE, DISK_FULL) or what the
        coordinator answered.
        """
        lock = self._locks.setdefault(artifact, asyncio.Lock())
        try:
            async with lock:
                await self._fetch_cached(artifact, lease_id, target, max_bytes, dispute_id)
                await asyncio.to_thread(evict, self._cache, self._cache_bytes)
        finally:
            if not lock.locked():
                self._locks.pop(artifact, None)

    async def _fetch_cached(
        self, artifact: str, lease_id: str, target: Path, max_bytes: int, dispute_id: str
    ) -> None:
        cached = self._cache / artifact
        for _ in range(_FETCH_ATTEMPTS):
            if not await asyncio.to_thread(_is_good, cached, artifact):
                await self.download(
                    artifact, lease_id, cached, max_bytes=max_bytes, dispute_id=dispute_id
                )
            # Another worker on the same cache may have evicted it in between.
            with contextlib.suppress(FileNotFoundError):
                return await asyncio.to_thread(_link_or_copy, cached, target)
        raise Unavailable(
            f"artifact {artifact} is evicted from {self._cache} as soon as it arrives",
            code="ARTIFACT_CACHE_CONTENDED",
            hint="give each worker a cache of its own with --cache-dir",
        )

    async def download(
        self,
        artifact: str,
        lease_id: str,
        target: Path,
        *,
        max_bytes: int,
        dispute_id: str = "",
    ) -> None:
        """Fetch the artifact to ``target``, past the cache."""
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Unique: other devices and other workers may fetch the same artifact to the same folder.
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}{_PARTIAL}")
        call = self._calls.artifacts.Download(
            artifact_pb2.DownloadRequest(digest=artifact, lease_id=lease_id, dispute_id=dispute_id),
            metadata=await self._calls.credentials(),
            timeout=_deadline(max_bytes),
        )
        hasher = hashlib.sha256()
        received = 0
        began = time.monotonic()
        try:
            with temporary.open("wb") as file:
                async for message in call:
                    received += len(message.chunk)
                    _check_room(received, max_bytes, artifact, temporary)
                    hasher.update(message.chunk)
                    file.write(message.chunk)
            self.speed.note(DOWNLOAD, received, time.monotonic() - began)
            if hasher.hexdigest() != artifact:
                raise ArtifactMismatch(
                    f"artifact {artifact} arrived as {hasher.hexdigest()} ({received} bytes)",
                    details={"artifact": artifact, "received": hasher.hexdigest()},
                )
            temporary.replace(target)
        except aio.AioRpcError as failure:
            raise self._failed(failure) from failure
        finally:
            call.cancel()
            temporary.unlink(missing_ok=True)

    async def upload(self, path: Path, lease_id: str, *, dispute_id: str = "") -> str:
        """Store the file under its hash for a lease or a dispute; returns the artifact id."""
        artifact, size_bytes = await asyncio.to_thread(_hash_file, path)
        call = self._calls.artifacts.Upload(
            _parts(path, artifact, size_bytes, lease_id, dispute_id),
            metadata=await self._calls.credentials(),
            timeout=_deadline(size_bytes),
        )
        began = time.monotonic()
        try:
            answer = await call
        except aio.AioRpcError as failure:
            raise self._failed(failure) from failure
        finally:
            call.cancel()
        if answer.digest != artifact:
            raise ArtifactMismatch(f"{artifact} was stored as {answer.digest[:64]}")
        self.speed.note(UPLOAD, size_bytes, time.monotonic() - began)
        return artifact

    def _failed(self, failure: aio.AioRpcError) -> FlopmarketError:
        error = error_of(failure)
        if isinstance(error, Unauthenticated):
            # A coordinator that restarted or an old token: a new session may help.
            self._calls.forget_session()
            return Unavailable(error.message, code=error.code)
        return error


async def _parts(
    path: Path, artifact: str, size_bytes: int, lease_id: str, dispute_id: str
) -> AsyncIterator[artifact_pb2.UploadRequest]:
    header = artifact_pb2.UploadHeader(
        digest=artifact, size_bytes=size_bytes, lease_id=lease_id, dispute_id=dispute_id
    )
    yield artifact_pb2.UploadRequest(header=header)
    with path.open("rb") as file:
        while chunk := file.read(MAX_TRANSFER_CHUNK_BYTES):
            yield artifact_pb2.UploadRequest(chunk=chunk)


def evict(folder: Path, limit_bytes: int) -> None:
    """Delete files of the cache, longest unused first, until it holds at most ``limit_bytes``.

    Downloads under way are left alone; those that were abandoned are deleted.
    """
    entries: list[tuple[os.stat_result, Path]] = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # evicted by another worker
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            if not path.name.endswith(_PARTIAL):
                entries.append((status, path))
            elif time.time() - status.st_mtime > _ABANDONED_SECONDS:
                path.unlink()
    total = sum(status.st_size for status, _ in entries)
    for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime_ns):
        if total <= limit_bytes:
            break
        path.unlink(missing_ok=True)
        total -= status.st_size


def _check_room(received: int, max_bytes: int, artifact: str, path: Path) -> None:
    if received > max_bytes:
        raise LimitExceeded(
            f"artifact {artifact} is longer than {max_bytes} bytes", code="ARTIFACT_TOO_LARGE"
        )
    if received % (64 << 20) < MAX_TRANSFER_CHUNK_BYTES:
        free = shutil.disk_usage(path.parent).free
        if free < MIN_FREE_DISK_BYTES:
            raise LimitExceeded(
                f"{free} bytes of disk are left, downloads keep {MIN_FREE_DISK_BYTES} free",
                code="DISK_FULL",
            )


def _is_good(path: Path, artifact: str) -> bool:
    """Whether the cached file still has its hash (disks rot, people edit)."""
    try:
        digest, _ = _hash_file(path)
        if digest == artifact:
            os.utime(path)
            return True
    except FileNotFoundError:
        return False
    path.unlink(missing_ok=True)
    return False


def _hash_file(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return digest.hexdigest(), file.tell()


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _deadline(size_bytes: int) -> float:
    return TRANSFER_GRACE_SECONDS + size_bytes / SLOWEST_TRANSFER_BYTES_PER_SECOND
