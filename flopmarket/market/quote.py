"""The firm ceiling of a job before it runs, and what it rests on.

A quote looks at the cheapest offers that fit: the ceiling is the worst split on the dearest of
them, so no invoice from any mix of them can be higher; the expected price is that of the cheapest.
Used by the coordinator for ``QuoteJob`` and again, on the same figures, at submission.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from flopmarket.market.finish import Finish, Runner, finish
from flopmarket.market.headline import program_class, unit_price_nano
from flopmarket.market.money import MoneyError, Nano, round_up_nano
from flopmarket.market.offer import Offer
from flopmarket.market.predict import PICOSECONDS_PER_SECOND, Prediction
from flopmarket.market.price import (
    PICOSECONDS_PER_HOUR,
    PriceTerms,
    price_bound,
    price_of_segments,
    split_fee,
)
from flopmarket.market.work import JobWork
from flopmarket.trust.modes import Mode

MILLIWATTS_PER_WATT = 1_000


@dataclass(frozen=True, slots=True)
class ClassSize:
    """What is listed of a class of devices, the buyer's own apart: its common name and driver, how
    many devices of how many accounts."""

    device_name: str
    driver: str
    devices: int
    accounts: int


@dataclass(frozen=True, slots=True)
class QuotedJob:
    """A job before it exists. ``independent``: its segments need nothing of one another."""

    work: JobWork
    segment_steps: int
    peak_memory_bytes: int
    output_bytes_per_step: int
    state_bytes: int
    independent: bool

    @property
    def segments(self) -> int:
        """Segments when none ends early."""
        return -(-self.work.steps // self.segment_steps)

    @property
    def stored_bytes(self) -> int:
        """What the coordinator keeps of it: inputs, all outputs, a state after every segment."""
        outputs = self.output_bytes_per_step * self.work.steps
        return self.work.download_bytes + outputs + self.state_bytes * self.segments


@dataclass(frozen=True, slots=True)
class Standing:
    """The market as a quote finds it.

    ``offers`` are the cheapest that fit, cheapest first, each with what its present lease still
    takes (picoseconds, 0 when idle); ``eligible`` counts all that fit. The ratios are measured over
    predicted time of lately delivered segments and of audits, in parts per million.
    """

    offers: Sequence[tuple[Offer, int]]
    eligible: int
    ineligible: Mapping[str, int]
    orders_ahead: int
    late_ppm: Sequence[int] = ()
    audit_ppm: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Assurance:
    """How much of the work is recomputed at a level of verification, whoever runs it.

    ``audited_ppm`` is the least share of segments that is audited; ``surcharge_ppm`` what the level
    adds to the price of each at most (nothing where the fee covers it), ``likely_surcharge_ppm``
    what it does where only steps of them are looked at, None where that is as much.
    ``detected_*_ppm`` are the chances that at least one of 1, of 10, of all segments is found wrong
    when these are: when one step of each is, where audits are of steps.
    """

    level: str
    audited_ppm: int
    surcharge_ppm: int
    detected_one_ppm: int
    detected_ten_ppm: int
    detected_all_ppm: int
    likely_surcharge_ppm: int | None = None

    @property
    def expected_ppm(self) -> int:
        """What it is expected to add."""
        likely = self.likely_surcharge_ppm
        return self.surcharge_ppm if likely is None else min(likely, self.surcharge_ppm)


@dataclass(frozen=True, slots=True)
class StepLook:
    """Segments that the operator does not recompute whole: it looks at ``drawn`` of ``steps`` of
    one. ``others``: devices of other accounts are there that could recompute it whole."""

    drawn: int
    steps: int
    others: bool


@dataclass(frozen=True, slots=True)
class QuotedLevel:
    """What a level would cost for this job: ``surcharge_nano`` is within ``expected_nano``."""

    assurance: Assurance
    expected_nano: Nano
    ceiling_nano: Nano
    surcharge_nano: Nano


@dataclass(frozen=True, slots=True)
class QuotedOffer:
    """An offer that could run the job alone: the bill when no segment ends early, its bound for
    any split, and what is expected of it. ``unit_price_nano`` is the price of the work, without a
    level's surcharge, per 10^15 operations of the headline class, 0 for a program without any."""

    offer_id: str
    device_name: str
    terms: PriceTerms
    forecast: Prediction
    total_nano: Nano
    bound_nano: Nano
    unit_price_nano: Nano
    seconds: float
    joules: float
    watts_source: str
    busy_seconds: float


