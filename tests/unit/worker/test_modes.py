"""Modes as a worker sees them: what a device may offer, what it says, and what it refuses."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.errors import FlopmarketError
from flopmarket.jobs.spec import NO_CLASS, JobSpec, Mode
from flopmarket.trust.device_class import class_of
from flopmarket.trust.documents import OfferTerms
from flopmarket_worker.calibration import Measured, calibrate
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.lease_offer import OfferRejected, check_numerics
from flopmarket_worker.link_speed import LinkSpeed
from flopmarket_worker.offers import Calibration, DeviceCard, OwnerTerms, modes_of, offer_terms
from flopmarket_worker.telemetry.ports import UnknownPower
from tests.integration.worker.fake_job import spec_for
from tests.unit.worker.test_parts import MeasuredEngine

RATES = dict.fromkeys(WORK_CLASSES, 10**9)
CARD = DeviceCard("d" * 64, "card", "driver 1", 1 << 30, 1 << 28)
FAST = Calibration(None, RATES, 10**10, 5000, 0, 0, (b"k" * 32, b"r" * 32))


def _calibrated(engine: MeasuredEngine, folder: Path, *modes: Mode) -> Measured:
    return asyncio.run(calibrate(JobExecutor(engine.start), folder, "1", modes=modes))


def test_a_device_that_is_not_admitted_is_offered_for_everything_but_exact_jobs(
    tmp_path: Path,
) -> None:
    engine = MeasuredEngine()
    engine.admitted = False
    measured = _calibrated(engine, tmp_path)
    assert measured.refusal == "fma: two roundings"
    assert measured.calibration.admission_digest is None
    assert modes_of((), measured.calibration) == (Mode.CLASS, Mode.TOLERANCE)
    assert modes_of((Mode.EXACT, Mode.CLASS), measured.calibration) == (Mode.CLASS,)
    with pytest.raises(FlopmarketError, match="none of the modes") as caught:
        modes_of((Mode.EXACT,), measured.calibration)
    assert caught.value.code == "DEVICE_NOT_ADMITTED"
    again = _calibrated(engine, tmp_path)
    assert again.calibration == measured.calibration and engine.measured == 1


def test_a_device_without_a_class_is_left_with_tolerance_mode(tmp_path: Path) -> None:
    engine = MeasuredEngine()
    engine.admitted, engine.deterministic = False, False
    calibration = _calibrated(engine, tmp_path).calibration
    assert calibration.classified is None
    assert modes_of((), calibration) == (Mode.TOLERANCE,)


def test_an_admitted_device_is_classified_only_when_its_owner_offers_class_mode(
    tmp_path: Path,
) -> None:
    engine = MeasuredEngine()
    plain = _calibrated(engine, tmp_path)
    assert plain.classification is None
    assert modes_of((), plain.calibration) == (Mode.EXACT,)
    both = _calibrated(engine, tmp_path, Mode.CLASS, Mode.EXACT)
    assert both.calibration.classified == (b"\xab" * 32, b"\xcd" * 32)
    assert modes_of((Mode.CLASS, Mode.EXACT), both.calibration) == (Mode.CLASS, Mode.EXACT)
    assert _calibrated(engine, tmp_path).calibration == both.calibration
    assert engine.measured == 1, "the benchmark is remembered when only the class is new"


def _offered(calibration: Calibration, *modes: Mode) -> OfferTerms:
    owner = OwnerTerms(1, 0, UnknownPower(), modes=modes)
    return offer_terms(
        CARD, calibration, owner, LinkSpeed(), account_id="a", device_key_id="k" * 64
    )


def test_offers_state_modes_class_and_proof_as_they_go_together() -> None:
    terms = _offered(FAST)
    assert terms.modes == (Mode.CLASS, Mode.TOLERANCE)
    assert (terms.class_kernels, terms.class_results) == (b"k" * 32, b"r" * 32)
    assert terms.admission_digest == NO_CLASS
    exact = _offered(replace(FAST, admission_digest=b"a" * 32))
    assert exact.modes == (Mode.EXACT,)
    assert class_of(exact) is None and exact.admission_digest == b"a" * 32


def _spec(mode: Mode, class_digest: bytes = NO_CLASS) -> JobSpec:
    return replace(spec_for(4, 2), mode=mode, class_digest=class_digest)


def test_a_worker_refuses_jobs_of_numerics_that_are_not_its_own() -> None:
    own = class_of(_offered(FAST))
    assert own is not None
    check_numerics(_spec(Mode.CLASS, own), CARD, FAST)
    check_numerics(_spec(Mode.TOLERANCE), CARD, FAST)
    for spec, calibration, code in (
        (_spec(Mode.EXACT), FAST, "LEASE_MODE"),
        (_spec(Mode.CLASS, b"o" * 32), FAST, "LEASE_CLASS"),
        (_spec(Mode.CLASS, own), replace(FAST, classified=None), "LEASE_MODE"),
    ):
        with pytest.raises(OfferRejected) as caught:
            check_numerics(spec, CARD, calibration)
        assert caught.value.code == code
