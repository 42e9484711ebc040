"""The challenges that are under way: messages come in and are stamped, verdicts come out.

One desk a process, on its event loop, without a thread or a database: what it holds is lost with
the process, which voids the challenges (:mod:`.application.benchmarking`). An opening waits here
until the challenger has recomputed it. Every message is answered at once, so no heartbeat waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_OPEN_CHALLENGES, MAX_OPENING_BYTES, MAX_REASON_CHARACTERS
from flopmarket.trust.benchmark import BenchmarkOpening, BenchmarkReport, StageClaim
from flopmarket.trust.benchmark_verifier import BenchmarkVerifier, Phase, Task
from flopmarket.trust.encoding import decode
from flopmarket.v1 import worker_pb2
from flopmarket_coordinator.application.types_benchmark import ChallengeAsked, VoidReason
from flopmarket_coordinator.rpc import convert_benchmark
from flopmarket_coordinator.rpc.session_hub import SessionHub

_GROUP_GRACE_US = 10 * 1_000_000


@dataclass(slots=True)
class Live:
    """One challenge. ``opening`` is what the device sent at the end, with its stamp."""

    asked: ChallengeAsked
    verifier: BenchmarkVerifier
    ready: bool = False
    opening: tuple[bytes, int] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A challenge that needs no recomputing any more."""

    challenge_id: str
    outcome: BenchmarkReport | VoidReason
    detail: str = ""


