"""Heads of coordinators' ledgers that this user has seen: the memory that makes a rewrite visible.

One file a coordinator, ``heads/<key id>.jsonl`` under the user's data folder: DSSE envelopes as
they were signed, one a line, oldest first. Only heads that were verified, and joined to the one
before, are written.
"""

from __future__ import annotations

import json
from pathlib import Path

import platformdirs

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.limits import MAX_STORED_HEADS
from flopmarket.trust.documents import LedgerHead
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.statement import open_head


class StoredHeads:
    """The heads of one coordinator. ``folder`` is the user's by default."""

    def __init__(self, key: PublicKey, folder: Path | None = None) -> None:
        self._key = key
        where = folder or platformdirs.user_data_path("flopmarket") / "heads"
        self.path = where / f"{key.key_id}.jsonl"

    def last(self) -> LedgerHead | None:
        """The newest head; None before the first. :class:`InvalidInput` ``HEADS_UNREADABLE``."""
        lines = self._lines()
        return self._open(lines[-1]) if lines else None

    def all(self) -> list[LedgerHead]:
        """Every head, oldest first."""
        return [self._open(line) for line in self._lines()]

    def keep(self, head: Envelope) -> None:
        """Add a verified head, whole or not at all."""
        line = json.dumps(json.loads(head.to_json()), separators=(",", ":"))
        lines = [*self._lines(), line][-MAX_STORED_HEADS:]
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n", "utf-8")
        new.replace(self.path)

    def _open(self, line: str) -> LedgerHead:
        try:
            return open_head(Envelope.from_json(line.encode()), self._key)
        except FlopmarketError as error:
            raise InvalidInput(
                f"{self.path} is damaged: {error.message}",
                code="HEADS_UNREADABLE",
                hint="restore it from a backup; without it a rewritten ledger goes unseen",
            ) from error

    def _lines(self) -> list[str]:
        try:
            return self.path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{self.path}: {error}", code="HEADS_UNREADABLE") from error
