"""A worker and a coordinator that is a fake, over loopback, for tests of the agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.trust.keys import KeyPair
from flopmarket.v1 import worker_pb2
from flopmarket_worker.agent import Agent
from flopmarket_worker.agent_device import AgentDevice
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.journal import Journal
from flopmarket_worker.link import CoordinatorLink, Credentials
from flopmarket_worker.offers import Calibration, DeviceCard, OwnerTerms
from flopmarket_worker.signing import random_nonce, wall_clock_us
from flopmarket_worker.telemetry.ports import DeclaredPower
from flopmarket_worker.transfers import Transfers
from flopmarket_worker.week import Hour
from tests.integration.worker.fake_engine import FakeEngine
from tests.integration.worker.fakes import FakeCoordinator

DEVICE_ID = "f" * 64
DEVICE_KEY = KeyPair.from_seed(b"d" * 32)
OWNER_KEY = KeyPair.from_seed(b"o" * 32)


class Scene:
    """One coordinator, one agent with one fake device, one work folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coordinator = FakeCoordinator()
        self.engine = FakeEngine()
        self.stop = asyncio.Event()
        self.owner: KeyPair | None = OWNER_KEY
        self.key = DEVICE_KEY
        self.former: tuple[KeyPair, ...] = ()
        self.terms = OwnerTerms(20_000_000, 0, DeclaredPower(65_000))
        self.hour = Hour(0, 12)
        self.calibration = Calibration(
            b"a" * 32, dict.fromkeys(WORK_CLASSES, 10**9), 10**9, 1000, 0, 0
        )
        self.agent: Agent
        self.task: asyncio.Task[None]

    def start_agent(self) -> None:
        self.stop = asyncio.Event()
        link = CoordinatorLink(
            self.coordinator.address,
            Credentials(self.key, self.owner, OWNER_KEY.key_id, "test", former=self.former),
            now_us=wall_clock_us,
            nonce=random_nonce,
        )
        cache = self.folder / "cache"
        cache.mkdir(exist_ok=True)
        device = AgentDevice(
            DeviceCard(DEVICE_ID, "fake", "none", 1 << 30, 1 << 28),
            self.calibration,
            self.terms,
            JobExecutor(self.engine.start),
        )
        self.agent = Agent(
            link,
            [device],
            Journal(self.folder / "leases"),
            Transfers(link, cache),
            now_us=wall_clock_us,
            jitter=lambda: 0.0,
            version="test",
            stop_seconds=3.0,
            hour_of=lambda _: self.hour,
        )
        self.task = asyncio.create_task(self.agent.run(self.stop))

    async def connected(self, times: int = 1) -> None:
        await self.coordinator.until(lambda: len(self.coordinator.hellos) >= times)
        await self.coordinator.until(lambda: self.coordinator.calls)

    async def crash_agent(self) -> None:
        """As kill -9 would: nothing is said, nothing is cleaned up."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def end(self) -> None:
        self.stop.set()
        async with asyncio.timeout(8):
            await asyncio.gather(self.task, return_exceptions=True)
        await self.coordinator.stop()


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    built = Scene(folder)
    await built.coordinator.start()
    built.start_agent()
    try:
        yield built
    finally:
        await built.end()


def play(folder: Path, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with scene(folder) as built:
            async with asyncio.timeout(20):
                await built.connected()
                await act(built)

    asyncio.run(run())


def lease_folders(folder: Path) -> list[Path]:
    leases = folder / "leases"
    return [path for path in leases.iterdir() if path.is_dir()] if leases.exists() else []


def offered(message: object) -> object:
    """A lease as the session tells it."""
    return worker_pb2.SessionResponse(lease_offered=message)  # type: ignore[arg-type]
