"""The worker's side of benchmark challenges: one at a time on each idle device.

A challenge never outranks work: a device that has a lease declines it, and a lease that comes while
one runs ends it. It lives as long as its connection; the coordinator asks again. What was accepted
is written down as a file that anybody can check (``flop benchmark verify``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.market.proof import PROVED_CLASS
from flopmarket.trust.benchmark import BenchmarkPlan
from flopmarket.trust.benchmark_file import benchmark_file
from flopmarket.trust.encoding import decode
from flopmarket.v1 import worker_pb2
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.journal import write_durably
from flopmarket_worker.offers import Calibration

logger = logging.getLogger("flopmarket.worker")

MAX_CHALLENGE_SECONDS = 600
"""Longer than any plan that suits a device; what would take more at its own rate is declined."""
_MAX_WAITING_DOCUMENTS = 4

Send = Callable[..., None]


@dataclass(frozen=True, slots=True)
class ProvenDevice:
    """What is needed of a device. ``is_free`` says whether it has no lease."""

    device_id: str
    executor: JobExecutor
    calibration: Calibration
    is_free: Callable[[], bool]


@dataclass(slots=True)
class _Challenge:
    device: ProvenDevice
    plan: bytes
    inbox: asyncio.Queue[bytes]
    task: asyncio.Task[None] | None = None
    opening: bytes = b""


@dataclass
class Challenges:
    """All challenges of one agent. ``send`` queues a message of the session; ``reports`` is a
    folder for what was accepted, or None."""

    device_key_id: str
    send: Send
    reports: Path | None = None
    _open: dict[str, _Challenge] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def asked(self, message: worker_pb2.BenchmarkAsked, device: ProvenDevice | None) -> None:
        """A plan begins a challenge; what follows belongs to one that has begun."""
        challenge_id = message.challenge_id
        known = self._open.get(challenge_id)
        match message.WhichOneof("document"):
            case "plan" if known is None:
                self._begin(challenge_id, message.plan, device)
            case "start" if known is not None:
                self._put(challenge_id, known, message.start)
            case "opening_request" if known is not None:
                self._put(challenge_id, known, message.opening_request)

    def verdict(self, message: worker_pb2.BenchmarkVerdict, coordinator_key: bytes) -> None:
        """A challenge has ended; its report is kept with the opening."""
        challenge = self._open.pop(message.challenge_id, None)
        self._cancel(challenge)
        name = message.device_id[:16]
        if message.reason != "BENCHMARK_ACCEPTED":
            told = f"{message.detail}; {message.remedy}" if message.detail else message.remedy
            logger.warning("benchmark of device %s: %s: %s", name, message.reason, told)
            return
        logger.info("device %s proved its rates", name)
        if self.reports is not None and challenge is not None and challenge.opening:
            self.reports.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = benchmark_file(message.report, challenge.opening, coordinator_key)
            write_durably(self.reports / f"{name}.json", file)

    def work_came(self, device_id: str) -> None:
        """A lease needs the device."""
        for challenge_id, challenge in list(self._open.items()):
            if challenge.device.device_id == device_id and challenge.task is not None:
                self._decline(challenge_id, "BUSY", "the device has work")

    def end_all(self) -> None:
        """The connection is gone, or the agent ends."""
        while self._open:
            self._cancel(self._open.popitem()[1])

    def _begin(self, challenge_id: str, plan: bytes, device: ProvenDevice | None) -> None:
        if device is None:
            self._tell_declined(challenge_id, "DEVICE_UNKNOWN", "there is no such device here")
            return
        taken = any(item.device.device_id == device.device_id for item in self._open.values())
        if taken or not device.is_free():
            self._tell_declined(challenge_id, "BUSY", "the device has work")
            return
        challenge = _Challenge(device, plan, asyncio.Queue(_MAX_WAITING_DOCUMENTS))
        self._open[challenge_id] = challenge
        task = challenge.task = asyncio.create_task(self._run(challenge_id, challenge))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, challenge_id: str, challenge: _Challenge) -> None:
        executor, inbox = challenge.device.executor, challenge.inbox
        try:
            plan = self._checked(challenge)
            await executor.prove("open", challenge.plan)
            self._stage(challenge_id, ready=True)
            await executor.prove("start", await inbox.get())
            for _ in range(plan.shapes.stage_count):
                self._stage(challenge_id, claim=await executor.prove("stage"))
            challenge.opening = await executor.prove("answer", await inbox.get())
            opening = worker_pb2.BenchmarkOpening(
                challenge_id=challenge_id, opening=challenge.opening
            )
            self.send(benchmark_opening=opening)
            challenge.task = None
        except FlopmarketError as error:
            logger.warning("challenge %s is not answered: %s", challenge_id, error)
            challenge.task = None
            self._decline(challenge_id, error.code, error.message)
        finally:
            await executor.close_job()

    def _checked(self, challenge: _Challenge) -> BenchmarkPlan:
        """The plan, if it is for this device and of a reasonable length."""
        plan = decode(BenchmarkPlan, challenge.plan)
        device = challenge.device
        if (plan.device_id, plan.device_key_id) != (device.device_id, self.device_key_id):
            raise InvalidInput("the plan is for another device", code="BENCHMARK_OTHER_PLAN")
        product = plan.shapes.product
        rate = max(1, device.calibration.flops_per_second.get(PROVED_CLASS, 0))
        if product.flops * product.stages > MAX_CHALLENGE_SECONDS * rate:
            raise InvalidInput("the plan takes too long on this device", code="BENCHMARK_TOO_LONG")
        return plan

    def _put(self, challenge_id: str, challenge: _Challenge, document: bytes) -> None:
        try:
            challenge.inbox.put_nowait(document)
        except asyncio.QueueFull:
            self._decline(challenge_id, "BENCHMARK_ORDER", "documents came out of turn")

    def _decline(self, challenge_id: str, code: str, message: str) -> None:
        self._cancel(self._open.pop(challenge_id, None))
        self._tell_declined(challenge_id, code, message)

    def _tell_declined(self, challenge_id: str, code: str, message: str) -> None:
        declined = worker_pb2.BenchmarkDeclined(code=code, message=message[:1000])
        self._stage(challenge_id, declined=declined)

    def _stage(self, challenge_id: str, **answer: Any) -> None:
        stage = worker_pb2.BenchmarkStage(challenge_id=challenge_id, **answer)
        self.send(benchmark_stage=stage)

    @staticmethod
    def _cancel(challenge: _Challenge | None) -> None:
        if challenge is not None and challenge.task is not None:
            challenge.task.cancel()
