"""A spread of onnx's conformance cases in every test run; ``make onnx-suite`` runs all of them."""

from __future__ import annotations

import pytest

from tests.onnx_suite.cases import Case, collect
from tests.onnx_suite.running import check, compare, known_failures, run_case, skips

REFERENCE_STRIDE = 5
DEVICE_STRIDE = 60


def sample(stride: int) -> list[Case]:
    """Every ``stride``-th case that is run, by kind and name; zoo models are too slow here."""
    left_out = skips().keys() | known_failures().keys()
    return [c for c in collect() if c.kind != "real" and c.name not in left_out][::stride]


@pytest.mark.parametrize("case", sample(REFERENCE_STRIDE), ids=lambda case: case.name)
def test_case_on_the_reference(case: Case) -> None:
    outcome = run_case(case, "reference")
    assert outcome.verdict == "passed", outcome.reason


@pytest.mark.parametrize("case", sample(DEVICE_STRIDE), ids=lambda case: case.name)
def test_case_on_a_device(case: Case) -> None:
    outcome = run_case(case, None)
    assert outcome.verdict == "passed", outcome.reason


def test_the_comparison_sees_differences() -> None:
    case = next(case for case in collect() if case.name == "test_add")
    check(case, "reference")
    ((_, expected),) = case.data()
    compare([expected[0] * 1.0005], expected, 1e-3, 0)
    for wrong in (expected[0] * 1.01, expected[0][:1], expected[0].astype("float64")):
        with pytest.raises(AssertionError):
            compare([wrong], expected, 1e-3, 0)
    with pytest.raises(AssertionError):
        compare([], expected, 1e-3, 0)


def test_known_failures_still_fail() -> None:
    cases = {case.name: case for case in collect()}
    for name in known_failures():
        assert run_case(cases[name], "reference").verdict == "failed", name


def test_every_skip_has_a_reason_and_a_case() -> None:
    names = {case.name for case in collect()}
    for name, reason in (skips() | known_failures()).items():
        assert name in names and len(reason) > 10, name
