"""A worker's side of disputes: the segment again, and every question answered in time.

Questions come over the session, each with all that is needed to run the segment again; nothing of
the lease has to be left on disk. A replay has an engine process of its own on the device that did
the work. It begins when the segment of a lease that runs there has ended, or beside it when that
takes too long, and the lease's next segment waits meanwhile. Where the device fails the reference
answers: the same bits, later. Every question is answered or its end is logged as an error, since
silence loses the dispute.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flopmarket.engine.program import Program
from flopmarket.errors import FlopmarketError, InvalidInput, Unavailable
from flopmarket.jobs.dispute_problem import JobProblem
from flopmarket.jobs.host import Engine, EngineProcess
from flopmarket.jobs.process import PROGRAM_FILE
from flopmarket.jobs.questions import TraceQuestion, TraceStart
from flopmarket.limits import (
    DISPUTE_DEVICE_WAIT_SECONDS,
    MAX_DISPUTE_MOVE_BYTES,
    MAX_INLINE_DISPUTE_BYTES,
    MAX_WORKER_DISPUTES,
)
from flopmarket.trust.dispute_documents import (
    DisputeMove,
    DisputeOpening,
    Level,
    Party,
    StepRoots,
)
from flopmarket.trust.dispute_port import Place
from flopmarket.trust.encoding import decode, digest
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.transcript import payload_digest
from flopmarket.v1 import worker_pb2
from flopmarket_worker.backoff import persistently
from flopmarket_worker.checksum_lists import ChecksumLists
from flopmarket_worker.executor import EngineStarter, JobExecutor
from flopmarket_worker.lease_offer import LeaseOffer, read_offer
from flopmarket_worker.openings import Openings
from flopmarket_worker.replaying import device_of, fetch_job, short_pauses
from flopmarket_worker.signing import Clock, Sealer
from flopmarket_worker.transfers import Transfers

logger = logging.getLogger("flopmarket.worker")

Send = Callable[[worker_pb2.DisputeMoved], None]

_LIST_FILE = "list.bin"
_KEPT_FILE = "kept.bin"
_REFERENCE = "reference"
_KEPT_SECONDS = 1_800.0
"""A dispute of which nothing is heard any more is forgotten after so long."""


@dataclass(frozen=True, slots=True)
class Question:
    """A checked question."""

    dispute_id: str
    opening: DisputeOpening
    party: Party
    asked: TraceQuestion
    deadline_us: int
    work: LeaseOffer
    lease_id: str = ""
    """Under which we committed to what is disputed."""


def read_question(message: worker_pb2.DisputeAsked, audience: str, *keys: KeyPair) -> Question:
    """The question in ``message``; an error of ours when it contradicts itself, or the claim is of
    none of ``keys``."""
    opening = decode(DisputeOpening, message.opening)
    if digest(opening).hex() != message.dispute_id or opening.audience != audience:
        raise InvalidInput("the opening is of another dispute", code="DISPUTE_OPENING")
    try:
        party, level = Party(message.party), Level(message.level)
    except ValueError as error:
        raise InvalidInput(str(error), code="DISPUTE_QUESTION") from None
    if opening.claim(party).key not in {key.public.raw for key in keys}:
        raise InvalidInput("the claim is another key's", code="DISPUTE_OPENING")
    work = read_offer(message.work, audience=audience)
    if work.job_id != opening.job_id or work.terms.first_step > opening.first_step:
        raise InvalidInput("the work is not the disputed segment's", code="DISPUTE_QUESTION")
    place = Place(message.step, message.operation, message.tile)
    return Question(
        message.dispute_id,
        opening,
        party,
        TraceQuestion(level, place),
        message.deadline_us,
        work,
        message.lease_id,
    )


@dataclass(slots=True)
class _Case:
    """One dispute here: its folder and, once it is open, its engine."""

    folder: Path
    heard: float
    """When, on the loop's clock: the deadline is another machine's time."""
    engine: Engine | None = None
    over: bool = False
    level: Level | None = None
    sent: worker_pb2.DisputeMoved | None = None
    """The answer to ``level``, sent again when the coordinator asks again."""


class DisputeDesk:
    """All disputes of one worker's keys. Its methods are called on one event loop.

    ``keys`` are the device key and those before it: each signs for what it committed to.
    ``folder`` is the desk's own; what an earlier run left there is deleted.
    """

    def __init__(
        self,
        folder: Path,
        keys: Sequence[KeyPair],
        executors: Mapping[str, JobExecutor],
        transfers: Transfers,
        send: Send,
        now_us: Clock,
        openings: Openings,
        lists: ChecksumLists,
        *,
        reference: EngineStarter | None = None,
    ) -> None:
        self._folder = folder
        self._openings = openings
        self._lists = lists
        self._keys = {key.public.raw: key for key in keys}
        self._executors = executors
        self._transfers = transfers
        self._send = send
        self._now_us = now_us
        self._reference = reference or _start_reference
        self._cases: dict[str, _Case] = {}
        self._working: set[tuple[str, Level]] = set()
        self._turn = asyncio.Lock()
        shutil.rmtree(folder, ignore_errors=True)

    async def hear(self, message: worker_pb2.DisputeAsked, sealer: Sealer) -> None:
        """One message of the coordinator. What cannot be answered is logged."""
        dispute = message.dispute_id[:16]
        if not message.level:
            await self._forget(message.dispute_id)
            return
        try:
            question = read_question(message, sealer.audience, *self._keys.values())
        except FlopmarketError as error:
            logger.error("dispute %s: a question is refused: %s", dispute, error)
            return
        key = (question.dispute_id, question.asked.level)
        case = self._case(question)
        if case is None:
            logger.error(
                "dispute %s: not answered, %d others are open", dispute, MAX_WORKER_DISPUTES
            )
            return
        case.heard = asyncio.get_running_loop().time()
        if case.sent is not None and case.level is question.asked.level:
            self._send(case.sent)
            return
        if key in self._working:
            return
        self._working.add(key)
        try:
            await persistently(
                lambda: self._answer(question, case, sealer),
                short_pauses(),
                lambda error: logger.warning("dispute %s: %s; again", dispute, error),
            )
        except (FlopmarketError, OSError) as error:
            logger.error(
                "dispute %s: no answer at the level %s, which loses it: %s",
                dispute,
                question.asked.level,
                error,
            )
        finally:
            self._working.discard(key)

    async def tidy(self) -> None:
        """Forget disputes of which nothing is heard any more."""
        before = asyncio.get_running_loop().time() - _KEPT_SECONDS
        for dispute_id in [known for known, case in self._cases.items() if case.heard < before]:
            await self._forget(dispute_id)

    async def stop(self) -> None:
        """End every engine and delete all files."""
        for dispute_id in list(self._cases):
            await self._forget(dispute_id)

    # ------------------------------------------------------------ one question

    def _case(self, question: Question) -> _Case | None:
        known = self._cases.get(question.dispute_id)
        if known is None and len(self._cases) < MAX_WORKER_DISPUTES:
            # The id is the opening's own digest: nothing else becomes a path.
            now = asyncio.get_running_loop().time()
            known = _Case(self._folder / question.dispute_id, now)
            self._cases[question.dispute_id] = known
        return known

    async def _answer(self, question: Question, case: _Case, sealer: Sealer) -> None:
        async with self._turn:
            if not case.over:
                await self._answer_now(question, case, sealer)

    async def _answer_now(self, question: Question, case: _Case, sealer: Sealer) -> None:
        level = question.asked.level
        path = case.folder / _LIST_FILE
        executor = device_of(self._executors, question.work)
        began_us = self._now_us()
        async with executor.segment_pause(DISPUTE_DEVICE_WAIT_SECONDS):
            try:
                await self._traced(question, case, executor.another, path)
            except FlopmarketError as error:
                if case.over:
                    return
                logger.warning(
                    "dispute %s: the device fails (%s); the reference answers",
                    question.dispute_id[:16],
                    error,
                )
                await _stop(case)
                await self._traced(question, case, self._reference, path)
        data = await asyncio.to_thread(path.read_bytes)
        signer = self._keys[question.opening.claim(question.party).key]
        moved = worker_pb2.DisputeMoved(
            dispute_id=question.dispute_id,
            move=sealer.seal(
                DisputeMove(digest(question.opening), level, payload_digest(data)), signer
            ),
        )
        if len(data) <= MAX_INLINE_DISPUTE_BYTES:
            moved.payload = data
        elif len(data) <= MAX_DISPUTE_MOVE_BYTES:
            moved.payload_artifact = await self._transfers.upload(
                path, "", dispute_id=question.dispute_id
            )
        else:
            logger.error("dispute %s: a list of %d bytes", question.dispute_id[:16], len(data))
            return
        if level is Level.STEPS and not _ends_as_committed(question, case.folder, data):
            await self._add_kept(question, case, moved, sealer, signer)
        case.level, case.sent = level, moved
        self._send(moved)
        logger.info(
            "dispute %s: %s answered as the %s in %.1f s, %d bytes",
            question.dispute_id[:16],
            level,
            question.party,
            (self._now_us() - began_us) / 1e6,
            len(data),
        )

    async def _add_kept(
        self,
        question: Question,
        case: _Case,
        moved: worker_pb2.DisputeMoved,
        sealer: Sealer,
        signer: KeyPair,
    ) -> None:
        """The segment ends otherwise now than it did: a bit flipped in our memory then, perhaps.
        What was kept when it ran shows it."""
        index = question.opening.segment_index
        secret = self._openings.find(question.lease_id, index)
        kept = self._lists.find(question.lease_id, index)
        logger.error(
            "dispute %s: run again, the segment ends otherwise; what was kept of it is %s",
            question.dispute_id[:16],
            "gone" if secret is None or kept is None else "shown",
        )
        if secret is None or kept is None:
            return
        data = kept.to_bytes()
        if len(data) <= MAX_INLINE_DISPUTE_BYTES:
            moved.checksums = data
        else:
            path = case.folder / _KEPT_FILE
            await asyncio.to_thread(path.write_bytes, data)
            moved.checksums_artifact = await self._transfers.upload(
                path, "", dispute_id=question.dispute_id
            )
        moved.secret.CopyFrom(sealer.seal(secret, signer))

    async def _traced(
        self, question: Question, case: _Case, start: EngineStarter, path: Path
    ) -> None:
        """Write the list that is asked for to ``path``."""
        try:
            if case.engine is None:
                state = await fetch_job(
                    self._transfers, question.work, case.folder, dispute_id=question.dispute_id
                )
                case.engine = await start()
                begin = TraceStart(question.opening, state, question.work.terms.first_step)
                await case.engine.trace_open(case.folder, question.work.spec_bytes, begin)
            if case.over:
                raise Unavailable("the dispute is over", code="DISPUTE_OVER")
            await case.engine.trace_answer(question.asked, path)
        except BaseException:
            await _stop(case)
            raise

    async def _forget(self, dispute_id: str) -> None:
        case = self._cases.pop(dispute_id, None)
        if case is not None:
            case.over = True
            await _stop(case)
            await asyncio.to_thread(shutil.rmtree, case.folder, ignore_errors=True)


def _ends_as_committed(question: Question, folder: Path, data: bytes) -> bool:
    """Whether the list of steps leads to our own claim, in state and outputs."""
    opening, claim = question.opening, question.opening.claim(question.party)
    try:
        roots = decode(StepRoots, data)
        program = Program.from_bytes((folder / PROGRAM_FILE).read_bytes())
        problem = JobProblem(opening, question.work.spec, program)
    except FlopmarketError:  # it loses for that, whatever was kept
        return True
    outputs = problem.stacked_root(opening.steps, roots.stacked)
    last = roots.states[-1] if roots.states else b""
    return (last, outputs) == (claim.state_root_after, claim.outputs_root)


async def _stop(case: _Case) -> None:
    engine, case.engine = case.engine, None
    if engine is not None:
        with contextlib.suppress(FlopmarketError):
            await engine.stop()


async def _start_reference() -> Engine:
    return await EngineProcess.start(_REFERENCE)
