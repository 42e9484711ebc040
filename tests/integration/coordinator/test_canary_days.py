"""``flop canaries`` against a real coordinator, as a stranger without a key types it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flopmarket.client.client import Client
from flopmarket.errors import InvalidInput
from flopmarket.trust.canaries import check_day, from_json
from tests.integration.coordinator.test_accounts import running


def test_the_terms_of_a_day_are_there_before_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with running(tmp_path) as market:
        today = int(time.time()) // 86_400
        with Client(market.address) as client:
            deadline = time.monotonic() + 30
            while not (found := client.canary_day(today + 1)).terms:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            assert not found.over and found.draws == ()
            assert check_day(found, client.coordinator().public_key) == ()
            with pytest.raises(InvalidInput):
                client.canary_day(-1)
        place = ("--address", market.address)
        kept = tmp_path / "today"
        day = datetime.fromtimestamp(today * 86_400, UTC).date().isoformat()
        saved = market.flop("canaries", day, "--save", str(kept), "--json", *place)
        assert saved.exit_code == 0, saved.output
        told = json.loads(saved.stdout)
        assert (told["day"], told["over"], told["draws"]) == (day, False, 0)
        assert from_json(kept.read_bytes()).day == today
        held = market.flop("canaries", day, "--since", str(kept), *place)
        assert held.exit_code == 0 and "published when the day is over" in held.stderr
        tomorrow = datetime.fromtimestamp((today + 1) * 86_400, UTC).date().isoformat()
        other = market.flop("canaries", tomorrow, "--since", str(kept), *place)
        assert other.exit_code == 1 and "TERMS_DIFFER" in other.output
        assert market.flop("canaries", "someday", *place).exit_code == 2
        before = market.flop("canaries", "2020-01-01", *place)
        assert before.exit_code == 0 and "anchor none" in before.stderr
