"""Prediction and the class that a price is told in."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.market.accuracy import Delivered, accuracy_of, accuracy_rows
from flopmarket.market.calibrate import ONE_PPM, Factors
from flopmarket.market.finish import Runner, finish
from flopmarket.market.headline import headline_class, program_class, unit_price_nano
from flopmarket.market.money import MAX_NANO, MoneyError
from flopmarket.market.predict import DeviceRates, JobWork, Prediction, StepWork, predict

SECOND = 10**12
STEP = StepWork({"dot-f32": 2_000, "elementwise-f32": 100}, 0, 3)
RATES = DeviceRates({"dot-f32": 1_000, "elementwise-f32": 100}, 1, 1_000, 2_000, 50, 10**6, 10**5)
JOB = JobWork(STEP, 10, download_bytes=3_000_000, kernels=20)


def test_a_step_has_the_host_in_it_and_a_job_has_one_setup() -> None:
    forecast = predict(JOB, RATES)
    assert forecast.roofline_picoseconds == 3 * SECOND + 3 * 10**6 + 2 * 10**6
    assert forecast.step_picoseconds == forecast.roofline_picoseconds
    assert forecast.transfer_picoseconds == 3 * SECOND
    assert forecast.build_picoseconds == 1 * SECOND
    assert forecast.priced_step_picoseconds == forecast.step_picoseconds + 4 * SECOND // 10


@given(st.integers(1, 10**6), st.integers(0, 10**9), st.integers(0, 1_000))
def test_all_steps_together_pay_for_the_setup(steps: int, download: int, kernels: int) -> None:
    forecast = predict(replace(JOB, steps=steps, download_bytes=download, kernels=kernels), RATES)
    share = (forecast.priced_step_picoseconds - forecast.step_picoseconds) * steps
    assert forecast.setup_picoseconds <= share < forecast.setup_picoseconds + steps


def test_what_an_offer_does_not_state_is_free() -> None:
    silent = DeviceRates(RATES.flops_per_second, 1, 0)
    forecast = predict(JOB, silent)
    assert forecast.setup_picoseconds == 0
    assert forecast.priced_step_picoseconds == 3 * SECOND


def test_the_headline_class_takes_the_longest_and_ties_follow_the_classes() -> None:
    assert headline_class(STEP, RATES) == "dot-f32"
    assert headline_class(replace(STEP, flops={"dot-f32": 2_000, "f64": 3}), RATES) == "dot-f32"
    slow = DeviceRates({"dot-f32": 10**6, "elementwise-f32": 1}, 1, 1)
    assert headline_class(STEP, slow) == "elementwise-f32"
    equal = DeviceRates(dict.fromkeys(WORK_CLASSES, 7), 1, 1)
    for first, second in pairwise(WORK_CLASSES):
        assert headline_class(StepWork({second: 5, first: 5}, 0, 0), equal) == first


def test_a_program_without_operations_has_no_class() -> None:
    nothing = StepWork(dict.fromkeys(WORK_CLASSES, 0), 1_000, 1)
    assert headline_class(nothing, RATES) == program_class(nothing) == ""
    assert program_class(STEP) == "dot-f32"


def test_a_unit_price_holds_all_overheads_and_is_rounded_up() -> None:
    assert unit_price_nano(6_000_000_000, 300 * 10**15) == 20_000_000
    assert unit_price_nano(1, 3 * 10**15) == 1
    assert unit_price_nano(10**18, 1) == MAX_NANO  # all overhead: a figure, and never a bill
    with pytest.raises(MoneyError):
        unit_price_nano(1, 0)


# ---------------------------------------------------------------- finish


def runner(step_seconds: int, busy_seconds: int = 0, factors: Factors | None = None) -> Runner:
    rates = DeviceRates({"dot-f32": 1}, 1, 0)
    work = JobWork(StepWork({"dot-f32": step_seconds}, 0, 0), 100)
    forecast: Prediction = predict(work, rates, factors or Factors())
    return Runner(forecast, busy_seconds * SECOND, 0)


EXACT = [ONE_PPM] * 97  # with the prior of three, a hundred samples: 5 % are off


def when(*runners: Runner, ahead: int = 0, independent: bool = False) -> tuple[float, ...]:
    found = finish(
        runners, segment_steps=10, independent=independent, last_upload_bytes=0,
        orders_ahead=ahead, late_ppm=EXACT, audit_ppm=EXACT,
    )  # fmt: skip
    return (
        found.wait_seconds_p50,
        found.finish_seconds_p50,
        found.wait_seconds_p95,
        found.finish_seconds_p95,
    )


def test_a_chain_ends_after_its_steps_and_the_audit_of_its_last_segment() -> None:
    assert when(runner(1)) == (0, 110, 0, 110)


def test_the_cheapest_is_likely_and_the_slowest_is_the_worst() -> None:
    assert when(runner(1), runner(3)) == (0, 110, 0, 330)


def test_waiting_ends_when_a_device_is_free_for_this_job() -> None:
    busy = (runner(1, 50), runner(1, 80), runner(1, 20))
    assert when(*busy)[0] == 20
    assert when(*busy, ahead=1)[0] == 50
    assert when(*busy, ahead=3)[0] == 20 + 50  # a round later: the mean of all three
    assert when(*busy, runner(1), ahead=9)[0] == 0  # one is idle and nobody took it


def test_independent_segments_share_the_idle_devices() -> None:
    assert when(runner(1), runner(1), runner(1, 99), independent=True)[1] == 60
    assert when(runner(1, 5), runner(1, 9), independent=True)[1] == 5 + 110


def test_before_any_delivery_a_prediction_is_believed_within_a_factor_of_two() -> None:
    found = finish(
        [runner(1)], segment_steps=10, independent=False, last_upload_bytes=0, orders_ahead=0,
        late_ppm=(), audit_ppm=(),
    )  # fmt: skip
    assert (found.finish_seconds_p50, found.finish_seconds_p95) == (110, 220)
    assert found.samples == 0


# ---------------------------------------------------------------- accuracy


def test_errors_are_relative_to_what_was_measured() -> None:
    rows = [
        Delivered("o1", "card", "dot-f32", 50, 110, 100),
        Delivered("o1", "card", "dot-f32", 50, 90, 100),
        Delivered("o2", "card", "integer", 50, 400, 200),
    ]
    overall = accuracy_of("", "", "", rows)
    assert (overall.segments, overall.error_p50_ppm, overall.error_p90_ppm) == (
        3, 100_000, 1_000_000,
    )  # fmt: skip
    assert overall.uncalibrated_error_p50_ppm == 500_000
    found = [(row.work_class, row.offer_id, row.segments) for row in accuracy_rows(rows)]
    assert found == [
        ("dot-f32", "", 2), ("integer", "", 1), ("dot-f32", "o1", 2), ("integer", "o2", 1)
    ]  # fmt: skip


def test_no_deliveries_are_an_answer() -> None:
    assert accuracy_of("", "", "", []).segments == 0
    assert accuracy_rows([]) == ()
