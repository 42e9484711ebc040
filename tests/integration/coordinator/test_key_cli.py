"""``flop key``, ``invite`` and ``join`` against a real coordinator, as people type them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result

from flopmarket.cli.main import main
from flopmarket.trust.key_identity import read_identity
from flopmarket.trust.keys import KeyPair, KeyRole
from tests.integration.coordinator.test_accounts import Market
from tests.integration.coordinator.test_cli import serve


class KeyMarket(Market):
    """One whose recoveries take effect soon."""

    def start(self) -> None:
        self.process = serve(self.folder, "--recovery-wait", "0.001")
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[2]

    def key_command(self, *arguments: str, key: str = "") -> Result:
        options = ("--address", self.address, "--key", key or self.key_file)
        return self.flop(*arguments, *options)


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyMarket]:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    found = KeyMarket(tmp_path)
    try:
        yield found
    finally:
        found.stop()


def ok(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_a_machine_joins_rotates_its_key_and_is_revoked(market: KeyMarket, tmp_path: Path) -> None:
    ok(market.account("register", "Ada", "--no-recovery"))
    token = ok(market.key_command("invite", "cellar")).strip()
    machine = tmp_path / "machine"
    assert ok(market.flop("join", token, "--work-dir", str(machine))).strip() == market.key.key_id
    again = market.flop("join", token, "--work-dir", str(tmp_path / "other"))
    assert again.exit_code == 5 and "INVITATION_USED" in again.output
    assert "used" in ok(market.key_command("invite", "--list"))
    device = machine / "device.pem"
    first = KeyPair.load(device).key_id
    ok(market.flop("key", "rotate", str(device), "--address", market.address))
    second = KeyPair.load(device).key_id
    known = read_identity(device)
    assert known is not None and second != first
    assert (known.role, known.account_id, known.lineage) == (
        KeyRole.DEVICE, market.key.key_id, first
    )  # fmt: skip
    listed = ok(market.key_command("key", "list"))
    assert second[:16] in listed and first[:16] not in listed
    assert first[:16] in ok(market.key_command("key", "list", "--all"))
    ended = ok(market.key_command("key", "revoke", second[:16])).split()
    assert sorted(ended) == sorted([first, second])
    gone = market.flop("key", "rotate", str(device), "--address", market.address)
    assert gone.exit_code == 3, gone.output


def test_a_lost_key_comes_back_by_its_words(market: KeyMarket, tmp_path: Path) -> None:
    words = tmp_path / "words"
    ok(market.account("register", "Ada", "--recovery-file", str(words)))
    assert words.stat().st_mode & 0o077 == 0 and len(words.read_text().split()) == 24
    assert "recovery key: none" not in market.key_command("key", "list").output
    new = tmp_path / "new.pem"
    arguments = (
        "key", "recover", market.key.key_id, "--words-file", str(words), "--name", str(new),
        "--address", market.address,
    )  # fmt: skip
    first = market.flop(*arguments)
    assert "will own the account" in first.output, first.output
    deadline = time.monotonic() + 60
    while "use it with" not in (shown := market.flop(*arguments)).output:
        assert shown.exit_code == 0 and time.monotonic() < deadline, shown.output
        time.sleep(1)
    assert market.key_command("account", "show").exit_code == 3
    assert market.key.key_id in ok(market.key_command("account", "show", key=str(new)))


def test_words_are_shown_once_and_replace_themselves(market: KeyMarket, tmp_path: Path) -> None:
    shown = market.account("register", "Ada")
    listed = [line.split() for line in shown.stderr.splitlines() if line.startswith("  ")]
    words = tmp_path / "words"
    words.touch(0o600)
    words.write_text(" ".join(word for line in listed for word in line))
    assert not any(word in shown.stdout for word in words.read_text().split() if len(word) > 6)
    assert "write these words" not in market.account("register", "Ada").output  # once
    other = str(tmp_path / "other")
    refused = market.key_command("key", "recovery", "--file", other)
    assert refused.exit_code == 5 and "RECOVERY_KEY_NEEDED" in refused.output
    Path(other).unlink()
    ok(market.key_command("key", "recovery", "--file", other, "--words-file", str(words)))


def test_an_owner_rotates_and_sees_its_sessions(market: KeyMarket) -> None:
    ok(market.account("register", "Ada", "--no-recovery"))
    ok(market.flop("key", "rotate", market.key_file, "--address", market.address))
    assert market.key.key_id in ok(market.account("show"))
    assert "owner" in ok(market.account("sessions"))
    ok(market.account("sessions", "--end-all"))
    ok(market.account("show"))


def test_the_commands_are_listed() -> None:
    assert {"invite", "join", "key"} <= set(main.list_commands(None))  # type: ignore[attr-defined, arg-type]
