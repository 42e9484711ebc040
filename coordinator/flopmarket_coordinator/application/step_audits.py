"""Step audits under way: what the worker is asked, its signed words, and its silence.

The protocol is :mod:`flopmarket.trust.step_audit`. What the house finds when it runs the drawn
steps is applied in :mod:`flopmarket_coordinator.application.auditing`.
"""

from __future__ import annotations

from dataclasses import replace

from flopmarket.errors import Conflict, InvalidInput, NotFound
from flopmarket.limits import (
    MAX_AUDITS_PER_TICK,
    MAX_BUNDLE_BYTES,
    MAX_CHECKSUM_LIST_BYTES,
    MAX_STEP_STATES_BYTES,
    MAX_WORKER_STEP_AUDITS,
)
from flopmarket.trust.audit_policy import Consequence, after_silence
from flopmarket.trust.challenge import Purpose
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import DIGEST_BYTES, AnyDocument
from flopmarket.trust.envelope import Envelope, open_envelope, unverified_body
from flopmarket.trust.step_audit import (
    NO_VALUES,
    StepAnswer,
    StepClaim,
    StepCode,
    check_answer,
    check_claim,
    drawn_by,
)
from flopmarket_coordinator.application.audit_leases import AuditLeaseUseCases
from flopmarket_coordinator.application.sampling import terms_of
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_steps import StepTask
from flopmarket_coordinator.application.types_working import (
    ExpireReport,
    Instruction,
    StepsAnswered,
    StepsAsked,
)
from flopmarket_coordinator.application.views import lease_offer
from flopmarket_coordinator.core.auditing import AuditEnd, StepPhase
from flopmarket_coordinator.core.penalties import StrikeKind
from flopmarket_coordinator.core.verification import VoidReason
from flopmarket_coordinator.store import (
    audits,
    challenges,
    collecting,
    identity,
    segments,
    step_audits,
    work,
)
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import LeaseRow, SegmentRow
from flopmarket_coordinator.store.step_audits import StepAuditRow


