"""One market and one measurement of the device for all tests of this folder.

Workers come and go with each test; the coordinator, its ledger and its kernels stay, so every test
also finds whatever the tests before it have left behind.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flopmarket.demo.processes import environment, flop
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.cache import default_directory
from flopmarket.jobs.prepared import PreparedJob, run_local
from tests.integration.market.processes import Market
from tests.one_digest import one_digest_job


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for all workers, with the kernels that other tests have built already."""
    folder = tmp_path_factory.mktemp("cache")
    default_directory().mkdir(parents=True, exist_ok=True)
    (folder / "kernels").symlink_to(default_directory())
    return folder


@pytest.fixture(scope="session")
def calibration(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a worker remembers of this machine's device, measured once for all workers: each would
    ask another price than its neighbours, had it measured by itself."""
    work = tmp_path_factory.mktemp("calibrated")
    subprocess.run(
        flop(
            *("worker", "bench", "--device", devices.find(None).index_name),
            *("--work-dir", str(work), "--cache-dir", str(cache)),
        ),
        env=environment(),
        check=True,
        capture_output=True,
    )
    return work / "calibration"


@pytest.fixture(scope="session")
def open_market(
    cache: Path, calibration: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    """The coordinator of this session."""
    market = Market(tmp_path_factory.mktemp("market"), cache, calibration)
    try:
        market.open()
        yield market
    finally:
        market.close()


@pytest.fixture
def market(open_market: Market) -> Iterator[Market]:
    """A market without workers, whose books are right before and after."""
    if not open_market.coordinator.runs:
        open_market.start_coordinator()
    try:
        yield open_market
        open_market.check()
    finally:
        open_market.dismiss_workers()


@dataclass(frozen=True, slots=True)
class Expected:
    """A job and what it comes to when nothing happens: digest as in ``tests.one_digest``."""

    job: PreparedJob
    digest: str


@pytest.fixture(scope="session")
def long_job() -> Expected:
    """Long enough to be killed many times: twenty segments, a few seconds in all."""
    job = one_digest_job(steps=2400, segment_steps=120)
    result = run_local(job)
    return Expected(job, (result.state_root + result.outputs_root).hex())
