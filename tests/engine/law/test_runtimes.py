"""One law on every OpenCL runtime at hand: Debian's PoCL, Intel's, rusticl, and PyPI's PoCL."""

from __future__ import annotations

import pytest

from tests.tools.runtimes import RUNTIMES, Record, Runtime, examine

PROGRAMS = 16
pytestmark = pytest.mark.timeout(900)  # a first time builds two hundred kernels on each


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return {}


def record_of(runtime: Runtime, records: dict[str, Record]) -> Record:
    if runtime.name not in records:
        records[runtime.name] = examine(
            runtime, programs=PROGRAMS, probes_only=not runtime.is_exact
        )
    record = records[runtime.name]
    if "absent" in record:
        pytest.skip(record["absent"])
    return record


@pytest.mark.parametrize("runtime", [r for r in RUNTIMES if r.is_exact], ids=lambda r: r.name)
def test_an_exact_runtime_is_admitted_with_the_one_digest(
    runtime: Runtime, records: dict[str, Record]
) -> None:
    record = record_of(runtime, records)
    assert record["failed_probes"] == {}
    assert {
        name: row["detail"] for name, row in record["golden"].items() if not row["passed"]
    } == {}
    assert record["admitted"]
    assert record["random"] == {"count": PROGRAMS, "wrong": []}
    assert record["digest"] == record_of(RUNTIMES[0], records)["digest"]


@pytest.mark.parametrize("runtime", [r for r in RUNTIMES if not r.is_exact], ids=lambda r: r.name)
def test_a_runtime_that_departs_fails_probes_that_say_why(
    runtime: Runtime, records: dict[str, Record]
) -> None:
    record = record_of(runtime, records)
    assert record["failed_probes"]  # each of them keeps the device out
    assert all(record["failed_probes"].values())
