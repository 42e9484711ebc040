"""What an operator may choose, with its defaults. Durations are microseconds unless named so."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.errors import InvalidInput
from flopmarket.market.price import PARTS_PER_MILLION

SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Parameters:
    """Constants of one coordinator; read once, at start.

    :class:`~flopmarket.errors.InvalidInput` ``PARAMETERS`` when a value cannot work.
    """

    currency: str = "USD"
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
    audit_seconds_factor: float = 1.0
    """Predicted time of verification relative to the run, for the finish time in quotes."""

    def __post_init__(self) -> None:
        positive = (
            self.heartbeat_ms,
            self.lease_ttl_us,
            self.accept_ttl_us,
            self.presence_ttl_us,
            self.stall_us,
            self.session_ttl_us,
            self.quote_ttl_us,
            self.max_job_refusals,
            self.max_running_jobs_per_account,
        )
        if min(positive) <= 0 or self.decline_pause_us < 0 or self.bond_target_nano < 0:
            raise InvalidInput("durations and counts are above zero", code="PARAMETERS")
        if not 0 <= self.fee_ppm < PARTS_PER_MILLION:
            raise InvalidInput(f"fee_ppm = {self.fee_ppm} is not below 100 %", code="PARAMETERS")
        if self.lease_ttl_us < 2 * self.heartbeat_ms * 1_000:
            raise InvalidInput(
                "a lease outlives at least two heartbeats",
                code="PARAMETERS",
                hint="raise lease_ttl_us or lower heartbeat_ms",
            )
