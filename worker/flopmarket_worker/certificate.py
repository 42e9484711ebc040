"""The worker's TLS certificate: short-lived, bound to its device key, renewed before it ends.

One file holds the certificate and its private key, so that a renewal replaces both or neither. The
key never leaves the machine; what is asked for is signed with the device key.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from flopmarket.errors import FlopmarketError
from flopmarket.trust.keys import read_private_file, write_private_file
from flopmarket.trust.tls import (
    ClientRequest,
    TlsIdentity,
    client_key_id,
    client_lifetime_us,
    is_issued_by,
)

FILE = "tls.pem"
_KEY_BEGINS = b"-----BEGIN PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate in use, and when it should be replaced."""

    identity: TlsIdentity
    renew_at_us: int

    @classmethod
    def of(cls, identity: TlsIdentity) -> Leaf:
        """Renewed after two thirds of its life."""
        begin_us, end_us = client_lifetime_us(identity.certificate_pem)
        return cls(identity, begin_us + (end_us - begin_us) * 2 // 3)


def load_leaf(folder: Path, key_id: str, ca_pem: bytes | None, now_us: int) -> Leaf | None:
    """The leaf on disk; None when it is none of this key's, of another authority, or old."""
    with contextlib.suppress(FlopmarketError):
        content = read_private_file(folder / FILE)
        certificate, begin, private = content.partition(_KEY_BEGINS)
        leaf = Leaf.of(TlsIdentity(certificate, begin + private))
        ours = client_key_id(certificate) == key_id
        trusted = ca_pem is None or is_issued_by(certificate, ca_pem)
        if ours and trusted and now_us < leaf.renew_at_us:
            return leaf
    return None


def save_leaf(folder: Path, identity: TlsIdentity) -> None:
    """Replace the file, whole or not at all."""
    fresh = folder / f".{FILE}.new"
    fresh.unlink(missing_ok=True)
    write_private_file(fresh, identity.certificate_pem + identity.private_key_pem)
    fresh.replace(folder / FILE)


def new_request() -> ClientRequest:
    """A new TLS key and the request to have it certified."""
    return ClientRequest.create()
