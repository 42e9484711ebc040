"""``flop dispute``: the verdict again from the file, and its story."""

from __future__ import annotations

import json
from pathlib import Path

from flopmarket.jobs.operations import Part
from flopmarket.trust.dispute_documents import Outcome
from flopmarket.trust.transcript import Transcript
from tests.unit.cli.conftest import Flop
from tests.unit.jobs.disputes import Flip, case_of, inference_job, play


def disputed() -> Transcript:
    job = inference_job()
    plan = case_of(job).problem.plan
    at = next(op.sources[0] for op in plan.operations if op.part is Part.OUTPUT)
    return play(case_of(job, Flip(1, at, 5, 4)))


def test_replay_and_show(flop: Flop, tmp_path: Path) -> None:
    file = tmp_path / "x.dispute"
    transcript = disputed()
    file.write_bytes(transcript.to_bytes())
    replayed = flop("dispute", "replay", str(file))
    assert replayed.exit_code == 0
    assert replayed.stdout.strip() == "producer-wrong (DISPUTE_WRONG_VALUE)"
    shown = flop("dispute", "show", str(file))
    assert shown.exit_code == 0
    for word in ("step 1", "producer-wrong", "recomputed", "1 of 1 tiles differ", "float32"):
        assert word in shown.stdout
    found = json.loads(flop("dispute", "show", str(file), "--json").stdout)
    assert found["step"] == 1 and found["producer_wrong_bits"] == 1
    (element,) = found["elements"]
    assert element["element"] == 5 and element["auditor"] == element["recomputed"]


def test_a_file_that_does_not_lead_to_its_verdict(flop: Flop, tmp_path: Path) -> None:
    from dataclasses import replace

    file = tmp_path / "x.dispute"
    transcript = disputed()
    verdict = replace(transcript.verdict, outcome=Outcome.AUDITOR_WRONG)
    file.write_bytes(replace(transcript, verdict=verdict).to_bytes())
    result = flop("dispute", "replay", str(file))
    assert result.exit_code == 2 and "DISPUTE_VERDICT" in result.stderr
    file.write_bytes(b"nothing")
    assert flop("dispute", "show", str(file)).exit_code == 2
