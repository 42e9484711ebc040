"""The machine that joins: fetch the authority by its fingerprint, make a device key, enrol it.

What it leaves in the worker's folder is all that ``flop worker up`` needs: the device key and what
it is for, the authority's certificate, and where the coordinator is.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from flopmarket.client.channel import is_loopback, open_channel
from flopmarket.client.client import SYSTEM_PORTS
from flopmarket.client.failures import AnswerRefused
from flopmarket.client.session import Ports, Session
from flopmarket.errors import Conflict, InvalidInput, Unavailable
from flopmarket.limits import CLIENT_SESSION_LIFETIME_US, MAX_KEY_FILE_BYTES
from flopmarket.trust.joining import NO_AUTHORITY, JoinToken
from flopmarket.trust.key_documents import enrolment
from flopmarket.trust.key_identity import KeyIdentity, read_identity, write_identity
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.tls import fingerprint
from flopmarket.v1 import identity_pb2, identity_pb2_grpc

DEVICE_KEY_FILE = "device.pem"
AUTHORITY_FILE = "ca.crt"
JOINED_FILE = "joined.json"
_CONNECT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Joined:
    """Where a worker's coordinator is. ``ca_file`` is empty where none is needed."""

    address: str
    ca_file: str
    coordinator_key: str
    account_id: str


def read_joined(folder: Path) -> Joined | None:
    """What an earlier join left in a worker's folder; None when there was none."""
    path = folder / JOINED_FILE
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_KEY_FILE_BYTES))
        joined = Joined(**content)
        if not all(isinstance(value, str) for value in content.values()):
            raise TypeError("not texts")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput(
            f"{path} is not what `flop join` writes: {error}",
            code="JOINED_MALFORMED",
            hint="remove it, and join again or say --coordinator and --ca",
        ) from None
    return joined


def join(token: JoinToken, folder: Path, label: str, ports: Ports = SYSTEM_PORTS) -> Joined:
    """Enrol this machine's device key and write the worker's folder; again, no change.

    Raises InvalidInput ``JOIN_TOKEN_EXPIRED``, Conflict ``DEVICE_KEY_EXISTS`` when the folder's key
    is another account's, and what the coordinator answers (``INVITATION_USED`` and so on).
    """
    check_open(token, ports)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_file = folder / DEVICE_KEY_FILE
    known = read_identity(key_file) if key_file.exists() else None
    if known is not None and known.account_id != token.account_id:
        raise Conflict(
            f"{key_file} works for account {known.account_id}",
            code="DEVICE_KEY_EXISTS",
            hint="give this worker a folder of its own with --work-dir",
        )
    ca_pem = None
    if token.authority != NO_AUTHORITY:
        ca_pem = fetch_authority(token.address, token.authority.hex())
    if not key_file.exists():
        KeyPair.generate().save(key_file)
    device = KeyPair.load(key_file)
    _enrol(token, device, label, ca_pem, ports)
    ca_file = folder / AUTHORITY_FILE
    if ca_pem is not None:
        _write(ca_file, ca_pem)
    write_identity(key_file, KeyIdentity(token.account_id, KeyRole.DEVICE))
    joined = Joined(
        token.address,
        str(ca_file.resolve()) if ca_pem is not None else "",
        token.coordinator_key,
        token.account_id,
    )
    _write(folder / JOINED_FILE, json.dumps(asdict(joined), indent=1).encode() + b"\n")
    return joined


def check_open(token: JoinToken, ports: Ports) -> None:
    """InvalidInput ``JOIN_TOKEN_EXPIRED`` when the invitation has ended."""
    if token.expires_at_us <= ports.now_us():
        raise InvalidInput(
            "this invitation has ended", code="JOIN_TOKEN_EXPIRED", hint="ask for another one"
        )


def fetch_authority(address: str, wanted: str) -> bytes:
    """The certificate (PEM) with this SHA-256 among those that a server shows.

    Nothing is believed of the server but that: whoever answers instead shows another certificate.
    AnswerRefused ``AUTHORITY_UNKNOWN`` when it shows no such certificate.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    for certificate in _shown(host, int(port)):
        if fingerprint(certificate) == wanted:
            return certificate
    raise AnswerRefused(
        f"{address} does not show the certificate that the invitation names",
        code="AUTHORITY_UNKNOWN",
        hint="somebody else may be answering; nothing was sent to it",
    )


def _shown(host: str, port: int) -> list[bytes]:
    """The certificates of a handshake, PEM, checked against nothing."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE, None)  # the fingerprint is the check
    context.set_alpn_protos([b"h2"])
    try:
        with socket.create_connection((host, port), _CONNECT_SECONDS) as plain:
            connection = SSL.Connection(context, plain)
            if not _is_address(host):
                connection.set_tlsext_host_name(host.encode("idna"))
            connection.set_connect_state()
            _handshake(connection, plain)
            chain = connection.get_peer_cert_chain(as_cryptography=True) or []
    except (OSError, SSL.Error, UnicodeError) as error:
        raise Unavailable(
            f"{host}:{port} cannot be reached by TLS: {error}", code="COORDINATOR_UNAVAILABLE"
        ) from None
    return [item.public_bytes(serialization.Encoding.PEM) for item in chain]


def _handshake(connection: SSL.Connection, plain: socket.socket) -> None:
    """A handshake that ends; a socket with a timeout asks to be called again."""
    deadline = time.monotonic() + _CONNECT_SECONDS
    while time.monotonic() < deadline:
        try:
            connection.do_handshake()
            return
        except SSL.WantReadError:
            time.sleep(0.005)
    raise TimeoutError("no handshake")


def _enrol(
    token: JoinToken, device: KeyPair, label: str, ca_pem: bytes | None, ports: Ports
) -> None:
    if token.authority == NO_AUTHORITY and not is_loopback(token.address):
        ca_pem = None  # the authorities of the system
    channel = open_channel(token.address, ca_pem)
    try:
        session = Session(channel, token.address, ports, None, token.coordinator_key)
        document = enrolment(token.account_id, device, label, token.key.public)
        envelope = session.seal(document, lifetime_us=CLIENT_SESSION_LIFETIME_US, key=token.key)
        service = identity_pb2_grpc.IdentityServiceStub(channel)
        request = identity_pb2.JoinRequest(enrolment=envelope)
        answer = session.call(service.Join, request, authenticated=False)
        if (answer.account_id, answer.key_id) != (token.account_id, device.key_id):
            raise AnswerRefused("the coordinator enrolled another key, or for another account")
    finally:
        channel.close()


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.replace(path)
