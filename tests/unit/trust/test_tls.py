"""TLS identities: names, lifetimes, files, and a real mutual handshake through gRPC."""

from __future__ import annotations

import base64
import stat
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from flopmarket.errors import FlopmarketError, LimitExceeded
from flopmarket.trust.errors import UnusableKey
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.tls import (
    CertificateAuthority,
    ClientRequest,
    TlsError,
    TlsIdentity,
    client_key_id,
    fingerprint,
)

NOW = datetime.now(UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
KEY_ID = KeyPair.from_seed(b"w" * 32).key_id
AUTHORITY = CertificateAuthority.create("test market", now_us=NOW_US)
SERVER = AUTHORITY.issue_server(["localhost", "127.0.0.1", "::1"], now_us=NOW_US)


def client(authority: CertificateAuthority = AUTHORITY, key_id: str = KEY_ID) -> TlsIdentity:
    request = ClientRequest.create()
    certificate = authority.issue_client(
        request.request_pem, key_id=key_id, now_us=NOW_US, lifetime_seconds=3600
    )
    return request.with_certificate(certificate)


def parsed(identity: TlsIdentity) -> x509.Certificate:
    return x509.load_pem_x509_certificate(identity.certificate_pem)


def call(identity: TlsIdentity | None, roots: bytes) -> str:
    """The key id that a gRPC server sees when a client of this identity connects."""

    def whoami(_request: bytes, context: grpc.ServicerContext) -> bytes:
        certificate = context.auth_context()["x509_pem_cert"][0]
        return client_key_id(certificate).encode()

    handler = grpc.method_handlers_generic_handler(
        "test.Who", {"Am": grpc.unary_unary_rpc_method_handler(whoami)}
    )
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=(handler,))
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(SERVER.private_key_pem, SERVER.certificate_pem)],
            root_certificates=AUTHORITY.identity.certificate_pem,
            require_client_auth=True,
        ),
    )
    server.start()
    try:
        credentials = grpc.ssl_channel_credentials(
            roots,
            identity.private_key_pem if identity else None,
            identity.certificate_pem if identity else None,
        )
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            return str(channel.unary_unary("/test.Who/Am")(b"", timeout=5).decode())
    finally:
        server.stop(None).wait()


def test_a_mutual_handshake_through_grpc_names_the_workers_key() -> None:
    assert call(client(), AUTHORITY.identity.certificate_pem) == KEY_ID


def test_grpc_refuses_strangers_on_both_sides() -> None:
    other = CertificateAuthority.create("other market", now_us=NOW_US)
    roots = AUTHORITY.identity.certificate_pem
    for identity, trusted in (
        (client(other), roots),
        (None, roots),
        (client(), other.identity.certificate_pem),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(identity, trusted)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_leaves_are_p256_short_lived_and_for_one_use() -> None:
    for identity, usage, lifetime in (
        (SERVER, ExtendedKeyUsageOID.SERVER_AUTH, timedelta(days=397)),
        (client(), ExtendedKeyUsageOID.CLIENT_AUTH, timedelta(hours=1)),
    ):
        leaf = parsed(identity)
        leaf.verify_directly_issued_by(parsed(AUTHORITY.identity))
        public = leaf.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert isinstance(public.curve, ec.SECP256R1)
        assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        issued = datetime.fromtimestamp(NOW_US // 1_000_000, UTC)
        assert leaf.not_valid_after_utc == issued + lifetime
        assert leaf.not_valid_before_utc == issued - timedelta(minutes=5)


def test_the_authority_signs_leaves_only() -> None:
    certificate = parsed(AUTHORITY.identity)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value.ca and constraints.value.path_length == 0


def test_the_server_carries_names_and_addresses() -> None:
    names = parsed(SERVER).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


@pytest.mark.parametrize("hosts", [[], ["höst"], [""]])
def test_hosts_that_are_no_hosts_are_refused(hosts: list[str]) -> None:
    with pytest.raises(TlsError):
        AUTHORITY.issue_server(hosts, now_us=NOW_US)


@pytest.mark.parametrize("seconds", [0, -1, 24 * 3600 + 1])
def test_client_lifetimes_are_bounded(seconds: int) -> None:
    with pytest.raises(LimitExceeded):
        AUTHORITY.issue_client(
            ClientRequest.create().request_pem,
            key_id=KEY_ID,
            now_us=NOW_US,
            lifetime_seconds=seconds,
        )


@pytest.mark.parametrize("key_id", ["", "x" * 64, KEY_ID.upper(), KEY_ID + "0", KEY_ID + "\n"])
def test_key_ids_are_hex(key_id: str) -> None:
    with pytest.raises(TlsError):
        client(key_id=key_id)


def _request_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, algorithm)
    return request.public_bytes(serialization.Encoding.PEM)


def _request_signed_by_another() -> bytes:
    pem = ClientRequest.create().request_pem
    raw = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    raw[-1] ^= 1
    return x509.load_der_x509_csr(bytes(raw)).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "request_pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE REQUEST-----",
        _request_of(ed25519.Ed25519PrivateKey.generate()),
        _request_of(ec.generate_private_key(ec.SECP384R1())),
        _request_signed_by_another(),
    ],
    ids=["empty", "cut", "ed25519", "p384", "bad-signature"],
)
def test_requests_that_prove_nothing_are_refused(request_pem: bytes) -> None:
    with pytest.raises(TlsError):
        AUTHORITY.issue_client(request_pem, key_id=KEY_ID, now_us=NOW_US, lifetime_seconds=60)


