"""TLS of a running coordinator: its own certificate, renewed in place, and workers' certificates.

gRPC asks for the server's certificate at every handshake; a new one is made when little of the
present one's life is left, so that nothing is restarted. The chain that is sent has the authority's
certificate too, which a machine that joins compares with the fingerprint in its token.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from flopmarket.limits import CLIENT_LEAF_SECONDS
from flopmarket.trust.tls import SERVER_LIFETIME, CertificateAuthority, fingerprint

_log = logging.getLogger(__name__)

SECOND_US = 1_000_000
RENEW_BEFORE_US = int(SERVER_LIFETIME.total_seconds()) * SECOND_US // 4


@dataclass(frozen=True, slots=True)
class IssuedLeaf:
    """A worker's certificate, PEM, and when it ends."""

    pem: bytes
    expires_at_us: int


class Certificates:
    """The authority at work. ``worker_port`` is set once that port is bound; 0 without one."""

    def __init__(
        self,
        authority: CertificateAuthority,
        hosts: Sequence[str],
        clock_us: Callable[[], int],
        *,
        renew_before_us: int = RENEW_BEFORE_US,
    ) -> None:
        self._authority = authority
        self._hosts = tuple(hosts)
        self._clock_us = clock_us
        self._renew_before_us = renew_before_us
        self.fingerprint = bytes.fromhex(fingerprint(authority.identity.certificate_pem))
        self.worker_port = 0

    def issue(self, request_pem: bytes, key_id: str, now_us: int) -> IssuedLeaf:
        """A certificate for the TLS key of a worker, bound to its Ed25519 key."""
        pem = self._authority.issue_client(
            request_pem, key_id=key_id, now_us=now_us, lifetime_seconds=CLIENT_LEAF_SECONDS
        )
        return IssuedLeaf(pem, now_us + CLIENT_LEAF_SECONDS * SECOND_US)

    def server_credentials(self, *, certified: bool) -> grpc.ServerCredentials:
        """Credentials of one port; ``certified`` demands a client certificate of our authority."""
        renewal = _Renewal(self, certified)
        credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            renewal.first(),
            renewal.next,  # type: ignore[arg-type]  # None keeps the present one
            certified,
        )
        return credentials

    def configuration(self, certified: bool) -> tuple[grpc.ServerCertificateConfiguration, int]:
        """A fresh certificate as gRPC takes it, and when to make the next."""
        now_us = self._clock_us()
        leaf = self._authority.issue_server(self._hosts, now_us=now_us)
        authority_pem = self._authority.identity.certificate_pem
        configuration = grpc.ssl_server_certificate_configuration(
            [(leaf.private_key_pem, leaf.certificate_pem + authority_pem)],
            root_certificates=authority_pem if certified else None,
        )
        lifetime_us = int(SERVER_LIFETIME.total_seconds()) * SECOND_US
        return configuration, now_us + lifetime_us - self._renew_before_us

    def due(self, renew_at_us: int) -> bool:
        """Whether it is time."""
        return self._clock_us() >= renew_at_us


class _Renewal:
    """What gRPC calls from a thread of its own before each handshake of one port."""

    def __init__(self, certificates: Certificates, certified: bool) -> None:
        self._certificates = certificates
        self._certified = certified
        self._lock = threading.Lock()
        self._renew_at_us = 0

    def first(self) -> grpc.ServerCertificateConfiguration:
        """The configuration to begin with."""
        configuration, self._renew_at_us = self._certificates.configuration(self._certified)
        return configuration

    def next(self) -> grpc.ServerCertificateConfiguration | None:
        """A new configuration, or None to keep the present one."""
        with self._lock:
            if not self._certificates.due(self._renew_at_us):
                return None
            configuration, self._renew_at_us = self._certificates.configuration(self._certified)
        _log.info("the server's certificate was renewed")
        return configuration
