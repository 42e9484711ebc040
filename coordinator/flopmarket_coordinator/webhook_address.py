"""Which addresses a coordinator may call for others: nobody sends it into its own house.

A webhook's URL comes from a stranger. It is judged when it is added, and every address that its
name resolves to is judged again before each connection, which then goes to that very address.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_WEBHOOK_URL_CHARACTERS

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook's address, taken apart. ``host`` is a name or an IP address without brackets."""

    scheme: str
    host: str
    port: int


def target_of(url: str, *, private_allowed: bool) -> Target:
    """The address of ``url``; :class:`InvalidInput` ``WEBHOOK_URL`` when it may not be called.

    Public https only; ``private_allowed`` admits http and addresses of private networks, too. A
    name is judged again by every address it resolves to (:func:`check_address`).
    """
    if len(url) > MAX_WEBHOOK_URL_CHARACTERS or not url.isascii() or not url.isprintable():
        raise _bad_url(f"is not at most {MAX_WEBHOOK_URL_CHARACTERS} printable ASCII characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _bad_url("cannot be read") from None
    if parts.scheme != "https" and not (private_allowed and parts.scheme == "http"):
        raise _bad_url("is not https")
    if not host or parts.username is not None or parts.fragment or " " in url or "\\" in url:
        raise _bad_url("has no host, or has a user or a fragment")
    if port == 0:
        raise _bad_url("names port 0")
    target = Target(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme])
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return target
    check_address(host, private_allowed=private_allowed)
    return target


def check_address(address: str, *, private_allowed: bool) -> None:
    """Raise :class:`InvalidInput` ``WEBHOOK_ADDRESS`` unless this IP address may be called.

    An address that only wraps an IPv4 address (mapped, NAT64) is judged by the one inside; tunnels
    (6to4, Teredo) are refused.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if private_allowed:
        return
    tunnelled = False
    if isinstance(found, ipaddress.IPv6Address):
        tunnelled = found.sixtofour is not None or found.teredo is not None
        if found.ipv4_mapped is not None or found in _NAT64:
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    if tunnelled or not found.is_global or found.is_multicast or found.is_reserved:
        raise InvalidInput(
            f"{address} is no public address",
            code="WEBHOOK_ADDRESS",
            hint="webhooks go to public https addresses; an operator may allow private ones",
        )


def _bad_url(reason: str) -> InvalidInput:
    return InvalidInput(
        f"the webhook's address {reason}",
        code="WEBHOOK_URL",
        hint="write https://host/path",
    )
