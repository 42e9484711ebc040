"""What a proof leaves of stated figures: never more than was stated, never more than was proved."""

from __future__ import annotations

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.market.calibrate import LATE, MOST_PPM, ONE_PPM, SETUP, Running, restated
from flopmarket.market.predict import DeviceRates
from flopmarket.market.proof import (
    BANDWIDTH_BOUND,
    CLASS_BOUNDS,
    MOST_FLOPS_PER_WATT,
    OTHER_CLASS_BOUND,
    PROVED_CLASS,
    Proof,
    cut_rates,
    plausible_watts,
    shown_rate,
)

rates = st.integers(1, 2**62)


@given(
    st.fixed_dictionaries(dict.fromkeys(WORK_CLASSES, rates)),
    rates,
    rates,
    st.integers(0, 2**62),
)
def test_rates_are_cut_and_never_raised(
    stated: dict[str, int], bandwidth: int, proved: int, walked: int
) -> None:
    offered = DeviceRates(MappingProxyType(stated), bandwidth, 1, 1, 1, 1, 1)
    cut = cut_rates(offered, Proof(proved, walked, 1, 1))
    for name, rate in cut.flops_per_second.items():
        assert rate <= stated[name]
        assert rate <= proved * CLASS_BOUNDS.get(name, OTHER_CLASS_BOUND)
    assert cut.flops_per_second[PROVED_CLASS] == min(stated[PROVED_CLASS], proved)
    assert cut.bandwidth_bytes_per_second <= bandwidth
    if walked:
        assert cut.bandwidth_bytes_per_second <= BANDWIDTH_BOUND * walked
    assert cut_rates(cut, Proof(proved, walked, 1, 1)) == cut
    more = cut_rates(offered, Proof(2 * proved, 2 * walked, 1, 1))
    assert all(more.flops_per_second[name] >= rate for name, rate in cut.flops_per_second.items())


def test_what_no_challenge_measures_falls_by_what_its_own_work_does_not_explain() -> None:
    stated = {PROVED_CLASS: 8_000, "dot-int": 9_000, "elementwise-f32": 300}
    offered = DeviceRates(MappingProxyType(stated), 10, 0, 0, 0, 0, 0)

    def cut(proved: int) -> dict[str, int]:
        return dict(cut_rates(offered, Proof(proved, 0, 0, 1)).flops_per_second)

    assert cut(4_000) == stated | {PROVED_CLASS: 4_000}
    assert cut(2_000) == {PROVED_CLASS: 2_000, "dot-int": 4_500, "elementwise-f32": 150}


@given(rates, st.integers(0, ONE_PPM))
def test_lists_show_at_most_the_rate(rate: int, delivered: int) -> None:
    assert 0 <= shown_rate(rate, delivered) <= rate


def test_watts_that_no_board_has_are_not_believed() -> None:
    rate = {PROVED_CLASS: 60 * 10**12}
    assert plausible_watts(0, rate)
    assert plausible_watts(700_000, rate)
    assert not plausible_watts(4_999, {PROVED_CLASS: 1})
    assert not plausible_watts(2_000_001, rate)
    least = 60 * 10**12 * 1_000 // MOST_FLOPS_PER_WATT
    assert plausible_watts(least, rate) and not plausible_watts(least - 1, rate)


factors = st.integers(ONE_PPM // 32, MOST_PPM)


@given(factors, st.integers(1, 10**15), st.integers(1, 10**15))
def test_a_lower_proof_takes_its_part_out_of_the_factor(ppm: int, was: int, now: int) -> None:
    """The predicted time, roofline times factor, never counts the same slowness twice."""
    known = {"device": Running((("p", ppm),), ppm)}
    after = restated(known, was, now)["device"]
    assert after.ratios_ppm == (("p", after.factor_ppm),)
    if ppm <= ONE_PPM:
        assert after.factor_ppm == ppm
        return
    assert ONE_PPM <= after.factor_ppm <= MOST_PPM
    time_before, time_after = ppm / was, after.factor_ppm / now
    at_least = max(ONE_PPM / now, time_before)  # the slower of what was proved and delivered
    assert time_after <= at_least * (1 + 1e-5)
    if after.factor_ppm < MOST_PPM:
        assert time_after >= at_least * (1 - 1e-5)


def test_setups_and_delays_are_not_restated() -> None:
    known = {
        name: Running((("", 2 * ONE_PPM),), 2 * ONE_PPM) for name in (LATE, SETUP, f"p/{SETUP}")
    }
    assert restated(known, 2, 1) == {}
