"""What an operator may choose, with its defaults. Durations are microseconds unless named so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_OVERDRAFT_NANO
from flopmarket.market.money import FLOPCOIN
from flopmarket.market.price import PARTS_PER_MILLION

SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Parameters:
    """Constants of one coordinator; read once, at start.

    :class:`~flopmarket.errors.InvalidInput` ``PARAMETERS`` when a value cannot work.
    """

    currency: str = "USD"
    """What all amounts are in; chosen when the coordinator is initialised and kept in its store."""
    overdraft_nano: int = 0
    """How far below zero a new account may go; above zero in a flopcoin market only."""
    withdrawal_ttl_us: int = 30 * 24 * 3_600 * SECOND_US
    """A withdrawal that nobody decides in this time is void."""
    fee_ppm: int = 30_000
    """The platform's part of every price, in parts per million, rounded in the worker's favour."""
    bond_target_nano: int = 1_000_000_000
    """A worker's pay fills its bond up to this, then it is held until the job ends."""
    heartbeat_ms: int = 10_000
    lease_ttl_us: int = 300 * SECOND_US
    """Silence after which a running lease ends; the coordinator's own downtime does not count."""
    accept_ttl_us: int = 60 * SECOND_US
    """Time to answer a lease offer."""
    presence_ttl_us: int = 60 * SECOND_US
    """Silence after which a worker gets no new leases."""
    stall_us: int = 5 * SECOND_US
    """A longer gap between two calls of ``expire`` counts as downtime."""
    decline_pause_us: int = 60 * SECOND_US
    """An offer that gave a lease of a job back gets none of that job for so long."""
    max_job_refusals: int = 3
    """Owners whose workers refuse a program or its data before the job fails."""
    session_ttl_us: int = 3_600 * SECOND_US
    quote_ttl_us: int = 60 * SECOND_US
    max_running_jobs_per_account: int = 1_000
    webhook_private_hosts: bool = False
    """Whether webhooks may also go to http and to private networks and this machine."""
    max_stored_bytes_per_account: int = 64 << 30
    """What a buyer's uploads may occupy; the collector frees what nothing needs any more."""
    artifact_unused_us: int = 7 * 24 * 3_600 * SECOND_US
    """Uploaded bytes that no job names are kept so long."""
    artifact_retention_us: int = 30 * 24 * 3_600 * SECOND_US
    """Inputs and results of a job are kept so long after its end."""

    def __post_init__(self) -> None:
        positive = (
            self.heartbeat_ms,
            self.lease_ttl_us,
            self.accept_ttl_us,
            self.presence_ttl_us,
            self.stall_us,
            self.session_ttl_us,
            self.quote_ttl_us,
            self.withdrawal_ttl_us,
            self.max_job_refusals,
            self.max_running_jobs_per_account,
            self.max_stored_bytes_per_account,
            self.artifact_unused_us,
            self.artifact_retention_us,
        )
        if min(positive) <= 0 or self.decline_pause_us < 0 or self.bond_target_nano < 0:
            raise InvalidInput("durations and counts are above zero", code="PARAMETERS")
        most = MAX_OVERDRAFT_NANO if self.currency == FLOPCOIN else 0
        if not 0 <= self.overdraft_nano <= most:
            raise InvalidInput(
                f"an overdraft of {self.overdraft_nano} nano-units; at most {most} in "
                f"{self.currency}",
                code="PARAMETERS",
            )
        if not 0 <= self.fee_ppm < PARTS_PER_MILLION:
            raise InvalidInput(f"fee_ppm = {self.fee_ppm} is not below 100 %", code="PARAMETERS")
        if self.lease_ttl_us < 2 * self.heartbeat_ms * 1_000:
            raise InvalidInput(
                "a lease outlives at least two heartbeats",
                code="PARAMETERS",
                hint="raise lease_ttl_us or lower heartbeat_ms",
            )


ADJUSTABLE = frozenset(
    {
        "bond_target_nano",
        "lease_ttl_us",
        "accept_ttl_us",
        "presence_ttl_us",
        "decline_pause_us",
        "max_job_refusals",
        "session_ttl_us",
        "quote_ttl_us",
        "max_running_jobs_per_account",
        "max_stored_bytes_per_account",
        "artifact_unused_us",
        "artifact_retention_us",
    }
)
"""What an operator's order may change while the coordinator runs. The fee is not among them: it is
part of what a worker agreed to, and changes with a restart after a drain."""


def adjusted(parameters: Parameters, overrides: Mapping[str, str]) -> Parameters:
    """``parameters`` with adjustable ones replaced by whole numbers in text.

    :class:`~flopmarket.errors.InvalidInput` ``PARAMETERS`` when a value is none or cannot work.
    """
    values: dict[str, int] = {}
    for name, text in overrides.items():
        if name not in ADJUSTABLE or not (text.isascii() and text.isdigit() and len(text) < 20):
            raise InvalidInput(f"{name} = {text[:40]!r} is not a whole number", code="PARAMETERS")
        if int(text) >= 2**62:
            raise InvalidInput(f"{name} = {text} does not fit 62 bits", code="PARAMETERS")
        values[name] = int(text)
    return replace(parameters, **values)  # type: ignore[arg-type]  # all adjustable ones are ints