@dataclass
class Desk:
    """Open challenges by id. ``ended`` and ``openings`` are for the challenger to take;
    ``clock_us`` stamps the moment when the devices of a group begin."""

    hub: SessionHub
    clock_us: Callable[[], int]
    ended: list[Ended] = field(default_factory=list)
    openings: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(MAX_OPEN_CHALLENGES))
    _live: dict[str, Live] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """How many challenges may begin now."""
        return MAX_OPEN_CHALLENGES - len(self._live)

    def begin(self, challenges: Sequence[ChallengeAsked]) -> None:
        """Send plans. A worker that is gone meanwhile voids its challenge."""
        for asked in challenges:
            verifier = BenchmarkVerifier(
                asked.plan,
                nonce=asked.nonce,
                sampling_seed=asked.sampling_seed,
                offered_at_us=asked.asked_at_us,
            )
            self._live[asked.challenge_id] = Live(asked, verifier)
        for asked in challenges:
            message = convert_benchmark.asked(asked.challenge_id, asked.device_id, asked.plan)
            if not self.hub.send(asked.device_key_id, message):
                self.void(
                    asked.challenge_id, VoidReason.DISCONNECTED, "the worker is not connected"
                )

    def stage(self, key_id: str, message: worker_pb2.BenchmarkStage, now_us: int) -> None:
        """The device is ready, finished a stage, or cannot be challenged."""
        live = self._of(key_id, message.challenge_id)
        if live is None or live.opening is not None:
            return
        challenge_id = live.asked.challenge_id
        match message.WhichOneof("answer"):
            case "declined":
                said = f"{message.declined.code}: {message.declined.message}"
                self.void(challenge_id, VoidReason.DECLINED, said[:MAX_REASON_CHARACTERS])
            case "ready":
                if live.ready:
                    live.verifier.malformed("ready twice")
                live.ready = True
                if live.asked.group_id:
                    self._start_group(live.asked.group_id)
                else:
                    self._start(live, now_us)
                self._settle(live)
            case "claim":
                self._claim(live, message.claim, now_us)
            case _:
                live.verifier.malformed("a stage without an answer")
                self._settle(live)

    def opening(self, key_id: str, message: worker_pb2.BenchmarkOpening, now_us: int) -> None:
        """The device opened its places; what it sent is read off the event loop."""
        live = self._of(key_id, message.challenge_id)
        if live is None or live.opening is not None:
            return
        live.verifier.expire(now_us)
        if live.verifier.phase is Phase.ENDED:
            self._settle(live)
        elif live.verifier.phase is not Phase.OPENING or len(message.opening) > MAX_OPENING_BYTES:
            live.verifier.malformed(
                f"an opening of {len(message.opening)} bytes out of turn or size"
            )
            self._settle(live)
        else:
            live.opening = message.opening, now_us
            self.openings.put_nowait(live.asked.challenge_id)

    def check_opening(self, challenge_id: str) -> tuple[Live, BenchmarkOpening, tuple[Task, ...]]:
        """Read an opening and check its proofs, in any thread; no tasks when a verdict fell.

        NotFound never: the challenger asks for what it took from :attr:`openings`.
        """
        live = self._live[challenge_id]
        assert live.opening is not None, "it came from the queue of openings"
        data, arrived_us = live.opening
        try:
            opening = decode(BenchmarkOpening, data)
        except InvalidInput as error:
            live.verifier.malformed(f"the opening cannot be read: {error.code}")
            return live, BenchmarkOpening(bytes(32), ()), ()
        return live, opening, live.verifier.open(opening, arrived_us)

    def conclude(self, live: Live, values: Sequence[bytes]) -> None:
        """The verdict, from what the places came to."""
        if live.verifier.phase is Phase.RECOMPUTING:
            live.verifier.conclude(values)
        self._settle(live)

    def expire(self, now_us: int) -> None:
        """End what is late. Who is ready waits for the others of its moment without being late."""
        for live in list(self._live.values()):
            verifier = live.verifier
            if live.opening is not None:
                continue
            if verifier.phase is Phase.OFFERED and live.asked.group_id:
                deadline_us = (verifier.deadline_us or 0) - _GROUP_GRACE_US
                if live.ready or now_us <= deadline_us:
                    continue
                now_late_us = deadline_us + _GROUP_GRACE_US + 1
                verifier.expire(now_late_us)
            else:
                verifier.expire(now_us)
            self._settle(live)

    def gone(self, key_id: str) -> None:
        """A worker's stream ended: what it was asked shows nothing."""
        for live in list(self._live.values()):
            if live.asked.device_key_id == key_id and live.opening is None:
                name = live.asked.challenge_id
                self.void(name, VoidReason.DISCONNECTED, "the worker's stream ended")

    def void(self, challenge_id: str, reason: VoidReason, detail: str) -> None:
        """End a challenge without a verdict."""
        live = self._live.pop(challenge_id, None)
        if live is not None:
            self.ended.append(Ended(challenge_id, reason, detail))
            self._start_group(live.asked.group_id)

    def _claim(self, live: Live, data: bytes, now_us: int) -> None:
        try:
            claim = decode(StageClaim, data)
        except InvalidInput as error:
            live.verifier.malformed(f"a claim cannot be read: {error.code}")
        else:
            request = live.verifier.claim(claim, now_us)
            if request is not None:
                asked = live.asked
                message = convert_benchmark.asked(asked.challenge_id, asked.device_id, request)
                self.hub.send(asked.device_key_id, message)
        self._settle(live)

    def _start_group(self, group_id: str) -> None:
        """Send the nonces once every device of the moment is ready or out."""
        if not group_id:
            return
        group = [live for live in self._live.values() if live.asked.group_id == group_id]
        waiting = [live for live in group if live.verifier.phase is Phase.OFFERED]
        if all(live.ready for live in waiting):
            now_us = self.clock_us()
            for live in waiting:
                self._start(live, now_us)
                self._settle(live)

    def _start(self, live: Live, now_us: int) -> None:
        start = live.verifier.ready(now_us)
        if start is not None:
            asked = live.asked
            message = convert_benchmark.asked(asked.challenge_id, asked.device_id, start)
            self.hub.send(asked.device_key_id, message)

    def _settle(self, live: Live) -> None:
        """Hand a verdict over, and let the others of its moment begin."""
        if live.verifier.verdict is None:
            return
        if self._live.pop(live.asked.challenge_id, None) is not None:
            self.ended.append(Ended(live.asked.challenge_id, live.verifier.report()))
            self._start_group(live.asked.group_id)

    def _of(self, key_id: str, challenge_id: str) -> Live | None:
        """A challenge of this worker; messages to one that ended, or is another's, are dropped."""
        live = self._live.get(challenge_id)
        return live if live is not None and live.asked.device_key_id == key_id else None
