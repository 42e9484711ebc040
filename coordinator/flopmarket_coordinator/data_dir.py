"""The folder of an embedded coordinator: database, artifacts, keys, and the lock on all of them.

::

    coordinator.db   accounts, jobs, leases, ledger      keys/coordinator.pem  signs for this market
    artifacts/       bytes by sha256                     keys/operator.pem     signs deposits
    ca.crt           the authority's public half         keys/chains.secret    draws the audits
    audit/           files of the running audit          keys/ca.crt, ca.key   TLS authority
    lock             held by the process that serves
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from flopmarket.errors import Conflict, NotFound
from flopmarket.trust.encoding import DIGEST_BYTES
from flopmarket.trust.keys import KeyPair, read_private_file, write_private_file
from flopmarket.trust.tls import CertificateAuthority, TlsIdentity

_COORDINATOR_KEY = "coordinator.pem"
_OPERATOR_KEY = "operator.pem"
_CHAINS = "chains.secret"
_AUTHORITY = "ca"


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths and keys of one coordinator."""

    root: Path
    key: KeyPair
    operator_key: KeyPair
    chain_secret: bytes = field(repr=False)
    authority: CertificateAuthority

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "coordinator.db"

    @property
    def database_url(self) -> str:
        """The same for SQLAlchemy."""
        return f"sqlite:///{self.database.resolve()}"

    @property
    def artifacts(self) -> Path:
        """Folder of artifacts."""
        return self.root / "artifacts"

    @property
    def audit(self) -> Path:
        """Folder of the auditor's files; nothing in it outlives an audit."""
        return self.root / "audit"

    @property
    def dispute(self) -> Path:
        """Folder of the files with which the house answers in a dispute; nothing in it lasts."""
        return self.root / "dispute"

    @property
    def authority_file(self) -> Path:
        """What clients are given to trust."""
        return self.root / "ca.crt"

    @classmethod
    def create(cls, root: Path, *, now_us: int) -> DataDirectory:
        """The directory with all its keys; those that exist stay as they are."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys = root / "keys"
        keys.mkdir(mode=0o700, exist_ok=True)
        for name in (_COORDINATOR_KEY, _OPERATOR_KEY):
            if not (keys / name).exists():
                KeyPair.generate().save(keys / name)
        if not (keys / _CHAINS).exists():
            write_private_file(keys / _CHAINS, os.urandom(DIGEST_BYTES))
        key = KeyPair.load(keys / _COORDINATOR_KEY)
        if not (keys / f"{_AUTHORITY}.crt").exists():
            # The key is written first: without its certificate it was never used.
            (keys / f"{_AUTHORITY}.key").unlink(missing_ok=True)
            name = f"flopmarket coordinator {key.key_id[:16]}"
            CertificateAuthority.create(name, now_us=now_us).identity.save(keys, _AUTHORITY)
        directory = cls.open(root)
        directory.authority_file.write_bytes(directory.authority.identity.certificate_pem)
        return directory

    @staticmethod
    def key_id_of(keys: Path) -> str:
        """Id of the coordinator's key in a folder of keys."""
        return KeyPair.load(keys / _COORDINATOR_KEY).key_id

    @classmethod
    def open(cls, root: Path) -> DataDirectory:
        """A directory that exists; :class:`NotFound` ``DATA_DIR_MISSING`` otherwise."""
        keys = root / "keys"
        if not (keys / _COORDINATOR_KEY).exists():
            raise NotFound(
                f"{root} is not the data directory of a coordinator",
                code="DATA_DIR_MISSING",
                hint=f"flop coordinator init --data-dir {root}",
            )
        return cls(
            root,
            KeyPair.load(keys / _COORDINATOR_KEY),
            KeyPair.load(keys / _OPERATOR_KEY),
            _read_chain_secret(keys / _CHAINS),
            CertificateAuthority(TlsIdentity.load(keys, _AUTHORITY)),
        )


def _read_chain_secret(path: Path) -> bytes:
    """:class:`NotFound` ``CHAIN_SECRET_MISSING``: leases that run could not be drawn from."""
    secret = read_private_file(path) if path.exists() else b""
    if len(secret) != DIGEST_BYTES:
        raise NotFound(
            f"{path} does not hold {DIGEST_BYTES} bytes",
            code="CHAIN_SECRET_MISSING",
            hint="restore it from a backup; without it running leases cannot be audited",
        )
    return secret


class DirectoryLock:
    """Held while a process writes the directory; the system releases it when the process ends."""

    def __init__(self, root: Path) -> None:
        self._path = root / "lock"
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take it; :class:`Conflict` ``DATA_DIR_LOCKED`` when another process has it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise Conflict(
                f"another coordinator runs on {self._path.parent}",
                code="DATA_DIR_LOCKED",
                hint="stop it first, or give this one its own --data-dir",
            ) from None
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
