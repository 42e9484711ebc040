"""A short market day with few owners: every claim of it holds, in both currencies.

The claims are the demonstration's own; they are told apart from always true ones in
tests/unit/demo.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flopmarket.demo.processes import environment, flop
from flopmarket.engine.runtime.cache import default_directory


@pytest.mark.slow
@pytest.mark.parametrize("currency", ["USD", "flopcoin"])
def test_every_claim_of_a_short_day_holds(currency: str, calibration: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        flop(
            *("demo", "--market", "--board", "--currency", currency, "--minutes", "0.6"),
            *("--owners", "6", "--orders", "6", "--keep", str(tmp_path / "day")),
            *("--cache-dir", str(default_directory()), "--calibration", str(calibration)),
        ),
        env={**environment(), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "NO │" not in said
    assert ("the sum of all accounts is exactly zero" in said) == (currency == "flopcoin")
