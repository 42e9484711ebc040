"""An operator's own audit rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_AUDIT_RULES_FILE_BYTES
from flopmarket.trust.audit_policy import RULES
from flopmarket_coordinator.audit_options import read_rules


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"full_streak": 2, "onboarding_streak": 3, "house_ppm": 0}')
    assert read_rules(path) == replace(RULES, full_streak=2, onboarding_streak=3, house_ppm=0)
    path.write_text("{}")
    assert read_rules(path) == RULES


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        '{"floor": 1}',
        '{"floor_ppm": 0.5}',
        '{"floor_ppm": true}',
        '{"floor_ppm": "1"}',
        '{"floor_ppm": -1}',
        '{"floor_ppm": 0}',
        '{"floor_ppm": 1000001}',
        '{"safety": 99999999999999999999}',
        '{"full_streak": 60}',
        '{"floor_ppm": 1}' + " " * MAX_AUDIT_RULES_FILE_BYTES,
    ],
)
def test_anything_else_is_refused_with_a_reason(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rules.json"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        read_rules(path)
    assert caught.value.code == "AUDIT_RULES"
    with pytest.raises(InvalidInput):
        read_rules(tmp_path / "missing.json")