@dataclass(frozen=True, slots=True)
class QuotedClass:
    """What a job in class mode would cost in one class of devices (hex).

    ``devices`` are those listed, ``other_accounts`` the accounts behind them besides that of the
    cheapest offer: who could audit it. The ceiling is the worst split on the dearest of the
    cheapest offers, as in :class:`Quote`. ``convicted_ppm`` and ``outvoted_ppm`` are the chances
    that one audit there convicts a wrong device, and an honest one, where as many of the others
    collude as the audit rules assume (:mod:`flopmarket.trust.class_odds`).
    """

    device_class: str
    device_name: str
    driver: str
    devices: int
    other_accounts: int
    expected_nano: Nano
    ceiling_nano: Nano
    convicted_ppm: int
    outvoted_ppm: int


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job will cost at most. ``offers`` are cheapest first; ``level`` is what was asked for,
    ``levels`` are all that can be.

    Transfer and builds are those of the cheapest offer, once a job and inside the price. Without an
    eligible offer all amounts and times are zero and ``ineligible`` says why.
    """

    quote_id: str
    as_of_us: int
    expires_at_us: int
    ceiling_nano: Nano
    least_ceiling_nano: Nano
    """Ceiling if only the cheapest offer may run the job: the least price limit that is taken."""
    expected_nano: Nano
    fee_within_expected_nano: Nano
    work_class: str
    unit_price_nano: Nano
    work: Mapping[str, int]
    steps: int
    bytes_moved_per_step: int
    peak_memory_bytes: int
    offers: tuple[QuotedOffer, ...]
    eligible: int
    ineligible: Mapping[str, int]
    transfer_bytes: int
    transfer_seconds: float
    transfer_nano: Nano
    kernel_builds: int
    build_seconds: float
    build_nano: Nano
    storage_bytes: int
    storage_retention_us: int
    wait_seconds_p50: float
    wait_seconds_p95: float
    finish_seconds_p50: float
    finish_seconds_p95: float
    spread_segments: int
    level: QuotedLevel
    levels: tuple[QuotedLevel, ...]
    joules: float
    joules_source: str
    mode: Mode = Mode.EXACT
    device_class: str = ""
    """In class mode the class that the figures are of; empty when there is none to run in."""
    classes: tuple[QuotedClass, ...] = ()
    by_steps: StepLook | None = None
    """How much of a segment is looked at, where it is not recomputed whole."""


def quote_offer(
    offer: Offer,
    work: JobWork,
    segment_steps: int,
    busy_picoseconds: int = 0,
    surcharge_ppm: int = 0,
    likely_surcharge_ppm: int | None = None,
) -> QuotedOffer:
    """Price and time of the whole job on one offer. The surcharges are those of :class:`Assurance`:
    the bound is for the most, the bill for the likely one."""
    likely_ppm = surcharge_ppm if likely_surcharge_ppm is None else likely_surcharge_ppm
    forecast = offer.predict(work)
    terms = PriceTerms(offer.ask_nano_per_hour, forecast.priced_step_picoseconds)
    total = price_of_segments(terms, work.steps, segment_steps)
    operations = work.operations(forecast.work_class)
    seconds = _seconds(forecast.setup_picoseconds + forecast.run_picoseconds)
    return QuotedOffer(
        offer_id=offer.offer_id,
        device_name=offer.device_name,
        terms=terms,
        forecast=forecast,
        total_nano=price_of_segments(terms, work.steps, segment_steps, likely_ppm),
        bound_nano=price_bound(terms, work.steps, surcharge_ppm),
        unit_price_nano=unit_price_nano(total, operations) if operations else 0,
        seconds=seconds,
        joules=seconds * offer.milliwatts / MILLIWATTS_PER_WATT,
        watts_source=offer.watts_source,
        busy_seconds=_seconds(busy_picoseconds),
    )


def quote_class(
    device_class: str,
    size: ClassSize,
    offers: Sequence[Offer],
    job: QuotedJob,
    surcharge_ppm: int,
    odds_ppm: tuple[int, int],
) -> QuotedClass | None:
    """Price of the job in one class, on the cheapest of its offers that fit; None when none has a
    price. ``odds_ppm``: of convicting a wrong device, and an honest one."""
    quoted: list[QuotedOffer] = []
    for offer in offers:
        with suppress(MoneyError):
            quoted.append(quote_offer(offer, job.work, job.segment_steps, 0, surcharge_ppm))
    if not quoted:
        return None
    return QuotedClass(
        device_class=device_class,
        device_name=size.device_name,
        driver=size.driver,
        devices=size.devices,
        other_accounts=size.accounts - 1,
        expected_nano=min(item.total_nano for item in quoted),
        ceiling_nano=max(item.bound_nano for item in quoted),
        convicted_ppm=odds_ppm[0],
        outvoted_ppm=odds_ppm[1],
    )


def build_quote(
    *,
    quote_id: str,
    as_of_us: int,
    expires_at_us: int,
    job: QuotedJob,
    standing: Standing,
    fee_ppm: int,
    level: str,
    assurances: Sequence[Assurance],
    storage_retention_us: int,
) -> Quote:
    """The quote on the offers of this moment. ``level`` is the name of one of ``assurances``; one
    whose price fits no amount is not among the quote's levels.
    """
    work = job.work
    (asked,) = (item for item in assurances if item.level == level)
    extra_ppm, likely_ppm = asked.surcharge_ppm, asked.expected_ppm
    quoted: list[QuotedOffer] = []
    for offer, busy in standing.offers:
        with suppress(MoneyError):  # what fits 63 bits without the surcharge may not fit with it
            quoted.append(quote_offer(offer, work, job.segment_steps, busy, extra_ppm, likely_ppm))
    quoted.sort(key=lambda item: (item.total_nano, item.seconds, item.offer_id))
    best = quoted[0] if quoted else None
    levels: dict[str, QuotedLevel] = {}
    for item in assurances:
        with suppress(MoneyError):
            levels[item.level] = _quote_level(item, job, quoted)
    expected = best.total_nano if best else 0
    worked = expected - levels[level].surcharge_nano
    forecast = best.forecast if best else None
    ask = best.terms.ask_nano_per_hour if best else 0
    transfer = forecast.transfer_picoseconds if forecast else 0
    build = forecast.build_picoseconds if forecast else 0
    when = _finish(job, standing, quoted) if best else None
    return Quote(
        quote_id=quote_id,
        as_of_us=as_of_us,
        expires_at_us=expires_at_us,
        ceiling_nano=max((item.bound_nano for item in quoted), default=0),
        least_ceiling_nano=min((item.bound_nano for item in quoted), default=0),
        expected_nano=expected,
        fee_within_expected_nano=split_fee(worked, fee_ppm).fee_nano,
        work_class=forecast.work_class if forecast else program_class(work.step),
        unit_price_nano=best.unit_price_nano if best else 0,
        work=dict(work.step.flops),
        steps=work.steps,
        bytes_moved_per_step=work.step.bytes_moved,
        peak_memory_bytes=job.peak_memory_bytes,
        offers=tuple(quoted),
        eligible=standing.eligible,
        ineligible=dict(standing.ineligible),
        transfer_bytes=work.download_bytes,
        transfer_seconds=_seconds(transfer),
        transfer_nano=round_up_nano(ask * transfer, PICOSECONDS_PER_HOUR, "transfer"),
        kernel_builds=work.kernels,
        build_seconds=_seconds(build),
        build_nano=round_up_nano(ask * build, PICOSECONDS_PER_HOUR, "builds"),
        storage_bytes=job.stored_bytes,
        storage_retention_us=storage_retention_us,
        wait_seconds_p50=when.wait_seconds_p50 if when else 0.0,
        wait_seconds_p95=when.wait_seconds_p95 if when else 0.0,
        finish_seconds_p50=when.finish_seconds_p50 if when else 0.0,
        finish_seconds_p95=when.finish_seconds_p95 if when else 0.0,
        spread_segments=when.samples if when else 0,
        level=levels[level],
        levels=tuple(levels.values()),
        joules=best.joules if best else 0.0,
        joules_source=best.watts_source if best and best.joules else "unknown",
    )


def _finish(job: QuotedJob, standing: Standing, quoted: Sequence[QuotedOffer]) -> Finish:
    """When the job should be done, on the offers in the order of the quote."""
    found = {offer.offer_id: (offer, busy) for offer, busy in standing.offers}
    runners = []
    for item in quoted:
        offer, busy = found[item.offer_id]
        runners.append(Runner(item.forecast, busy, offer.rates.upload_bytes_per_second))
    last_steps = min(job.segment_steps, job.work.steps)
    return finish(
        runners,
        segment_steps=job.segment_steps,
        independent=job.independent,
        last_upload_bytes=job.output_bytes_per_step * last_steps + job.state_bytes,
        orders_ahead=standing.orders_ahead,
        late_ppm=standing.late_ppm,
        audit_ppm=standing.audit_ppm,
    )


def _quote_level(
    assurance: Assurance, job: QuotedJob, quoted: Sequence[QuotedOffer]
) -> QuotedLevel:
    """A level on the same offers; zeros without one."""
    steps, extra_ppm = job.work.steps, assurance.surcharge_ppm
    if not quoted:
        return QuotedLevel(assurance, 0, 0, 0)
    best = quoted[0].terms
    expected = price_of_segments(best, steps, job.segment_steps, assurance.expected_ppm)
    return QuotedLevel(
        assurance,
        expected_nano=expected,
        ceiling_nano=max(price_bound(item.terms, steps, extra_ppm) for item in quoted),
        surcharge_nano=expected - price_of_segments(best, steps, job.segment_steps),
    )


def _seconds(picoseconds: int) -> float:
    return picoseconds / PICOSECONDS_PER_SECOND
