"""Compiled kernels on disk, so that a program builds once per driver and not once per process.

:mod:`flopmarket.engine.runtime.opencl` is the only caller. An entry is one file: magic, length and
SHA-256 of the driver's binary, then the binary. Nothing here is ever unpickled, and a file that
does not verify is removed and built again. Several processes may share a folder: a lock per key
keeps them from building the same source at once. Failures are not remembered; they are errors of
ours and should be seen each time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from flopmarket.engine.errors import EngineError
from flopmarket.engine.runtime.devices import DeviceInfo

CACHE_VERSION = 2
"""Raised when the engine changes what it passes to drivers in a way the key does not show."""
DEFAULT_MAX_BYTES = 512 * 1024 * 1024
MAX_BINARY_BYTES = 64 * 1024 * 1024

_HEADER = struct.Struct("<8sQ32s")  # magic, length of the binary, its sha256
_MAGIC = b"FMKERN1\n"
_SUFFIX = ".kernel"
_EVICT_TO = 0.8  # evicting to a little below the limit keeps the next stores from evicting again


def default_directory() -> Path:
    """The user's cache folder for kernels, ``~/.cache/flopmarket/kernels`` on Linux."""
    return Path(platformdirs.user_cache_dir("flopmarket")) / "kernels"


def cache_key(
    source: str,
    options: tuple[str, ...],
    info: DeviceInfo,
    *,
    target: str = "",
    checked_by: str = "",
) -> str:
    """64 hex digits that change with anything a driver's binary depends on.

    ``target`` names the processor compiled for, where the engine chose it and not the driver;
    ``checked_by`` the rules that the source met before it was built.
    """
    digest = hashlib.sha256()
    fields = (
        f"flopmarket kernel cache {CACHE_VERSION}",
        info.platform,
        info.platform_version,
        info.driver_version,
        info.name,
        info.opencl_version,
        info.opencl_c_version,
        target,
        checked_by,
        "\0".join(options),
        source,
    )
    for field in fields:
        raw = field.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


class KernelCache:
    """A size-bounded folder of kernel binaries, safe to share between processes.

    ``load`` and ``store`` are best effort: a full or read-only disk costs time, not correctness.
    Only an unusable folder given on purpose is an error, at construction.
    """

    def __init__(
        self, directory: Path | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        self.directory = default_directory() if directory is None else directory
        self.max_bytes = max_bytes
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise EngineError(
                f"cannot create the kernel cache folder {self.directory}: {error.strerror}",
                code="CACHE_UNUSABLE",
                hint="pass another folder, or no cache",
            ) from error

    def path(self, key: str) -> Path:
        """Where the entry of ``key`` lies, whether or not it exists."""
        return self.directory / f"{key}{_SUFFIX}"

    def load(self, key: str) -> bytes | None:
        """The binary stored under ``key``, or None; a damaged file is removed."""
        path = self.path(key)
        try:
            if path.stat().st_size > MAX_BINARY_BYTES + _HEADER.size:
                self.remove(key)
                return None
            raw = path.read_bytes()
        except OSError:
            return None
        binary = _verified(raw)
        if binary is None:
            self.remove(key)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # eviction goes by last use
        return binary

    def store(self, key: str, binary: bytes) -> bool:
        """Write the entry atomically, then evict the least recently used ones beyond ``max_bytes``.

        Returns whether it was stored: not when it is larger than a limit, nor on a disk error.
        """
        if not 0 < len(binary) <= min(MAX_BINARY_BYTES, self.max_bytes - _HEADER.size):
            return False
        header = _HEADER.pack(_MAGIC, len(binary), hashlib.sha256(binary).digest())
        name = None
        try:
            handle, name = tempfile.mkstemp(dir=self.directory, prefix=key[:16], suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(header)
                file.write(binary)
            Path(name).replace(self.path(key))
        except OSError:
            if name is not None:
                Path(name).unlink(missing_ok=True)
            return False
        self._evict(keep=key)
        return True

    def remove(self, key: str) -> None:
        """Drop the entry of ``key`` if there is one."""
        with contextlib.suppress(OSError):
            self.path(key).unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the key's lock: one process builds, the others wait and then load what it stored."""
        # One of 256 files, so that locks do not pile up; two keys that share one merely take turns.
        path = self.directory / f"{key[:2]}.lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # without a lock the worst case is that two processes build the same thing
            yield
            return
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _evict(self, keep: str) -> None:
        entries = []
        for path in self.directory.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):  # another process may have evicted it
                status = path.stat()
                entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        if total <= self.max_bytes:
            return
        for _, size, path in sorted(entries):
            if total <= self.max_bytes * _EVICT_TO:
                return
            if path != self.path(keep):
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= size


def _verified(raw: bytes) -> bytes | None:
    """The binary of an entry's bytes, or None where magic, length or checksum are wrong."""
    if len(raw) < _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack_from(raw)
    binary = raw[_HEADER.size :]
    if magic != _MAGIC or len(binary) != length or hashlib.sha256(binary).digest() != checksum:
        return None
    return binary
