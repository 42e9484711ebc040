"""Where a device stands with its benchmark challenges, and what each outcome makes of it.

Pure: records and the clock come in, records come out. An accepted challenge proves the device; a
refused one takes the proof away until the next is accepted; a void one (a broken connection, a
restart of the coordinator, a device that was busy) costs nothing but another try, unless they
follow each other, so that nobody keeps a proof by hanging up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flopmarket.limits import MAX_SIMULTANEOUS_CHALLENGES
from flopmarket.market.proof import ONE_PPM, Proof
from flopmarket.trust.benchmark import Rates
from flopmarket.trust.benchmark_schedule import (
    DAY_US,
    benchmark_average,
    challenge_times_us,
    delivered_average,
    rate_for_price,
)
from flopmarket.trust.documents import OfferTerms
from flopmarket.trust.encoding import tagged_hash

FIRST_RETRY_US = 30 * 1_000_000
LAST_RETRY_US = 6 * 3_600 * 1_000_000
VOIDS_UNTIL_UNPROVED = 3
DELIVERED_STEP_PICOSECONDS = 10**9
"""Steps from a millisecond on count as delivered rates: below it work is launches and host time,
and says little about the card."""
MOST_DELIVERED_PPM = 4 * ONE_PPM
"""One segment shows at most four times the proved rate, so that no report outweighs many."""
MAX_JOINT_NAMES = 2 * MAX_SIMULTANEOUS_CHALLENGES
_IDENTITY_DOMAIN = "flopmarket.benchmark-identity.v1"


@dataclass(frozen=True, slots=True)
class Standing:
    """One device under one key. Zeros where nothing is known; see the table ``benchmark``."""

    identity: bytes
    flops_per_second: int = 0
    joint_flops_per_second: int = 0
    joint_with: tuple[str, ...] = ()
    sharing: str = ""
    bandwidth_bytes_per_second: int = 0
    memory_bytes: int = 0
    delivered_ppm: int = 0
    proved_at_us: int = 0
    reason: str = ""
    detail: str = ""
    challenged_at_us: int = 0
    failures: int = 0
    next_try_us: int = 0
    report: bytes | None = None

    @property
    def worth_flops_per_second(self) -> int:
        """The rate it proved: the lower of alone and together, whatever was found of sharing."""
        known = [rate for rate in (self.flops_per_second, self.joint_flops_per_second) if rate]
        return min(known, default=0)

    @property
    def proof(self) -> Proof | None:
        """What it proved; None while the device is unproved."""
        return self.measured if self.proved_at_us else None

    @property
    def measured(self) -> Proof | None:
        """What its rates are cut by, also while it has to prove them again."""
        if not self.worth_flops_per_second:
            return None
        shown = rate_for_price(ONE_PPM, self.delivered_ppm or None)
        return Proof(
            self.worth_flops_per_second,
            self.bandwidth_bytes_per_second,
            self.memory_bytes,
            self.proved_at_us,
            shown,
        )


def identity_of(terms: OfferTerms) -> bytes:
    """Names the device as it was challenged: another driver or memory wants another challenge."""
    facts = (
        terms.device_id,
        terms.device_name,
        terms.driver,
        terms.profile,
        str(terms.memory_bytes),
        str(terms.max_allocation_bytes),
    )
    parts = (part.encode() for part in facts)
    return tagged_hash(_IDENTITY_DOMAIN, *parts, terms.admission_digest)


def renewed(standing: Standing | None, identity: bytes) -> Standing:
    """The standing of a device that is offered now; one that changed begins anew."""
    if standing is not None and standing.identity == identity:
        return standing
    delivered = standing.delivered_ppm if standing else 0
    return Standing(identity, delivered_ppm=delivered)


def accepted(
    standing: Standing,
    found: Rates,
    *,
    joint_with: Sequence[str],
    report: bytes,
    now_us: int,
    next_try_us: int,
) -> Standing:
    """After an accepted challenge, alone or at the same moment as others."""
    alone, joint = standing.flops_per_second, 0
    others: tuple[str, ...] = ()
    if joint_with:
        joint = found.dot_flops_per_second
        others = tuple(sorted({*joint_with, *standing.joint_with}))[:MAX_JOINT_NAMES]
    else:
        alone = benchmark_average(alone or None, found.dot_flops_per_second)
    bandwidth = found.bandwidth_bytes_per_second
    if bandwidth and not joint_with:
        bandwidth = benchmark_average(standing.bandwidth_bytes_per_second or None, bandwidth)
    return replace(
        standing,
        flops_per_second=alone,
        joint_flops_per_second=joint,
        joint_with=others,
        sharing=standing.sharing if joint_with else "",
        bandwidth_bytes_per_second=bandwidth or standing.bandwidth_bytes_per_second,
        memory_bytes=found.proven_memory_bytes,
        proved_at_us=now_us,
        reason="BENCHMARK_ACCEPTED",
        detail="",
        challenged_at_us=now_us,
        failures=0,
        next_try_us=next_try_us,
        report=report,
    )


def refused(standing: Standing, reason: str, detail: str, now_us: int) -> Standing:
    """After a challenge that showed a fault: unproved until one is accepted."""
    return replace(_tried(standing, reason, detail, now_us), proved_at_us=0)


def quarantined(standing: Standing, why: str, until_us: int) -> Standing:
    """While a device is in quarantine, and until it passes a challenge afterwards: that comes at
    the end, or later for one that failed."""
    next_try_us = max(standing.next_try_us, until_us) if standing.failures else until_us
    return replace(
        standing,
        proved_at_us=0,
        reason="DEVICE_QUARANTINED",
        detail=why[:256],
        next_try_us=next_try_us,
    )


def void(standing: Standing, reason: str, detail: str, now_us: int) -> Standing:
    """After a challenge that showed nothing."""
    tried = _tried(standing, reason, detail, now_us)
    return tried if tried.failures < VOIDS_UNTIL_UNPROVED else replace(tried, proved_at_us=0)


def delivered(standing: Standing, roofline_us: int, measured_us: int) -> Standing:
    """After a paid segment of compute-bound work: the share of its proved rate that it showed."""
    shown = min(MOST_DELIVERED_PPM, ONE_PPM * roofline_us // max(1, measured_us))
    return replace(
        standing, delivered_ppm=max(1, delivered_average(standing.delivered_ppm or None, shown))
    )


def next_moment_us(secret: bytes, name: str, after_us: int) -> int:
    """The first moment of ``name`` after an instant. Every day has at least one."""
    day = after_us // DAY_US
    moments = (at for ahead in range(3) for at in challenge_times_us(secret, name, day + ahead))
    return next(at for at in moments if at > after_us)


def _tried(standing: Standing, reason: str, detail: str, now_us: int) -> Standing:
    failures = standing.failures + 1
    pause_us = min(LAST_RETRY_US, FIRST_RETRY_US << min(failures - 1, 16))
    return replace(
        standing,
        reason=reason,
        detail=detail[:256],
        challenged_at_us=now_us,
        failures=failures,
        next_try_us=now_us + pause_us,
    )
