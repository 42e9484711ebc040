"""Devices that are challenged by the real application and desk, on a virtual clock.

A :class:`Card` computes one stage at a time, so that two sessions which share one take turns; a
:class:`Bot` is what its session answers with (``tests.unit.trust.benchmark_bots``). Nothing sleeps:
:meth:`Yard.play` goes from event to event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

import sqlalchemy as sa

from flopmarket.limits import MAX_OPEN_CHALLENGES
from flopmarket.trust.benchmark import BenchmarkPlan, BenchmarkStart, OpeningRequest
from flopmarket.trust.benchmark_prover import BenchmarkProver, Stage
from flopmarket.trust.documents import DeviceGrant, OfferTerms, Rate
from flopmarket.trust.encoding import decode, encode
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.v1 import worker_pb2
from flopmarket_coordinator.application.types_benchmark import ChallengeVerdict
from flopmarket_coordinator.core.proving import Standing
from flopmarket_coordinator.desk import Desk
from flopmarket_coordinator.parameters import SECOND_US, Parameters
from flopmarket_coordinator.rpc.session_hub import SessionHub
from flopmarket_coordinator.store import benchmarks, schema
from flopmarket_coordinator.store.benchmarks import ChallengeRow
from tests.unit.coordinator.world import World
from tests.unit.coordinator.world_people import Worker
from tests.unit.coordinator.world_work import ASK, digest_of
from tests.unit.trust import benchmark_bots as bots

DOT_RATE = 2 * 10**10
BANDWIDTH = 10**12
MEMORY_BYTES = 5 << 20  # too little for a memory stage: those cost a test its time
PREPARING_US = 3 * SECOND_US
REQUIRED = Parameters(
    bond_target_nano=0,
    decline_pause_us=0,
    presence_ttl_us=100 * 86_400 * SECOND_US,
    benchmark_required=True,
)


@dataclass
class Card:
    """Real hardware: operations a second, and until when it is taken."""

    rate: int = DOT_RATE
    free_at_us: int = 0

    def done_at(self, now_us: int, flops: int) -> int:
        """When work that comes now is done."""
        self.free_at_us = max(now_us, self.free_at_us) + flops * SECOND_US // self.rate
        return self.free_at_us


@dataclass
class Rented(Worker):
    """A worker that states rates of its own choosing and answers challenges with ``bot``."""

    stated: int = DOT_RATE
    card: Card = field(default_factory=Card)
    bot: bots.Device = field(default_factory=bots.Device)
    opening_delay_us: int = 0
    fingerprint: bytes = b""
    garbage: Callable[[bytes], bytes] | None = None
    replayed: list[worker_pb2.SessionRequest] = field(default_factory=list)
    verdicts: list[ChallengeVerdict] = field(default_factory=list)
    _provers: dict[str, BenchmarkProver] = field(default_factory=dict)
    _starts: dict[str, BenchmarkStart] = field(default_factory=dict)

    def terms(self) -> OfferTerms:
        return replace(
            super().terms(),
            rates=(Rate("dot-f32", self.stated), Rate("elementwise-f32", self.stated)),
            bandwidth_bytes_per_second=BANDWIDTH,
            device_id=digest_of(f"card {self.name}").hex(),
            card_fingerprint=self.fingerprint,
        )

    @property
    def offer_id(self) -> str:
        return f"{self.key.key_id[:16]}-{self.device_id[:16]}"


class Yard:
    """A world that challenges, its desk, and the devices that answer."""

    def __init__(self, folder: Path, parameters: Parameters = REQUIRED) -> None:
        self.world = World(folder, parameters)
        self.rented: dict[str, Rented] = {}
        self.addresses: dict[str, str] = {}
        self._events: list[tuple[int, int, Callable[[], None], Rented]] = []
        self._numbers = count()
        self.open_desk()

    def open_desk(self) -> None:
        """What a new process has: an empty desk, and workers that connect again."""
        self.hub = SessionHub()
        self.desk = Desk(self.hub, lambda: self.world.now_us)
        self.hub.send = self._receive  # type: ignore[method-assign]  # no stream in between

    def rent(self, name: str, *, owner: str = "", address: str = "", **changes: object) -> Rented:
        """A device that is offered from now on."""
        world = self.world
        owner_key, account = world.account(owner or f"owner of {name}")
        key = KeyPair.from_seed(digest_of(f"device {name}"))
        grant = DeviceGrant(account, key.public.raw, name, KeyRole.DEVICE)
        world.do(world.application.grant_device, world.sign(grant, owner_key))
        session = world.session(key, account, KeyRole.DEVICE)
        made = Rented(world, name, key, account, session, ASK, MEMORY_BYTES, **changes)  # type: ignore[arg-type]
        made.hello()
        self.rented[key.key_id] = made
        if address:
            self.addresses[key.key_id] = address
        return made

    def look(self, *, all_twins: bool = True, room: int = 64) -> int:
        """Ask whoever is due; how many that were."""
        asked = self.world.do(
            lambda tx: self.world.application.begin_challenges(
                tx, self.addresses, room, all_twins=all_twins
            )
        )
        self.desk.begin(asked)
        return len(asked)

    def play(self) -> None:
        """Until nothing happens any more; deadlines are looked at in between."""
        self._take_down()
        while self._events or self.desk.room < MAX_OPEN_CHALLENGES:
            if self._events:
                at_us, _, happen, _ = heappop(self._events)
                self.world.now_us = max(self.world.now_us, at_us)
                self.desk.expire(self.world.now_us)
                happen()
            else:
                self.world.now_us += 10 * SECOND_US
                self.desk.expire(self.world.now_us)
            self._take_down()

    def _take_down(self) -> None:
        """Recompute what was opened, and write down what has ended."""
        world, desk = self.world, self.desk
        while not desk.openings.empty():
            live, _, tasks = desk.check_opening(desk.openings.get_nowait())
            desk.conclude(live, bots.recompute(tasks))
        while desk.ended:
            ended = desk.ended.pop(0)
            verdict = world.do(
                lambda tx, ended=ended: world.application.challenge_ended(
                    tx, ended.challenge_id, ended.outcome, ended.detail
                )
            )
            if verdict is not None:
                self.rented[verdict.device_key_id].verdicts.append(verdict)

    def challenge(self) -> int:
        """One look, and what comes of it."""
        asked = self.look()
        self.play()
        return asked

    def wait(self, seconds: float) -> None:
        self.world.now_us += round(seconds * SECOND_US)

    def challenges(self) -> list[ChallengeRow]:
        """All that are remembered."""
        query = sa.select(schema.benchmark_challenge.c.challenge_id)
        return self.world.see(
            lambda tx: [
                row
                for name in tx.connection.execute(query).scalars()
                if (row := benchmarks.challenge(tx, name)) is not None
            ]
        )

    def standing(self, device: Rented) -> Standing:
        found = self.world.see(benchmarks.standing, device.offer_id)
        assert found is not None
        return found

    def rate(self, device: Rented) -> int:
        """The rate that the book goes by; 0 for one that may take no work."""
        listing = self.world.application.keeper.book.listing(device.offer_id)
        assert listing is not None
        proved = listing.offer.rates.flops_per_second.get("dot-f32", 0)
        return proved if listing.proof is not None else 0

    def say(self, device: Rented, **message: object) -> None:
        """A message of a device arrives now."""
        self._arrive(device, worker_pb2.SessionRequest(**message))  # type: ignore[arg-type]

    def _at(self, at_us: int, device: Rented, happen: Callable[[], None]) -> None:
        heappush(self._events, (at_us, next(self._numbers), happen, device))

    def _receive(self, key_id: str, message: worker_pb2.SessionResponse) -> bool:
        """The coordinator says something to a device."""
        device = self.rented[key_id]
        asked = message.benchmark_asked
        name = asked.challenge_id
        match asked.WhichOneof("document"):
            case "plan":
                device._provers[name] = BenchmarkProver(decode(BenchmarkPlan, asked.plan))
                ready = worker_pb2.BenchmarkStage(challenge_id=name, ready=True)
                self._send(device, PREPARING_US, benchmark_stage=ready)
            case "start":
                start = device._starts[name] = decode(BenchmarkStart, asked.start)
                device._provers[name].start(start)
                self._next_stage(device, name)
            case "opening_request":
                request = decode(OpeningRequest, asked.opening_request)
                opening = encode(device.bot.opened(device._provers[name], request))
                if device.garbage is not None:
                    opening = device.garbage(opening)
                answer = worker_pb2.BenchmarkOpening(challenge_id=name, opening=opening)
                self._send(device, device.opening_delay_us, benchmark_opening=answer)
        return True

    def _next_stage(self, device: Rented, name: str) -> None:
        prover = device._provers[name]
        stage = prover.stage
        if stage is None:
            return
        done_us = device.card.done_at(self.world.now_us, self._flops(device, prover, stage))

        def finish() -> None:
            leaves = device.bot.leaves(prover.plan, stage, device._starts[name])
            claim = encode(prover.finished(leaves))
            answer = worker_pb2.BenchmarkStage(challenge_id=name, claim=claim)
            self._arrive(device, worker_pb2.SessionRequest(benchmark_stage=answer))
            self._next_stage(device, name)

        self._at(done_us, device, finish)

    def _flops(self, device: Rented, prover: BenchmarkProver, stage: Stage) -> int:
        share = device.bot.stage_seconds_us(stage) / bots.STAGE_US  # of an honest stage
        return round(prover.plan.shapes.product.flops * share)

    def _send(self, device: Rented, after_us: int, **message: object) -> None:
        request = worker_pb2.SessionRequest(**message)  # type: ignore[arg-type]
        self._at(self.world.now_us + after_us, device, lambda: self._arrive(device, request))

    def _arrive(self, device: Rented, request: worker_pb2.SessionRequest) -> None:
        device.replayed.append(request)
        if request.HasField("benchmark_stage"):
            self.desk.stage(device.key.key_id, request.benchmark_stage, self.world.now_us)
        else:
            self.desk.opening(device.key.key_id, request.benchmark_opening, self.world.now_us)
