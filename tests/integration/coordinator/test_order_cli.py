"""Orders and explanations through ``flop``, against a real coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from flopmarket.client import Client
from flopmarket.client.orders import Order
from flopmarket.errors import Unavailable
from flopmarket.market.reasons import Reason
from flopmarket.trust.keys import KeyPair
from flopmarket_coordinator.parameters import SECOND_US
from flopmarket_worker import up
from flopmarket_worker.local_state import AgentState, DeviceState, saver
from flopmarket_worker.why import why
from tests.integration.coordinator.live_world import CALM, LiveWorld
from tests.integration.coordinator.market import Market, running_market
from tests.integration.coordinator.test_buyer_cli import JOB_FILE, flop, ok
from tests.unit.cli.conftest import json_lines
from tests.unit.jobs.jobs import small_job


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("KEY", "ACCOUNT", "PROFILE", "CONFIG", "CA"):
        monkeypatch.delenv(f"FLOPMARKET_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text(JOB_FILE)
    return tmp_path


def in_market(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    story: Callable[[Market, LiveWorld], None],
    **config: float,
) -> None:
    """Run ``story`` beside a coordinator, with an account that has money."""

    def told(market: Market, world: LiveWorld) -> None:
        monkeypatch.setenv("FLOPMARKET_ADDRESS", market.coordinator.address)
        ok("key", "new")
        ok("account", "register", "Ada")
        owner = KeyPair.load(folder / "config" / "flopmarket" / "keys" / "default.pem")
        with Client(market.coordinator.address, owner) as client:
            client.deposit(market.operator_key, "100")
        story(market, world)

    async def run() -> None:
        async with running_market(folder, audit=False, **config) as market:
            application = market.coordinator.backend.application
            programs = application._programs
            world = LiveWorld(market)
            application._programs = programs  # jobs here are uploaded to the real store
            await asyncio.to_thread(told, market, world)

    asyncio.run(run())


def test_a_market_order_is_refused_with_counts_and_a_limit_order_rests(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(market: Market, world: LiveWorld) -> None:
        refused = flop("submit", "job.py", "--max-price", "1")
        assert refused.exit_code == 7
        assert "NO_FITTING_OFFER" in refused.stderr and "--wait" in refused.stderr
        priceless = flop("submit", "job.py", "--wait")
        assert priceless.exit_code == 2 and "ORDER_WITHOUT_PRICE" in priceless.stderr
        job_id = ok(
            *("submit", "job.py", "--wait", "--limit", "1000000", "--deadline", "24h"),
            *("--region", "eu", "--min-memory", "1MiB"),
        ).stdout.strip()
        (shown,) = json_lines(ok("job", "show", job_id, "--json"))
        assert shown["ceiling_nano"] > 0 and shown["state"] == "queued"
        assert (shown["order_kind"], shown["work_class"]) == ("limit", "reduce-f32")
        assert shown["limit_per_pflop_nano"] == 1_000_000 * 10**9
        assert "limit, at most $1000000.00 a PFLOP" in ok("job", "show", job_id).stdout
        world.match()
        (told,) = json_lines(ok("job", "why", job_id, "--json"))
        assert [reason["code"] for reason in told["reasons"]] == ["NO_OFFERS"]
        world.worker("far", region="us")
        printed = ok("job", "why", job_id[:12]).stdout
        assert "NO_RATE" in printed and "what to do" in printed
        held = shown["ceiling_nano"]
        (account,) = json_lines(ok("account", "show", "--json"))
        assert account["reserved_nano"] == held
        ok("job", "cancel", job_id)
        (account,) = json_lines(ok("account", "show", "--json"))
        assert account["reserved_nano"] == 0
        assert "has ended: cancelled" in ok("job", "why", job_id).stdout
        assert flop("job", "why", "0" * 64).exit_code == 4

    in_market(user, monkeypatch, story, **CALM)


def test_bad_orders_end_with_the_usage_exit_code(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(market: Market, world: LiveWorld) -> None:
        for arguments, code in (
            (("--limit", "0"), "ORDER_PRICE"),
            (("--limit", "-1"), "MONEY_NEGATIVE"),
            (("--limit", "0.001"), "ORDER_PRICE"),
            (("--limit", "cheap"), "MONEY_MALFORMED"),
            (("--limit", "1", "--work-class", "f64"), "ORDER_CLASS"),
            (("--region", "EU"), "REGION_MALFORMED"),
            (("--region", "eu", "--not-region", "eu"), "ORDER_CONTRADICTION"),
            (("--owner", "a", "--not-owner", "a"), "ORDER_CONTRADICTION"),
            (("--deadline", "yesterday"), "DEADLINE_MALFORMED"),
            (("--deadline", "2001-01-01"), "DEADLINE_PASSED"),
        ):
            for command in ("quote", "submit"):
                done = flop(command, "job.py", "--wait", *arguments) if command == "submit" else (
                    flop(command, "job.py", *arguments)
                )  # fmt: skip
                assert done.exit_code == 2 and code in done.stderr, (arguments, done.stderr)

    in_market(user, monkeypatch, story, **CALM)


def test_the_client_signs_what_it_was_told(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def story(market: Market, world: LiveWorld) -> None:
        owner = KeyPair.load(user / "config" / "flopmarket" / "keys" / "default.pem")
        with Client(market.coordinator.address, owner) as client:
            with pytest.raises(Unavailable) as error:
                client.submit(small_job(), "1", order=Order(owners=("nobody",)))
            assert error.value.code == "NO_FITTING_OFFER" and not error.value.retryable
            order = Order(wait=True, limit="1000000", not_owners=("b", "a"))
            handle = client.submit(small_job(), order=order, request_id="same")
            again = client.submit(small_job(), order=order, request_id="same")
            assert again.job_id == handle.job_id
            told = client.explain_job(handle.job_id)
            assert told.state == "queued" and client.explain_offers() == ()

    in_market(user, monkeypatch, story, **CALM)


def test_worker_why_asks_the_coordinator_with_the_device_key(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(market: Market, world: LiveWorld) -> None:
        worker = world.worker("card", region="eu")
        folder = user / "worker"
        folder.mkdir()
        worker.key.save(folder / "device.pem")
        offer_id = world.see(world.application.explain_offers, worker.session)[0].offer_id
        saver(folder)(
            AgentState(
                market.coordinator.address,
                account_id=worker.account,
                device_key_file=str(folder / "device.pem"),
                phase="connected",
                devices=(DeviceState("PoCL:0", worker.device_id, "a card", offer_id),),
            )
        )
        with up.only_worker_in(folder):
            (told,) = why(folder)
            assert told.state == "idle"
            assert [reason.code for reason in told.reasons] == [Reason.NO_OPEN_ORDERS]
            printed = ok("worker", "why", "--work-dir", str(folder)).stdout
            assert "NO_OPEN_ORDERS" in printed and "a card (PoCL:0)" in printed
            (record,) = json_lines(ok("worker", "why", "pocl", "--work-dir", str(folder), "--json"))
            assert record["offer_id"] == offer_id
        stopped = ok("worker", "why", "--work-dir", str(folder)).stdout
        assert "OFFLINE" in stopped

    in_market(user, monkeypatch, story, **CALM)


def test_an_order_expires_by_itself(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def story(market: Market, world: LiveWorld) -> None:
        owner = KeyPair.load(user / "config" / "flopmarket" / "keys" / "default.pem")
        with Client(market.coordinator.address, owner) as client:
            deadline_us = world.now_us + 2 * SECOND_US
            order = Order(wait=True, deadline_us=deadline_us)
            handle = client.submit(small_job(), "1", order=order)
            ended = handle.watch()
            assert (ended.state, ended.reason) == ("failed", "DEADLINE_PASSED")
            assert world.now_us >= deadline_us
            assert client.account().reserved.nano == 0

    in_market(user, monkeypatch, story)
