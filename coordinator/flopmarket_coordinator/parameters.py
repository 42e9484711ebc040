"""What an operator may choose, with its defaults. Durations are microseconds unless named so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_OVERDRAFT_NANO
from flopmarket.market.money import FLOPCOIN
from flopmarket.market.price import PARTS_PER_MILLION
from flopmarket.trust.audit_policy import RULES, AuditRules
from flopmarket.trust.dispute import DisputeWaits
from flopmarket.trust.sealing import Waits

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
    """A worker's pay fills its bond up to ``audit_rules.bond_units`` of the segment's price, but to
    this at most; then it is held."""
    held_us: int = 24 * 3_600 * SECOND_US
    """Pay of an ended job is free to spend this long after it was earned, or as soon as its account
    delivered ``audit_rules.held_units`` more units. 0: when the job ends."""
    bond_cooling_us: int = 7 * 24 * 3_600 * SECOND_US
    """A bond may be withdrawn this long after the account's last delivery."""
    quarantine_us: int = 3_600 * SECOND_US
    """A device that is put in quarantine is offered again, after a new admission, no earlier."""
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
    invitation_only: bool = False
    """Whether an account is opened only with an operator's invitation."""
    recovery_wait_us: int = 72 * 3_600 * SECOND_US
    """An owner key may object to its recovery for so long; withdrawals are frozen meanwhile."""
    retired_key_us: int = 48 * 3_600 * SECOND_US
    """A rotated device key may answer for its work for so long, and longer while a lease runs."""
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
    benchmark_required: bool = False
    """Whether devices are challenged, and get no lease before their first challenge is accepted."""
    benchmark_seconds: int = 24
    """About how long a challenge of a fast device computes; a slow one takes a quarter of it."""
    audit_rules: AuditRules = RULES
    """How often segments are audited, and what a fault costs."""
    audit_waits: Waits = field(default_factory=Waits)
    """How long each part of an audit may take."""
    dispute_waits: DisputeWaits = field(default_factory=DisputeWaits)
    """How long the parties of a dispute have for each answer."""
    house_disputes: bool = True
    """Whether a worker may answer, tile by tile, for what the house's own recomputation finds
    wrong; off: the house's word is final."""
    max_house_flops: int = 10**18
    """Operations of one segment up to which the coordinator's own engine is among its auditors;
    beyond, it looks at what nobody else does, by as many drawn steps as cost no more."""

    def __post_init__(self) -> None:
        positive = (
            self.heartbeat_ms,
            self.lease_ttl_us,
            self.accept_ttl_us,
            self.presence_ttl_us,
            self.stall_us,
            self.session_ttl_us,
            self.recovery_wait_us,
            self.retired_key_us,
            self.quote_ttl_us,
            self.withdrawal_ttl_us,
            self.max_job_refusals,
            self.max_running_jobs_per_account,
            self.max_stored_bytes_per_account,
            self.artifact_unused_us,
            self.artifact_retention_us,
            self.benchmark_seconds,
        )
        not_negative = (
            self.decline_pause_us,
            self.bond_target_nano,
            self.held_us,
            self.bond_cooling_us,
            self.quarantine_us,
            self.max_house_flops,
        )
        if min(positive) <= 0 or min(not_negative) < 0:
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
        "held_us",
        "bond_cooling_us",
        "quarantine_us",
        "lease_ttl_us",
        "accept_ttl_us",
        "presence_ttl_us",
        "decline_pause_us",
        "max_job_refusals",
        "session_ttl_us",
        "quote_ttl_us",
        "withdrawal_ttl_us",
        "retired_key_us",
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
