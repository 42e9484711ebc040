"""``flop admin invite`` and ``flop join`` against a market that is by invitation only, over TLS."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result

from tests.integration.coordinator.test_accounts import Market
from tests.integration.coordinator.test_cli import serve


class ClosedMarket(Market):
    """One that opens accounts by invitation, and is reached by TLS."""

    def start(self) -> None:
        self.process = serve(self.folder, "--invitation-only", "--tls-host", "127.0.0.1")
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[2]
        self.authority = next(iter(self.folder.rglob("ca.crt")))

    def operator_says(self, *words: str) -> Result:
        place = ("--address", self.address, "--ca", str(self.authority))
        return self.flop("admin", *words, "--operator-key", self.operator, *place)


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClosedMarket]:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    found = ClosedMarket(tmp_path)
    try:
        yield found
    finally:
        found.stop()


def ok(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_an_invited_owner_needs_the_line_and_nothing_else(
    market: ClosedMarket, tmp_path: Path
) -> None:
    place = ("--address", market.address, "--ca", str(market.authority), "--key", market.key_file)
    stranger = market.flop("account", "register", "Eve", "--no-recovery", *place)
    assert stranger.exit_code == 3 and "INVITATION_NEEDED" in stranger.output
    assert market.operator_says("invite").exit_code == 2
    token = ok(market.operator_says("invite", "--reason", "for Carol")).strip()
    words = tmp_path / "words"
    wrong = market.flop("join", token, "--work-dir", str(tmp_path))
    assert wrong.exit_code == 2
    joined = ok(market.flop("join", token, "--label", "Carol", "--recovery-file", str(words)))
    assert len(words.read_text().split()) == 24
    account = joined.strip()
    # Address, authority, coordinator and key stand in the configuration file now.
    assert account in ok(market.flop("account", "show"))
    (file,) = (tmp_path / "home").rglob("config.toml")
    assert tomllib.loads(file.read_text())["profile"]["default"]["address"] == market.address
    again = market.flop("join", token, "--no-recovery")
    assert again.exit_code == 0 and again.stdout.strip() == account
    other = market.flop("join", token, "--key", str(tmp_path / "other.pem"), "--profile", "two")
    assert other.exit_code == 5 and "INVITATION_USED" in other.output
    listed = ok(market.operator_says("invite", "--list", "--json"))
    assert [json.loads(line)["account_id"] for line in listed.splitlines()] == [account]


def test_an_invitation_is_revoked_and_another_profile_stays(
    market: ClosedMarket, tmp_path: Path
) -> None:
    first = ok(market.operator_says("invite", "--reason", "for Dan")).strip()
    (shown,) = ok(market.operator_says("invite", "--list", "--json")).splitlines()
    name = json.loads(shown)["invitation_id"]
    ok(market.operator_says("invite", "--revoke", name[:16], "--reason", "a mistake"))
    gone = market.flop("join", first, "--no-recovery")
    assert gone.exit_code == 5 and "INVITATION_REVOKED" in gone.output
    configuration = tmp_path / "home" / "flopmarket" / "config.toml"
    configuration.parent.mkdir(parents=True, exist_ok=True)
    before = '[profile.default]\naddress = "elsewhere.example:1"'
    configuration.write_text(before)
    second = ok(market.operator_says("invite", "--reason", "for Dan again")).strip()
    done = market.flop("join", second, "--no-recovery")
    assert done.exit_code == 0 and "another market" in done.stderr
    assert configuration.read_text() == before
    named = market.flop("join", second, "--no-recovery", "--profile", "dan")
    assert named.exit_code == 0
    assert configuration.read_text().startswith(before)
    assert done.stdout.strip() in ok(market.flop("account", "show", "--profile", "dan"))
