"""The agent and modes: what it offers, and that it refuses numerics which are not its device's."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.jobs.spec import NO_CLASS, JobSpec, Mode
from flopmarket.trust.device_class import DeviceClass, class_digest
from tests.integration.worker.fake_job import spec_for
from tests.integration.worker.scenes import DEVICE_ID, Scene

KERNELS, RESULTS = b"k" * 32, b"r" * 32
OWN = class_digest(DeviceClass("fake", "none", KERNELS, RESULTS))
EXACT = spec_for(4, 2)
IN_CLASS = replace(EXACT, mode=Mode.CLASS, class_digest=OWN)


def released(folder: Path, spec: JobSpec) -> tuple[bool, str]:
    """Whether a fast-only worker takes a lease, or what it says when it gives it back."""

    async def run() -> tuple[bool, str]:
        scene = Scene(folder)
        scene.calibration = replace(
            scene.calibration, admission_digest=None, classified=(KERNELS, RESULTS)
        )
        await scene.coordinator.start()
        scene.start_agent()
        try:
            async with asyncio.timeout(20):
                await scene.connected()
                (offer,) = scene.coordinator.offers
                assert offer.modes == (Mode.CLASS, Mode.TOLERANCE)
                assert offer.admission_digest == NO_CLASS
                scene.coordinator.offer(DEVICE_ID, spec)
                heard = scene.coordinator
                await heard.until(lambda: heard.accepted or heard.released)
                detail = heard.released[0].detail if heard.released else ""
                return bool(heard.accepted), detail
        finally:
            await scene.end()

    return asyncio.run(run())


def test_a_fast_only_worker_takes_jobs_of_its_class(tmp_path: Path) -> None:
    assert released(tmp_path, IN_CLASS) == (True, "")


@pytest.mark.parametrize(
    ("spec", "code"),
    [(EXACT, "LEASE_MODE"), (replace(IN_CLASS, class_digest=b"o" * 32), "LEASE_CLASS")],
    ids=["exact", "another class"],
)
def test_a_worker_declines_numerics_that_are_not_its_own(
    tmp_path: Path, spec: JobSpec, code: str
) -> None:
    accepted, detail = released(tmp_path, spec)
    assert not accepted and code in detail
