"""Use cases of workers: hello, heartbeats, leases accepted and given back, segments committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flopmarket.errors import Conflict, FlopmarketError, Forbidden, InvalidInput, NotFound
from flopmarket.jobs.spec import JobSpec
from flopmarket.limits import MAX_OFFERS_PER_WORKER, MAX_RELEASE_DETAIL_LENGTH
from flopmarket.market.offer import offer_from_terms, offer_id
from flopmarket.market.price import PriceTerms, price, surcharge
from flopmarket.trust.challenge import ChallengeRecord
from flopmarket.trust.device_class import class_of
from flopmarket.trust.documents import Commitment, LeaseAcceptance, OfferTerms
from flopmarket.trust.encoding import decode, digest, encode
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application.challenge_ends import ChallengeEndUseCases
from flopmarket_coordinator.application.dispatching import revocation
from flopmarket_coordinator.application.exchanging import ExchangingUseCases
from flopmarket_coordinator.application.predicting import note_delivery
from flopmarket_coordinator.application.sampling import drawn_text
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_auditing import AuditKind
from flopmarket_coordinator.application.types_working import (
    CommitmentAnswer,
    HeldLease,
    Hello,
    Instruction,
    LeaseRevoked,
    OfferRefused,
    SegmentCommit,
    Welcome,
)
from flopmarket_coordinator.application.views import lease_offer
from flopmarket_coordinator.core.events import EventKind, who
from flopmarket_coordinator.core.leasing import (
    CommitCode,
    ReleaseReason,
    RevokeReason,
    checkpoint_due,
)
from flopmarket_coordinator.core.lifecycle import (
    FINAL_JOB_STATES,
    LIVE_LEASE_STATES,
    JobState,
    LeaseState,
    SegmentState,
)
from flopmarket_coordinator.store import challenges, identity, jobs, segments, work
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import JobRow, LeaseRow


class _Refusal(Exception):
    """A commitment that does not count; leaves :meth:`WorkingUseCases.segment_committed` never."""

    def __init__(self, code: CommitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class WorkingUseCases(ExchangingUseCases, ChallengeEndUseCases):
    """Workers, as the coordinator hears them."""

    def worker_hello(self, tx: Transaction, session: Session, hello: Hello) -> Welcome:
        """A worker connected: list its offers, say which of its leases are still its own.

        Running leases that it does not know any more are taken back, offered ones are repeated.
        """
        self._require_device(tx, session)
        if len(hello.offers) > MAX_OFFERS_PER_WORKER:
            raise InvalidInput(
                f"{len(hello.offers)} offers, at most {MAX_OFFERS_PER_WORKER}",
                code="TOO_MANY_OFFERS",
            )
        session_id = self._new_id()
        work.put_worker(tx, session.key_id, session_id, hello.agent_version[:64])
        listed: set[str] = set()
        refused: list[OfferRefused] = []
        for envelope in hello.offers:
            outcome = self._list_offer(tx, session, envelope)
            if isinstance(outcome, OfferRefused):
                refused.append(outcome)
            else:
                listed.add(outcome)
        work.unlist_offers(tx, session.key_id, keep=listed)
        kept, lost = self._held(tx, session, hello.held)
        again: list[Instruction] = list(lost)
        known = {item.lease_id for item in kept}
        for lease in work.live_leases_of_key(tx, session.key_id):
            if lease.lease_id in known:
                continue
            if lease.state is LeaseState.OFFERED:
                again.append(lease_offer(tx, self._job(tx, lease.job_id), lease))
            else:
                self._end_lease(tx, lease, LeaseState.RELEASED, ReleaseReason.FORGOTTEN, "")
                self._after_lease(tx, lease)
        return Welcome(
            session_id,
            tx.now_us,
            self._parameters.heartbeat_ms,
            tuple(kept),
            tuple(refused),
            (
                *again,
                *self._openings_asked(tx, session.key_id),
                *self._steps_questions(tx, session.key_id),
            ),
        )

    def offer_changed(
        self, tx: Transaction, session: Session, offer: Envelope
    ) -> OfferRefused | None:
        """A new or changed offer of a connected worker; leases keep the terms they have."""
        self._require_device(tx, session)
        outcome = self._list_offer(tx, session, offer)
        return outcome if isinstance(outcome, OfferRefused) else None

    def offer_withdrawn(self, tx: Transaction, session: Session, device_id: str) -> None:
        """A device takes no new leases; one that it has goes on."""
        keep = {
            row.offer_id
            for row in work.listed_offers(tx, session.key_id)
            if row.device_id != device_id
        }
        work.unlist_offers(tx, session.key_id, keep=keep)

    def worker_gone(self, tx: Transaction, session: Session) -> None:
        """The connection ended: no new leases; those it has live until they expire."""
        work.lost_worker(tx, session.key_id)

    def lease_accepted(self, tx: Transaction, session: Session, acceptance: Envelope) -> None:
        """A worker takes a lease; from now on heartbeats keep it alive."""
        self._require_device(tx, session)
        opened, signed_by = self._open(tx, acceptance, LeaseAcceptance)
        body = opened.body
        lease = self._own_lease(tx, session, body.lease_id, body.fence)
        agreed = (body.job_id.hex(), body.device_id, body.first_step, body.step_count)
        if agreed != (lease.job_id, lease.device_id, lease.first_step, lease.step_count):
            raise Conflict("the acceptance is for other work", code="ACCEPTANCE_DIFFERS")
        if signed_by.key_id != session.key_id or body.device_key_id != session.key_id:
            raise Forbidden("a lease is accepted by its own key", code="WRONG_SIGNER")
        if lease.state is LeaseState.RUNNING:
            return
        expires_at_us = tx.now_us + self._parameters.lease_ttl_us
        work.move_lease(
            tx, lease, LeaseState.RUNNING, expires_at_us=expires_at_us, accepted_at_us=tx.now_us
        )
        if lease.audit_id:  # the story of a job tells nothing of its audits while they run
            return
        text = f"{who(lease.device_name, lease.device_key_id)} starts at step {lease.first_step}"
        jobs.record(tx, lease.job_id, EventKind.ACCEPTED, text, lease.lease_id)

    def lease_released(
        self,
        tx: Transaction,
        session: Session,
        lease_id: str,
        fence: int,
        reason: str,
        detail: str,
    ) -> None:
        """A worker gives a lease back. One that ended already is no error."""
        lease = work.lease(tx, lease_id)
        if lease is None or lease.device_key_id != session.key_id:
            raise NotFound("there is no such lease of this worker", code="UNKNOWN_LEASE")
        if lease.state not in LIVE_LEASE_STATES or lease.fence != fence:
            return
        if reason not in set(ReleaseReason):
            raise InvalidInput(f"{reason[:40]!r} is no reason to release", code="RELEASE_REASON")
        self._end_lease(tx, lease, LeaseState.RELEASED, reason, detail[:MAX_RELEASE_DETAIL_LENGTH])
        self._after_lease(tx, lease)
        owners = work.refusing_owners(tx, lease.job_id, ReleaseReason.PROGRAM_REFUSED)
        if owners >= self._parameters.max_job_refusals:
            self._begin_end(tx, lease.job_id, JobState.FAILED, "REFUSED_BY_WORKERS")

    def segment_committed(
        self, tx: Transaction, session: Session, commit: SegmentCommit
    ) -> CommitmentAnswer:
        """A worker's signed claim about a finished segment. The same claim again: the same answer.

        What does not fit is refused with a code in the answer; only a bad signature raises.
        """
        opened, signed_by = self._open(tx, commit.commitment, Commitment)
        self._require_key(session, signed_by)
        body = opened.body
        try:
            known = segments.of_commitment(tx, digest(body))
            record = self._audit_record(tx, digest(body))
            if known is not None:
                record = challenges.record_of(tx, known.segment_id)
            elif record is None:
                record = self._commit(tx, session, signed_by.key_id, commit, body)
        except _Refusal as refusal:
            return CommitmentAnswer(
                body.lease_id, body.segment_index, False, refusal.code, refusal.message
            )
        answer = CommitmentAnswer(body.lease_id, body.segment_index, True, "", "")
        if record is None:  # of a lease that was given before leases had terms
            return answer
        return replace(
            answer,
            challenge_value=record.value,
            rate_ppm=record.rate_ppm,
            audited=record.audited,
        )

    def _commit(
        self,
        tx: Transaction,
        session: Session,
        signer: str,
        commit: SegmentCommit,
        body: Commitment,
    ) -> ChallengeRecord | None:
        lease = work.lease(tx, body.lease_id)
        if lease is None or lease.device_key_id != session.key_id:
            raise _Refusal(CommitCode.UNKNOWN_LEASE, "there is no such lease of this worker")
        if signer != lease.device_key_id or body.device_key_id != lease.device_key_id:
            raise _Refusal(CommitCode.WRONG_SIGNER, "signed by another key than the lease's")
        job = self._job(tx, lease.job_id)
        _check_commitment(job, lease, body)
        self._check_artifacts(tx, job, lease, commit, body)
        terms = PriceTerms(lease.ask_nano_per_hour, lease.step_picoseconds)
        cost = price(terms, body.steps_done)
        if lease.audit_id:
            other = self._audit_counterpart(tx, lease, body)
            if other is None:
                raise _Refusal(CommitCode.LEASE_ENDED, "the lease is over")
            return self._commit_audit(tx, lease, other, commit, body, cost)
        commitment_digest = digest(body)
        draw = self._draw(tx, lease, commitment_digest, cost)
        record = draw.record(commitment_digest, cost) if draw.value else None
        segment_id = segments.add(
            tx,
            {
                "job_id": job.job_id,
                "lease_id": lease.lease_id,
                "segment_index": body.segment_index,
                "first_step": body.first_step,
                "steps": body.steps_done,
                "state": SegmentState.COMMITTED.value,
                "reason": "",
                "account_id": lease.account_id,
                "device_key_id": lease.device_key_id,
                "device_id": lease.device_id,
                "device_name": lease.device_name,
                "offer_id": lease.offer_id,
                "price_nano": cost,
                "surcharge_nano": surcharge(cost, self._surcharge_ppm(job, draw.detection_ppm)),
                "fee_nano": 0,
                "to_bond_nano": 0,
                "to_held_nano": 0,
                "held_state": "",
                "root_before": body.state_root_before,
                "root_after": body.state_root_after,
                "outputs_root": body.outputs_root,
                "outputs_artifact": commit.outputs_artifact,
                "checkpoint_artifact": commit.checkpoint_artifact,
                "commitment": commit.commitment.to_bytes(),
                "commitment_digest": commitment_digest,
                "verdict": None,
                "verdict_accepted": False,
                "committed_at_us": tx.now_us,
                "house_task": AuditKind.FILES.value,
                "challenge_digest": None if record is None else digest(record),
            },
        )
        if record is not None:
            challenges.add_record(tx, segment_id, lease.lease_id, record)
        measured_us = note_delivery(tx, job, lease, segment_id, body.steps_done, commit.times)
        next_step = body.first_step + body.steps_done
        work.update_lease(
            tx,
            lease.lease_id,
            next_step=next_step,
            next_segment=body.segment_index + 1,
            next_root=body.state_root_after,
            measured_us=measured_us,
            expires_at_us=tx.now_us + self._parameters.lease_ttl_us,
        )
        text = (
            f"segment {body.segment_index}, steps {body.first_step} to {next_step}, "
            f"{self._money(cost)}, {drawn_text(draw)}"
        )
        jobs.record(tx, job.job_id, EventKind.COMMITTED, text, lease.lease_id)
        if draw.audited:
            row = segments.get(tx, segment_id)
            assert row is not None, "it was written a moment ago"
            self._begin_audit(tx, row, draw)
        if next_step == lease.end_step:
            ended = work.lease(tx, lease.lease_id)
            assert ended is not None, "it was read a moment ago"
            self._end_lease(tx, ended, LeaseState.FINISHED, ReleaseReason.FINISHED, "")
        self._refresh(tx, job.job_id)
        return record

    def _check_artifacts(
        self, tx: Transaction, job: JobRow, lease: LeaseRow, commit: SegmentCommit, body: Commitment
    ) -> None:
        spec = decode(JobSpec, job.spec)
        end_step = body.first_step + body.steps_done
        due = checkpoint_due(
            spec,
            stateless=job.stateless,
            index=body.segment_index,
            end_step=end_step,
            lease_end=lease.end_step,
        )
        if due and not commit.checkpoint_artifact:
            raise _Refusal(
                CommitCode.CHECKPOINT_MISSING, f"a checkpoint is due after step {end_step}"
            )
        if job.stateless and commit.checkpoint_artifact:
            raise _Refusal(CommitCode.WRONG_STATE, "a program without a state has no checkpoint")
        if not commit.outputs_artifact:
            raise _Refusal(CommitCode.OUTPUTS_MISSING, "the outputs were not uploaded")
        for artifact in filter(None, (commit.outputs_artifact, commit.checkpoint_artifact)):
            if not work.may_read(tx, artifact, lease.account_id):
                raise _Refusal(
                    CommitCode.ARTIFACT_MISSING, f"artifact {artifact[:80]} was not uploaded"
                )

    def _held(
        self, tx: Transaction, session: Session, held: Sequence[HeldLease]
    ) -> tuple[list[HeldLease], list[LeaseRevoked]]:
        """Renew the leases a worker says it holds; tell of those that are not its own any more."""
        live = {lease.lease_id: lease for lease in work.live_leases_of_key(tx, session.key_id)}
        kept: list[HeldLease] = []
        lost: list[LeaseRevoked] = []
        for item in held:
            lease = live.get(item.lease_id)
            if lease is not None and lease.fence == item.fence:
                kept.append(item)
                continue
            ended = work.lease(tx, item.lease_id)
            if ended is None or ended.device_key_id != session.key_id:
                why = RevokeReason.UNKNOWN_LEASE
                lost.append(LeaseRevoked(session.key_id, item.lease_id, item.fence, why, ""))
            elif ended.state is not LeaseState.FINISHED:
                work.update_lease(tx, ended.lease_id, told=True)
                lost.append(revocation(ended))
        work.renew_leases(
            tx,
            session.key_id,
            [item.lease_id for item in kept],
            tx.now_us + self._parameters.lease_ttl_us,
        )
        return kept, lost

    def _list_offer(
        self, tx: Transaction, session: Session, envelope: Envelope
    ) -> str | OfferRefused:
        """The id of a listed offer, or why it is not listed."""
        device_id = ""
        try:
            opened, signed_by = self._open(tx, envelope, OfferTerms)
            terms = opened.body
            device_id = terms.device_id
            if signed_by.key_id != session.key_id or terms.device_key_id != session.key_id:
                raise Forbidden("an offer is signed by the key that makes it", code="WRONG_SIGNER")
            if terms.account_id != session.account_id:
                raise Forbidden("an offer is for the key's own account", code="OFFER_OTHER_ACCOUNT")
            offer_from_terms(terms)  # refuses figures that cannot be priced
            self._check_quarantine(tx, session.key_id, opened.header.issued_at_us)
        except FlopmarketError as error:
            return OfferRefused(device_id, error.code, error.message)
        listed_as = offer_id(identity.lineage(tx, session.key_id), terms.device_id)
        work.put_offer(
            tx,
            listed_as,
            {
                "account_id": session.account_id,
                "device_key_id": session.key_id,
                "device_id": terms.device_id,
                "envelope": envelope.to_bytes(),
                "terms": encode(terms),
                "listed": True,
                "updated_at_us": tx.now_us,
                "audit_lot": self._chains.lot(session.key_id),
                "exact": Mode.EXACT in terms.modes,
                "device_class": (class_of(terms) or b"").hex(),
                "card_fingerprint": terms.card_fingerprint.hex(),
            },
        )
        self._offer_listed(tx, listed_as, terms)
        return listed_as

    def _require_device(self, tx: Transaction, session: Session) -> None:
        if session.role is not KeyRole.DEVICE:
            raise Forbidden("workers come with a device key", code="NOT_A_DEVICE")
        row = identity.key(tx, session.key_id)
        if row is None or row.revoked:
            raise banned_error(session.key_id, "" if row is None else row.banned_reason)

    def _own_lease(self, tx: Transaction, session: Session, lease_id: str, fence: int) -> LeaseRow:
        lease = work.lease(tx, lease_id)
        if lease is None or lease.device_key_id != session.key_id:
            raise NotFound("there is no such lease of this worker", code="UNKNOWN_LEASE")
        if lease.fence != fence:
            raise Conflict(
                f"fence {fence} is stale, the lease has {lease.fence}", code="STALE_FENCE"
            )
        if lease.state not in LIVE_LEASE_STATES:
            raise Conflict(f"the lease ended: {lease.state} {lease.reason}", code="LEASE_ENDED")
        return lease


def _check_commitment(job: JobRow, lease: LeaseRow, body: Commitment) -> None:
    """Raise :class:`_Refusal` unless this is the next segment of a live lease."""
    if body.job_id.hex() != lease.job_id:
        raise _Refusal(CommitCode.WRONG_JOB, "the lease is for another job")
    newest = lease.fence if lease.audit_id or not lease.chain else job.fence
    if body.fence != lease.fence or newest != lease.fence:
        raise _Refusal(
            CommitCode.STALE_FENCE,
            f"fence {body.fence} is stale, the job is at {job.fence}",
        )
    if not lease.audit_id and (job.state in FINAL_JOB_STATES or job.ending):
        raise _Refusal(CommitCode.JOB_ENDED, f"the job is {job.ending or job.state}")
    if lease.state is not LeaseState.RUNNING:
        raise _Refusal(CommitCode.LEASE_ENDED, f"the lease is {lease.state} {lease.reason}".strip())
    if (body.first_step, body.segment_index) != (lease.next_step, lease.next_segment):
        raise _Refusal(
            CommitCode.WRONG_RANGE,
            f"segment {body.segment_index} from step {body.first_step}; segment "
            f"{lease.next_segment} from step {lease.next_step} is due",
        )
    if body.steps_done > min(job.segment_steps, lease.end_step - body.first_step):
        raise _Refusal(
            CommitCode.WRONG_RANGE,
            f"{body.steps_done} steps, a segment has at most {job.segment_steps} and the lease "
            f"ends at step {lease.end_step}",
        )
    stays = job.stateless and body.state_root_after != body.state_root_before
    if body.state_root_before != lease.next_root or stays:
        raise _Refusal(CommitCode.WRONG_STATE, "the segment does not start from the agreed state")


def banned_error(key_id: str, reason: str) -> Forbidden:
    """What a worker whose key was ended is told."""
    return Forbidden(f"key {key_id} is banned: {reason}", code="KEY_BANNED")
