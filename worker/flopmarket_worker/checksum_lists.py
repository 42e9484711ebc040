"""Checksum lists of a worker's segments and roots of their states, kept as the segments ran.

With them the worker answers for single steps (docs/audits.md) and shows that a bit flipped once.
Files beside the lease folders, one folder a lease: they survive the lease's own for two days, like
what its commitments hide. Where there is too much, the oldest lease's go first; what is gone is
made again by a replay.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from flopmarket.errors import FlopmarketError
from flopmarket.jobs.checksums import ChecksumList
from flopmarket.jobs.roots import StateRoots
from flopmarket.limits import KEPT_OPENING_SECONDS, MAX_KEPT_LISTS_BYTES
from flopmarket_worker.signing import Clock

logger = logging.getLogger("flopmarket.worker")

_LIST, _ROOTS = ".checksums", ".roots"
_ENDED = "ended"


class ChecksumLists:
    """All lists of one worker. ``folder`` is its own, ``now_us`` the wall clock."""

    def __init__(self, folder: Path, now_us: Clock, most_bytes: int = MAX_KEPT_LISTS_BYTES) -> None:
        self._folder = folder
        self._now_us = now_us
        self._most_bytes = most_bytes
        self._sizes: dict[str, int] = {}  # bytes by folder, the oldest first
        self._read()

    def keep(self, lease_id: str, index: int, path: Path) -> None:
        """Take over the list in ``path`` as that of a segment; nothing where there is none."""
        self._keep(lease_id, f"{index}{_LIST}", path)

    def keep_roots(self, lease_id: str, index: int, path: Path) -> None:
        """The same with the roots of its states."""
        self._keep(lease_id, f"{index}{_ROOTS}", path)

    def _keep(self, lease_id: str, file: str, path: Path) -> None:
        if not path.exists():
            return
        name = _name(lease_id)
        target = self._folder / name / file
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = target.stat().st_size if target.exists() else 0
        path.replace(target)
        self._sizes[name] = self._sizes.get(name, 0) + target.stat().st_size - before
        self._forget(name)

    def find(self, lease_id: str, index: int) -> ChecksumList | None:
        """The list of a segment; None when there was none, it is too old, or it is torn."""
        with contextlib.suppress(FlopmarketError):
            file = self._read_file(lease_id, f"{index}{_LIST}")
            return None if file is None else ChecksumList.from_bytes(file)
        return None

    def find_roots(self, lease_id: str, index: int) -> StateRoots | None:
        """The same of its states' roots, which may never have been taken."""
        with contextlib.suppress(FlopmarketError):
            file = self._read_file(lease_id, f"{index}{_ROOTS}")
            return None if file is None else StateRoots.from_bytes(file)
        return None

    def _read_file(self, lease_id: str, file: str) -> bytes | None:
        path = self._folder / _name(lease_id) / file
        try:
            return None if self._is_over(path.parent) else path.read_bytes()
        except OSError:
            return None

    def lease_ended(self, lease_id: str) -> None:
        """From now on its lists are kept for two days."""
        self._end(_name(lease_id))

    def only_live(self, lease_ids: Collection[str]) -> None:
        """After a start: every other lease has ended, now at the latest."""
        live = {_name(lease_id) for lease_id in lease_ids}
        for name in self._sizes:
            if name not in live:
                self._end(name)
        self._forget("")

    def _end(self, name: str) -> None:
        mark = self._folder / name / _ENDED
        if mark.parent.exists() and not mark.exists():
            mark.write_text(str(self._now_us()))

    def _is_over(self, folder: Path) -> bool:
        try:
            ended_us = int((folder / _ENDED).read_text())
        except (OSError, ValueError):
            return False
        return ended_us + KEPT_OPENING_SECONDS * 1_000_000 <= self._now_us()

    def _forget(self, newest: str) -> None:
        """Drop what is too old, and the oldest leases of too much; never ``newest``."""
        for name in [name for name in self._sizes if self._is_over(self._folder / name)]:
            self._drop(name)
        while sum(self._sizes.values()) > self._most_bytes:
            name = next((name for name in self._sizes if name != newest), "")
            if not name:
                return
            logger.warning(
                "more than %d bytes of checksum lists and roots: the oldest go", self._most_bytes
            )
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._sizes.pop(name, None)
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _read(self) -> None:
        """What an earlier run left."""
        if not self._folder.exists():
            return
        found = [path for path in self._folder.iterdir() if path.is_dir()]
        for path in sorted(found, key=lambda each: (each.stat().st_mtime_ns, each.name)):
            self._sizes[path.name] = sum(
                item.stat().st_size for item in path.iterdir() if item.suffix in (_LIST, _ROOTS)
            )
        self._forget("")


def _name(lease_id: str) -> str:
    """Ids come from outside, so a folder's name is their hash."""
    return hashlib.sha256(lease_id.encode()).hexdigest()[:32]
