"""The worker: one coordinator, some devices, whatever leases they have.

The asyncio shell around :class:`~flopmarket_worker.core.session.SessionMachine`. Everything that
happens becomes an event; instructions become tasks and messages. The connection comes and goes
beside the work. ``flop worker up`` runs one of these per machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpc import aio

from flopmarket.errors import FlopmarketError, Forbidden, Unauthenticated, Unavailable
from flopmarket.limits import WORKER_STOP_SECONDS
from flopmarket.market.money import format_nano
from flopmarket.market.reasons import Reason
from flopmarket.trust.documents import Commitment, LeaseAcceptance, OfferTerms
from flopmarket.trust.encoding import digest
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.sealing import seal_inner
from flopmarket.v1 import common_pb2, worker_pb2
from flopmarket_worker.backoff import Backoff, Jitter
from flopmarket_worker.challenge_check import ChallengeChecks
from flopmarket_worker.conversation import Conversation
from flopmarket_worker.core import events
from flopmarket_worker.core.events import Event, Instruction, LeaseKey
from flopmarket_worker.core.session import SessionMachine
from flopmarket_worker.disputing import DisputeDesk
from flopmarket_worker.executor import JobExecutor
from flopmarket_worker.journal import Journal
from flopmarket_worker.lease_offer import LeaseOffer, check_numerics, key_of, read_offer
from flopmarket_worker.lease_work import LeaseWork
from flopmarket_worker.link import CoordinatorLink
from flopmarket_worker.local_state import Notes, unwritten
from flopmarket_worker.offers import Calibration, DeviceCard, OwnerTerms, card_fingerprint
from flopmarket_worker.openings import Openings
from flopmarket_worker.proving import Challenges, ProvenDevice
from flopmarket_worker.recovery import recover
from flopmarket_worker.remote import error_of
from flopmarket_worker.repricing import Listing, Repricer, reason_of
from flopmarket_worker.signing import Clock, Sealer, local_hour
from flopmarket_worker.stepping import StepDesk
from flopmarket_worker.transfers import Transfers
from flopmarket_worker.week import Hour

logger = logging.getLogger("flopmarket.worker")

_DEFAULT_HEARTBEAT_MS = 10_000
_SHORTEST_HEARTBEAT_MS = 50
_LASTING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class AgentDevice:
    """One device that is offered."""

    card: DeviceCard
    calibration: Calibration
    owner: OwnerTerms
    executor: JobExecutor


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
        self._journal = journal
        self._openings: Openings = journal.openings(now_us)
        self._lists = journal.checksum_lists(now_us)
        self._transfers = transfers
        self._now_us = now_us
        self._jitter = jitter
        self._version = version
        self._stop_seconds = stop_seconds
        self._hour_of = hour_of
        self._notes = notes or unwritten()
        self._repricer = Repricer(
            self._devices,
            transfers.speed,
            account_id=link.account_id,
            device_key_id=link.device_key.key_id,
        )
        self._desk = DisputeDesk(
            journal.disputes,
            (link.device_key, *link.former_keys),
            {device.card.device_id: device.executor for device in devices},
            transfers,
            lambda moved: self._send(dispute_moved=moved),
            now_us,
            self._openings,
            self._lists,
        )
        self._steps = StepDesk(
            journal.step_audits,
            (link.device_key, *link.former_keys),
            {device.card.device_id: device.executor for device in devices},
            transfers,
            self._openings,
            self._lists,
            lambda answered: self._send(steps_answered=answered),
        )
        self._machine = SessionMachine(frozenset(self._devices))
        self._offers: dict[LeaseKey, LeaseOffer] = {}
        self._work: dict[LeaseKey, LeaseWork] = {}
        self._progress: dict[LeaseKey, tuple[int, Mapping[str, float]]] = {}
        self._conversation: Conversation | None = None
        self._sealer: Sealer | None = None
        self._coordinator_key: PublicKey | None = None
        self._checks = ChallengeChecks()
        self._challenges = Challenges(link.device_key.key_id, self._send, reports)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._changed = asyncio.Event()
        self._retired = asyncio.Event()
        self._retiring = False

    @property
    def retired(self) -> bool:
        """Whether another key took the place of ours, and nothing is left to do under it."""
        return self._retired.is_set()

    @property
    def machine(self) -> SessionMachine:
        """The decisions, for status displays and tests."""
        return self._machine

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then end in good order within about ten seconds.

        Raises the first error that no retry can mend (a ban, a bad key, a bug); leases then stay on
        disk for the next start.
        """
        failure = self._failure = asyncio.get_running_loop().create_future()
        stopping = asyncio.create_task(stop.wait())
        retiring = asyncio.create_task(self._retired.wait())
        try:
            self._recover()
            self._spawn(self._keep_connected())
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
            await self._desk.stop()
            await self._steps.stop()
            await asyncio.gather(*(device.executor.stop() for device in self._devices.values()))
            await self._link.close()

    async def _retire(self) -> None:
        """Our key was rotated: finish the leases that it has, then make room for the new key."""
        logger.info("another key took the place of this device key; its leases are finished first")
        while not self._machine.idle:
            self._changed.clear()
            await self._changed.wait()
        self._retired.set()

    async def _wind_down(self, failure: asyncio.Future[None]) -> None:
        logger.info("stopping: segments end at the next step boundary")
        self._notes.phase("draining")
        self._challenges.end_all()
        self._dispatch(events.DrainRequested())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._stop_seconds):
                while not self._machine.idle and not failure.done():
                    self._changed.clear()
                    await self._changed.wait()
        if self._conversation is not None:
            await self._conversation.finish()

    # ------------------------------------------------------------ events and instructions

    def _dispatch(self, event: Event) -> None:
        for instruction in self._machine.handle(event):
            self._carry_out(instruction)
        self._changed.set()

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
                self._spawn(self._publish(self._work_of(key), segment))
            case events.Close(key):
                self._spawn(self._close(self._work_of(key)))
            case events.Accept(terms):
                self._send(lease_accepted=self._acceptance(self._offers[terms.key]))
            case events.Commit(key, segment, files):
                self._send(segment_committed=self._commitment(key, segment, files))
            case events.Release(key, reason, detail):
                logger.info("lease %s given back: %s %s", key.lease_id, reason, detail)
                released = worker_pb2.LeaseReleased(
                    lease_id=key.lease_id, fence=key.fence, reason=str(reason), detail=detail[:1000]
                )
                self._send(lease_released=released)

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
            self._dispatch(event)

    async def _publish(self, work: LeaseWork, segment: events.SegmentRecord) -> None:
        await self._answered_by(work.upload(segment))

    async def _close(self, work: LeaseWork) -> None:
        event = await work.close()
        self._work.pop(work.key, None)
        self._offers.pop(work.key, None)
        self._checks.end(work.key.lease_id)
        self._openings.lease_ended(work.key.lease_id)
        self._lists.lease_ended(work.key.lease_id)
        self._progress.pop(work.key, None)
        self._dispatch(event)

    def _note_progress(self, key: LeaseKey, step: int, scalars: Mapping[str, float]) -> None:
        self._progress[key] = (step, scalars)

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
            self._changed.set()

    def _recover(self) -> None:
        for found in recover(self._journal, frozenset(self._devices)):
            key = found.offer.terms.key
            logger.info("lease %s found on disk at step %d", key.lease_id, found.next_step)
            self._offers[key] = found.offer
            self._checks.begin(found.offer.challenge)
            self._work_of(key).recover(found.event.computed)
            self._dispatch(found.event)
        live = {key.lease_id for key in self._work}
        self._openings.only_live(live)
        self._lists.only_live(live)

    # ------------------------------------------------------------ connection

    async def _keep_connected(self) -> None:
        backoff = Backoff(self._jitter)
        while True:
            try:
                delay = await self._converse(backoff)
            except FlopmarketError as error:
                if not error.retryable:
                    raise
                delay = backoff.next_seconds()
                self._notes.phase("connecting", str(error))
                logger.warning("%s; again in %.1f s", error, delay)
            await asyncio.sleep(delay)

    async def _converse(self, backoff: Backoff) -> float:
        """One connection, from greeting to end; returns the pause before the next."""
        sealer = await self._link.sealer()
        self._coordinator_key = (await self._link.coordinator()).public_key
        metadata = await self._link.credentials()
        call = self._link.worker.Session(metadata=metadata)  # type: ignore[call-arg]
        conversation = Conversation(call)
        helpers: list[asyncio.Task[None]] = []
        welcomed: float | None = None
        try:
            welcome = await conversation.greet(self._hello(sealer))
            welcomed = asyncio.get_running_loop().time()
            self._sealer, self._conversation = sealer, conversation
            period_ms = max(_SHORTEST_HEARTBEAT_MS, welcome.heartbeat_ms or _DEFAULT_HEARTBEAT_MS)
            helpers = [
                asyncio.create_task(conversation.write_all()),
                asyncio.create_task(conversation.beat(period_ms / 1000, self._heartbeat)),
            ]
            kept = tuple(LeaseKey(held.lease_id, held.fence) for held in welcome.kept)
            self._dispatch(events.Connected(kept))
            logger.info("connected; %d leases held", len(kept))
            self._notes.phase("connected")
            async with asyncio.timeout(self._token_seconds()):
                async for message in conversation.messages():
                    if message.HasField("drain"):
                        return message.drain.reconnect_after_ms / 1000
                    self._receive(message)
            raise Unavailable("the coordinator ended the connection", code="SESSION_ENDED")
        except aio.AioRpcError as failure:
            raise self._stream_error(failure) from failure
        except TimeoutError:
            return 0.0  # the token is old, or the greeting went unanswered: begin anew
        finally:
            self._conversation = None
            if welcomed is not None:
                # Only a connection that lasts shows that nothing we send is what ends it.
                lasted = asyncio.get_running_loop().time() - welcomed
                if lasted >= _LASTING_SECONDS:
                    backoff.reset()
            self._challenges.end_all()
            for helper in helpers:
                helper.cancel()
            call.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            self._dispatch(events.Disconnected())

    def _stream_error(self, failure: aio.AioRpcError) -> FlopmarketError:
        """A broken stream is worth another try, unless we are banned or somebody took our place."""
        error = error_of(failure)
        if isinstance(error, Unauthenticated):
            self._link.forget_session()
        if error.code.startswith("CERTIFICATE_"):
            self._link.forget_certificate()
        if isinstance(error, Forbidden) or error.code == "SESSION_SUPERSEDED":
            return error
        return Unavailable(error.message, code=error.code, hint=error.hint)

    def _token_seconds(self) -> float:
        return max(1.0, (self._link.token_renew_us - self._now_us()) / 1e6)

    def _receive(self, message: worker_pb2.SessionResponse) -> None:
        match message.WhichOneof("message"):
            case "lease_offered":
                self._on_lease_offered(message.lease_offered)
            case "lease_revoked":
                revoked = message.lease_revoked
                logger.info("lease %s revoked: %s", revoked.lease_id, revoked.reason)
                key = LeaseKey(revoked.lease_id, revoked.fence)
                self._dispatch(events.Revoked(key, revoked.reason))
            case "opening_asked":
                self._on_opening_asked(message.opening_asked)
            case "benchmark_asked":
                self._on_benchmark_asked(message.benchmark_asked)
            case "benchmark_verdict":
                assert self._coordinator_key is not None
                key_bytes = self._coordinator_key.raw
                self._challenges.verdict(message.benchmark_verdict, key_bytes)
            case "commitment_answer":
                self._on_commitment_answer(message.commitment_answer)
            case "dispute_asked":
                assert self._sealer is not None
                self._spawn(self._desk.hear(message.dispute_asked, self._sealer))
            case "steps_asked":
                assert self._sealer is not None
                self._spawn(self._steps.hear(message.steps_asked, self._sealer))
            case "offer_refused":
                refused = message.offer_refused
                why = f"{refused.message} [{refused.code}]"
                self._notes.kept_back(refused.device_id, Reason.OFFER_REFUSED, why)
                logger.error(
                    "offer of device %s refused: %s [%s]",
                    refused.device_id[:16],
                    refused.message,
                    refused.code,
                )
                if refused.code == "KEY_ROTATED" and not self._retiring:
                    self._retiring = True
                    self._spawn(self._retire())
            case _:
                logger.debug("a message of unknown kind was ignored")

    def _on_lease_offered(self, message: worker_pb2.LeaseOffered) -> None:
        key = key_of(message)
        assert self._sealer is not None
        try:
            offer = read_offer(
                message,
                audience=self._sealer.audience,
                now_us=self._now_us(),
                coordinator=self._coordinator_key,
            )
            device = self._devices.get(offer.terms.device_id)
            if device is not None:
                check_numerics(offer.spec, device.card, device.calibration)
        except FlopmarketError as error:
            logger.warning("lease %s declined: %s", key.lease_id[:64], error)
            self._dispatch(events.OfferUnusable(key, str(error)))
            return
        if key not in self._offers and offer.terms.device_id in self._devices:
            if self._machine.phase(key) is None and not self._machine.draining:
                self._journal.lease(key).create(message.SerializeToString())
            self._offers[key] = offer
            self._checks.begin(offer.challenge)
        self._challenges.work_came(offer.terms.device_id)
        self._dispatch(events.Offered(offer.terms))
        if key not in self._machine.held and key not in self._work:
            self._offers.pop(key, None)
            self._checks.end(key.lease_id)
            self._journal.lease(key).delete()

    def _on_benchmark_asked(self, message: worker_pb2.BenchmarkAsked) -> None:
        device_id = message.device_id
        device = self._devices.get(device_id)
        if device is None:
            self._challenges.asked(message, None)
            return

        def is_free() -> bool:
            return not self._machine.draining and not self._machine.has_work(device_id)

        proven = ProvenDevice(device_id, device.executor, device.calibration, is_free)
        self._challenges.asked(message, proven)

    def _on_commitment_answer(self, answer: worker_pb2.CommitmentAnswer) -> None:
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
        self._dispatch(
            events.Answered(answer.lease_id, answer.segment_index, answer.accepted, answer.code)
        )

    def _on_opening_asked(self, asked: worker_pb2.OpeningAsked) -> None:
        """Show what a commitment hides, as often as it is asked for; the key that committed signs,
        also where another one took its place since."""
        assert self._sealer is not None
        opened = worker_pb2.SegmentOpened(
            lease_id=asked.lease_id, segment_index=asked.segment_index
        )
        secret = self._openings.find(asked.lease_id, asked.segment_index)
        keys = {key.key_id: key for key in (self._link.device_key, *self._link.former_keys)}
        if secret is not None and secret.device_key_id in keys:
            opened.secret.CopyFrom(self._sealer.seal(secret, keys[secret.device_key_id]))
        else:
            logger.warning(
                "lease %s segment %d: asked to open a commitment that is not known here",
                asked.lease_id[:64],
                asked.segment_index,
            )
            opened.code = "OPENING_UNKNOWN"
            opened.message = "no commitment of this segment is known here (any more)"
        self._send(segment_opened=opened)

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

    # ------------------------------------------------------------ messages

    def _send(self, **message: Any) -> None:
        # Without a connection nothing is lost: the machine repeats after the next welcome.
        if self._conversation is not None:
            self._conversation.send(worker_pb2.SessionRequest(**message))

    def _hello(self, sealer: Sealer) -> worker_pb2.Hello:
        listing = self._repricer.all(self._hour_of(self._now_us()))
        self._note(listing)
        terms = () if self._machine.draining else listing.terms
        return worker_pb2.Hello(
            agent_version=self._version,
            offers=[self._sealed_offer(item, sealer) for item in terms],
            held=self._held(),
        )

    def _sealed_offer(self, terms: OfferTerms, sealer: Sealer) -> common_pb2.Envelope:
        """An offer with the fingerprint that its card has at this coordinator."""
        board = self._devices[terms.device_id].card.board
        named = replace(terms, card_fingerprint=card_fingerprint(board, sealer.audience))
        return sealer.seal(named, self._link.device_key)

    def _held(self) -> list[worker_pb2.HeldLease]:
        return [
            worker_pb2.HeldLease(lease_id=key.lease_id, fence=key.fence)
            for key in self._machine.held
        ]

    def _reprice(self) -> None:
        """Tell the coordinator what a new hour makes of the asks; running leases keep theirs."""
        if self._machine.draining or self._sealer is None:
            return
        changes = self._repricer.changes(self._hour_of(self._now_us()))
        self._note(changes)
        for terms in changes.terms:
            logger.info(
                "device %s asks %s an hour now",
                terms.device_id[:16],
                format_nano(terms.ask_nano_per_hour, symbol=""),
            )
            offer = self._sealed_offer(terms, self._sealer)
            self._send(offer_changed=worker_pb2.OfferChanged(offer=offer))
        for device_id, error in changes.withdrawn.items():
            logger.warning("device %s is not offered in this hour: %s", device_id[:16], error)
            self._send(offer_changed=worker_pb2.OfferChanged(withdrawn=True, device_id=device_id))

    def _note(self, listing: Listing) -> None:
        for terms in listing.terms:
            self._notes.offered(terms.device_id, terms.ask_nano_per_hour)
        for device_id, error in listing.withdrawn.items():
            self._notes.kept_back(device_id, reason_of(error), error.message)

    def _heartbeat(self) -> worker_pb2.Heartbeat:
        self._reprice()
        self._spawn(self._desk.tidy())
        progress = [
            worker_pb2.Progress(lease_id=key.lease_id, step=step, scalars=dict(scalars))
            for key, (step, scalars) in self._progress.items()
        ]
        return worker_pb2.Heartbeat(held=self._held(), progress=progress)

    def _acceptance(self, offer: LeaseOffer) -> worker_pb2.LeaseAccepted:
        assert self._sealer is not None
        terms = offer.terms
        body = LeaseAcceptance(
            job_id=offer.job_id,
            lease_id=terms.key.lease_id,
            fence=terms.key.fence,
            device_key_id=self._link.device_key.key_id,
            device_id=terms.device_id,
            first_step=terms.first_step,
            step_count=terms.step_count,
        )
        return worker_pb2.LeaseAccepted(acceptance=self._sealer.seal(body, self._link.device_key))

    def _commitment(
        self, key: LeaseKey, segment: events.SegmentRecord, files: events.UploadedFiles
    ) -> worker_pb2.SegmentCommitted:
        assert self._sealer is not None
        device_key_id = self._link.device_key.key_id
        secret = self._openings.secret(key.lease_id, segment.index, device_key_id, segment.inner)
        body = Commitment(
            job_id=self._offers[key].job_id,
            lease_id=key.lease_id,
            fence=key.fence,
            device_key_id=self._link.device_key.key_id,
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
            commitment=self._sealer.seal(body, self._link.device_key),
            outputs_artifact=files.outputs_artifact,
            checkpoint_artifact=files.checkpoint_artifact,
            run_us=segment.times.run_us,
            build_us=segment.times.build_us,
            transfer_us=segment.times.transfer_us,
        )
