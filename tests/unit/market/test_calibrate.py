"""What is learned from deliveries: it converges, it is bounded, and lying moves nobody else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flopmarket.market.calibrate import (
    LATE,
    LEAST_PPM,
    MOST_PPM,
    NO_FACTORS,
    ONE_PPM,
    WINDOW,
    Factors,
    Running,
    believed_us,
    learn,
    lower_median,
    quantile,
    setup_families,
    step_families,
)
from flopmarket.market.predict import DeviceRates, JobWork, StepWork, predict

FAMILIES = step_families("ab" * 32, "dot-f32", 10**9)
OTHER_PROGRAM = step_families("cd" * 32, "dot-f32", 10**9)
OTHER_CLASS = step_families("ef" * 32, "integer", 10**9)
ratios = st.integers(0, 10**9)


def taught(known: dict[str, Running], families: tuple[str, ...], *measured: int) -> Factors:
    """Factors after deliveries that should each have taken 1,000."""
    for value in measured:
        known |= learn(known, families, value, 1_000)
    return Factors({family: item.factor_ppm for family, item in known.items()})


def test_a_new_device_is_believed() -> None:
    assert NO_FACTORS.ppm(FAMILIES) == ONE_PPM
    assert NO_FACTORS.least_ppm == ONE_PPM


def test_a_device_that_is_slower_than_its_benchmark_is_found_out() -> None:
    factors = taught({}, FAMILIES, 2_500, 2_500, 2_500)
    assert factors.ppm(FAMILIES) == 2_500_000


def test_one_strange_segment_moves_nothing() -> None:
    steady = [1_000] * 5
    assert taught({}, FAMILIES, *steady, 9_000, *steady).ppm(FAMILIES) == ONE_PPM


def test_a_device_that_changed_is_believed_after_half_a_window() -> None:
    before, after = [1_000] * WINDOW, [3_000] * (WINDOW // 2 + 2)
    assert taught({}, FAMILIES, *before).ppm(FAMILIES) == ONE_PPM
    assert taught({}, FAMILIES, *before, *after).ppm(FAMILIES) == 3_000_000
    assert taught({}, FAMILIES, *before, *after[: WINDOW // 4]).ppm(FAMILIES) == ONE_PPM


def test_one_program_does_not_speak_for_the_others() -> None:
    known: dict[str, Running] = {}
    factors = taught(known, FAMILIES, *[6_000] * 40)
    assert factors.ppm(FAMILIES) == 6_000_000
    assert factors.ppm(OTHER_PROGRAM) == factors.ppm(OTHER_CLASS) == ONE_PPM


def test_what_most_programs_taught_helps_new_ones_and_their_likes_first() -> None:
    known: dict[str, Running] = {}
    for number in range(5):
        taught(known, step_families(f"{number:064x}", "dot-f32", 10**9), *[2_000] * 3)
    for number in range(5, 8):
        taught(known, step_families(f"{number:064x}", "integer", 10**9), *[4_000] * 3)
    factors = taught(known, FAMILIES, *[3_000] * 3)
    assert factors.ppm(FAMILIES) == 3_000_000
    assert factors.ppm(OTHER_PROGRAM) == 2_000_000  # its class and size
    assert factors.ppm(OTHER_CLASS) == 4_000_000
    assert factors.ppm(step_families("", "f64", 1)) == 2_000_000  # the device as a whole


def test_setup_is_learned_apart_and_a_known_program_has_its_kernels() -> None:
    known: dict[str, Running] = {}
    factors = taught(known, setup_families("ab" * 32), 0, 0, 0)
    assert factors.ppm(setup_families("ab" * 32)) == LEAST_PPM
    assert factors.least_ppm == ONE_PPM  # it is no bound of a step's time
    assert factors.ppm(FAMILIES) == ONE_PPM


@given(st.lists(ratios, max_size=80), st.lists(ratios, max_size=80))
def test_factors_stay_in_bounds_and_the_least_is_the_least(one: list[int], two: list[int]) -> None:
    known: dict[str, Running] = {}
    taught(known, FAMILIES, *one)
    taught(known, OTHER_CLASS, *two)
    taught(known, (LATE,), 1)
    factors = taught(known, setup_families("x"), 1)
    for families in (FAMILIES, OTHER_PROGRAM, OTHER_CLASS, step_families("", "f64", 7)):
        assert LEAST_PPM <= factors.least_ppm <= factors.ppm(families) <= MOST_PPM
    for item in known.values():
        assert len(item.ratios_ppm) <= WINDOW


@given(st.lists(ratios, max_size=70), ratios, st.integers(0, 10**9))
def test_a_slower_report_never_lowers_a_factor_and_a_faster_one_never_raises_it(
    before: list[int], report: int, slower_by: int
) -> None:
    """A device gains nothing by lying: slower makes its next offer dearer, faster cheaper."""
    known: dict[str, Running] = {}
    taught(known, FAMILIES, *before)
    honest = taught(dict(known), FAMILIES, report)
    slow = taught(dict(known), FAMILIES, report + slower_by)
    for families in (FAMILIES, OTHER_PROGRAM):
        assert slow.ppm(families) >= honest.ppm(families)


@given(st.lists(st.tuples(ratios, st.integers(0, 10**6)), max_size=30))
def test_reports_in_all_are_believed_up_to_the_time_that_passed(
    commits: list[tuple[int, int]],
) -> None:
    elapsed = believed = 0
    for reported, passed in commits:
        elapsed += passed
        taken = believed_us(reported, elapsed, believed)
        assert 0 <= taken <= reported
        believed += taken
    assert believed <= elapsed


def test_a_report_beyond_the_clock_is_cut_to_it() -> None:
    assert believed_us(5_000, 1_000, 0) == 1_000
    assert believed_us(5_000, 1_000, 400) == 600
    assert believed_us(5_000, -7, 0) == 0  # a clock that stepped back
    # Computed while the one before was uploaded: the time was there, only earlier.
    assert believed_us(900, 2_000, 1_000) == 900


def test_a_price_follows_what_is_delivered() -> None:
    work = JobWork(StepWork({"dot-f32": 10**9}, 0, 0), 100, program="ab" * 32)
    rates = DeviceRates({"dot-f32": 10**9}, 1, 0)
    plain = predict(work, rates)
    families = step_families(work.program, plain.work_class, plain.roofline_picoseconds)
    slow = predict(work, rates, taught({}, families, 3_000, 3_000, 3_000))
    assert slow.step_picoseconds == 3 * plain.step_picoseconds == 3 * 10**12
    assert slow.roofline_picoseconds == plain.roofline_picoseconds


@given(st.lists(st.integers(0, 1_000), min_size=1))
def test_quantiles_are_members_and_ordered(values: list[int]) -> None:
    assert lower_median(values) in values
    assert quantile(values, 50) == lower_median(values)
    assert quantile(values, 50) <= quantile(values, 95) <= quantile(values, 100) == max(values)
