"""What a worker's commitments hide, kept so that they can be opened for two days after a lease.

One small file beside the lease folders, readable by its owner alone; a line is added, and forced to
disk, before the commitment is sent, and when a lease has ended. It survives the lease's own folder,
and so does the salt: a commitment that is sent again is the same commitment.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flopmarket.limits import KEPT_OPENING_SECONDS, MAX_KEPT_OPENINGS
from flopmarket.trust.encoding import DIGEST_BYTES
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.sealing import InnerSecret
from flopmarket.v1 import worker_pb2
from flopmarket_worker.signing import Clock, Sealer

logger = logging.getLogger("flopmarket.worker")

FILE_NAME = "openings.jsonl"
_MODE = 0o600
_SLACK_LINES = 1_024


@dataclass(slots=True)
class _Kept:
    """Secrets of one lease by segment; ``ended_us`` is 0 while it lives."""

    secrets: dict[int, InnerSecret]
    ended_us: int = 0


class Openings:
    """All secrets of one worker. ``salt`` gives 32 random bytes, ``now_us`` the wall clock."""

    def __init__(self, folder: Path, now_us: Clock, salt: Callable[[], bytes]) -> None:
        self._path = folder / FILE_NAME
        self._now_us = now_us
        self._salt = salt
        self._leases: dict[str, _Kept] = {}  # those that began first come first
        self._lines = 0
        self._read()

    def secret(self, lease_id: str, index: int, device_key_id: str, inner: bytes) -> InnerSecret:
        """The secret behind a segment's commitment: the same whenever it is asked for."""
        known = self.find(lease_id, index)
        if known is not None and (known.device_key_id, known.inner) == (device_key_id, inner):
            return known
        made = InnerSecret(device_key_id, self._salt(), inner)
        self._keep(lease_id, index, made)
        self._append([lease_id, index, device_key_id, made.salt.hex(), inner.hex()])
        self._forget()
        return made

    def find(self, lease_id: str, index: int) -> InnerSecret | None:
        """The secret behind a commitment; None when there was none, or it is too old."""
        kept = self._leases.get(lease_id)
        if kept is None or self._is_over(kept):
            return None
        return kept.secrets.get(index)

    def lease_ended(self, lease_id: str) -> None:
        """From now on its secrets are kept for two days."""
        kept = self._leases.get(lease_id)
        if kept is not None and not kept.ended_us:
            kept.ended_us = self._now_us()
            self._append([lease_id, kept.ended_us])

    def only_live(self, lease_ids: Collection[str]) -> None:
        """After a start: every other lease has ended, now at the latest."""
        for lease_id in list(self._leases):
            if lease_id not in lease_ids:
                self.lease_ended(lease_id)

    def _keep(self, lease_id: str, index: int, secret: InnerSecret) -> None:
        self._leases.setdefault(lease_id, _Kept({})).secrets[index] = secret

    def _is_over(self, kept: _Kept) -> bool:
        lasts_us = KEPT_OPENING_SECONDS * 1_000_000
        return bool(kept.ended_us) and kept.ended_us + lasts_us <= self._now_us()

    def _forget(self) -> None:
        """Drop what is too old, and the oldest leases of too many; rewrite a stale file."""
        for lease_id in [name for name, kept in self._leases.items() if self._is_over(kept)]:
            del self._leases[lease_id]
        count = sum(len(kept.secrets) for kept in self._leases.values())
        while count > MAX_KEPT_OPENINGS and len(self._leases) > 1:
            lease_id, dropped = next(iter(self._leases.items()))
            del self._leases[lease_id]
            count -= len(dropped.secrets)
            logger.warning(
                "more than %d commitments to open: those of lease %s are forgotten",
                MAX_KEPT_OPENINGS,
                lease_id,
            )
        if self._lines > 2 * (count + len(self._leases)) + _SLACK_LINES:
            self._rewrite()

    def _read(self) -> None:
        """What an earlier run wrote; a torn last line (power cut) is dropped."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        good = 0
        for line in data.splitlines(keepends=True):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("torn")
                self._apply(json.loads(line))
            except (ValueError, TypeError):
                break
            good += len(line)
            self._lines += 1
        if good < len(data):
            os.truncate(self._path, good)
        self._forget()

    def _apply(self, entry: list[Any]) -> None:
        match entry:
            case [str(lease_id), int(ended_us)]:
                if lease_id in self._leases:
                    self._leases[lease_id].ended_us = ended_us
            case [str(lease_id), int(index), str(key_id), str(salt), str(inner)]:
                made = InnerSecret(key_id, bytes.fromhex(salt), bytes.fromhex(inner))
                if {len(made.salt), len(made.inner)} != {DIGEST_BYTES}:
                    raise ValueError("a digest has 32 bytes")
                self._keep(lease_id, index, made)
            case _:
                raise ValueError("no line of this file")

    def _lines_of(self, lease_id: str, kept: _Kept) -> list[list[Any]]:
        lines: list[list[Any]] = [
            [lease_id, index, secret.device_key_id, secret.salt.hex(), secret.inner.hex()]
            for index, secret in kept.secrets.items()
        ]
        return [*lines, [lease_id, kept.ended_us]] if kept.ended_us else lines

    def _rewrite(self) -> None:
        lines = [
            line
            for lease_id, kept in self._leases.items()
            for line in self._lines_of(lease_id, kept)
        ]
        fresh = self._path.with_name(f".{FILE_NAME}.{os.getpid()}")
        self._write(fresh, os.O_TRUNC, lines)
        fresh.replace(self._path)
        self._lines = len(lines)

    def _append(self, entry: list[Any]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write(self._path, os.O_APPEND, [entry])
        self._lines += 1

    def _write(self, path: Path, flag: int, entries: list[list[Any]]) -> None:
        """Add lines to a file that nobody else may read, and wait for the disk."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flag, _MODE)
        with os.fdopen(descriptor, "wb") as file:
            for entry in entries:
                file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def shown(
    asked: worker_pb2.OpeningAsked, openings: Openings, keys: Sequence[KeyPair], sealer: Sealer
) -> worker_pb2.SegmentOpened:
    """What a commitment hides, as often as it is asked for; the key that committed signs, also
    where another one took its place since."""
    opened = worker_pb2.SegmentOpened(lease_id=asked.lease_id, segment_index=asked.segment_index)
    secret = openings.find(asked.lease_id, asked.segment_index)
    signers = {key.key_id: key for key in keys}
    if secret is not None and secret.device_key_id in signers:
        opened.secret.CopyFrom(sealer.seal(secret, signers[secret.device_key_id]))
        return opened
    logger.warning(
        "lease %s segment %d: asked to open a commitment that is not known here",
        asked.lease_id[:64],
        asked.segment_index,
    )
    opened.code = "OPENING_UNKNOWN"
    opened.message = "no commitment of this segment is known here (any more)"
    return opened
