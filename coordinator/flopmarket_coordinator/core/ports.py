"""What the use cases need from outside: bytes of artifacts."""

from __future__ import annotations

from typing import Protocol


class ArtifactReader(Protocol):
    """Port: small artifacts, whole. Data and states never pass through here."""

    def read(self, digest: str, max_bytes: int) -> bytes:
        """The bytes with this sha256 (lower-case hex).

        :class:`~flopmarket.errors.NotFound` ``ARTIFACT_MISSING`` without them,
        :class:`~flopmarket.errors.LimitExceeded` when they are longer than ``max_bytes``.
        """
        ...
