"""What an operator decides about one coordinator process, with the defaults, in one place.

The market's own rules are :class:`~flopmarket_coordinator.parameters.Parameters`; this is where the
process listens, keeps its files and audits.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from flopmarket.errors import InvalidInput
from flopmarket_coordinator.parameters import Parameters
from flopmarket_coordinator.rpc.rates import Rate

DEFAULT_PORT = 7443

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen; port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Read ``host:port`` or ``[v6]:port``; :class:`InvalidInput` ``ADDRESS_INVALID``."""
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match["port"]) > 65_535:
            raise InvalidInput(
                f"{text[:200]!r} is not an address to listen on",
                code="ADDRESS_INVALID",
                hint=f"write host:port, such as 127.0.0.1:{DEFAULT_PORT} or [::]:{DEFAULT_PORT}",
            )
        return cls(match["host"].strip("[]"), int(match["port"]))

    @property
    def is_loopback(self) -> bool:
        """Whether nothing outside this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def with_port(self, port: int) -> ListenAddress:
        """The same host with the port that was bound."""
        return ListenAddress(self.host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


LOOPBACK = ListenAddress("127.0.0.1", DEFAULT_PORT)
SNAPSHOT_SECONDS = 300.0
STRANGERS = Rate(per_second=50.0, burst=200.0)
KNOWN = Rate(per_second=200.0, burst=1_000.0)
MESSAGES = Rate(per_second=100.0, burst=500.0)
UPLOADS = Rate(per_second=4.0 * 2**20, burst=64.0 * 2**30)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorConfig:
    """One coordinator process. :class:`InvalidInput` when the parts contradict each other."""

    data_dir: Path
    listen: ListenAddress = LOOPBACK
    tls_hosts: tuple[str, ...] = ()
    """Names and addresses that clients reach this server by; given, the server speaks TLS."""
    worker_listen: ListenAddress | None = None
    """Where workers come with client certificates; given, they are served nowhere else."""
    recovery_interval_seconds: float = 30.0
    """Between two looks for recoveries of owner keys that have waited long enough."""
    audit: bool = True
    """Whether this process recomputes segments itself."""
    audit_device: str | None = None
    """OpenCL device of the auditor; None takes the first."""
    cache_dir: Path | None = None
    """Compiled kernels of the auditor; None is the user's cache folder."""
    metrics: ListenAddress | None = None
    """Where Prometheus reads this process's figures; None serves none."""
    payments: ListenAddress | None = None
    """Where a payment provider's signed messages arrive (loopback); None takes none."""
    payments_secret: bytes = field(default=b"", repr=False)
    """What the provider signs with, shared with it alone."""
    parameters: Parameters = field(default_factory=Parameters)
    match_interval_seconds: float = 0.1
    """Longest time until new work is matched with idle devices."""
    snapshot_interval_seconds: float = SNAPSHOT_SECONDS
    """Between two signed price snapshots."""
    strangers: Rate = STRANGERS
    """Calls without a session, by host."""
    known: Rate = KNOWN
    """Calls by one key."""
    messages: Rate = MESSAGES
    """Messages on one worker's stream; a faster worker is read more slowly."""

    uploads: Rate = UPLOADS
    """Bytes that one account uploads: a burst, and what comes back each second."""

    def __post_init__(self) -> None:
        if not self.listen.is_loopback and not self.tls_hosts:
            raise InvalidInput(
                f"{self.listen} can be reached from outside this machine, and there is no TLS",
                code="TLS_REQUIRED",
                hint="name the hosts clients will use with --tls-host, or listen on 127.0.0.1",
            )
        if self.worker_listen is not None and not self.tls_hosts:
            raise InvalidInput(
                "client certificates need TLS, and no host is named",
                code="TLS_REQUIRED",
                hint="name the hosts clients will use with --tls-host",
            )
        if self.payments is not None and not self.payments.is_loopback:
            raise InvalidInput(
                f"payments arrive on this machine's own address, not on {self.payments}",
                code="TLS_REQUIRED",
                hint="listen on 127.0.0.1, behind a reverse proxy that speaks TLS",
            )
        if self.match_interval_seconds <= 0:
            raise InvalidInput("match_interval_seconds is above zero", code="PARAMETERS")
        if self.snapshot_interval_seconds < 1:
            raise InvalidInput("snapshots are at least a second apart", code="PARAMETERS")
