"""Blind audits: segments recomputed by workers of other accounts.

Who answers when is :mod:`flopmarket.trust.sealing`; the rows of ``audit`` are its memory. This room
turns what happens to an audit's lease, and the openings, into its events, and carries out what it
says. What an outcome costs whom is for the rooms below to do.
"""

from __future__ import annotations

from flopmarket.errors import Conflict, NotFound
from flopmarket.limits import MAX_AUDITS_PER_TICK
from flopmarket.trust import sealing
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.challenge import ChallengeRecord
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import digest
from flopmarket.trust.envelope import Envelope, open_envelope
from flopmarket.trust.modes import Mode
from flopmarket.trust.sealing import (
    AskAuditor,
    AskToOpen,
    AuditorFailed,
    AuditorOpened,
    Claim,
    Declined,
    Ended,
    Exchange,
    Failed,
    InnerSecret,
    Outcome,
    Phase,
    Refused,
    Sealed,
    Taken,
    TimePassed,
    WorkerOpened,
    handle,
)
from flopmarket_coordinator.application.arbitrating import ArbitratingUseCases
from flopmarket_coordinator.application.audit_draws import claim_of
from flopmarket_coordinator.application.audit_leases import NoLease
from flopmarket_coordinator.application.audit_outcomes import secret_of
from flopmarket_coordinator.application.sampling import Draw
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_working import (
    ExpireReport,
    Instruction,
    OpeningAsked,
    SegmentCommit,
    SegmentOpening,
)
from flopmarket_coordinator.application.views import lease_offer
from flopmarket_coordinator.core.auditing import AuditEnd, AuditPhase, AuditPurpose
from flopmarket_coordinator.core.leasing import ReleaseReason, RevokeReason
from flopmarket_coordinator.core.lifecycle import LeaseState
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.store import audits, identity, segments, work
from flopmarket_coordinator.store.audits import AuditCommitmentRow, AuditRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import LeaseRow, SegmentRow


