"""Challenges over the real wire: a serving coordinator, real agents, engines whose work is free."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.jobs.host import JobRefused
from flopmarket.trust.benchmark import (
    BenchmarkOpening,
    BenchmarkPlan,
    BenchmarkStart,
    OpeningRequest,
)
from flopmarket.trust.benchmark_file import read_benchmark_file
from flopmarket.trust.benchmark_prover import BenchmarkProver
from flopmarket.trust.benchmark_verifier import Verdict, check_opening
from flopmarket.trust.encoding import decode, encode
from flopmarket.trust.keys import KeyPair
from flopmarket.v1 import market_pb2
from flopmarket_coordinator.core.proving import Standing
from flopmarket_coordinator.store import benchmarks, schema
from flopmarket_worker.agent import Agent
from flopmarket_worker.agent_device import AgentDevice
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.journal import Journal
from flopmarket_worker.link import CoordinatorLink, Credentials
from flopmarket_worker.offers import Calibration, DeviceCard, OwnerTerms
from flopmarket_worker.signing import random_nonce, wall_clock_us
from flopmarket_worker.telemetry.ports import UnknownPower
from flopmarket_worker.transfers import Transfers
from tests.integration.coordinator.market import FAST, Market, Person, eventually, running_market
from tests.integration.worker.fake_engine import FakeEngine
from tests.unit.trust import benchmark_bots as bots

ACCEPTED = "BENCHMARK_ACCEPTED"
STATED = 5 * 10**9
CHALLENGING = replace(FAST, benchmark_required=True)


class ProvingEngine(FakeEngine):
    """A fake device whose stages take ``stage_seconds`` and are what ``bot`` says.

    Engines that share a ``lock`` are one card: stages take turns.
    """

    def __init__(
        self,
        bot: bots.Device | None = None,
        *,
        stage_seconds: float = 0.02,
        lock: asyncio.Lock | None = None,
    ) -> None:
        super().__init__()
        self.bot = bot or bots.Device()
        self.stage_seconds = stage_seconds
        self.lock = lock or asyncio.Lock()
        self.steps: list[str] = []
        self.held = asyncio.Event()
        self.held.set()
        self._prover: BenchmarkProver | None = None
        self._start: BenchmarkStart | None = None

    async def start(self) -> ProvingEngine:
        await super().start()
        return self

    async def prove(self, step: str, document: bytes = b"") -> bytes:
        self.steps.append(step)
        if step == "open":
            self._prover = BenchmarkProver(decode(BenchmarkPlan, document))
            return b""
        prover = self._prover
        assert prover is not None
        if step == "start":
            self._start = decode(BenchmarkStart, document)
            prover.start(self._start)
        elif step == "stage":
            return await self._stage(prover)
        elif step == "answer":
            return encode(self.bot.opened(prover, decode(OpeningRequest, document)))
        return b""

    async def _stage(self, prover: BenchmarkProver) -> bytes:
        await self.held.wait()
        stage = prover.stage
        assert stage is not None and self._start is not None
        async with self.lock:
            leaves = self.bot.leaves(prover.plan, stage, self._start)
            await asyncio.sleep(self.stage_seconds)
        return encode(prover.finished(leaves))


class FreePlaces:
    """Recomputes what the bots compute."""

    async def recompute(self, command: Mapping[str, Any]) -> tuple[bytes, ...]:
        tasks = check_opening(
            decode(BenchmarkPlan, bytes.fromhex(command["plan"])),
            decode(BenchmarkStart, bytes.fromhex(command["start"])),
            [bytes.fromhex(root) for root in command["roots"]],
            bytes.fromhex(command["sampling_seed"]),
            decode(BenchmarkOpening, bytes.fromhex(command["opening"])),
        )
        assert not isinstance(tasks, Verdict)
        return tuple(bots.recompute(tasks))

    async def stop(self) -> None:
        pass


class Rig:
    """Agents of one market, one device each."""

    def __init__(self, market: Market, folder: Path) -> None:
        self.market = market
        self.folder = folder
        self._running: list[tuple[asyncio.Event, asyncio.Task[None]]] = []

    async def agent(self, name: str, engine: FakeEngine, *, owner: KeyPair | None = None) -> str:
        """Start an agent; the id of its offer."""
        owner = owner or KeyPair.generate()
        device_key = KeyPair.generate()
        link = CoordinatorLink(
            self.market.coordinator.address,
            Credentials(device_key, owner, owner.key_id, "test"),
            now_us=wall_clock_us,
            nonce=random_nonce,
        )
        device_id = name.encode().hex().ljust(64, "0")
        cache = self.folder / f"cache {name}"
        cache.mkdir()
        device = AgentDevice(
            DeviceCard(device_id, "fake", "none", 1 << 30, 1 << 28),
            Calibration(b"a" * 32, dict.fromkeys(WORK_CLASSES, STATED), 10**8, 1000, 0, 0),
            OwnerTerms(20_000_000, 0, UnknownPower()),
            JobExecutor(engine.start),
        )
        agent = Agent(
            link,
            [device],
            Journal(self.folder / f"leases {name}"),
            Transfers(link, cache),
            now_us=wall_clock_us,
            jitter=lambda: 0.0,
            version="test",
            stop_seconds=1.0,
            reports=self.folder / name,
        )
        stop = asyncio.Event()
        self._running.append((stop, asyncio.create_task(agent.run(stop))))
        return f"{device_key.key_id[:16]}-{device_id[:16]}"

    async def standing(self, offer_id: str) -> Standing | None:
        return await self.market.coordinator.backend.query(
            lambda tx: benchmarks.standing(tx, offer_id)
        )

    async def judged(self, offer_id: str) -> Standing:
        async def look() -> Standing | None:
            found = await self.standing(offer_id)
            return found if found is not None and found.reason else None

        found: Standing = await eventually(look)
        return found

    async def end(self) -> None:
        for stop, _ in self._running:
            stop.set()
        tasks = [task for _, task in self._running]
        await asyncio.gather(*tasks, return_exceptions=True)


def with_rig(folder: Path, act: Callable[[Rig], Awaitable[None]]) -> None:
    async def start_places() -> FreePlaces:
        return FreePlaces()

    async def run() -> None:
        async with running_market(
            folder, audit=False, parameters=CHALLENGING, start_place_engine=start_places
        ) as market:
            rig = Rig(market, folder)
            try:
                async with asyncio.timeout(30):
                    await act(rig)
            finally:
                await rig.end()

    asyncio.run(run())


def test_an_agent_is_challenged_proves_itself_and_keeps_the_report(tmp_path: Path) -> None:
    async def act(rig: Rig) -> None:
        engine = ProvingEngine()
        offer_id = await rig.agent("card", engine)
        standing = await rig.judged(offer_id)
        assert standing.reason == ACCEPTED and standing.proof is not None
        assert engine.steps == ["open", "start", *["stage"] * 12, "answer"]
        assert engine.closed_jobs == 1
        person = await Person(rig.market).join()
        page = await person.call(person.prices.ListOffers, market_pb2.ListOffersRequest())
        (shown,) = page.offers
        assert shown.proved_at_us and shown.proved_flops_per_second
        assert {rate.flops_per_second for rate in shown.rates} == {STATED}  # cut, never raised
        await person.close()
        path = rig.folder / "card"
        files = await eventually(lambda: _listed(path))
        read = read_benchmark_file(files[0].read_bytes(), None)
        assert read.report.reason == ACCEPTED and not read.trusted

    with_rig(tmp_path, act)


def test_heartbeats_go_on_while_a_stage_takes_long(tmp_path: Path) -> None:
    async def act(rig: Rig) -> None:
        engine = ProvingEngine()
        engine.held.clear()
        offer_id = await rig.agent("card", engine)
        await eventually(lambda: _true("stage" in engine.steps))
        seen = rig.market.coordinator.backend.application.keeper.book
        before = seen.listing(offer_id)
        assert before is not None and before.busy
        await asyncio.sleep(1.0)
        after = seen.listing(offer_id)
        assert after is not None and after.seen_us > before.seen_us
        engine.held.set()
        assert (await rig.judged(offer_id)).reason == ACCEPTED

    with_rig(tmp_path, act)


def test_two_sessions_on_one_card_are_worth_one(tmp_path: Path) -> None:
    async def act(rig: Rig) -> None:
        lock, owner = asyncio.Lock(), KeyPair.generate()
        engines = [ProvingEngine(stage_seconds=0.15, lock=lock) for _ in range(2)]
        application = rig.market.coordinator.backend.application
        application._draining = True  # nobody is asked until both are here
        names = [
            await rig.agent(f"half {number}", engine, owner=owner)
            for number, engine in enumerate(engines)
        ]
        book = application.keeper.book
        await eventually(lambda: _true(len(book.listings()) == 2))
        application._draining = False
        shown = [(await rig.judged(name)).worth_flops_per_second for name in names]
        backend = rig.market.coordinator.backend
        table = schema.benchmark_challenge
        query = sa.select(table).where(table.c.offer_id.in_(names))
        rows = await backend.query(lambda tx: tx.connection.execute(query).all())
        assert rows and all(row.joint for row in rows)
        stage = decode(BenchmarkPlan, rows[0].plan).shapes.product
        assert sum(shown) <= 1.1 * stage.flops / 0.15

    with_rig(tmp_path, act)


def test_engines_without_a_device_decline_and_stay_unproved(tmp_path: Path) -> None:
    async def act(rig: Rig) -> None:
        offer_id = await rig.agent("simulated", FakeEngine())
        standing = await rig.judged(offer_id)
        assert standing.reason == "BENCHMARK_DECLINED" and standing.proof is None
        assert "CHALLENGE_UNSUPPORTED" in standing.detail

    with_rig(tmp_path, act)


def test_a_cheat_and_a_broken_engine(tmp_path: Path) -> None:
    class Broken(ProvingEngine):
        async def prove(self, step: str, document: bytes = b"") -> bytes:
            if step == "stage":
                raise JobRefused("no memory", code="DEVICE_MEMORY")
            return await super().prove(step, document)

    async def act(rig: Rig) -> None:
        cheat = await rig.agent("cheat", ProvingEngine(bots.Precomputer()))
        broken = await rig.agent("broken", Broken())
        assert (await rig.judged(cheat)).reason == "BENCHMARK_TILE_WRONG"
        assert (await rig.judged(broken)).reason == "BENCHMARK_DECLINED"

    with_rig(tmp_path, act)


async def _true(value: object) -> object:
    return value


async def _listed(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json")) if folder.exists() else []
