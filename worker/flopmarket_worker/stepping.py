"""A worker's side of step audits: the segment again, and the states that are asked for.

Questions come over the session, each with all that is needed to run the segment again; nothing of
the lease has to be left on disk but what its commitment hides. Roots that were kept while the
segment ran are claimed as they are, without a replay. A replay has an engine process of
its own on the device that did the work, and takes turns with the lease's segments as replays for
disputes do. Where it comes to other checksums than the segment did when it ran, a bit flipped then
or now: no answer is better than one that convicts, and the worker says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.jobs.checksums import ChecksumList
from flopmarket.jobs.questions import StepsQuestion
from flopmarket.jobs.roots import StateRoots
from flopmarket.jobs.stepping import CHECKSUMS_FILE, ROOTS_FILE, state_file, values_file
from flopmarket.limits import (
    DISPUTE_DEVICE_WAIT_SECONDS,
    MAX_AUDITED_STEPS,
    MAX_WORKER_STEP_AUDITS,
)
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import AnyDocument, digest
from flopmarket.trust.envelope import open_envelope
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.sealing import InnerSecret
from flopmarket.trust.step_audit import (
    EQUAL,
    NO_VALUES,
    DrawnState,
    StepAnswer,
    StepClaim,
    check_claim,
    check_roots,
)
from flopmarket.v1 import common_pb2, worker_pb2
from flopmarket.wire import envelope_from_proto
from flopmarket_worker.backoff import persistently
from flopmarket_worker.checksum_lists import ChecksumLists
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.lease_offer import LeaseOffer, read_offer
from flopmarket_worker.openings import Openings
from flopmarket_worker.replaying import device_of, fetch_job, short_pauses
from flopmarket_worker.signing import Sealer
from flopmarket_worker.transfers import Transfers

logger = logging.getLogger("flopmarket.worker")

Send = Callable[[worker_pb2.StepsAnswered], None]
Case = tuple[str, int]
"""Lease and segment."""
Round = tuple[Case, str, bool]
"""Of which segment, in which audit, and whether its steps are drawn."""

_FURTHER_UPLOADS = 1_200
_UPLOAD_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Question:
    """A checked question; ``claim`` is None in the first round."""

    body: Commitment
    signer: KeyPair
    work: LeaseOffer
    claim: StepClaim | None
    drawn: tuple[int, ...]
    with_values: bool

    @property
    def case(self) -> Case:
        return self.body.lease_id, self.body.segment_index

    @property
    def round(self) -> Round:
        """Which audit it is of: a segment may be looked at again, by other steps."""
        return self.case, self.work.terms.key.lease_id, self.claim is not None


def read_question(
    message: worker_pb2.StepsAsked, audience: str, keys: Mapping[str, KeyPair]
) -> Question:
    """The question in ``message``; an error of ours when it contradicts itself, or is about what
    none of ``keys``, by their ids, has signed."""
    body, signer = _own(message.commitment, Commitment, audience, keys)
    if (body.lease_id, body.segment_index) != (message.lease_id, message.segment_index):
        raise InvalidInput("the commitment is of another segment", code="STEPS_QUESTION")
    claim = None
    if message.HasField("claim"):
        claim, _ = _own(message.claim, StepClaim, audience, {signer.key_id: signer})
        check_claim(claim, body)
    drawn = tuple(message.steps)
    end = body.first_step + body.steps_done
    ordered = drawn == tuple(sorted(set(drawn))) and len(drawn) <= MAX_AUDITED_STEPS
    inside = all(body.first_step <= step < end for step in drawn)
    if bool(drawn) != (claim is not None) or not (ordered and inside):
        raise InvalidInput("steps that are none of the segment's", code="STEPS_QUESTION")
    work = read_offer(message.work, audience=audience)
    if work.job_id != body.job_id or work.terms.first_step > body.first_step:
        raise InvalidInput("the work is not the segment's", code="STEPS_QUESTION")
    return Question(body, signer, work, claim, drawn, message.with_values)


class StepDesk:
    """All step audits of one worker's keys. Its methods are called on one event loop.

    ``keys`` are the device key and those before it. ``folder`` is the desk's own; what an earlier
    run left there is deleted.
    """

    def __init__(
        self,
        folder: Path,
        keys: Sequence[KeyPair],
        executors: Mapping[str, JobExecutor],
        transfers: Transfers,
        openings: Openings,
        lists: ChecksumLists,
        send: Send,
    ) -> None:
        self._folder = folder
        self._keys = {key.key_id: key for key in keys}
        self._executors = executors
        self._transfers = transfers
        self._openings = openings
        self._lists = lists
        self._send = send
        self._sent: dict[Round, worker_pb2.StepsAnswered] = {}
        self._working: set[Round] = set()
        self._turn = asyncio.Lock()
        shutil.rmtree(folder, ignore_errors=True)

    async def hear(self, message: worker_pb2.StepsAsked, sealer: Sealer) -> None:
        """One question of the coordinator. What cannot be answered is refused, and logged."""
        try:
            question = read_question(message, sealer.audience, self._keys)
        except FlopmarketError as error:
            logger.error("lease %s: a question is refused: %s", message.lease_id[:64], error)
            return
        key = question.round
        if key in self._sent:
            self._send(self._sent[key])
            return
        if key in self._working:
            return
        if len(self._working) >= MAX_WORKER_STEP_AUDITS:
            logger.error("%d questions about steps wait: too many", len(self._working))
            return
        self._working.add(key)
        try:
            answer = await persistently(
                lambda: self._answered(question, sealer),
                short_pauses(),
                lambda error: logger.warning(
                    "lease %s segment %d: %s; again", *question.case, error
                ),
            )
        except (FlopmarketError, OSError) as error:
            code = error.code if isinstance(error, FlopmarketError) else "ENGINE_FAILED"
            logger.error("lease %s segment %d: no answer: %s", *question.case, error)
            answer = worker_pb2.StepsAnswered(code=code[:64], message=str(error)[:1000])
        finally:
            self._working.discard(key)
        answer.lease_id, answer.segment_index = question.case
        while len(self._sent) >= MAX_WORKER_STEP_AUDITS:
            self._sent.pop(next(iter(self._sent)))
        self._sent[key] = answer
        self._send(answer)

    async def stop(self) -> None:
        """Delete all files; replays that run are cancelled by whoever runs them."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    # ------------------------------------------------------------ one question

    async def _answered(self, question: Question, sealer: Sealer) -> worker_pb2.StepsAnswered:
        async with self._turn:
            return await self._answered_now(question, sealer)

    async def _answered_now(self, question: Question, sealer: Sealer) -> worker_pb2.StepsAnswered:
        body = question.body
        secret = self._openings.find(body.lease_id, body.segment_index)
        if secret is None:
            raise InvalidInput("what it hides is not known here (any more)", code="OPENING_UNKNOWN")
        folder = self._folder / digest(body).hex()
        try:
            if question.claim is None and (found := self._kept(question, secret)) is not None:
                kept, roots = found
                await asyncio.to_thread(_write_roots, folder, roots)
                return await self._claimed(question, folder, kept, secret, sealer)
            await self._replay(question, folder)
            replayed = ChecksumList.from_bytes((folder / CHECKSUMS_FILE).read_bytes())
            kept = self._same_list(question, replayed, secret)
            if question.claim is None:
                return await self._claimed(question, folder, kept, secret, sealer)
            return await self._with_states(question, question.claim, folder, sealer)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _kept(
        self, question: Question, secret: InnerSecret
    ) -> tuple[ChecksumList, StateRoots] | None:
        """List and roots of the segment as it ran; None unless both are here and are those that
        were committed to."""
        body = question.body
        kept = self._lists.find(body.lease_id, body.segment_index)
        roots = self._lists.find_roots(body.lease_id, body.segment_index)
        if kept is None or roots is None or kept.inner() != secret.inner:
            return None
        if roots.first_step != body.first_step or check_roots(roots.data, body) != EQUAL:
            return None
        return kept, roots

    def _same_list(
        self, question: Question, replayed: ChecksumList, secret: InnerSecret
    ) -> ChecksumList:
        """The segment's list, as far as the replay has it; InvalidInput (REPLAY_DIFFERS) where it
        is another segment now than when it ran."""
        body = question.body
        kept = self._lists.find(body.lease_id, body.segment_index)
        if kept is None or kept.inner() != secret.inner:  # lost, or the disk did not keep it
            kept = replayed
        if question.claim is None and kept.inner() != secret.inner:
            raise InvalidInput("the checksums are not those of the segment", code="REPLAY_DIFFERS")
        if not kept.data.startswith(replayed.data) or kept.words != replayed.words:
            step = next(
                step
                for step in range(replayed.first_step, replayed.end_step)
                if kept.entry(step) != replayed.entry(step)
            )
            raise InvalidInput(
                f"the replay differs at step {step} from what the segment came to when it ran",
                code="REPLAY_DIFFERS",
            )
        return kept

    async def _claimed(
        self,
        question: Question,
        folder: Path,
        kept: ChecksumList,
        secret: InnerSecret,
        sealer: Sealer,
    ) -> worker_pb2.StepsAnswered:
        path = folder / CHECKSUMS_FILE
        await asyncio.to_thread(path.write_bytes, kept.to_bytes())
        lease_id = question.body.lease_id
        claim = StepClaim(
            commitment=digest(question.body),
            device_key_id=question.signer.key_id,
            salt=secret.salt,
            inner=secret.inner,
            checksums=bytes.fromhex(await self._uploaded(path, lease_id)),
            roots=bytes.fromhex(await self._uploaded(folder / ROOTS_FILE, lease_id)),
        )
        return worker_pb2.StepsAnswered(claim=sealer.seal(claim, question.signer))

    async def _with_states(
        self, question: Question, claim: StepClaim, folder: Path, sealer: Sealer
    ) -> worker_pb2.StepsAnswered:
        lease_id = question.body.lease_id
        states = []
        for step in question.drawn:
            state = await self._uploaded(folder / state_file(step), lease_id)
            values = NO_VALUES
            if question.with_values:
                path = folder / values_file(step)
                values = bytes.fromhex(await self._uploaded(path, lease_id))
            states.append(DrawnState(step, bytes.fromhex(state), values))
        answer = StepAnswer(digest(claim), tuple(states))
        return worker_pb2.StepsAnswered(answer=sealer.seal(answer, question.signer))

    async def _uploaded(self, path: Path, lease_id: str) -> str:
        """Store a file; again for most of a day while the coordinator cannot take it, since what it
        holds took a whole replay."""
        return await persistently(
            lambda: self._transfers.upload(path, lease_id),
            repeat(_UPLOAD_PAUSE_SECONDS, _FURTHER_UPLOADS),
            lambda error: logger.warning(
                "lease %s: a state is not uploaded yet: %s", lease_id, error
            ),
        )

    async def _replay(self, question: Question, folder: Path) -> None:
        """Write what is asked for into ``folder``."""
        body, work = question.body, question.work
        state = await fetch_job(self._transfers, work, folder, lease_id=body.lease_id)
        asked = StepsQuestion(
            state,
            work.terms.first_step,
            body.first_step,
            body.steps_done,
            question.drawn,
            question.with_values,
        )
        executor = device_of(self._executors, work)
        async with executor.segment_pause(DISPUTE_DEVICE_WAIT_SECONDS):
            engine = await executor.another()
            try:
                await engine.replay_steps(folder, work.spec_bytes, asked, folder)
            finally:
                with contextlib.suppress(FlopmarketError):
                    await engine.stop()


def _write_roots(folder: Path, roots: StateRoots) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / ROOTS_FILE).write_bytes(roots.data)


def _own(
    message: common_pb2.Envelope,
    kind: type[AnyDocument],
    audience: str,
    keys: Mapping[str, KeyPair],
) -> tuple[AnyDocument, KeyPair]:
    """A document that one of our keys signed for this coordinator, and the key."""
    public = {key_id: key.public for key_id, key in keys.items()}
    opened = open_envelope(
        envelope_from_proto(message),
        kind,
        keys=public.get,
        audience=audience,
        now_us=None,
        replay=None,
    )
    return opened.body, keys[opened.key_id]
