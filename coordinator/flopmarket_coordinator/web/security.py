"""What a browser may do with a page of ours, and which requests are answered at all.

The board shows text that strangers chose (device names, job titles) and, with a key, the owner's
own jobs, on a port of the owner's machine. So: nothing but our own files may run or be loaded, no
page may frame or read us, only names that this board is known by are answered (a foreign web page
could otherwise point its own name at 127.0.0.1), and no request changes anything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flopmarket.limits import MAX_BOARD_QUERY_CHARACTERS
from flopmarket_coordinator.web.problems import problem

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
READING = ("GET", "HEAD")


class Guard:
    """ASGI middleware: headers on every answer; foreign hosts and writes are refused."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        host = Headers(scope=scope).get("host", "")
        if not self.is_known(host):
            return problem(
                421,
                "BOARD_HOST",
                "this board is not known by that name",
                "start it with --host NAME to be reached by a name",
            )
        if scope["method"] not in READING:
            answer = problem(405, "BOARD_READ_ONLY", "this board only reads", "use GET or HEAD")
            answer.headers["allow"] = ", ".join(READING)
            return answer
        if len(scope["query_string"]) > MAX_BOARD_QUERY_CHARACTERS:
            return problem(
                414,
                "BOARD_QUERY_TOO_LONG",
                f"a query has at most {MAX_BOARD_QUERY_CHARACTERS} characters",
            )
        return None

    def is_known(self, host: str) -> bool:
        """Whether a Host header names this board: loopback always, else what it was told."""
        name = host_name(host)
        return name in self._hosts or is_loopback(name)


def host_name(host: str) -> str:
    """The name or address in a Host header, without port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def is_loopback(name: str) -> bool:
    """Whether a name or address cannot leave this machine."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
