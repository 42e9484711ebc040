"""The loop that judges disputes: reads lists, recomputes tiles, asks the next question.

It runs beside the writer thread and holds no record: the events of a dispute are in the store, and
whoever plays them comes to the same place. What it holds in memory are a few disputes as far as
they were played. One tile is bounded by ``MAX_DISPUTE_OPENED_*`` and ``MAX_DISPUTE_ROUNDS``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from flopmarket.engine.limits import MAX_PROGRAM_BYTES
from flopmarket.engine.program import Program
from flopmarket.errors import FlopmarketError, LimitExceeded
from flopmarket.jobs.dispute_problem import JobProblem
from flopmarket.jobs.dispute_signature import WrongTile, wrong_tiles
from flopmarket.jobs.spec import JobSpec
from flopmarket.limits import (
    ARTIFACT_CHUNK_BYTES,
    MAX_DISPUTE_MOVE_BYTES,
    MAX_REFEREED_DISPUTES,
)
from flopmarket.trust.audit_policy import AuditRules, Signature, is_flip
from flopmarket.trust.dispute_documents import NOWHERE, Party, Reason
from flopmarket.trust.dispute_port import Place
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.transcript import Recorder, RecordKind
from flopmarket_coordinator.application import Application
from flopmarket_coordinator.application.types_disputes import (
    DisputeAsked,
    RefereeFinding,
    RefereeTask,
)
from flopmarket_coordinator.backend import Backend
from flopmarket_coordinator.daemons.excusing import FindsFlips, excused
from flopmarket_coordinator.rpc import convert_disputes
from flopmarket_coordinator.store.disputes import DisputeRow, EventRow
from flopmarket_coordinator.store.engine import Transaction

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_FAILURE_PAUSE_SECONDS = 1.0


class Follows(FindsFlips, Protocol):
    """Port: whether a wrong tile was followed by honest work (the house's engine answers)."""

    async def follows(self, row: DisputeRow, spec: bytes, place: Place, tile: bytes) -> bytes:
        """State root and outputs root, joined, that honest work comes to from a wrong tile."""
        ...


@dataclass(slots=True)
class _Played:
    """A dispute as far as it was played."""

    recorder: Recorder
    problem: JobProblem
    handled: int


class Referee:
    """``engine`` tells flipped bits from saved work; without one, no fault counts as a flip."""

    def __init__(self, backend: Backend, rules: AuditRules, engine: Follows | None) -> None:
        self._backend = backend
        self._rules = rules
        self._engine = engine
        self._played: OrderedDict[str, _Played] = OrderedDict()
        self._told: dict[str, tuple[str, int]] = {}
        self.judging_seconds: dict[str, float] = {}
        """Computing that open disputes took so far."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            seen = self._backend.changed.version
            try:
                busy = await self.round()
            except Exception:  # the boundary of a daemon
                _log.exception("referee failed")
                await asyncio.sleep(_FAILURE_PAUSE_SECONDS)
                continue
            if not busy:
                await self._backend.changed.wait_past(seen, _POLL_SECONDS)

    async def round(self) -> bool:
        """Judge what arrived and ask what follows; whether there was anything to judge."""
        backend, busy = self._backend, False
        rows = await backend.query(backend.application.open_disputes)
        for row in rows:
            # A dispute that is new is begun, so that one without a question ends at once.
            if row.event_count > row.handled_count or row.dispute_id not in self._told:
                busy = await self._judge(row) or busy
        for row in await backend.query(backend.application.open_disputes):
            question = (row.level, row.deadline_us)
            if self._told.get(row.dispute_id) != question:
                self._told[row.dispute_id] = question
                await self._ask(row)
        lasting = {row.dispute_id for row in rows}
        for dispute_id in [known for known in self._told if known not in lasting]:
            # It ended without a verdict: the segment fell, or a party was banned.
            del self._told[dispute_id]
            self._played.pop(dispute_id, None)
            self.judging_seconds.pop(dispute_id, None)
            await self._tell_over(dispute_id)
        return busy

    async def _tell_over(self, dispute_id: str) -> None:
        backend, over_of = self._backend, self._backend.application.dispute_over
        for over in await backend.query(lambda tx: over_of(tx, dispute_id)):
            backend.hub.tell(over.device_key_id, convert_disputes.asked(over))

    async def _ask(self, row: DisputeRow) -> None:
        """Send open questions to parties that are connected; others hear of them in their hello."""
        application = self._backend.application
        for key_id in (row.producer_key_id, row.auditor_key_id):
            asked = await self._backend.query(partial(_questions, application, key_id))
            for question in asked:
                if question.dispute_id == row.dispute_id:
                    self._backend.hub.tell(key_id, convert_disputes.asked(question))

    async def _judge(self, row: DisputeRow) -> bool:
        """Play new events; True when there were some."""
        backend, known = self._backend, self._played.get(row.dispute_id)
        whole = known is None or known.handled != row.handled_count
        task = await backend.query(
            lambda tx: backend.application.referee_task(tx, row.dispute_id, whole=whole)
        )
        if whole:
            self._played.pop(row.dispute_id, None)
        began = time.process_time()
        try:
            finding, data = await asyncio.to_thread(self._play, task)
        except Exception:
            self._played.pop(row.dispute_id, None)
            raise
        spent = self.judging_seconds.get(row.dispute_id, 0.0) + time.process_time() - began
        self.judging_seconds[row.dispute_id] = spent
        if finding.verdict is None and finding.handled == row.handled_count:
            return False
        finding = await self._completed(task, finding, data)
        applied = await backend.command(lambda tx: backend.application.dispute_judged(tx, finding))
        if finding.verdict is None:
            return True
        played = self._played.pop(row.dispute_id, None)
        self._told.pop(row.dispute_id, None)
        self.judging_seconds.pop(row.dispute_id, None)
        if applied:
            _log.info(
                "dispute %s: %s (%s), %.2f s of computing%s",
                row.dispute_id,
                finding.verdict.outcome,
                finding.verdict.reason,
                spent,
                "" if played else ", not played",
            )
            await self._tell_over(row.dispute_id)
        return True

    async def _completed(
        self, task: RefereeTask, finding: RefereeFinding, data: bytes
    ) -> RefereeFinding:
        """A finding with its transcript stored and its faults described."""
        verdict = finding.verdict
        if verdict is None:
            return finding
        if data:
            name = hashlib.sha256(data).hexdigest()
            await self._backend.artifacts.write(name, len(data), chunks_of(data))
            finding = replace(finding, transcript_artifact=name, transcript_bytes=len(data))
        played = self._played.get(task.row.dispute_id)
        signatures: dict[Party, Signature] = {}
        if played is not None:
            tiles = await asyncio.to_thread(wrong_tiles, played.recorder.dispute, played.problem)
            for party, tile in tiles.items():
                signatures[party] = await self._signature(task, played, party, tile)
        notes: tuple[str, ...] = ()
        if not signatures and self._engine is not None:
            backend, engine = self._backend, self._engine
            signatures, notes = await excused(backend, engine, task.row, task.spec, verdict)
        return replace(finding, signatures=signatures, notes=notes)

    async def _signature(
        self, task: RefereeTask, played: _Played, party: Party, tile: WrongTile
    ) -> Signature:
        """What policy needs of a wrong tile. Whether honest work followed is computed only where
        it matters: when the tile looks like a flipped bit."""
        dispute = played.recorder.dispute
        place = dispute.place
        looks = Signature(tile.elements, tile.most_bits, follows=True)
        if not is_flip(self._rules, looks):
            return Signature(tile.elements, tile.most_bits, follows=False)
        if place.step == NOWHERE:
            return looks  # nothing follows a leaf of the stacked outputs
        if self._engine is None:
            return Signature(tile.elements, tile.most_bits, follows=False)
        claim = dispute.opening.claim(party)
        try:
            ends = await self._engine.follows(task.row, task.spec, place, tile.value)
        except FlopmarketError as error:
            _log.error("dispute %s: what followed is unknown: %s", task.row.dispute_id, error)
            return Signature(tile.elements, tile.most_bits, follows=False)
        follows = ends == claim.state_root_after + claim.outputs_root
        return Signature(tile.elements, tile.most_bits, follows)

    # ------------------------------------------------------------ on a thread of its own

    def _play(self, task: RefereeTask) -> tuple[RefereeFinding, bytes]:
        """Play events; the transcript's bytes come with a verdict."""
        row = task.row
        handled = row.event_count
        try:
            played = self._played.get(row.dispute_id) or self._begun(task)
        except LimitExceeded as error:
            return RefereeFinding.undecided(row, Reason.UNDECIDABLE, error.message), b""
        try:
            refused = [
                event.sequence for event in task.events if not self._take(played.recorder, event)
            ]
        except Exception as error:  # no list of a stranger may stop the referee
            _log.exception("dispute %s cannot be judged", row.dispute_id)
            self._played.pop(row.dispute_id, None)
            seen = f"the referee failed: {type(error).__name__}"
            return RefereeFinding.undecided(row, Reason.UNDECIDABLE, seen), b""
        played.handled = handled
        dispute = played.recorder.dispute
        finding = RefereeFinding(
            row.dispute_id,
            handled,
            tuple(refused),
            dispute.level,
            dispute.place,
            dispute.deadline_us,
            dispute.verdict,
        )
        if dispute.verdict is None:
            return finding, b""
        try:
            return finding, played.recorder.transcript().to_bytes()
        except LimitExceeded as error:
            _log.warning("dispute %s leaves no transcript: %s", row.dispute_id, error)
            return finding, b""

    def _begun(self, task: RefereeTask) -> _Played:
        artifacts = self._backend.artifacts
        data = artifacts.read(task.program_artifact, MAX_PROGRAM_BYTES)
        opening = task.row.question
        problem = JobProblem(opening, decode(JobSpec, task.spec), Program.from_bytes(data))
        played = _Played(Recorder(opening, problem, task.spec, data), problem, 0)
        self._played[task.row.dispute_id] = played
        while len(self._played) > MAX_REFEREED_DISPUTES:
            self._played.popitem(last=False)
        return played

    def _take(self, recorder: Recorder, event: EventRow) -> bool:
        """One event; False when it is a message that is nobody's word."""
        if recorder.dispute.verdict is not None or event.kind not in set(RecordKind):
            return True
        if event.kind == RecordKind.CLOCK:
            recorder.tick(event.at_us)
            return True
        if event.kind == RecordKind.AGAIN:
            recorder.ask_again(event.at_us)
            return True
        payload = event.payload
        if event.payload_artifact:
            payload = self._backend.artifacts.read(event.payload_artifact, MAX_DISPUTE_MOVE_BYTES)
        envelope = Envelope.from_bytes(event.envelope)
        try:
            recorder.receive(Party(event.party), envelope, payload, event.at_us)
        except FlopmarketError as error:
            _log.warning("dispute %s: a message was refused: %s", event.dispute_id, error)
            return False
        return True


def _questions(application: Application, key_id: str, tx: Transaction) -> tuple[DisputeAsked, ...]:
    return application.dispute_questions(tx, key_id)


async def chunks_of(data: bytes) -> AsyncIterator[bytes]:
    """Bytes as the artifact store takes them."""
    for at in range(0, len(data), ARTIFACT_CHUNK_BYTES):
        yield data[at : at + ARTIFACT_CHUNK_BYTES]
