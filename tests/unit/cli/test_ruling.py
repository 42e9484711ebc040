"""``flop dispute`` on the file of a ruling: an arbitration of a class, read and replayed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.cli.ruling import _FOLLOWS
from flopmarket.trust.reason_codes import finding
from flopmarket.trust.ruling_records import RulingRecord, to_file
from flopmarket_coordinator.application.ruling import _REASONS, _STEPS_SAY
from flopmarket_coordinator.core.verification import ACCEPTING, GOES_ELSEWHERE, VerdictCode
from flopmarket_coordinator.store.rulings import _ALONE
from tests.unit.cli.conftest import Flop
from tests.unit.coordinator.test_rulings import Story


@pytest.fixture(scope="module")
def convicted(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("told"), auditor_lies=False)


def written(story: Story, record: RulingRecord, folder: Path) -> str:
    file = folder / "x.dispute"
    file.write_bytes(to_file(record, story.world.key.public.raw))
    return str(file)


def test_a_file_is_replayed_with_a_key_or_the_one_inside(
    flop: Flop, convicted: Story, tmp_path: Path
) -> None:
    file = written(convicted, convicted.record, tmp_path)
    key = convicted.world.key.public
    inside = flop("dispute", "replay", file)
    assert inside.exit_code == 0 and "the key inside" in inside.stderr
    assert inside.stdout.strip() == "producer-wrong (CLASS_OUTVOTED)"
    (tmp_path / "market.pem").write_bytes(key.to_pem())
    for given in (key.key_id, key.raw.hex(), str(tmp_path / "market.pem")):
        named = flop("dispute", "replay", file, "--key", given)
        assert named.exit_code == 0 and "the key inside" not in named.stderr
    other = flop("dispute", "replay", file, "--key", "ab" * 32)
    assert other.exit_code == 2 and "RULING_WRONG_KEY" in other.stderr


def test_a_file_is_explained(flop: Flop, convicted: Story, tmp_path: Path) -> None:
    file = written(convicted, convicted.record, tmp_path)
    shown = flop("dispute", "show", file)
    assert shown.exit_code == 0
    for words in ("segment 0", "producer", "arbiter", "forfeited", "an operator can lift"):
        assert words in shown.stdout
    found = json.loads(flop("dispute", "show", file, "--json").stdout)
    assert found["kind"] == "arbitration" and found["draw_published"]
    assert [answer["part"] for answer in found["answers"]].count("arbiter") == 2
    assert found["contradictions"] == [] and found["remedy"] and not found["trusted"]


def test_answers_that_do_not_lead_to_the_outcome_are_said(
    flop: Flop, convicted: Story, tmp_path: Path
) -> None:
    decided = convicted.record.segment.arbitration
    assert decided is not None
    fewer = replace(decided, arbiters=())
    segment = replace(convicted.record.segment, arbitration=fewer)
    file = written(convicted, replace(convicted.record, segment=segment), tmp_path)
    for command in ("replay", "show"):
        result = flop("dispute", command, file)
        assert result.exit_code == 2 and "ARBITRATION_DIFFERS" in result.stderr
    found = flop("dispute", "replay", file, "--json")
    assert found.exit_code == 2
    assert {it["code"] for it in json.loads(found.stdout)["contradictions"]} == {
        "ARBITRATION_DIFFERS"
    }


def test_what_is_no_file_of_a_ruling_is_refused(flop: Flop, tmp_path: Path) -> None:
    file = tmp_path / "x.dispute"
    file.write_bytes(b"{}")
    for command in ("replay", "show"):
        result = flop("dispute", command, str(file))
        assert result.exit_code == 2 and "RULING_FILE" in result.stderr


def test_every_ruling_says_what_follows_and_what_can_be_done() -> None:
    """Whatever convicts, or voids a unit on its own, is of a kind that `show` explains."""
    named = {reason for _, reason in _STEPS_SAY.values()} | set(_REASONS.values())
    named |= {code.value for code in _ALONE}
    convicting = {code.value for code in VerdictCode if code not in ACCEPTING}
    alone = {reason.value for reason in GOES_ELSEWHERE}
    assert named == convicting | alone | {"AUDITOR_WRONG"}
    for code in named:
        found = finding(code)
        assert found.seen and found.for_buyers and found.remedy not in ("", "none")
    outcomes = {("arbitration", outcome.value) for outcome in _REASONS}
    outcomes |= {("steps", outcome.value) for outcome, _ in _STEPS_SAY.values()}
    outcomes |= {("house", "producer-wrong"), ("arbitration", ""), ("arbitration", "void")}
    assert outcomes == set(_FOLLOWS)
