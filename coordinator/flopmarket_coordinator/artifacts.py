"""Bytes on disk under their sha256: the artifact folder of an embedded coordinator.

Who may read or write what is the application's business; this room only keeps bytes and their names
in agreement. An upload goes to a temporary file, is hashed and counted while it is written, and
gets its name (fsync, then rename) when length and hash are what was declared: a file that has a
name is whole. Called by the artifact service and the auditor.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from flopmarket.errors import FlopmarketError, InvalidInput, LimitExceeded, NotFound, Unavailable
from flopmarket.limits import ARTIFACT_CHUNK_BYTES, MAX_ARTIFACT_BYTES

UPLOAD_FOLDER = ".uploads"

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactStore(Protocol):
    """Port: bytes by content hash."""

    def present(self, digest: str) -> bool:
        """Whether the bytes are here, whole."""
        ...

    def path(self, digest: str) -> Path:
        """A file with the bytes; :class:`NotFound` ``ARTIFACT_MISSING`` without them."""
        ...

    async def write(self, digest: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> None:
        """Keep the bytes, all or nothing. The same artifact twice is not an error."""
        ...

    def stream(self, digest: str) -> AsyncIterator[bytes]:
        """The bytes in chunks of at most ``ARTIFACT_CHUNK_BYTES``."""
        ...

    def read(self, digest: str, max_bytes: int) -> bytes:
        """All of a small artifact; :class:`LimitExceeded` beyond ``max_bytes``."""
        ...

    def remove(self, digest: str) -> None:
        """Free the bytes; nothing happens when they are not here."""
        ...


def check_digest(digest: str) -> str:
    """``digest`` if it is a sha256 in lower-case hex; nothing else may become a path."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput(
            f"{digest[:80]!r} is not a sha256 in lower-case hex", code="ARTIFACT_DIGEST_MALFORMED"
        )
    return digest


def check_size(size_bytes: int) -> int:
    """``size_bytes`` if an artifact may be that large."""
    if size_bytes > MAX_ARTIFACT_BYTES:
        raise LimitExceeded(
            f"an artifact of {size_bytes} bytes, at most {MAX_ARTIFACT_BYTES}",
            code="ARTIFACT_TOO_LARGE",
            details={"size_bytes": str(size_bytes), "limit": str(MAX_ARTIFACT_BYTES)},
        )
    return size_bytes


def artifact_file(folder: Path, digest: str) -> Path:
    """Where a folder of artifacts has the one of this digest: ``ab/abcd…``."""
    check_digest(digest)
    return folder / digest[:2] / digest


class FileArtifactStore:
    """An :class:`ArtifactStore` in a folder: ``ab/abcd…`` for the digest ``abcd…``.

    ``new_id`` names temporary files. Writing needs :meth:`prepare` first.
    """

    def __init__(self, folder: Path, new_id: Callable[[], str]) -> None:
        self._folder = folder
        self._new_id = new_id
        self._uploads = folder / UPLOAD_FOLDER

    def prepare(self) -> None:
        """Make the folder and remove unfinished uploads; once, by the process that serves."""
        self._uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._uploads.iterdir():
            left.unlink(missing_ok=True)

    def present(self, digest: str) -> bool:
        """See :class:`ArtifactStore`."""
        return self._place(digest).is_file()

    def path(self, digest: str) -> Path:
        """See :class:`ArtifactStore`."""
        place = self._place(digest)
        if not place.is_file():
            raise _missing(digest)
        return place

    async def write(self, digest: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> None:
        """See :class:`ArtifactStore`."""
        check_digest(digest)
        check_size(size_bytes)
        temporary = self._uploads / self._new_id()
        try:
            with _disk_errors(digest):
                file = await asyncio.to_thread(temporary.open, "xb")
                try:
                    await _fill(file, digest, size_bytes, chunks)
                finally:
                    file.close()
                await asyncio.to_thread(_publish, temporary, self._place(digest))
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, digest: str, max_bytes: int) -> bytes:
        """See :class:`ArtifactStore`. Blocks; for program bytes, inside a transaction."""
        with _disk_errors(digest), self.path(digest).open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise LimitExceeded(
                f"artifact {digest} has more than {max_bytes} bytes",
                code="ARTIFACT_TOO_LARGE",
                details={"digest": digest, "limit": str(max_bytes)},
            )
        return content

    def remove(self, digest: str) -> None:
        """See :class:`ArtifactStore`. Whoever reads the file goes on to its end."""
        with _disk_errors(digest):
            self._place(digest).unlink(missing_ok=True)

    async def stream(self, digest: str) -> AsyncIterator[bytes]:
        """See :class:`ArtifactStore`."""
        with _disk_errors(digest):
            try:
                file = await asyncio.to_thread(self._place(digest).open, "rb")
            except FileNotFoundError:
                raise _missing(digest) from None
            with file:
                while chunk := await asyncio.to_thread(file.read, ARTIFACT_CHUNK_BYTES):
                    yield chunk

    def _place(self, digest: str) -> Path:
        return artifact_file(self._folder, digest)


async def _fill(file: BinaryIO, digest: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> None:
    """Write, count and hash; the declared length is a bound before a byte is kept."""
    hasher = hashlib.sha256()
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > size_bytes:
            raise InvalidInput(
                f"artifact {digest} is longer than the {size_bytes} bytes it was declared with",
                code="ARTIFACT_LONGER_THAN_DECLARED",
                details={"digest": digest, "size_bytes": str(size_bytes)},
            )
        await asyncio.to_thread(_append, file, hasher.update, chunk)
    if received != size_bytes:
        raise InvalidInput(
            f"artifact {digest} ended after {received} bytes of {size_bytes}",
            code="ARTIFACT_SHORTER_THAN_DECLARED",
            retryable=True,
            details={"digest": digest, "size_bytes": str(size_bytes), "received": str(received)},
        )
    actual = hasher.hexdigest()
    if actual != digest:
        raise InvalidInput(
            f"the bytes hash to {actual}, not to {digest}",
            code="ARTIFACT_HASH_DIFFERS",
            details={"digest": digest, "actual": actual},
        )


def _append(file: BinaryIO, update: Callable[[bytes], None], chunk: bytes) -> None:
    update(chunk)
    file.write(chunk)


def _publish(temporary: Path, place: Path) -> None:
    """Make the bytes durable, then give them their name."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    place.parent.mkdir(mode=0o700, exist_ok=True)
    temporary.replace(place)
    descriptor = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(digest: str) -> Iterator[None]:
    """The operating system's errors as ours."""
    try:
        yield
    except FlopmarketError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise Unavailable(
            f"artifact {digest}: {error.strerror}",
            code="ARTIFACT_DISK_FULL" if full else "ARTIFACT_STORE_FAILED",
            hint="the operator must make room" if full else "",
        ) from error


def _missing(digest: str) -> NotFound:
    return NotFound(
        f"artifact {digest} is not here",
        code="ARTIFACT_MISSING",
        details={"digest": digest},
    )
