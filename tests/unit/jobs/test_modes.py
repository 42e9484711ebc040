"""Modes of a job that runs here: shorter segments, fast kernels, and the class they are of."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from flopmarket.engine.classes import classify
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.open import opened
from flopmarket.errors import Unavailable
from flopmarket.jobs.prepared import run_local
from flopmarket.jobs.spec import Mode
from flopmarket.limits import MAX_TOLERANCE_SEGMENT_STEPS
from flopmarket.trust.device_class import class_of
from flopmarket_worker.link_speed import LinkSpeed
from flopmarket_worker.offers import Calibration, OwnerTerms, card_of, offer_terms
from flopmarket_worker.telemetry.ports import UnknownPower
from tests.unit.jobs.jobs import small_job


def test_tolerance_mode_cuts_segments_and_changes_no_bit_here() -> None:
    job = replace(small_job(), steps=120, segment_steps=120)
    exact = run_local(job, "reference")
    near = run_local(job, "reference", mode=Mode.TOLERANCE)
    assert [s.steps for s in exact.segments] == [120]
    assert [s.steps for s in near.segments] == [MAX_TOLERANCE_SEGMENT_STEPS] * 2 + [20]
    assert (near.state_root, near.mode, near.device_class) == (
        exact.state_root,
        Mode.TOLERANCE,
        "",
    )


def test_the_reference_has_no_class() -> None:
    with pytest.raises(Unavailable) as refused:
        run_local(small_job(), "reference", mode=Mode.CLASS)
    assert refused.value.code == "CLASS_NONE"


def test_a_class_job_runs_here_and_names_the_class_that_an_offer_would() -> None:
    first = run_local(small_job(), mode=Mode.CLASS)
    again = run_local(small_job(segment_steps=10), mode=Mode.CLASS)
    assert first.state_root == again.state_root
    info = devices.find(None)
    with opened(info) as device:
        report = classify(device)
    classified = bytes.fromhex(report.kernels), bytes.fromhex(report.results)
    terms = offer_terms(
        card_of(asdict(info), ""),
        Calibration(None, {"dot-f32": 1}, 1, 1, 1, 1, classified),
        OwnerTerms(1, 0, UnknownPower()),
        LinkSpeed(),
        account_id="a",
        device_key_id="k" * 64,
    )
    named = class_of(terms)
    assert named is not None and first.device_class == again.device_class == named.hex()
