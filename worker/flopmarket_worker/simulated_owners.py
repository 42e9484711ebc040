"""Many owners in one process, for a market day: ``python -m flopmarket_worker.simulated_owners``.

Each owner is an ordinary worker with a key, a connection and leases of its own, on a simulated card
(:mod:`flopmarket_worker.simulated_cards`) that computes on an engine which all of them share. Asks
and schedules follow a compressed clock. Nothing of the coordinator knows that they are simulated,
but their names say so.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flopmarket.errors import FlopmarketError
from flopmarket.trust.keys import KeyPair
from flopmarket_worker.agent import Agent
from flopmarket_worker.agent_device import AgentDevice
from flopmarket_worker.calibration import calibrate
from flopmarket_worker.compressed_clock import CompressedClock, parse_clock
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.journal import Journal
from flopmarket_worker.link import CoordinatorLink, Credentials
from flopmarket_worker.offers import Calibration
from flopmarket_worker.signing import random_nonce, wall_clock_us
from flopmarket_worker.simulated_cards import SimulatedOwner, draw
from flopmarket_worker.simulated_engine import SharedEngine
from flopmarket_worker.transfers import Transfers
from flopmarket_worker.up import version

logger = logging.getLogger("flopmarket.worker")

ARRIVAL_SECONDS = 0.05
"""Pause between two owners' arrivals."""


def owner_key_file(folder: Path, name: str) -> Path:
    """Where an owner's key is kept, made by whoever looks first."""
    return folder / f"{name}.pem"


async def run(options: argparse.Namespace) -> None:
    """All owners, until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    folder: Path = options.work_dir
    shared = SharedEngine(options.device, options.cache_dir / "kernels")
    try:
        executor = JobExecutor(partial(shared.card, 100))
        measured = await calibrate(executor, options.calibration, version())
        await executor.stop()
        async with asyncio.TaskGroup() as owners:
            for owner in draw(options.owners, options.seed):
                agent = _agent(owner, options, folder, shared, measured.calibration, measured.info)
                owners.create_task(_work(owner, agent, stop))
                await asyncio.sleep(ARRIVAL_SECONDS)
    finally:
        shared.close()


def _agent(
    owner: SimulatedOwner,
    options: argparse.Namespace,
    folder: Path,
    shared: SharedEngine,
    engine: Calibration,
    info: Mapping[str, Any],
) -> Agent:
    clock: CompressedClock = options.clock
    link = CoordinatorLink(
        options.coordinator,
        Credentials(KeyPair.generate(), _owner_key(folder, owner.name), "", owner.name),
        now_us=wall_clock_us,
        nonce=random_nonce,
    )
    device = AgentDevice(
        owner.card(int(info.get("max_allocation_bytes", 0)), str(info.get("name", "an engine"))),
        owner.calibration(engine),
        owner.terms,
        JobExecutor(partial(shared.card, owner.share_percent)),
    )
    return Agent(
        link,
        [device],
        Journal(folder / "leases" / owner.name),
        Transfers(link, folder / "artifacts"),
        now_us=wall_clock_us,
        jitter=random.random,
        version=version(),
        hour_of=clock.hour,
    )


async def _work(owner: SimulatedOwner, agent: Agent, stop: asyncio.Event) -> None:
    """One owner's day. What ends it is logged; the other owners go on."""
    try:
        await agent.run(stop)
    except FlopmarketError as error:
        logger.error("%s has left: %s", owner.name, error)


def _owner_key(folder: Path, name: str) -> KeyPair:
    path = owner_key_file(folder, name)
    if not path.exists():
        KeyPair.generate().save(path)
    return KeyPair.load(path)


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="flopmarket-simulated-owners")
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--cache-dir", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="of the shared engine")
    parser.add_argument("--clock", type=parse_clock, required=True)
    parser.add_argument("--owners", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--device")
    options = parser.parse_args()
    options.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