def test_a_request_takes_its_own_certificate_only() -> None:
    with pytest.raises(TlsError, match="another key"):
        ClientRequest.create().with_certificate(client().certificate_pem)


def test_certificates_without_a_key_id_name_nobody() -> None:
    for pem in (SERVER.certificate_pem, AUTHORITY.identity.certificate_pem, b"rubbish"):
        with pytest.raises(TlsError):
            client_key_id(pem)


def test_versions_that_do_not_exist_are_refused_like_rubbish() -> None:
    """The version is outside of what the parser checks by itself; fuzzing found it."""
    request = ClientRequest.create()
    issued = AUTHORITY.issue_client(
        request.request_pem, key_id=KEY_ID, now_us=NOW_US, lifetime_seconds=60
    )
    der = x509.load_pem_x509_certificate(issued).public_bytes(serialization.Encoding.DER)
    version = bytes.fromhex("a003020102")
    assert der.count(version) == 1
    body = base64.encodebytes(der.replace(version, bytes.fromhex("a003020112")))
    pem = b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
    for read in (client_key_id, fingerprint, request.with_certificate):
        with pytest.raises(TlsError):
            read(pem)
    der = x509.load_pem_x509_csr(request.request_pem).public_bytes(serialization.Encoding.DER)
    version = bytes.fromhex("020100")
    assert der.index(version) < 8
    body = base64.encodebytes(der.replace(version, bytes.fromhex("020112"), 1))
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(TlsError):
        AUTHORITY.issue_client(pem, key_id=KEY_ID, now_us=NOW_US, lifetime_seconds=60)


def test_fingerprints_are_those_of_the_der_form() -> None:
    expected = parsed(AUTHORITY.identity).fingerprint(hashes.SHA256()).hex()
    assert fingerprint(AUTHORITY.identity.certificate_pem) == expected
    assert len(expected) == 64


def test_identities_live_in_private_files(tmp_path: Path) -> None:
    SERVER.save(tmp_path / "tls", "server")
    for name in ("server.crt", "server.key"):
        assert stat.S_IMODE((tmp_path / "tls" / name).stat().st_mode) == 0o600
    assert TlsIdentity.load(tmp_path / "tls", "server") == SERVER
    with pytest.raises(UnusableKey, match="not overwritten"):
        SERVER.save(tmp_path / "tls", "server")
    (tmp_path / "tls" / "server.key").chmod(0o644)
    with pytest.raises(FlopmarketError) as caught:
        TlsIdentity.load(tmp_path / "tls", "server")
    assert caught.value.code == "KEY_FILE_TOO_OPEN"


def test_private_keys_do_not_show() -> None:
    assert "PRIVATE" not in repr(SERVER) + repr(AUTHORITY) + repr(ClientRequest.create())
