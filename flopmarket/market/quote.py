"""The firm ceiling of a job before it runs.

A quote looks at every live offer that could run the program: the ceiling is the worst split on the
dearest of them, so no invoice from any mix of them can be higher; the expected price is that of the
cheapest. Used by the coordinator for ``QuoteJob`` and again, on the same figures, at submission.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flopmarket.market.money import Nano
from flopmarket.market.offer import Offer
from flopmarket.market.predict import StepWork
from flopmarket.market.price import (
    PriceTerms,
    price_bound,
    price_of_segments,
    split_fee,
)

SECONDS_PER_PICOSECOND = 1e-12
JOULES_PER_MILLIWATT_SECOND = 1e-3


@dataclass(frozen=True, slots=True)
class QuotedOffer:
    """An offer that could run the job alone: its price when no segment ends early, its bound for
    any split, and predicted seconds."""

    offer_id: str
    device_name: str
    terms: PriceTerms
    total_nano: Nano
    bound_nano: Nano
    seconds: float
    joules: float
    watts_source: str


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job will cost at most. ``offers`` are cheapest first.

    Without an eligible offer all amounts are zero and ``ineligible`` says why.
    """

    quote_id: str
    as_of_us: int
    expires_at_us: int
    ceiling_nano: Nano
    least_ceiling_nano: Nano
    """Ceiling if only the cheapest offer may run the job: the least price limit that is taken."""
    expected_nano: Nano
    fee_within_expected_nano: Nano
    work: Mapping[str, int]
    steps: int
    bytes_moved_per_step: int
    peak_memory_bytes: int
    offers: tuple[QuotedOffer, ...]
    ineligible: Mapping[str, int]
    finish_seconds_p50: float
    finish_seconds_p95: float
    verification: str
    detection_probability: float
    joules: float
    joules_source: str


def quote_offer(offer: Offer, work: StepWork, steps: int, segment_steps: int) -> QuotedOffer:
    """Price and time of the whole job on one offer."""
    terms = offer.terms_for(work)
    seconds = terms.step_picoseconds * SECONDS_PER_PICOSECOND * steps
    return QuotedOffer(
        offer_id=offer.offer_id,
        device_name=offer.device_name,
        terms=terms,
        total_nano=price_of_segments(terms, steps, segment_steps),
        bound_nano=price_bound(terms, steps),
        seconds=seconds,
        joules=seconds * offer.milliwatts * JOULES_PER_MILLIWATT_SECOND,
        watts_source=offer.watts_source,
    )


def build_quote(
    *,
    quote_id: str,
    as_of_us: int,
    expires_at_us: int,
    work: StepWork,
    peak_memory_bytes: int,
    steps: int,
    segment_steps: int,
    eligible: Sequence[Offer],
    ineligible: Mapping[str, int],
    fee_ppm: int,
    verification: str,
    detection_probability: float,
    audit_seconds_factor: float,
) -> Quote:
    """The quote over the offers that are eligible now.

    ``audit_seconds_factor`` is the time of verification relative to the run: the median finish is
    that of the cheapest offer, the 95th percentile that of the slowest, each with its audit.
    """
    quoted = sorted(
        (quote_offer(offer, work, steps, segment_steps) for offer in eligible),
        key=lambda item: (item.total_nano, item.seconds, item.offer_id),
    )
    best = quoted[0] if quoted else None
    expected = best.total_nano if best else 0
    slowest = max((item.seconds for item in quoted), default=0.0)
    factor = 1.0 + audit_seconds_factor
    return Quote(
        quote_id=quote_id,
        as_of_us=as_of_us,
        expires_at_us=expires_at_us,
        ceiling_nano=max((item.bound_nano for item in quoted), default=0),
        least_ceiling_nano=min((item.bound_nano for item in quoted), default=0),
        expected_nano=expected,
        fee_within_expected_nano=split_fee(expected, fee_ppm).fee_nano if expected else 0,
        work=dict(work.flops),
        steps=steps,
        bytes_moved_per_step=work.bytes_moved,
        peak_memory_bytes=peak_memory_bytes,
        offers=tuple(quoted),
        ineligible=dict(ineligible),
        finish_seconds_p50=best.seconds * factor if best else 0.0,
        finish_seconds_p95=slowest * factor,
        verification=verification,
        detection_probability=detection_probability,
        joules=best.joules if best else 0.0,
        joules_source=best.watts_source if best and best.joules else "unknown",
    )
