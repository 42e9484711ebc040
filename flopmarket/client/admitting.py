"""Opening an account with an operator's invitation: the key, the authority, the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flopmarket.client.client import SYSTEM_PORTS, Client
from flopmarket.client.config import add_profile
from flopmarket.client.joining import check_open, fetch_authority
from flopmarket.client.session import Ports
from flopmarket.trust.joining import NO_AUTHORITY, JoinToken
from flopmarket.trust.keys import KeyPair


@dataclass(frozen=True, slots=True)
class Admitted:
    """An account that was opened. ``ca_file`` is empty where none is needed.

    ``configured``: whether the profile of the configuration file says so now; it does not where a
    profile of that name says otherwise.
    """

    account_id: str
    address: str
    ca_file: str
    coordinator_key: str
    key_file: str
    configured: bool


def open_account(
    token: JoinToken,
    key_file: Path,
    display_name: str,
    *,
    configuration: Path,
    profile: str,
    ports: Ports = SYSTEM_PORTS,
) -> Admitted:
    """Open an account for the key in ``key_file``, which is made if it is not there.

    Where the coordinator is, its authority and its key go into ``profile`` of the file
    ``configuration``, unless a profile of that name is there. Doing it again changes nothing.
    InvalidInput ``JOIN_TOKEN_EXPIRED``, AnswerRefused ``AUTHORITY_UNKNOWN`` or
    ``COORDINATOR_KEY_CHANGED``, and what the coordinator answers (``INVITATION_USED`` and so on).
    """
    check_open(token, ports)
    ca_pem = None
    if token.authority != NO_AUTHORITY:
        ca_pem = fetch_authority(token.address, token.authority.hex())
    if not key_file.exists():
        KeyPair.generate().save(key_file)
    with Client(
        token.address, key_file, ca_pem, coordinator_key=token.coordinator_key, ports=ports
    ) as client:
        account_id = client.register(display_name, invitation=token.key)
    settings = {"address": token.address, "coordinator_key": token.coordinator_key}
    settings["key"] = str(key_file.resolve())
    if ca_pem is not None:
        configuration.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        ca_file = configuration.with_name(f"{token.coordinator_key[:16]}.crt")
        ca_file.write_bytes(ca_pem)
        settings["ca"] = str(ca_file.resolve())
    return Admitted(
        account_id,
        token.address,
        settings.get("ca", ""),
        token.coordinator_key,
        settings["key"],
        add_profile(configuration, profile, settings),
    )
