"""The gRPC channel of a client: address, transport security, keepalive, retries.

Loopback addresses may be plain; everything else is TLS, always, because a bearer token travels on
it. Retries are gRPC's own (service config, gRFC A6), on UNAVAILABLE only. ``WatchJob`` and
``Upload`` have loops of their own (:mod:`flopmarket.client.watching`, ``artifacts``): no retry
inside a retry.
"""

from __future__ import annotations

import ipaddress
import json
import re

import grpc

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_MESSAGE_BYTES

RETRY_ATTEMPTS = 4
KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 15_000
RECONNECT_INITIAL_MS = 1_000
RECONNECT_MAX_MS = 60_000

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")

SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "flopmarket.v1.JobService", "method": "WatchJob"},
                {"service": "flopmarket.v1.ArtifactService", "method": "Upload"},
            ]
        },
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": RETRY_ATTEMPTS,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        },
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}


def is_loopback(address: str) -> bool:
    """Whether ``host:port`` cannot leave this machine; raises InvalidInput ADDRESS_INVALID."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65_536:
        raise InvalidInput(
            f"{address[:200]!r} is not an address",
            code="ADDRESS_INVALID",
            hint="write host:port, such as market.example.org:7443",
        )
    host = match["host"].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_channel(address: str, ca_pem: bytes | None = None) -> grpc.Channel:
    """A channel to ``host:port``; nothing is sent yet.

    ``ca_pem`` is the authority to trust (PEM). Without one, loopback is plain and any other
    address is checked against the authorities of the system.
    """
    options = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.enable_retries", 1),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_INITIAL_MS),
        ("grpc.min_reconnect_backoff_ms", RECONNECT_INITIAL_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MAX_MS),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # A channel of its own: clients with other options must not share its connection.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if ca_pem is None and is_loopback(address):
        return grpc.insecure_channel(address, options=options)
    is_loopback(address)
    credentials = grpc.ssl_channel_credentials(root_certificates=ca_pem)
    return grpc.secure_channel(address, credentials, options=options)
