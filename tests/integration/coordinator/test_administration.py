"""The operator's service over gRPC, through the client; figures for Prometheus; commands."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flopmarket.cli.main import main
from flopmarket.client.admin import AdminClient
from flopmarket.errors import Conflict, Forbidden, Unauthenticated
from flopmarket.trust.administration import AdminOrder
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.config import ListenAddress
from tests.integration.coordinator.market import Market, Person, with_market


def test_orders_trail_and_figures(tmp_path: Path) -> None:
    async def scenario(market: Market) -> None:
        await asyncio.to_thread(_operate, market, tmp_path)

    with_market(tmp_path / "market", scenario, metrics=ListenAddress("127.0.0.1", 0))


def _operate(market: Market, tmp_path: Path) -> None:
    coordinator = market.coordinator
    with AdminClient(coordinator.address, coordinator.directory.operator_key) as admin:
        assert not admin.status().draining
        done = admin.act(AdminOrder.DRAIN, reason="a new disk", request_id="one")
        assert admin.act(AdminOrder.DRAIN, reason="a new disk", request_id="one") == done
        with pytest.raises(Conflict):
            admin.act(AdminOrder.DRAIN, reason="again")
        status = admin.status()
        assert status.draining
        assert status.workers_connected == 0
        assert {item.name for item in status.parameters} >= {"currency", "lease_ttl_us"}
        assert [(item.kind, item.reason) for item in admin.decisions()] == [("drain", "a new disk")]
    with (
        AdminClient(coordinator.address, KeyPair.generate()) as stranger,
        pytest.raises((Forbidden, Unauthenticated)),
    ):
        stranger.status()
    key = tmp_path / "operator.pem"
    coordinator.directory.operator_key.save(key)
    runner = CliRunner()
    common = ["--operator-key", str(key), "--address", coordinator.address, "--json"]
    resumed = runner.invoke(main, ["admin", "resume", "--reason", "done", *common])
    assert resumed.exit_code == 0, resumed.output
    assert json.loads(resumed.stdout)["kind"] == "resume"
    trail = runner.invoke(main, ["admin", "trail", *common])
    assert [json.loads(line)["kind"] for line in trail.stdout.splitlines()] == ["resume", "drain"]
    with urllib.request.urlopen(f"http://{coordinator.metrics_address}/metrics") as answer:
        text = answer.read().decode()
    assert 'flopmarket_calls_total{code="OK",method="/flopmarket.v1.AdminService/Act"} 3.0' in text
    assert "flopmarket_workers_connected 0.0" in text
    assert 'code="FAILED_PRECONDITION",method="/flopmarket.v1.AdminService/Act"} 1.0' in text


def test_accounts_of_the_house(tmp_path: Path) -> None:
    async def scenario(market: Market) -> None:
        owner = await Person(market).join("operator at home")
        await asyncio.to_thread(_house, market, tmp_path, owner.account_id)
        await owner.close()

    with_market(tmp_path / "market", scenario)


def _house(market: Market, tmp_path: Path, account: str) -> None:
    coordinator, runner = market.coordinator, CliRunner()
    key = tmp_path / "operator.pem"
    coordinator.directory.operator_key.save(key)
    common = ["--operator-key", str(key), "--address", coordinator.address]

    def house(*words: str) -> Result:
        return runner.invoke(main, ["admin", "house", *words, *common])

    assert house("list").stdout == ""
    added = house("add", account, "--reason", "our own cards", "--json")
    assert json.loads(added.stdout)["kind"] == "add-house", added.output
    assert house("list").stdout == f"{account}\n"
    assert json.loads(house("list", "--json").stdout) == {"accounts": [account]}
    assert house("add", account, "--reason", "again").exit_code == 5
    assert house("add", "nobody", "--reason", "unknown").exit_code == 4
    removed = house("remove", account, "--reason", "sold")
    assert removed.exit_code == 0, removed.output
    assert house("list").stdout == ""
    status = runner.invoke(main, ["admin", "status", *common])
    assert "audits by others" in status.stdout, status.output
