"""Laws of prices: what was quoted bounds whatever is billed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import FlopmarketError
from flopmarket.market.calibrate import LEAST_PPM, MOST_PPM, Factors
from flopmarket.market.money import MoneyError
from flopmarket.market.offer import Offer
from flopmarket.market.predict import DeviceRates, JobWork, NoRate, StepWork, step_picoseconds
from flopmarket.market.price import (
    PriceTerms,
    price,
    price_bound,
    price_of_segments,
    split_fee,
)
from flopmarket.market.quote import Assurance, Quote, QuotedJob, Standing, build_quote

WORK = StepWork({"dot-f32": 1_000_003, "integer": 17}, 4_096, 3)
RATES = DeviceRates({"dot-f32": 10**9, "integer": 10**8}, 10**10, 500)
OFFER = Offer("o", "a", "k", "d", "card", "driver", "FX1", 1 << 30, RATES, 10**8, 0, "unknown", 0)

asks = st.integers(1, 10**12)
offers = st.lists(
    st.builds(
        lambda ask, rate, launch, number, factor, link: replace(
            OFFER,
            offer_id=f"o{number}",
            ask_nano_per_hour=ask,
            rates=DeviceRates(
                {"dot-f32": rate, "integer": rate}, rate, launch, launch, launch % 1000, link
            ),
            factors=Factors({"device": factor, "setup": factor}),
        ),
        asks,
        st.integers(10, 10**13),
        st.integers(0, 10**6),
        st.integers(0, 10**6),
        st.integers(LEAST_PPM, MOST_PPM),
        st.integers(0, 10**9),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda offer: offer.offer_id,
)


def job_of(steps: int) -> JobWork:
    return JobWork(WORK, steps, download_bytes=1_000_000, kernels=20, program="ab")


def quoted(eligible: list[Offer], steps: int, segment_steps: int) -> Quote:
    job = QuotedJob(job_of(steps), segment_steps, 1, 8, 64, independent=False)
    standing = Standing([(offer, 0) for offer in eligible], len(eligible), {}, 0)
    return build_quote(
        quote_id="q", as_of_us=0, expires_at_us=1, job=job, standing=standing, fee_ppm=30_000,
        assurance=Assurance("audit-all", 1.0), storage_retention_us=1,
    )  # fmt: skip


@given(offers, st.integers(1, 500), st.integers(1, 100), st.data())
def test_no_invoice_is_above_its_quote(
    eligible: list[Offer], steps: int, segment_steps: int, data: st.DataObject
) -> None:
    """Any split into segments, each on any of the quoted offers, transfer and builds included."""
    quote = quoted(eligible, steps, segment_steps)
    invoice = done = 0
    while done < steps:
        count = data.draw(st.integers(1, min(segment_steps, steps - done)))
        terms = data.draw(st.sampled_from(eligible)).terms_for(job_of(steps))
        invoice += price(terms, count)
        done += count
    assert invoice <= quote.ceiling_nano
    assert quote.expected_nano <= quote.ceiling_nano
    assert quote.transfer_nano + quote.build_nano <= quote.expected_nano + 2


@given(asks, st.integers(1, 10**12), st.integers(1, 10**4), st.integers(1, 10**4))
def test_splitting_never_makes_steps_cheaper(ask: int, step: int, one: int, two: int) -> None:
    terms = PriceTerms(ask, step)
    together = price(terms, one + two)
    assert 0 < together <= price(terms, one) + price(terms, two)
    assert price(terms, one) + price(terms, two) <= price_bound(terms, one + two)


@given(asks, st.integers(1, 10**12), st.integers(1, 10**4), st.integers(1, 10**3))
def test_a_run_costs_the_sum_of_its_segments(ask: int, step: int, steps: int, length: int) -> None:
    terms = PriceTerms(ask, step)
    counts = [min(length, steps - at) for at in range(0, steps, length)]
    assert price_of_segments(terms, steps, length) == sum(price(terms, n) for n in counts)


@given(st.integers(1, 10**15), st.integers(0, 999_999))
def test_the_fee_is_inside_the_price_and_rounds_for_the_worker(cost: int, ppm: int) -> None:
    split = split_fee(cost, ppm)
    assert split.worker_nano + split.fee_nano == cost
    assert split.fee_nano == cost * ppm // 1_000_000


def test_the_roofline_is_the_slower_of_work_and_traffic_plus_launches() -> None:
    assert step_picoseconds(WORK, RATES) == 1_000_003_000 + 170_000 + 3 * 500 * 1_000
    slow_memory = replace(RATES, bandwidth_bytes_per_second=1)
    assert step_picoseconds(WORK, slow_memory) == 4_096 * 10**12 + 1_500_000


def test_work_without_a_rate_has_no_price() -> None:
    with pytest.raises(NoRate) as error:
        step_picoseconds(WORK, replace(RATES, flops_per_second={"dot-f32": 1}))
    assert error.value.details == {"work_class": "integer"}


@pytest.mark.parametrize("terms", [(0, 1), (1, 0), (1, 2**63)])
def test_terms_without_a_price_are_refused(terms: tuple[int, int]) -> None:
    with pytest.raises(FlopmarketError):
        PriceTerms(*terms)


def test_a_price_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(MoneyError):
        price(PriceTerms(2**62, 2**62), 10)
