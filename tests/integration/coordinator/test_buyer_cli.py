"""Budgets, CI keys, webhooks and waiting through ``flop``, against a real coordinator."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flopmarket.cli.main import main
from flopmarket.client import Client
from flopmarket.trust.keys import KeyPair
from tests.integration.coordinator.market import Market, running_market
from tests.unit.cli.conftest import json_lines

JOB_FILE = """
from tests.unit.jobs.jobs import small_job

job = small_job()
"""


def flop(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="flop")


def ok(*arguments: str) -> Result:
    done = flop(*arguments)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with a key of an account and a JOB.py, in a folder of their own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("KEY", "ACCOUNT", "PROFILE", "CONFIG", "CA"):
        monkeypatch.delenv(f"FLOPMARKET_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text(JOB_FILE)
    return tmp_path


def in_market(folder: Path, monkeypatch: pytest.MonkeyPatch, story: object) -> None:
    """Run ``story(market)`` on a thread beside a coordinator, with an account that has money."""

    def told(market: Market) -> None:
        monkeypatch.setenv("FLOPMARKET_ADDRESS", market.coordinator.address)
        ok("key", "new")
        ok("account", "register", "Ada")
        owner = KeyPair.load(folder / "config" / "flopmarket" / "keys" / "default.pem")
        with Client(market.coordinator.address, owner) as client:
            client.deposit(market.operator_key, "100")
        story(market)  # type: ignore[operator]

    async def run() -> None:
        async with running_market(folder, audit=False) as market:
            await asyncio.to_thread(told, market)

    asyncio.run(run())


def test_a_script_buys_with_a_key_of_its_own(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def story(market: Market) -> None:
        account = ok("account", "show").stdout.split("account")[1].split()[0]
        made = ok("key", "new", "--role", "ci")
        assert "flop key grant" in made.stderr
        granted = ok(
            *("key", "grant", "ci", "--cap", "2.50", "--monthly", "2", "--expires", "30d"),
            *("--label", "nightly"),
        )
        assert granted.stdout.strip() == made.stdout.strip()
        assert f"FLOPMARKET_ACCOUNT={account}" in granted.stderr
        as_ci = ("--key", "ci", "--account", account)
        buy = ("submit", "job.py", "--wait", "--max-price")
        ok(*buy, "1.5", *as_ci)
        refused = flop(*buy, "1", *as_ci)
        assert refused.exit_code == 6 and "KEY_MONTH" in refused.stderr
        assert "flop key grant" in refused.stderr
        shown = ok("budget", "show").stdout
        assert "nightly" in shown and "$1.50 of $2.50" in shown and "$1.50 of $2.00" in shown
        (report,) = json_lines(flop("budget", "show", "--json", *as_ci))
        assert report["keys"][0]["total"]["limit_nano"] == 2_500_000_000
        assert report["month"]["limit"] is None
        assert flop("budget", "set", "5", *as_ci).exit_code == 3
        assert flop("webhook", "list", *as_ci).exit_code == 3
        # The public half is enough to grant, and a cap of 0 stops the key.
        pem = ok("key", "show", "ci", "--pem").stdout
        (user / "ci.pub.pem").write_text(pem)
        ok("key", "grant", "ci.pub.pem", "--cap", "0")
        stopped = flop(*buy, "0.1", *as_ci)
        assert stopped.exit_code == 3 and "GRANT_CAP" in stopped.stderr

    in_market(user, monkeypatch, story)


def test_a_budget_binds_the_account(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def story(market: Market) -> None:
        assert "no limit" in ok("budget", "show").stdout
        assert ok("budget", "set", "2").stdout.strip() == "$2.00"
        ok("submit", "job.py", "--wait", "--max-price", "1.5")
        refused = flop("submit", "job.py", "--wait", "--max-price", "1")
        assert refused.exit_code == 6 and "BUDGET_MONTH" in refused.stderr
        shown = ok("budget", "show").stdout
        assert "$1.50" in shown and "$0.50" in shown
        ok("budget", "set", "none")
        ok("submit", "job.py", "--wait", "--max-price", "1")
        assert flop("budget", "set", "lots").exit_code == 2
        assert flop("budget", "set", "--", "-5").exit_code == 2

    in_market(user, monkeypatch, story)


def test_waiting_ends_with_the_outcome(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def story(market: Market) -> None:
        job_id = ok("submit", "job.py", "--wait", "--max-price", "1").stdout.strip()
        late = flop("job", "wait", job_id, "--timeout", "1s")
        assert late.exit_code == 7 and "WAIT_TIMEOUT" in late.stderr
        assert flop("job", "wait", job_id, "--timeout", "soon").exit_code == 2
        listed = json_lines(flop("job", "list", "--state", "queued", "--json"))
        assert [item["job_id"] for item in listed] == [job_id]
        assert json_lines(flop("job", "list", "--state", "failed", "--json")) == []
        assert flop("job", "list", "--state", "lost").exit_code == 2
        ok("job", "cancel", job_id[:12])
        ended = flop("job", "wait", job_id, "--json")
        assert ended.exit_code == 1 and "JOB_CANCELLED" in ended.stderr
        assert '"state": "cancelled"' in ended.stdout

    in_market(user, monkeypatch, story)


def test_webhooks_on_the_command_line(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def story(market: Market) -> None:
        refused = flop("webhook", "add", "http://127.0.0.1/")
        assert refused.exit_code == 2 and "WEBHOOK_URL" in refused.stderr
        added = ok("webhook", "add", "https://hooks.example/a", "--events", "job.failed")
        assert "whpk_" in added.stderr
        listed = ok("webhook", "list").stdout
        assert "https://hooks.example/a" in listed and "enabled" in listed
        unknown = flop("webhook", "add", "https://hooks.example/b", "--events", "job.lost")
        assert unknown.exit_code == 2 and "job.succeeded" in unknown.stderr
        ok("webhook", "remove", "https://hooks.example/a")
        assert ok("webhook", "list").stdout == ""
        assert flop("webhook", "remove", "https://hooks.example/a").exit_code == 4

    in_market(user, monkeypatch, story)
