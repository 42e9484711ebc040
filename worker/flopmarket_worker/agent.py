"""The worker: one coordinator, some devices, whatever leases they have.

Starts and ends everything, and hands each message of the coordinator to whom it concerns: leases
(:mod:`flopmarket_worker.leasing`), disputes, step audits, benchmark challenges, the price list. The
connection comes and goes beside the work. ``flop worker up`` runs one of these per machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from flopmarket.limits import WORKER_STOP_SECONDS
from flopmarket.v1 import worker_pb2
from flopmarket_worker.agent_device import AgentDevice
from flopmarket_worker.backoff import Jitter
from flopmarket_worker.connection import Connection
from flopmarket_worker.core import events
from flopmarket_worker.core.events import LeaseKey
from flopmarket_worker.core.session import SessionMachine
from flopmarket_worker.disputing import DisputeDesk
from flopmarket_worker.journal import Journal
from flopmarket_worker.leasing import LeaseDesk
from flopmarket_worker.link import CoordinatorLink
from flopmarket_worker.local_state import Notes, unwritten
from flopmarket_worker.openings import shown
from flopmarket_worker.price_list import PriceList
from flopmarket_worker.proving import Challenges, ProvenDevice
from flopmarket_worker.signing import Clock, Sealer, local_hour
from flopmarket_worker.stepping import StepDesk
from flopmarket_worker.transfers import Transfers
from flopmarket_worker.week import Hour

logger = logging.getLogger("flopmarket.worker")


class Agent:
    """Runs until stopped. One instance, one run."""

    def __init__(
        self,
        link: CoordinatorLink,
        devices: Sequence[AgentDevice],
        journal: Journal,
        transfers: Transfers,
        *,
        now_us: Clock,
        jitter: Jitter,
        version: str,
        stop_seconds: float = WORKER_STOP_SECONDS,
        hour_of: Callable[[int], Hour] = local_hour,
        notes: Notes | None = None,
        reports: Path | None = None,
    ) -> None:
        self._link = link
        self._devices = {device.card.device_id: device for device in devices}
        self._keys = (link.device_key, *link.former_keys)
        self._version = version
        self._stop_seconds = stop_seconds
        self._notes = notes or unwritten()
        self._openings = journal.openings(now_us)
        lists = journal.checksum_lists(now_us)
        executors = {device_id: device.executor for device_id, device in self._devices.items()}
        self._connection = Connection(link, self._notes, now_us=now_us, jitter=jitter)
        send = self._connection.send
        self._prices = PriceList(
            self._devices,
            link,
            self._connection,
            transfers.speed,
            self._notes,
            lambda: hour_of(now_us()),
        )
        self._challenges = Challenges(link.device_key.key_id, send, reports)
        self._leases = LeaseDesk(
            self._devices,
            link.device_key,
            self._connection,
            journal,
            transfers,
            self._openings,
            lists,
            self._notes,
            now_us=now_us,
            jitter=jitter,
            spawn=self._spawn,
            work_comes=self._challenges.work_came,
        )
        self._disputes = DisputeDesk(
            journal.disputes,
            self._keys,
            executors,
            transfers,
            lambda moved: send(dispute_moved=moved),
            now_us,
            self._openings,
            lists,
        )
        self._steps = StepDesk(
            journal.step_audits,
            self._keys,
            executors,
            transfers,
            self._openings,
            lists,
            lambda answered: send(steps_answered=answered),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._retired = asyncio.Event()
        self._retiring = False

    @property
    def retired(self) -> bool:
        """Whether another key took the place of ours, and nothing is left to do under it."""
        return self._retired.is_set()

    @property
    def machine(self) -> SessionMachine:
        """The decisions, for status displays and tests."""
        return self._leases.machine

    # ------------------------------------------------------------ from start to end

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then end in good order within about ten seconds.

        Raises the first error that no retry can mend (a ban, a bad key, a bug); leases then stay on
        disk for the next start.
        """
        failure = self._failure = asyncio.get_running_loop().create_future()
        stopping = asyncio.create_task(stop.wait())
        retiring = asyncio.create_task(self._retired.wait())
        try:
            self._leases.recover()
            self._spawn(self._connection.keep(self))
            await asyncio.wait({stopping, retiring, failure}, return_when=asyncio.FIRST_COMPLETED)
            if not failure.done():
                await self._wind_down(failure)
            if failure.done():
                failure.result()
        finally:
            stopping.cancel()
            retiring.cancel()
            if failure.done():
                failure.exception()  # seen: what ends a task during the end changes nothing
            failure.cancel()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._disputes.stop()
            await self._steps.stop()
            await asyncio.gather(*(device.executor.stop() for device in self._devices.values()))
            await self._link.close()

    async def _wind_down(self, failure: asyncio.Future[None]) -> None:
        logger.info("stopping: segments end at the next step boundary")
        self._notes.phase("draining")
        self._challenges.end_all()
        self._leases.dispatch(events.DrainRequested())
        idle = asyncio.create_task(self._leases.until_idle())
        await asyncio.wait(
            {idle, failure}, timeout=self._stop_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        idle.cancel()
        await self._connection.finish()

    async def _retire(self) -> None:
        """Our key was rotated: finish the leases that it has, then make room for the new key."""
        logger.info("another key took the place of this device key; its leases are finished first")
        await self._leases.until_idle()
        self._retired.set()

    def _spawn(self, doing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = self._failure
        if task.cancelled() or failure is None or failure.done():
            return
        error = task.exception()
        if error is not None:
            failure.set_exception(error)

    # ------------------------------------------------------------ the party of the connection

    def hello(self, sealer: Sealer) -> worker_pb2.Hello:
        """Offers, unless we are about to stop, and the leases that we hold."""
        offers = self._prices.all(sealer)
        return worker_pb2.Hello(
            agent_version=self._version,
            offers=() if self.machine.draining else offers,
            held=self._leases.held(),
        )

    def welcomed(self, kept: tuple[LeaseKey, ...]) -> None:
        """What a lost connection may have swallowed is said again."""
        self._leases.dispatch(events.Connected(kept))

    def heartbeat(self) -> worker_pb2.Heartbeat:
        """Leases and progress; asks that a new hour changed go beside it."""
        if not self.machine.draining:
            self._prices.tell_changes()
        self._spawn(self._disputes.tidy())
        return worker_pb2.Heartbeat(held=self._leases.held(), progress=self._leases.progress())

    def lost(self) -> None:
        """Work goes on; challenges do not outlive their connection."""
        self._challenges.end_all()
        self._leases.dispatch(events.Disconnected())

    def received(self, message: worker_pb2.SessionResponse) -> None:
        """Hand a message to whom it concerns."""
        match message.WhichOneof("message"):
            case "lease_offered":
                self._leases.offered(message.lease_offered)
            case "lease_revoked":
                self._leases.revoked(message.lease_revoked)
            case "commitment_answer":
                self._leases.answered(message.commitment_answer)
            case "opening_asked":
                sealer = self._connection.sealer
                opened = shown(message.opening_asked, self._openings, self._keys, sealer)
                self._connection.send(segment_opened=opened)
            case "benchmark_asked":
                asked = message.benchmark_asked
                self._challenges.asked(asked, self._proven(asked.device_id))
            case "benchmark_verdict":
                coordinator_key = self._connection.coordinator_key.raw
                self._challenges.verdict(message.benchmark_verdict, coordinator_key)
            case "dispute_asked":
                self._spawn(self._disputes.hear(message.dispute_asked, self._connection.sealer))
            case "steps_asked":
                self._spawn(self._steps.hear(message.steps_asked, self._connection.sealer))
            case "offer_refused":
                self._prices.refused(message.offer_refused)
                if message.offer_refused.code == "KEY_ROTATED" and not self._retiring:
                    self._retiring = True
                    self._spawn(self._retire())
            case _:
                logger.debug("a message of unknown kind was ignored")

    def _proven(self, device_id: str) -> ProvenDevice | None:
        """One of our devices, for a challenge; None when it is not ours."""
        device = self._devices.get(device_id)
        if device is None:
            return None

        def is_free() -> bool:
            return not self.machine.draining and not self.machine.has_work(device_id)

        return ProvenDevice(device_id, device.executor, device.calibration, is_free)