class ExchangingUseCases(ArbitratingUseCases):
    """Audits as leases of other accounts' workers, their openings and their outcomes."""

    # --- beginning ----------------------------------------------------------------------------

    def _begin_audit(
        self,
        tx: Transaction,
        row: SegmentRow,
        drawn: Draw,
        purpose: AuditPurpose = AuditPurpose.AUDIT,
    ) -> None:
        """A segment was drawn: ask the auditors that were drawn with it, or leave it to the house.

        Where the house itself stands in the order, nobody behind it is asked.
        """
        job = self._job(tx, row.job_id)
        if purpose is AuditPurpose.AUDIT and job.level is Level.DUAL:
            purpose = AuditPurpose.DUAL
        order = drawn.order
        if self._key.key_id in order:
            order = order[: order.index(self._key.key_id)]
        audit = self._add_audit(tx, row, order, purpose, drawn.jitter_us if order else 0)
        if job.mode == Mode.CLASS:
            return  # the house has no canaries of a class, and nobody's place to take
        if not order:
            self._advance(tx, audit, TimePassed())
        elif purpose is AuditPurpose.AUDIT:
            self._send_canary(tx, row, order)

    # --- the passing of time ------------------------------------------------------------------

    def expire(self, tx: Transaction, *, resumed: bool = False) -> ExpireReport:
        """Also moves audits on: deadlines, auditors that became free, segments that fell."""
        report = super().expire(tx, resumed=resumed)
        if report.downtime_us:
            audits.extend(tx, report.downtime_us)
        for audit in audits.pointless(tx, MAX_AUDITS_PER_TICK):
            self._drop_audit(tx, audit)
        for audit in audits.of_banned(tx, MAX_AUDITS_PER_TICK):
            self._to_house(tx, audit, Outcome.UNANSWERED_DIFFERENCE)
        asking = not self._draining
        for audit in audits.due(tx, MAX_AUDITS_PER_TICK, begin=asking):
            self._advance(tx, self._audit(tx, audit.audit_id), TimePassed())
        for audit in audits.asking(tx, MAX_AUDITS_PER_TICK) if asking else ():
            self._ask(tx, self._audit(tx, audit.audit_id))
        return report

    def match(self, tx: Transaction) -> tuple[Instruction, ...]:
        """Also tells of audits' leases, and asks for openings."""
        told: list[Instruction] = list(super().match(tx))
        for lease in work.untold_audit_offers(tx):
            work.update_lease(tx, lease.lease_id, told=True)
            told.append(lease_offer(tx, self._job(tx, lease.job_id), lease))
        for audit in audits.untold(tx, MAX_AUDITS_PER_TICK):
            audits.update(tx, audit.audit_id, told=True)
            told.append(self._opening_asked(tx, audit))
        return tuple(told)

    def _openings_asked(self, tx: Transaction, device_key_id: str) -> list[Instruction]:
        """What a worker that connects is to open, of keys before its own too."""
        return [
            self._opening_asked(tx, audit)
            for each in identity.answers_for(tx, device_key_id)
            for audit in audits.waiting_for_key(tx, each)
        ]

    def _opening_asked(self, tx: Transaction, audit: AuditRow) -> OpeningAsked:
        question = self._segment(tx, audit.question_id)
        if audit.phase is AuditPhase.AUDITOR_OPENS:
            key, lease_id = audit.auditor_key_id, audit.lease_id
        else:
            key, lease_id = question.device_key_id, question.lease_id
        return OpeningAsked(key, lease_id, question.segment_index)

    # --- the exchange -------------------------------------------------------------------------

    def _exchange(self, tx: Transaction, audit: AuditRow) -> Exchange:
        question = self._segment(tx, audit.question_id)
        answer = self._answer(tx, audit, question)
        return Exchange(
            audit.audit_id,
            claim_of(question),
            audit.order,
            self._parameters.audit_waits,
            Phase(audit.phase.value),
            audit.deadline_us,
            audit.asked,
            None if answer is None else _answered(audit, answer),
            audit.auditor_inner,
        )

    def _advance(self, tx: Transaction, audit: AuditRow, event: sealing.Event) -> None:
        """Let something happen to an audit. Conflict where it does not fit; then nothing did."""
        before = self._exchange(tx, audit)
        after, said = handle(before, event, tx.now_us)
        if after == before:
            return
        audits.update(
            tx,
            audit.audit_id,
            phase=after.phase.value,
            asked=after.asked,
            deadline_us=after.deadline_us,
            auditor_inner=after.answer_inner,
            outcome=after.outcome.value if after.outcome else "",
        )
        if after.asked != before.asked or after.outcome is Outcome.NO_AUDITOR:
            self._dismiss(tx, audit, RevokeReason.NO_LONGER_NEEDED)
        for item in said:
            match item:
                case AuditorFailed(key_id):
                    reason = f"silent in audit {audit.audit_id}"
                    self._strike(tx, key_id, StrikeKind.AUDITOR_SILENT, reason)
                    if audit.purpose is AuditPurpose.ARBITER:
                        audits.update(tx, audit.audit_id, finding=AuditEnd.SILENT.value)
                case AskAuditor():
                    self._ask(tx, self._audit(tx, audit.audit_id))
                case AskToOpen():
                    self._ask_to_open(tx, self._audit(tx, audit.audit_id))
                case Ended(outcome):
                    self._conclude_audit(tx, self._audit(tx, audit.audit_id), outcome)

    def _ask(self, tx: Transaction, audit: AuditRow) -> None:
        """Give the work to the auditor in charge, if its device is free; else it is asked again."""
        if audit.phase is not AuditPhase.ASKING or self._draining:
            return
        row = self._segment(tx, audit.segment_id)
        lease = self._lease_audit(tx, audit, row, audit.order[audit.asked - 1])
        match lease:
            case LeaseRow():
                expected_us = self._expected_us(tx, lease, row)
                self._advance(tx, self._audit(tx, audit.audit_id), Taken(expected_us))
            case NoLease.NEVER:
                self._advance(tx, audit, Declined())
            case NoLease.NO_MONEY:
                self._to_house(tx, audit, Outcome.NO_AUDITOR)
            case NoLease.NOT_NOW:
                pass

    def _ask_to_open(self, tx: Transaction, audit: AuditRow) -> None:
        """Somebody is to open now. The worker is spared it where it did before, and where only the
        auditor is watched."""
        audits.update(tx, audit.audit_id, told=False)
        if audit.phase is not AuditPhase.WORKER_OPENS:
            return
        if audit.purpose is AuditPurpose.ARBITER:
            self._arbiter_answered(tx, audit)
            return
        if audit.purpose is AuditPurpose.CANARY:
            self._conclude_canary(tx, audit)
            return
        known = audits.opening_of(tx, audit.question_id)
        if known:
            audits.update(tx, audit.audit_id, worker_secret=known)
            self._advance(tx, self._audit(tx, audit.audit_id), WorkerOpened(secret_of(known)))

    # --- what an audit's worker does ----------------------------------------------------------

    def _end_lease(
        self, tx: Transaction, lease: LeaseRow, target: LeaseState, reason: str, detail: str
    ) -> None:
        """The story of a job tells nothing of its audits while they run: it has readers."""
        if not lease.audit_id:
            super()._end_lease(tx, lease, target, reason, detail)
            return
        told = target in (LeaseState.FINISHED, LeaseState.RELEASED)
        work.move_lease(
            tx, lease, target, reason=reason, detail=detail[:500], told=told, ended_at_us=tx.now_us
        )
        audit = self._audit(tx, lease.audit_id)
        if audit.lease_id == lease.lease_id and audit.phase is AuditPhase.SEALING:
            lapsed = target is LeaseState.EXPIRED and lease.state is LeaseState.RUNNING
            self._advance(tx, audit, Failed() if lapsed else Declined())

    def _after_lease(self, tx: Transaction, lease: LeaseRow) -> None:
        """The end of an audit's lease changes nothing about its job."""
        if not lease.audit_id:
            super()._after_lease(tx, lease)

    def _audit_counterpart(
        self, tx: Transaction, lease: LeaseRow, body: Commitment
    ) -> SegmentRow | None:
        """The segment that an auditor's commitment is compared with; None when there is none."""
        audit = self._audit(tx, lease.audit_id)
        if audit.lease_id != lease.lease_id or audit.phase is not AuditPhase.SEALING:
            return None
        rows = segments.live_from(tx, lease.job_id, body.first_step, 1)
        same = (body.first_step, body.steps_done)
        found = next((row for row in rows if (row.first_step, row.steps) == same), None)
        if found is None or found.root_before != body.state_root_before:
            return None
        return found

    def _commit_audit(
        self,
        tx: Transaction,
        lease: LeaseRow,
        other: SegmentRow,
        commit: SegmentCommit,
        body: Commitment,
        price_nano: int,
    ) -> ChallengeRecord:
        """An auditor's next segment. The first that differs is the one in question."""
        commitment_digest = digest(body)
        drawn = self._draw(tx, lease, commitment_digest, price_nano)
        audits.add_commitment(
            tx,
            {
                "commitment_digest": commitment_digest,
                "audit_id": lease.audit_id,
                "lease_id": lease.lease_id,
                "segment_index": body.segment_index,
                "first_step": body.first_step,
                "steps": body.steps_done,
                "price_nano": price_nano,
                "root_before": body.state_root_before,
                "root_after": body.state_root_after,
                "outputs_root": body.outputs_root,
                "outputs_artifact": commit.outputs_artifact,
                "checkpoint_artifact": commit.checkpoint_artifact,
                "sealed_inner": body.sealed_inner,
                "commitment": commit.commitment.to_bytes(),
                "rate_ppm": drawn.rate_ppm,
                "audited": drawn.audited,
                "challenge_value": drawn.value,
                "committed_at_us": tx.now_us,
            },
        )
        next_step = body.first_step + body.steps_done
        work.update_lease(
            tx,
            lease.lease_id,
            next_step=next_step,
            next_segment=body.segment_index + 1,
            next_root=body.state_root_after,
            expires_at_us=tx.now_us + self._parameters.lease_ttl_us,
        )
        audit = self._audit(tx, lease.audit_id)
        answered = (body.state_root_after, body.outputs_root)
        if (
            answered != (other.root_after, other.outputs_root)
            or other.segment_id == audit.segment_id
        ):
            self._seal_audit(tx, audit, other, body, commit.commitment)
        if next_step == lease.end_step:
            ended = work.lease(tx, lease.lease_id)
            assert ended is not None, "it was read a moment ago"
            if ended.state is LeaseState.RUNNING:
                self._end_lease(tx, ended, LeaseState.FINISHED, ReleaseReason.FINISHED, "")
        elif self._audit(tx, lease.audit_id).phase is not AuditPhase.SEALING:
            self._end_audit_lease(tx, lease.lease_id, RevokeReason.NO_LONGER_NEEDED)
        return drawn.record(commitment_digest, price_nano)

    def _audit_record(self, tx: Transaction, commitment_digest: bytes) -> ChallengeRecord | None:
        """What an auditor's commitment was answered with; None when there is no such one."""
        known = audits.commitment(tx, commitment_digest)
        lease = None if known is None else work.lease(tx, known.lease_id)
        if known is None or lease is None:
            return None
        return ChallengeRecord(
            known.segment_index - lease.first_segment + 1,
            commitment_digest,
            known.price_nano,
            0,
            known.challenge_value,
            known.rate_ppm,
            known.audited,
            (),
        )

    def _seal_audit(
        self,
        tx: Transaction,
        audit: AuditRow,
        question: SegmentRow,
        body: Commitment,
        commitment: Envelope,
    ) -> None:
        """The auditor's answer is there. Only now is it drawn whether a second one is asked."""
        producing = self._segment(tx, audit.segment_id).lease_id
        number = audit.seal_number or audits.count_seals(tx, producing) + 1
        audits.update(tx, audit.audit_id, question_id=question.segment_id, seal_number=number)
        answer = Claim(
            body.device_key_id, body.state_root_after, body.outputs_root, body.sealed_inner
        )
        self._advance(tx, self._audit(tx, audit.audit_id), Sealed(answer))
        if audit.purpose is AuditPurpose.AUDIT and not audit.seal_number:
            self._begin_cross(tx, self._audit(tx, audit.audit_id), commitment)

    # --- openings -----------------------------------------------------------------------------

    def segment_opened(self, tx: Transaction, session: Session, opening: SegmentOpening) -> None:
        """A worker opens a commitment, or says that it cannot. Signed by the key that committed,
        also where the session is of the one that took its place.

        :class:`Conflict` when nobody waits for it, or it is not what was committed to; whoever is
        honest sends neither.
        """
        lease = work.lease(tx, opening.lease_id)
        if lease is None or lease.device_key_id not in identity.answers_for(tx, session.key_id):
            raise NotFound("there is no such lease of this worker", code="UNKNOWN_LEASE")
        secret: InnerSecret | None = None
        if opening.secret is not None:
            opened = open_envelope(  # however long ago the key was rotated: it is bound to it
                opening.secret,
                InnerSecret,
                keys=lambda hint: self._public_key(tx, hint),
                audience=self._key.key_id,
                now_us=tx.now_us,
                replay=None,
            )
            if opened.key_id != lease.device_key_id:
                raise Conflict("opened by another key", code="AUDIT_NOT_EXPECTED")
            secret = opened.body
        waiting = self._waiting(tx, lease, opening.segment_index)
        if not waiting:
            raise Conflict(
                f"nobody asks for segment {opening.segment_index} of this lease",
                code="AUDIT_NOT_EXPECTED",
            )
        for audit in waiting:
            self._hear_opening(tx, audit, lease.device_key_id, opening.secret, secret)

    def _waiting(self, tx: Transaction, lease: LeaseRow, index: int) -> list[AuditRow]:
        if lease.audit_id:
            audit = self._audit(tx, lease.audit_id)
            question = self._segment(tx, audit.question_id)
            mine = audit.lease_id == lease.lease_id and question.segment_index == index
            return [audit] if mine and audit.phase is AuditPhase.AUDITOR_OPENS else []
        row = audits.segment_at(tx, lease.lease_id, index)
        if row is None:
            return []
        return audits.open_of_segment(tx, row.segment_id, AuditPhase.WORKER_OPENS)

    def _hear_opening(
        self,
        tx: Transaction,
        audit: AuditRow,
        key_id: str,
        envelope: Envelope | None,
        secret: InnerSecret | None,
    ) -> None:
        if envelope is None or secret is None:
            self._advance(tx, audit, Refused(key_id))
            return
        event: sealing.Event
        if audit.phase is AuditPhase.AUDITOR_OPENS:
            event = AuditorOpened(secret)
            audits.update(tx, audit.audit_id, auditor_secret=envelope.to_bytes())
        else:
            event = WorkerOpened(secret)
            audits.update(tx, audit.audit_id, worker_secret=envelope.to_bytes())
        self._advance(tx, self._audit(tx, audit.audit_id), event)


def _answered(audit: AuditRow, row: AuditCommitmentRow) -> Claim:
    return Claim(audit.auditor_key_id, row.root_after, row.outputs_root, row.sealed_inner)
