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
    bill,
    most_price,
    most_work,
    price,
    price_bound,
    price_of_segments,
    split_fee,
    surcharge,
)
from flopmarket.market.quote import Assurance, Quote, QuotedJob, Standing, build_quote
from flopmarket.trust.audit_policy import RULES, Level, surcharge_ppm

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


LEVELS = tuple(
    Assurance(level.value, 10_000, surcharge_ppm(RULES, level, 30_000), 10_000, 95_618, 1_000_000)
    for level in Level
)


def quoted(
    eligible: list[Offer], steps: int, segment_steps: int, level: str = Level.DETER
) -> Quote:
    job = QuotedJob(job_of(steps), segment_steps, 1, 8, 64, independent=False)
    standing = Standing([(offer, 0) for offer in eligible], len(eligible), {}, 0)
    return build_quote(
        quote_id="q", as_of_us=0, expires_at_us=1, job=job, standing=standing, fee_ppm=30_000,
        level=level, assurances=LEVELS, storage_retention_us=1,
    )  # fmt: skip


@given(offers, st.integers(1, 500), st.integers(1, 100), st.sampled_from(Level), st.data())
def test_no_invoice_is_above_its_quote(
    eligible: list[Offer], steps: int, segment_steps: int, level: Level, data: st.DataObject
) -> None:
    """Any split into segments, each on any of the quoted offers, transfer and builds included, and
    the surcharge of any level."""
    quote = quoted(eligible, steps, segment_steps, level)
    extra_ppm = quote.level.assurance.surcharge_ppm
    invoice = done = 0
    while done < steps:
        count = data.draw(st.integers(1, min(segment_steps, steps - done)))
        terms = data.draw(st.sampled_from(eligible)).terms_for(job_of(steps))
        invoice += bill(price(terms, count), extra_ppm)
        done += count
    assert invoice <= quote.ceiling_nano
    assert quote.expected_nano <= quote.ceiling_nano
    assert quote.transfer_nano + quote.build_nano <= quote.expected_nano + 2
    assert quote.ceiling_nano == quote.level.ceiling_nano
    assert quote.expected_nano == quote.level.expected_nano


@given(offers, st.integers(1, 500), st.integers(1, 100))
def test_a_quote_shows_every_level_as_it_would_be_quoted(
    eligible: list[Offer], steps: int, segment_steps: int
) -> None:
    shown = quoted(eligible, steps, segment_steps).levels
    assert [item.assurance for item in shown] == list(LEVELS)
    for item in shown:
        asked = quoted(eligible, steps, segment_steps, item.assurance.level)
        assert asked.level == item
        assert item.expected_nano <= item.ceiling_nano
        assert item.surcharge_nano == item.expected_nano - shown[0].expected_nano
    assert [item.surcharge_nano == 0 for item in shown] == [True, False, False]


@given(st.integers(0, 2**62), st.integers(1, 1_000), st.integers(0, 1_000_000))
def test_what_may_be_billed_leaves_the_most_for_prices(
    money: int, steps: int, extra_ppm: int
) -> None:
    of_step = money // steps
    most = most_price(of_step, extra_ppm)
    assert bill(most, extra_ppm) <= of_step < bill(most + 1, extra_ppm)
    work = most_work(money, steps, extra_ppm)
    assert work // steps == most and steps * bill(work // steps, extra_ppm) <= money


def test_an_amount_without_a_surcharge_is_all_for_prices() -> None:
    assert most_work(1_003, 10, 0) == 1_003
    assert surcharge(1, 178_000) == 1
    assert surcharge(10**6, 178_000) == 178_000


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
