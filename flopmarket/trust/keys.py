"""Ed25519 keys: what acts for an account, a device, a script, a coordinator.

A key's id is the SHA-256 of its DER SubjectPublicKeyInfo in lower-case hex, the same id that DSSE
and in-toto tools compute. Private keys live in unencrypted PKCS#8 PEM files that only their owner
may read (``openssl pkey`` reads them too); a file that others can read is refused, not repaired.
Called by the client, the worker and the coordinator; the envelope code only signs and verifies.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import platformdirs
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from flopmarket.limits import MAX_KEY_FILE_BYTES
from flopmarket.trust.errors import UnusableKey

PUBLIC_KEY_BYTES = 32
KEY_ID_LENGTH = 64

# RFC 8410: the DER SubjectPublicKeyInfo of an Ed25519 key is this and the 32 raw bytes.
_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
_FIELD_PRIME = 2**255 - 19
_KEY_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

# Ordinates of the eight points of small order (the last five are pairs that differ in sign). Under
# such a key one signature fits many messages, so its owner could deny every one of them.
_SMALL_ORDER_Y = frozenset(
    {
        0,
        1,
        _FIELD_PRIME - 1,
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            "little",
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
            "little",
        ),
    }
)


class KeyRole(StrEnum):
    """What a key is for. Registered with the key; never read from what the key signed."""

    OWNER = "owner"
    DEVICE = "device"
    CI = "ci"
    OPERATOR = "operator"
    COORDINATOR = "coordinator"
    RECOVERY = "recovery"
    INVITATION = "invitation"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """32 raw bytes of an Ed25519 public key; :class:`UnusableKey` when they prove nothing."""

    raw: bytes

    def __post_init__(self) -> None:
        if type(self.raw) is not bytes or len(self.raw) != PUBLIC_KEY_BYTES:
            raise UnusableKey(
                f"a public key has {PUBLIC_KEY_BYTES} bytes", code="PUBLIC_KEY_MALFORMED"
            )
        ordinate = int.from_bytes(self.raw, "little") & (2**255 - 1)
        if ordinate >= _FIELD_PRIME or ordinate in _SMALL_ORDER_Y:
            raise UnusableKey(
                "this public key is not canonical or of small order: its signatures prove nothing",
                code="PUBLIC_KEY_WEAK",
                hint="make a key with `flop key new`",
            )

    @property
    def key_id(self) -> str:
        """SHA-256 of the DER SubjectPublicKeyInfo, 64 hex digits."""
        return hashlib.sha256(_SPKI_PREFIX + self.raw).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` (64 bytes, RFC 8032) is this key's over ``message``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def to_pem(self) -> bytes:
        """SubjectPublicKeyInfo as PEM."""
        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @classmethod
    def from_pem(cls, pem: bytes) -> PublicKey:
        """Inverse of :meth:`to_pem`."""
        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise UnusableKey("not a PEM public key", code="PUBLIC_KEY_MALFORMED") from None
        if not isinstance(key, Ed25519PublicKey):
            raise UnusableKey("a public key must be Ed25519", code="PUBLIC_KEY_MALFORMED")
        return cls(key.public_bytes_raw())


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key and its public half. The private half never shows in a repr or a log."""

    private: Ed25519PrivateKey = field(repr=False, compare=False)
    public: PublicKey

    @classmethod
    def generate(cls) -> KeyPair:
        """A new key from the operating system's randomness."""
        return cls._of(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """The key of a 32-byte secret seed (RFC 8032); the same seed gives the same key."""
        if len(seed) != PUBLIC_KEY_BYTES:
            raise UnusableKey(f"a key seed has {PUBLIC_KEY_BYTES} bytes", code="KEY_MALFORMED")
        return cls._of(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def _of(cls, private: Ed25519PrivateKey) -> KeyPair:
        return cls(private, PublicKey(private.public_key().public_bytes_raw()))

    @property
    def key_id(self) -> str:
        """The public key's id."""
        return self.public.key_id

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of ``message`` (RFC 8032, deterministic)."""
        return self.private.sign(message)

    def to_pem(self) -> bytes:
        """PKCS#8 PEM, unencrypted."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @classmethod
    def from_pem(cls, pem: bytes) -> KeyPair:
        """Inverse of :meth:`to_pem`."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise UnusableKey(
                "not an unencrypted PKCS#8 PEM private key", code="KEY_MALFORMED"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise UnusableKey("a key must be Ed25519", code="KEY_MALFORMED")
        return cls._of(key)

    def save(self, path: Path) -> None:
        """Write the key to a new file of mode 0600; an existing file is never overwritten."""
        write_private_file(path, self.to_pem())

    @classmethod
    def load(cls, path: Path) -> KeyPair:
        """Read a key file that only its owner can read."""
        return cls.from_pem(read_private_file(path))


def default_key_folder() -> Path:
    """Where ``flop`` keeps keys of this user when no folder is given."""
    return platformdirs.user_config_path("flopmarket") / "keys"


def key_path(name: str, folder: Path | None = None) -> Path:
    """The file of the key called ``name``: lower-case letters, digits, dot, dash, underscore."""
    if not _KEY_NAME.fullmatch(name):
        raise UnusableKey(
            f"key name {name[:80]!r} is not 1 to 64 of a-z 0-9 . _ -", code="KEY_NAME_INVALID"
        )
    return (folder or default_key_folder()) / f"{name}.pem"


def write_private_file(path: Path, content: bytes) -> None:
    """Create ``path`` with mode 0600 and ``content`` on disk; parents get mode 0700.

    Raises :class:`UnusableKey` ``KEY_FILE_EXISTS`` when there is a file (or link) already.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise UnusableKey(
            f"{path} exists and is not overwritten",
            code="KEY_FILE_EXISTS",
            hint="choose another name, or move the old file away",
        ) from None
    except OSError as error:
        raise UnusableKey(f"{path}: {error.strerror}", code="KEY_FILE_UNWRITABLE") from None
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # whatever the umask says
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_private_file(path: Path) -> bytes:
    """The content of a regular file that belongs to this user and that nobody else can touch."""
    try:
        # O_NONBLOCK: a pipe in place of a key is refused instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UnusableKey(
            f"no key file {path}", code="KEY_FILE_MISSING", hint="make one with `flop key new`"
        ) from None
    except OSError as error:
        raise UnusableKey(f"{path}: {error.strerror}", code="KEY_FILE_UNREADABLE") from None
    try:
        _check_private(path, os.fstat(descriptor))
        return os.read(descriptor, MAX_KEY_FILE_BYTES)
    finally:
        os.close(descriptor)


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnusableKey(f"{path} is not a regular file", code="KEY_FILE_UNREADABLE")
    if status.st_mode & 0o077:
        raise UnusableKey(
            f"{path} can be reached by others (mode {stat.S_IMODE(status.st_mode):04o})",
            code="KEY_FILE_TOO_OPEN",
            hint=f"if nobody has read it: chmod 600 {path}; else make a new key and revoke this",
        )
    if status.st_uid != os.geteuid():
        raise UnusableKey(f"{path} belongs to another user", code="KEY_FILE_TOO_OPEN")
    if status.st_size > MAX_KEY_FILE_BYTES:
        raise UnusableKey(
            f"{path} has {status.st_size} bytes, a key file at most {MAX_KEY_FILE_BYTES}",
            code="KEY_MALFORMED",
        )
