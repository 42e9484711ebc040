"""``flop account`` against a real coordinator: statements, proofs, deposits, withdrawals, coins."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from flopmarket.cli.main import main
from flopmarket.client.client import Client
from flopmarket.trust.keys import KeyPair
from tests.integration.coordinator.test_cli import serve


class Market:
    """A coordinator in a process of its own, and a user at its command line."""

    def __init__(self, home: Path, *init: str) -> None:
        self.folder = home / "market"
        self.operator = str(self.folder / "keys" / "operator.pem")
        self.key = KeyPair.generate()
        self.key.save(home / "me.pem")
        self.key_file = str(home / "me.pem")
        made = self.flop("coordinator", "init", "--data-dir", str(self.folder), *init)
        assert made.exit_code == 0, made.output
        self.start()

    def start(self) -> None:
        self.process: subprocess.Popen[str] = serve(self.folder)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[2]

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=20)

    def flop(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="flop")

    def account(self, command: str, *arguments: str) -> Result:
        return self.flop(
            "account", command, *arguments, "--address", self.address, "--key", self.key_file
        )

    def json(self, command: str, *arguments: str) -> list[dict[str, Any]]:
        found = self.account(command, *arguments, "--json")
        assert found.exit_code == 0, found.output
        return [json.loads(line) for line in found.stdout.splitlines()]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def running(home: Path, *init: str) -> Iterator[Market]:
    market = Market(home, *init)
    try:
        yield market
    finally:
        market.stop()


def test_a_life_of_an_account(home: Path) -> None:
    with running(home) as market:
        operator = ("--operator-key", market.operator)
        assert market.account("register", "Ada").exit_code == 0
        assert market.account("deposit", "25", *operator, "--reference", "=cmd").exit_code == 0
        other = market.account("deposit", "25", *operator, "--currency", "flopcoin")
        assert other.exit_code == 5 and "CURRENCY_MISMATCH" in other.stderr

        asked = market.account("withdraw", "$10", "--to", "DE00 1234", "--request-id", "w1")
        again = market.account("withdraw", "$10", "--to", "DE00 1234", "--request-id", "w1")
        identity = asked.stdout.strip()
        assert asked.exit_code == 0 and again.stdout.strip() == identity
        assert "$10.00 to DE00 1234: pending" in asked.stderr
        (waiting,) = market.json("withdrawals", "--pending", "--operator-key", market.operator)
        assert (waiting["withdrawal_id"], waiting["amount_nano"]) == (identity, 10_000_000_000)
        settled = market.account("settle", identity, *operator, "--reference", "wire 9")
        assert settled.exit_code == 0 and "paid (wire 9)" in settled.stderr
        late = market.account("reject", identity, *operator, "--reference", "no")
        assert late.exit_code == 5 and "WITHDRAWAL_DECIDED" in late.stderr
        assert market.json("withdrawals", "--pending") == []
        assert "$15.00" in market.account("show").stdout

        lines = market.json("statement")
        assert [line["purpose"] for line in lines] == ["deposit", "withdrawal", "withdrawal"]
        assert market.json("statement", "--since", "2999-01-01") == []
        assert len(market.json("statement", "--since", "2020-01-01T00:00:00")) == 3
        assert market.account("statement", "--since", "soon").exit_code == 2
        assert market.account("statement", "--csv", "--json").exit_code == 2
        rows = list(csv.DictReader(io.StringIO(market.account("statement", "--csv").stdout)))
        assert [row["change"] for row in rows] == ["25", "0", "-10"]
        assert {row["currency"] for row in rows} == {"USD"}
        assert rows[0]["reference"] == "'=cmd"  # no formula for a spreadsheet
    checked = market.flop("coordinator", "check", "--data-dir", str(market.folder))
    assert checked.exit_code == 0, checked.output


def test_verify_keeps_heads_and_sees_rewritten_books(home: Path) -> None:
    with running(home) as market:
        operator = ("--operator-key", market.operator)
        market.account("register", "Ada")
        empty = market.account("verify")
        assert empty.exit_code == 0 and "nothing we kept" in empty.stdout
        for amount in ("5", "6", "7"):
            market.account("deposit", amount, *operator)
        saved = home / "statement.json"
        (first,) = market.json("verify", "--save", str(saved))
        assert (first["transfers"], first["available_nano"]) == (3, 18_000_000_000)
        market.account("deposit", "1", *operator)
        (second,) = market.json("verify")
        assert second["continues_batches"] == first["batches"] > 0
        offline = market.flop("account", "verify", str(saved))
        assert offline.exit_code == 0 and "$18.00" in offline.stdout
        lied = home / "lied.json"
        lied.write_text(saved.read_text().replace('"batch": 1', '"batch": 2'))
        assert market.flop("account", "verify", str(lied)).exit_code == 2
        backup = home / "before.db"
        with contextlib.closing(sqlite3.connect(market.folder / "coordinator.db")) as database:
            database.execute("VACUUM INTO ?", (str(backup),))
        market.account("deposit", "2", *operator)
        assert market.account("verify").exit_code == 0

    # The books of an earlier moment are put back, and life goes on from there.
    for name in ("coordinator.db-wal", "coordinator.db-shm"):
        (market.folder / name).unlink(missing_ok=True)
    (market.folder / "coordinator.db").write_bytes(backup.read_bytes())
    market.start()
    try:
        shorter = market.account("verify")
        assert shorter.exit_code == 5 and "LEDGER_REWRITTEN" in shorter.stderr
        market.account("deposit", "3", *operator)
        another = market.account("verify")
        assert another.exit_code == 5 and "LEDGER_REWRITTEN" in another.stderr
    finally:
        market.stop()


def test_a_stranger_s_statement_needs_a_known_coordinator(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(home) as market:
        market.account("register", "Ada")
        assert market.account("verify", "--save", "mine.json").exit_code == 0
        key_id = Client(market.address).coordinator().key_id
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "another user"))
    unknown = market.flop("account", "verify", "mine.json")
    assert unknown.exit_code == 2 and "COORDINATOR_UNKNOWN" in unknown.stderr
    named = market.flop("account", "verify", "mine.json", "--coordinator-key", key_id)
    assert named.exit_code == 0
    wrong = market.flop("account", "verify", "mine.json", "--coordinator-key", "0" * 64)
    assert wrong.exit_code == 2


def test_a_club_runs_on_coins(home: Path) -> None:
    with running(home, "--currency", "flopcoin", "--overdraft", "2.5") as market:
        operator = ("--operator-key", market.operator)
        market.account("register", "Ada")
        shown = market.account("show").stdout
        assert "0.00 flopcoin" in shown and "may go below 0 by  2.50 flopcoin" in shown
        for refused in (
            market.account("deposit", "5", *operator),
            market.account("withdraw", "5", "--to", "me"),
        ):
            assert refused.exit_code == 5 and "CURRENCY_INTERNAL" in refused.stderr
        granted = market.account("grant", "4", *operator, "--reference", "welcome")
        assert granted.exit_code == 0 and "4.00 flopcoin" in granted.stderr
        assert market.account("verify").exit_code == 0
        (balances,) = market.json("show")
        assert (balances["available_nano"], balances["currency"]) == (4_000_000_000, "flopcoin")
    again = market.flop(
        "coordinator", "init", "--data-dir", str(market.folder), "--currency", "USD"
    )
    assert again.exit_code == 5 and "CURRENCY_FIXED" in again.stderr
    database = sqlite3.connect(market.folder / "coordinator.db")
    query = "SELECT sum(balance_nano) FROM ledger_account"
    assert database.execute(query).fetchone() == (0,)
    database.close()
