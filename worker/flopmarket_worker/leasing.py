"""All leases of one worker: the shell around :class:`SessionMachine`.

Messages and finished tasks become events; what the machine answers becomes work on devices
(:mod:`flopmarket_worker.lease_work`) and signed messages. What an earlier run left on disk is taken
up again first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from flopmarket.errors import FlopmarketError
from flopmarket.trust.documents import Commitment, LeaseAcceptance
from flopmarket.trust.encoding import digest
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.sealing import seal_inner
from flopmarket.v1 import worker_pb2
from flopmarket_worker.agent_device import AgentDevice
from flopmarket_worker.backoff import Jitter
from flopmarket_worker.challenge_check import ChallengeChecks
from flopmarket_worker.checksum_lists import ChecksumLists
from flopmarket_worker.connection import Connection
from flopmarket_worker.core import events
from flopmarket_worker.core.events import Event, Instruction, LeaseKey
from flopmarket_worker.core.session import SessionMachine
from flopmarket_worker.journal import Journal
from flopmarket_worker.lease_offer import LeaseOffer, check_numerics, key_of, read_offer
from flopmarket_worker.lease_work import LeaseWork
from flopmarket_worker.local_state import Notes
from flopmarket_worker.openings import Openings
from flopmarket_worker.recovery import recover
from flopmarket_worker.signing import Clock
from flopmarket_worker.transfers import Transfers

logger = logging.getLogger("flopmarket.worker")

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class LeaseDesk:
    """Takes leases, works them, reports them. ``spawn`` runs a task whose failure ends the agent;
    ``work_comes`` hears of a device just before a lease needs it."""

    def __init__(
        self,
        devices: Mapping[str, AgentDevice],
        device_key: KeyPair,
        connection: Connection,
        journal: Journal,
        transfers: Transfers,
        openings: Openings,
        lists: ChecksumLists,
        notes: Notes,
        *,
        now_us: Clock,
        jitter: Jitter,
        spawn: Spawn,
        work_comes: Callable[[str], None],
    ) -> None:
        self._devices = devices
        self._key = device_key
        self._connection = connection
        self._journal = journal
        self._transfers = transfers
        self._openings = openings
        self._lists = lists
        self._notes = notes
        self._now_us = now_us
        self._jitter = jitter
        self._spawn = spawn
        self._work_comes = work_comes
        self.machine = SessionMachine(frozenset(devices))
        self._offers: dict[LeaseKey, LeaseOffer] = {}
        self._work: dict[LeaseKey, LeaseWork] = {}
        self._progress: dict[LeaseKey, tuple[int, Mapping[str, float]]] = {}
        self._checks = ChallengeChecks()
        self._changed = asyncio.Event()

    # ------------------------------------------------------------ for the agent

    def recover(self) -> None:
        """Take up what an earlier run left on disk."""
        for found in recover(self._journal, frozenset(self._devices)):
            key = found.offer.terms.key
            logger.info("lease %s found on disk at step %d", key.lease_id, found.next_step)
            self._offers[key] = found.offer
            self._checks.begin(found.offer.challenge)
            self._work_of(key).recover(found.event.computed)
            self.dispatch(found.event)
        live = {key.lease_id for key in self._work}
        self._openings.only_live(live)
        self._lists.only_live(live)

    def dispatch(self, event: Event) -> None:
        """Let the machine decide about an event, and do what it says."""
        for instruction in self.machine.handle(event):
            self._carry_out(instruction)
        self._changed.set()

    async def until_idle(self) -> None:
        """Return when no lease is left."""
        while not self.machine.idle:
            self._changed.clear()
            await self._changed.wait()

    def held(self) -> list[worker_pb2.HeldLease]:
        """Leases to name in greetings and heartbeats."""
        return [
            worker_pb2.HeldLease(lease_id=key.lease_id, fence=key.fence)
            for key in self.machine.held
        ]

    def progress(self) -> list[worker_pb2.Progress]:
        """How far the leases' segments are."""
        return [
            worker_pb2.Progress(lease_id=key.lease_id, step=step, scalars=dict(scalars))
            for key, (step, scalars) in self._progress.items()
        ]

    # ------------------------------------------------------------ messages

    def offered(self, message: worker_pb2.LeaseOffered) -> None:
        """A lease is offered, perhaps again."""
        key = key_of(message)
        try:
            offer = read_offer(
                message,
                audience=self._connection.sealer.audience,
                now_us=self._now_us(),
                coordinator=self._connection.coordinator_key,
            )
            device = self._devices.get(offer.terms.device_id)
            if device is not None:
                check_numerics(offer.spec, device.card, device.calibration)
        except FlopmarketError as error:
            logger.warning("lease %s declined: %s", key.lease_id[:64], error)
            self.dispatch(events.OfferUnusable(key, str(error)))
            return
        if key not in self._offers and offer.terms.device_id in self._devices:
            if self.machine.phase(key) is None and not self.machine.draining:
                self._journal.lease(key).create(message.SerializeToString())
            self._offers[key] = offer
            self._checks.begin(offer.challenge)
        self._work_comes(offer.terms.device_id)
        self.dispatch(events.Offered(offer.terms))
        if key not in self.machine.held and key not in self._work:
            self._offers.pop(key, None)
            self._checks.end(key.lease_id)
            self._journal.lease(key).delete()

    def revoked(self, message: worker_pb2.LeaseRevoked) -> None:
        """The coordinator takes a lease back."""
        logger.info("lease %s revoked: %s", message.lease_id, message.reason)
        key = LeaseKey(message.lease_id, message.fence)
        self.dispatch(events.Revoked(key, message.reason))

    def answered(self, answer: worker_pb2.CommitmentAnswer) -> None:
        """What became of a commitment."""
        if not answer.accepted:
            logger.warning(
                "commitment %d of lease %s refused: %s [%s]",
                answer.segment_index,
                answer.lease_id,
                answer.message,
                answer.code,
            )
        work = next((w for w in self._work.values() if w.key.lease_id == answer.lease_id), None)
        if answer.accepted and work is not None:
            work.note_answered(answer.segment_index)
            self._check_draw(answer, self._offers[work.key])
        self.dispatch(
            events.Answered(answer.lease_id, answer.segment_index, answer.accepted, answer.code)
        )

    def _check_draw(self, answer: worker_pb2.CommitmentAnswer, offer: LeaseOffer) -> None:
        """The value that an answer reveals; what does not follow from the lease is written down."""
        index = answer.segment_index - offer.terms.first_segment + 1
        wrong = self._checks.answered(
            answer.lease_id, index, answer.challenge_value, answer.rate_ppm, answer.audited
        )
        if wrong:
            text = f"lease {answer.lease_id}: {wrong}"
            logger.error("the coordinator contradicts itself: %s", text)
            self._notes.contradicted(text)

    # ------------------------------------------------------------ instructions

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case events.Prepare(terms, start):
                self._spawn(self._answered_by(self._work_of(terms.key).prepare(start)))
            case events.Abandon(key):
                self._work_of(key).abandon()
            case events.Run(key):
                work = self._work_of(key)
                self._spawn(self._answered_by(work.run(instruction, self._note_progress)))
            case events.Interrupt(key):
                self._spawn(self._work_of(key).interrupt())
            case events.Upload(key, segment):
                self._spawn(self._answered_by(self._work_of(key).upload(segment)))
            case events.Close(key):
                self._spawn(self._close(self._work_of(key)))
            case events.Accept(terms):
                self._connection.send(lease_accepted=self._acceptance(self._offers[terms.key]))
            case events.Commit(key, segment, files):
                commitment = self._commitment(key, segment, files)
                self._connection.send(segment_committed=commitment)
            case events.Release(key, reason, detail):
                logger.info("lease %s given back: %s %s", key.lease_id, reason, detail)
                released = worker_pb2.LeaseReleased(
                    lease_id=key.lease_id, fence=key.fence, reason=str(reason), detail=detail[:1000]
                )
                self._connection.send(lease_released=released)

    def _work_of(self, key: LeaseKey) -> LeaseWork:
        """The work of a lease, begun on disk when it is first asked for."""
        if key not in self._work:
            offer = self._offers[key]
            folder = self._journal.lease(key)
            executor = self._devices[offer.terms.device_id].executor
            self._work[key] = LeaseWork(
                offer, folder, executor, self._transfers, self._jitter, self._lists
            )
        return self._work[key]

    async def _answered_by(self, doing: Coroutine[Any, Any, Event | None]) -> None:
        event = await doing
        if event is not None:
            if isinstance(event, events.JobFailed | events.ExecutorDied | events.UploadFailed):
                logger.warning("lease %s: %s", event.key.lease_id, event.detail)
            self.dispatch(event)

    async def _close(self, work: LeaseWork) -> None:
        event = await work.close()
        self._work.pop(work.key, None)
        self._offers.pop(work.key, None)
        self._checks.end(work.key.lease_id)
        self._openings.lease_ended(work.key.lease_id)
        self._lists.lease_ended(work.key.lease_id)
        self._progress.pop(work.key, None)
        self.dispatch(event)

    def _note_progress(self, key: LeaseKey, step: int, scalars: Mapping[str, float]) -> None:
        self._progress[key] = (step, scalars)

    # ------------------------------------------------------------ documents

    def _acceptance(self, offer: LeaseOffer) -> worker_pb2.LeaseAccepted:
        terms = offer.terms
        body = LeaseAcceptance(
            job_id=offer.job_id,
            lease_id=terms.key.lease_id,
            fence=terms.key.fence,
            device_key_id=self._key.key_id,
            device_id=terms.device_id,
            first_step=terms.first_step,
            step_count=terms.step_count,
        )
        return worker_pb2.LeaseAccepted(acceptance=self._connection.sealer.seal(body, self._key))

    def _commitment(
        self, key: LeaseKey, segment: events.SegmentRecord, files: events.UploadedFiles
    ) -> worker_pb2.SegmentCommitted:
        device_key_id = self._key.key_id
        secret = self._openings.secret(key.lease_id, segment.index, device_key_id, segment.inner)
        body = Commitment(
            job_id=self._offers[key].job_id,
            lease_id=key.lease_id,
            fence=key.fence,
            device_key_id=device_key_id,
            segment_index=segment.index,
            first_step=segment.first_step,
            steps_done=segment.steps,
            state_root_before=segment.state_root_before,
            state_root_after=segment.state_root_after,
            outputs_root=segment.outputs_root,
            sealed_inner=seal_inner(secret),
        )
        number = segment.index - self._offers[key].terms.first_segment + 1
        self._checks.committed(key.lease_id, number, digest(body))
        return worker_pb2.SegmentCommitted(
            commitment=self._connection.sealer.seal(body, self._key),
            outputs_artifact=files.outputs_artifact,
            checkpoint_artifact=files.checkpoint_artifact,
            run_us=segment.times.run_us,
            build_us=segment.times.build_us,
            transfer_us=segment.times.transfer_us,
        )
