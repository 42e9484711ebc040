"""TLS identities: the coordinator's own authority, its server leaf, and short-lived worker leaves.

gRPC's TLS cannot use Ed25519 leaves, so leaves are P-256 and a worker's leaf carries the id of its
Ed25519 key as a URI name: the handshake proves a P-256 key, the authority says which Ed25519 key
asked for it. The worker makes its leaf key itself and sends a signing request; private keys do not
travel. ``now_us`` is the clock, in microseconds since the Unix epoch.

Called by ``flop coordinator init``, the enrolment service, and the channel set-up of both sides.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flopmarket.errors import InvalidInput, LimitExceeded
from flopmarket.limits import MAX_CLIENT_LEAF_SECONDS, MAX_CLOCK_SKEW_US
from flopmarket.trust.keys import read_private_file, write_private_file

KEY_URI_PREFIX = "flopmarket:key:"
AUTHORITY_LIFETIME = timedelta(days=3650)
SERVER_LIFETIME = timedelta(days=397)

_KEY_ID = re.compile(r"[0-9a-f]{64}")


class TlsError(InvalidInput):
    """A certificate, request or key is malformed or does not fit its use."""

    default_code = "TLS_IDENTITY_INVALID"


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """A certificate and its private key, both PEM, as gRPC takes them."""

    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)

    def save(self, folder: Path, name: str) -> None:
        """Write ``name.crt`` and ``name.key`` as new files of mode 0600."""
        write_private_file(folder / f"{name}.key", self.private_key_pem)
        write_private_file(folder / f"{name}.crt", self.certificate_pem)

    @classmethod
    def load(cls, folder: Path, name: str) -> TlsIdentity:
        """Inverse of :meth:`save`; refuses files that others can reach."""
        return cls(
            read_private_file(folder / f"{name}.crt"), read_private_file(folder / f"{name}.key")
        )


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """The coordinator's own authority; whoever holds it can speak as any worker."""

    identity: TlsIdentity

    @classmethod
    def create(cls, common_name: str, *, now_us: int) -> CertificateAuthority:
        """A new P-256 authority that may sign leaves only, valid for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(common_name)
        certificate = (
            _builder(name, name, key.public_key(), now_us, AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(TlsIdentity(_certificate_pem(certificate), _private_pem(key)))

    def issue_server(self, hosts: Sequence[str], *, now_us: int) -> TlsIdentity:
        """A server identity for DNS names and IP addresses, valid for 397 days."""
        if not hosts:
            raise TlsError("a server certificate needs at least one host name or address")
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([_host_name(host) for host in hosts])
        certificate = self._issue(
            hosts[0],
            key.public_key(),
            names,
            ExtendedKeyUsageOID.SERVER_AUTH,
            now_us,
            SERVER_LIFETIME,
        )
        return TlsIdentity(certificate, _private_pem(key))

    def issue_client(
        self, request_pem: bytes, *, key_id: str, now_us: int, lifetime_seconds: int
    ) -> bytes:
        """The certificate (PEM) for a signing request, bound to an Ed25519 key id.

        The caller has verified an envelope of that key around the request. What the request says
        of names is ignored. At most ``MAX_CLIENT_LEAF_SECONDS``.
        """
        if not _KEY_ID.fullmatch(key_id):
            raise TlsError("a key id is 64 lower-case hex digits")
        if not 0 < lifetime_seconds <= MAX_CLIENT_LEAF_SECONDS:
            raise LimitExceeded(
                f"a client certificate for {lifetime_seconds} s, 1 to {MAX_CLIENT_LEAF_SECONDS}",
                code="TLS_LIFETIME_TOO_LONG",
            )
        names = x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(KEY_URI_PREFIX + key_id)]
        )
        return self._issue(
            key_id[:16],
            _requested_key(request_pem),
            names,
            ExtendedKeyUsageOID.CLIENT_AUTH,
            now_us,
            timedelta(seconds=lifetime_seconds),
        )

    def _issue(
        self,
        subject: str,
        public_key: ec.EllipticCurvePublicKey,
        names: x509.SubjectAlternativeName,
        usage: x509.ObjectIdentifier,
        now_us: int,
        lifetime: timedelta,
    ) -> bytes:
        issuer = _load_certificate(self.identity.certificate_pem)
        key = _load_private(self.identity.private_key_pem)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        certificate = (
            _builder(_name(subject), issuer.subject, public_key, now_us, lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(names, critical=False)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        return _certificate_pem(certificate)


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """A worker's new leaf key and the signing request to send for it, both PEM."""

    request_pem: bytes
    private_key_pem: bytes = field(repr=False)

    @classmethod
    def create(cls) -> ClientRequest:
        """A fresh P-256 key and its request, which carries no names."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
        return cls(request.public_bytes(serialization.Encoding.PEM), _private_pem(key))

    def with_certificate(self, certificate_pem: bytes) -> TlsIdentity:
        """The identity, once the coordinator has answered; refuses another key's certificate."""
        certificate = _load_certificate(certificate_pem)
        try:
            key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            raise TlsError("the certificate has no key that can be read") from None
        if key != _load_private(self.private_key_pem).public_key():
            raise TlsError("the certificate belongs to another key")
        return TlsIdentity(certificate_pem, self.private_key_pem)


def client_key_id(certificate_pem: bytes) -> str:
    """The Ed25519 key id a client certificate is bound to.

    The handshake must have checked the certificate against the authority already.
    """
    certificate = _load_certificate(certificate_pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        ValueError,
    ):
        raise TlsError("the client certificate is bound to no key id") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    ids = [uri.removeprefix(KEY_URI_PREFIX) for uri in uris if uri.startswith(KEY_URI_PREFIX)]
    if len(ids) != 1 or not _KEY_ID.fullmatch(ids[0]):
        raise TlsError("the client certificate is bound to no single key id")
    return ids[0]


def client_lifetime_us(certificate_pem: bytes) -> tuple[int, int]:
    """From when to when a certificate is valid, microseconds since the epoch."""
    certificate = _load_certificate(certificate_pem)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return int(begin.timestamp()) * 1_000_000, int(end.timestamp()) * 1_000_000


def is_issued_by(certificate_pem: bytes, authority_pem: bytes) -> bool:
    """Whether an authority signed the certificate."""
    certificate, authority = _load_certificate(certificate_pem), _load_certificate(authority_pem)
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def fingerprint(certificate_pem: bytes) -> str:
    """SHA-256 of the DER certificate, 64 hex digits: what an invitation carries."""
    return _load_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex()


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now_us: int,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(now_us // 1_000_000, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(microseconds=MAX_CLOCK_SKEW_US))
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
    except ValueError:
        raise TlsError("a certificate needs a name") from None


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise TlsError(f"{host[:80]!r} is neither an address nor an ASCII host name") from None


def _requested_key(request_pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_pem_x509_csr(request_pem)
        key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion):
        raise TlsError("not a PEM certificate signing request") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TlsError("a client certificate needs a P-256 key")
    if not signed:
        raise TlsError("the signing request was not made by the holder of its key")
    return key


def _load_certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, x509.InvalidVersion):
        raise TlsError("not a PEM certificate") from None


def _load_private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise TlsError("not an unencrypted PEM private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TlsError("a TLS key here is P-256")
    return key


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
