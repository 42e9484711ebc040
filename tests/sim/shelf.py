"""Artifacts of a simulation: digests and pretended bytes.

A file's bytes are the root of the tensors that it would hold, so that an auditor reads the root of
a file by reading the file.
"""

from __future__ import annotations

import hashlib

from flopmarket.errors import NotFound


class Shelf:
    """Artifacts as a dict; implements ``ArtifactReader``."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.inside: dict[bytes, tuple[bytes, ...]] = {}
        """Outputs of each step in a file, by the root of it all, where somebody looks inside."""

    def put(self, data: bytes) -> str:
        """Keep some bytes; their digest."""
        digest = hashlib.sha256(data).hexdigest()
        self.stored[digest] = data
        return digest

    def read(self, digest: str, max_bytes: int) -> bytes:
        """See ``ArtifactReader``."""
        if digest not in self.stored:
            raise NotFound(f"no artifact {digest}", code="ARTIFACT_MISSING")
        return self.stored[digest][:max_bytes]

    def root_in(self, digest: str) -> bytes | None:
        """Root of the tensors in a file: None when none is named, ``b""`` when it is garbage."""
        if not digest:
            return None
        data = self.stored[digest]
        return data if len(data) == 32 else b""