class StepAuditUseCases(AuditLeaseUseCases):
    """Workers that answer for single steps."""

    # ------------------------------------------------------------ the passing of time

    def expire(self, tx: Transaction, *, resumed: bool = False) -> ExpireReport:
        """Also ends step audits that nobody answers any more, or nobody needs."""
        report = super().expire(tx, resumed=resumed)
        if report.downtime_us:
            step_audits.extend(tx, report.downtime_us)
        for audit in step_audits.pointless(tx, MAX_AUDITS_PER_TICK):
            self._close_steps(tx, audit, AuditEnd.VOID)
        for audit in step_audits.over(tx, MAX_AUDITS_PER_TICK):
            row = segments.get(tx, audit.segment_id)
            assert row is not None, "a step audit refers to a segment"
            self._steps_unanswered(tx, audit, row, "no answer in time")
        return report

    def match(self, tx: Transaction) -> tuple[Instruction, ...]:
        """Also asks workers about steps."""
        told: list[Instruction] = list(super().match(tx))
        for audit in step_audits.untold(tx, MAX_AUDITS_PER_TICK):
            step_audits.update(tx, audit.step_audit_id, told=True)
            told.append(self._steps_asked(tx, audit))
        return tuple(told)

    def _steps_questions(self, tx: Transaction, device_key_id: str) -> list[Instruction]:
        """What a worker that connects is asked, about work under earlier keys too."""
        return [
            self._steps_asked(tx, audit)
            for each in identity.answers_for(tx, device_key_id)
            for audit in step_audits.asked_of(tx, each, MAX_WORKER_STEP_AUDITS)
        ]

    def _steps_asked(self, tx: Transaction, audit: StepAuditRow) -> StepsAsked:
        row = segments.get(tx, audit.segment_id)
        assert row is not None, "a step audit refers to a segment"
        job, lease = self._job(tx, row.job_id), work.lease(tx, row.lease_id)
        assert lease is not None, "a segment refers to a lease"
        if job.stateless:
            artifact, root, step = job.state_artifact, row.root_before, row.first_step
        else:
            start = self._replay_start(tx, row)
            artifact, root, step = start.state_artifact, start.state_root, start.step
        offered = lease_offer(
            tx,
            job,
            replace(
                lease,
                lease_id=audit.step_audit_id,
                fence=0,
                first_step=step,
                step_count=row.first_step + row.steps - step,
                first_segment=step // job.segment_steps,
                state_artifact=artifact,
                state_root=root,
                expires_at_us=audit.deadline_us,
            ),
        )
        steps: tuple[int, ...] = ()
        if audit.phase is StepPhase.STATES:
            steps = self._steps_drawn(tx, audit, row)
        return StepsAsked(
            row.device_key_id,
            row.lease_id,
            row.segment_index,
            steps,
            audit.with_values,
            audit.deadline_us,
            offered,
            Envelope.from_bytes(row.commitment),
            Envelope.from_bytes(audit.claim) if audit.claim else None,
        )

    def _steps_drawn(
        self, tx: Transaction, audit: StepAuditRow, row: SegmentRow
    ) -> tuple[int, ...]:
        """The steps that the lease's chain draws, now that the claim is there."""
        stored = challenges.get(tx, row.lease_id)
        assert stored is not None, "the terms say that steps are drawn"
        claim = unverified_body(audit.claim, StepClaim)
        body = unverified_body(row.commitment, Commitment)
        return drawn_by(audit.value, claim, body, stored.audit_steps)

    # ------------------------------------------------------------ what the worker says

    def steps_answered(self, tx: Transaction, session: Session, answered: StepsAnswered) -> None:
        """A worker's claim, its answer, or that it has none. Signed by the key that committed,
        also where the session is of the one that took its place.

        :class:`Conflict` when nobody waits for it, :class:`InvalidInput` for words that are not
        about the question, or files that were not uploaded; whoever is honest sends neither.
        """
        lease = work.lease(tx, answered.lease_id)
        if lease is None or lease.device_key_id not in identity.answers_for(tx, session.key_id):
            raise NotFound("there is no such lease of this worker", code="UNKNOWN_LEASE")
        row = audits.segment_at(tx, lease.lease_id, answered.segment_index)
        audit = None if row is None else step_audits.open_of_segment(tx, row.segment_id)
        if row is None or audit is None or audit.phase is StepPhase.HOUSE:
            raise _not_expected()
        if answered.claim is None and answered.answer is None:
            said = f"{answered.code[:64]}: {answered.message[:500]}"
            self._steps_unanswered(tx, audit, row, said)
        elif audit.phase is StepPhase.ROOTS and answered.claim is not None:
            self._hear_claim(tx, audit, row, lease, answered.claim)
        elif audit.phase is StepPhase.STATES and answered.answer is not None:
            self._hear_answer(tx, audit, row, lease, answered.answer)
        else:
            raise _not_expected()

    def _hear_claim(
        self,
        tx: Transaction,
        audit: StepAuditRow,
        row: SegmentRow,
        lease: LeaseRow,
        envelope: Envelope,
    ) -> None:
        claim = self._signed_by_worker(tx, lease, envelope, StepClaim)
        check_claim(claim, unverified_body(row.commitment, Commitment))
        self._uploaded(tx, claim.checksums, MAX_CHECKSUM_LIST_BYTES)
        self._uploaded(tx, claim.roots, (row.steps + 1) * DIGEST_BYTES)
        stored = challenges.get(tx, row.lease_id)
        assert stored is not None, "the terms say that steps are drawn"
        chain = self._chains.get(row.lease_id, Purpose.STEPS, terms_of(stored).values)
        number = step_audits.count_claims(tx, row.lease_id) + 1
        step_audits.update(
            tx,
            audit.step_audit_id,
            phase=StepPhase.STATES.value,
            claim=envelope.to_bytes(),
            files="\n".join((claim.checksums.hex(), claim.roots.hex())),
            number=number,
            value=chain.value(number),
            told=False,
            deadline_us=tx.now_us + self._parameters.audit_waits.worker_us,
        )

    def _hear_answer(
        self,
        tx: Transaction,
        audit: StepAuditRow,
        row: SegmentRow,
        lease: LeaseRow,
        envelope: Envelope,
    ) -> None:
        answer = self._signed_by_worker(tx, lease, envelope, StepAnswer)
        drawn = self._steps_drawn(tx, audit, row)
        claim = unverified_body(audit.claim, StepClaim)
        check_answer(answer, claim, drawn, with_values=audit.with_values)
        files = [state.state for state in answer.states]
        files += [state.values for state in answer.states if state.values != NO_VALUES]
        total = sum(self._uploaded(tx, file, MAX_BUNDLE_BYTES) for file in files)
        if total > 2 * MAX_STEP_STATES_BYTES:
            raise InvalidInput(f"{total} bytes of states and values", code="STEP_ANSWER")
        step_audits.update(
            tx,
            audit.step_audit_id,
            phase=StepPhase.HOUSE.value,
            answer=envelope.to_bytes(),
            files="\n".join((audit.files, *(file.hex() for file in files))),
        )

    def _uploaded(self, tx: Transaction, digest: bytes, most: int) -> int:
        """Size of a file that an answer names; InvalidInput (STEP_FILE) when it is not here."""
        size = work.artifact_size(tx, digest.hex())
        if size is None or size > most:
            raise InvalidInput(f"file {digest.hex()} was not uploaded", code="STEP_FILE")
        return size

    def _signed_by_worker(
        self, tx: Transaction, lease: LeaseRow, envelope: Envelope, kind: type[AnyDocument]
    ) -> AnyDocument:
        opened = open_envelope(  # however long ago the key was rotated: it is bound to it
            envelope,
            kind,
            keys=lambda hint: self._public_key(tx, hint),
            audience=self._key.key_id,
            now_us=None,
            replay=None,
        )
        if opened.key_id != lease.device_key_id:
            raise _not_expected()
        return opened.body

    # ------------------------------------------------------------ ends

    def _steps_unanswered(
        self, tx: Transaction, audit: StepAuditRow, row: SegmentRow, why: str
    ) -> None:
        """No answer, or none of use: the unit is void, a strike; the fifth within the window of
        strikes costs the stake. The device's streak is zero, so everything is audited again."""
        rules = self._parameters.audit_rules
        reason = VoidReason.STEPS_UNANSWERED
        self._close_steps(tx, audit, StepCode.UNUSABLE, why)
        unit, silences = self._record(tx, row.device_key_id, row.segment_id, StrikeKind.SILENCE)
        work.end_streak(tx, self._device_keys(tx, row.device_key_id))
        self._void_unit(tx, row, reason, strike=StrikeKind.SILENCE)
        if after_silence(rules, unit, silences, roots_differ=False) is Consequence.SLASH:
            often = f"{rules.allowed_silences + 1} times within {rules.strike_window_units}"
            cause = f"{reason}, {often}"
            self._slash_stake(tx, row.device_key_id, reason, cause, row.job_id, row.segment_id)

    def _steps_outside(self, tx: Transaction, row: SegmentRow) -> None:
        """Tolerance mode: values that honest devices were never seen to differ by, and that some
        rounding could still give. The unit is void and unpaid, a strike; nothing is forfeited. The
        device's streak is zero, so all its next segments are looked at."""
        reason = VoidReason.TOLERANCE_OUTSIDE
        work.end_streak(tx, self._device_keys(tx, row.device_key_id))
        self._void_unit(tx, row, reason, strike=StrikeKind.TOLERANCE_OUTSIDE)

    def _close_steps(
        self, tx: Transaction, audit: StepAuditRow, outcome: StepCode | AuditEnd, detail: str = ""
    ) -> None:
        """Its files are let go, unless they convict somebody."""
        row = segments.get(tx, audit.segment_id)
        assert row is not None, "a step audit refers to a segment"
        if outcome.value not in collecting.CONVICTING:
            collecting.release(tx, audit.files.split(), row.account_id)
        step_audits.update(
            tx,
            audit.step_audit_id,
            phase=StepPhase.ENDED.value,
            outcome=outcome.value,
            detail=detail[:500],
            ended_at_us=tx.now_us,
        )

    def _step_task(self, tx: Transaction, row: SegmentRow) -> StepTask:
        """What the house is to run."""
        audit = step_audits.open_of_segment(tx, row.segment_id)
        assert audit is not None and audit.answer, "it waits for the house"
        return StepTask(
            audit.step_audit_id,
            unverified_body(row.commitment, Commitment),
            unverified_body(audit.claim, StepClaim),
            unverified_body(audit.answer, StepAnswer),
            audit.with_values,
            row.outputs_artifact,
        )


def _not_expected() -> Conflict:
    return Conflict("nobody asks this about a segment of this lease", code="AUDIT_NOT_EXPECTED")
