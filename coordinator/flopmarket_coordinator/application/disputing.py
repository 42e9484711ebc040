"""Disputes between two workers, or a worker and the house, about one segment.

The events of a dispute are rows, in order: lists as they arrived, time that ran out, questions that
were asked again after the coordinator was away. What they come to is computed outside the writer
(:mod:`flopmarket_coordinator.daemons.referee`) and returns as a :class:`RefereeFinding`; a process
that is started anew plays the same events again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flopmarket.errors import InvalidInput, NotFound
from flopmarket.jobs.spec import JobSpec
from flopmarket.limits import (
    MAX_DISPUTE_ASKED_AGAIN,
    MAX_DISPUTE_MOVE_BYTES,
    MAX_DISPUTE_MOVES,
    MAX_DISPUTE_STEPS,
    MAX_HOUSE_DISPUTES,
    MAX_INLINE_DISPUTE_BYTES,
    MAX_OPEN_DISPUTES,
)
from flopmarket.trust.audit_policy import Signature
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    Claim,
    DisputeOpening,
    DisputeVerdict,
    Level,
    Outcome,
    Party,
    Reason,
)
from flopmarket.trust.dispute_documents import DisputeMove as SignedMove
from flopmarket.trust.dispute_port import Place
from flopmarket.trust.encoding import decode, digest, encode
from flopmarket.trust.envelope import Envelope, Header, open_envelope, seal
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.transcript import RecordKind, payload_digest, seal_move
from flopmarket_coordinator.application.context import page_size
from flopmarket_coordinator.application.dispute_access import roles_of
from flopmarket_coordinator.application.judging import VERDICT_LIFETIME_US, JudgingUseCases
from flopmarket_coordinator.application.types import AuditKind, AuditResult, ExpireReport, Session
from flopmarket_coordinator.application.types_disputes import (
    DisputeAsked,
    DisputeMove,
    DisputePage,
    DisputeView,
    RefereeFinding,
    RefereeTask,
)
from flopmarket_coordinator.application.views import lease_offer
from flopmarket_coordinator.core.events import EventKind
from flopmarket_coordinator.core.leasing import restart_point
from flopmarket_coordinator.core.lifecycle import LIVE_SEGMENT_STATES
from flopmarket_coordinator.core.verification import VerdictCode
from flopmarket_coordinator.store import disputes, identity, jobs, work
from flopmarket_coordinator.store.disputes import DisputeRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow

_log = logging.getLogger(__name__)

_LATE_QUESTION_US = 5_000_000
"""A question that goes out later than this after its time began gets its time anew."""
_ANY_PAGE = "disputes"
_UNKNOWN = bytes(32)
"""In place of an ``inner`` that nobody has opened: roots that differ need none."""


class DisputingUseCases(JudgingUseCases):
    """The protocol of docs/disputes.md between the parties."""

    # ------------------------------------------------------------ inside the application

    def _open_dispute(
        self,
        tx: Transaction,
        row: SegmentRow,
        claim: Claim,
        other: Claim,
        *,
        audit_id: str = "",
        auditor_account: str = "",
        auditor_device: str = "",
    ) -> str:
        """Ask both parties how they came to different ends of a segment; the dispute's id.

        ``claim`` is what the segment's worker committed to, ``other`` what somebody else did: a
        device key, or the coordinator's own key for the house. Empty when lists cannot decide it
        (too many steps) or too many disputes are open: then a third run does.
        """
        if row.steps > MAX_DISPUTE_STEPS or disputes.count_open(tx) >= MAX_OPEN_DISPUTES:
            return ""
        job = self._job(tx, row.job_id)
        opening = DisputeOpening(
            audience=self._key.key_id,
            job_id=bytes.fromhex(row.job_id),
            segment_index=row.segment_index,
            first_step=row.first_step,
            steps=row.steps,
            state_root_before=row.root_before,
            producer=claim,
            auditor=other,
            opened_at_us=tx.now_us,
            answer_us=self._parameters.dispute_waits.answer_us,
        )
        artifact, root, step = job.state_artifact, row.root_before, row.first_step
        if not job.stateless:
            newest = jobs.newest_checkpoint(tx, row.job_id, row.first_step, checked=True)
            before = [] if newest is None else [newest.part()]
            start, _ = restart_point(decode(JobSpec, job.spec), job.state_artifact, before)
            artifact, root, step = start.state_artifact, start.state_root, start.step
        dispute_id = digest(opening).hex()
        auditor_key = PublicKey(other.key).key_id
        disputes.add(
            tx,
            {
                "dispute_id": dispute_id,
                "job_id": row.job_id,
                "segment_id": row.segment_id,
                "audit_id": audit_id,
                "opening": encode(opening),
                "producer_key_id": PublicKey(claim.key).key_id,
                "producer_account": row.account_id,
                "auditor_key_id": auditor_key,
                "auditor_account": auditor_account,
                "auditor_device_id": auditor_device,
                "replay_artifact": artifact,
                "replay_step": step,
                "replay_root": root,
                "level": Level.STEPS.value,
                "step": -1,
                "operation": -1,
                "tile": -1,
                "deadline_us": opening.opened_at_us + opening.answer_us,
                "event_count": 0,
                "handled_count": 0,
                "asked_again": 0,
                "opened_at_us": tx.now_us,
                "ended_at_us": 0,
                "outcome": "",
                "reason": "",
                "verdict": None,
                "transcript_artifact": "",
            },
        )
        text = f"segment {row.segment_index}: two different ends, dispute {dispute_id[:16]}"
        jobs.record(tx, row.job_id, EventKind.DISPUTED, text, dispute_id)
        return dispute_id

    def _after_dispute(
        self,
        tx: Transaction,
        dispute: DisputeRow,
        verdict: DisputeVerdict,
        signatures: Mapping[Party, Signature],
    ) -> None:
        """What follows beyond the producer's own segment; audits of other workers override it.

        Where the house itself was the other party and is not found wrong, its recomputation stands
        though the lists could not decide; where it is, it computes the segment once more, and the
        second time that it is, the worker's word stands.
        """
        if dispute.auditor_key_id != self._key.key_id:
            return
        row = self._disputed(tx, dispute)
        if row is None or verdict.outcome is Outcome.PRODUCER_WRONG:
            return
        if verdict.outcome is Outcome.THIRD_RUN:
            self._reject_disputed(tx, row, dispute.question, None)
            return
        _log.error(
            "dispute %s: the house's own engine computed other bits than the reference (%s)",
            dispute.dispute_id,
            verdict.seen,
        )
        lost = disputes.lost_by(tx, row.segment_id, self._key.key_id)
        if lost < MAX_HOUSE_DISPUTES:
            jobs.update_segment(tx, row, house_task=AuditKind.RECOMPUTE.value)
        else:
            self._believe_worker(tx, row)

    def _believe_worker(self, tx: Transaction, row: SegmentRow) -> None:
        """The house lost again: its engine has a fault, and the worker's word stands."""
        found = AuditResult(row.root_after, row.outputs_root, None, None)
        accepted = self._verdict(tx, row, VerdictCode.EQUAL, found).to_bytes()
        self._accept(tx, row, accepted, auditor=self._key.key_id)

    def _open_house_dispute(self, tx: Transaction, row: SegmentRow, found: AuditResult) -> str:
        """Let a worker answer for what the house found otherwise; the dispute's id, empty where
        lists cannot decide it. The segment stays what it is, the house's task stays open and is
        not served meanwhile."""
        worker = identity.key(tx, row.device_key_id)
        assert worker is not None, "it signed a commitment"
        opened = self._open_dispute(
            tx,
            row,
            Claim(worker.public_key, row.root_after, row.outputs_root, _UNKNOWN),
            Claim(
                self._key.public.raw,
                found.state_root,
                found.outputs_root,
                found.inner or _UNKNOWN,
            ),
        )
        if opened:
            jobs.update_segment(tx, row, house_task=AuditKind.RECOMPUTE.value)
        return opened

    # ------------------------------------------------------------ ends without a verdict

    def _drop_dispute(self, tx: Transaction, row: DisputeRow, reason: Reason) -> None:
        """Nothing is left to decide, or nobody to ask."""
        disputes.forget_lists(tx, row.dispute_id)
        finding = RefereeFinding.undecided(row, reason, "nothing is left to decide")
        assert finding.verdict is not None, "it was made with one"
        self._note_end(tx, row, finding, finding.verdict)

    def _without_party(self, tx: Transaction, row: DisputeRow) -> None:
        """A party may not act any more. Where the house is the other one, its word stands; audits
        of other workers override it."""
        segment = self._disputed(tx, row)
        if segment is not None and row.auditor_key_id == self._key.key_id:
            self._reject_disputed(tx, segment, row.question, None)

    def _drop_disputes(self, tx: Transaction) -> None:
        for row in disputes.of_banned(tx):
            self._drop_dispute(tx, row, Reason.PARTY_BANNED)
            self._without_party(tx, row)
        for row in disputes.pointless(tx):
            self._drop_dispute(tx, row, Reason.SEGMENT_VOID)

    # ------------------------------------------------------------ parties

    def dispute_questions(self, tx: Transaction, key_id: str) -> tuple[DisputeAsked, ...]:
        """What a device key is asked and has not answered."""
        return tuple(
            self._question(tx, row, party)
            for row in disputes.open_ones(tx, key_id)
            for party in _parties_of(row, key_id)
            if party not in _answered(tx, row)
        )

    def dispute_over(self, tx: Transaction, dispute_id: str) -> tuple[DisputeAsked, ...]:
        """That nothing is asked any more, to both parties of a dispute that ended."""
        row = self._dispute(tx, dispute_id)
        return tuple(
            replace(self._question(tx, row, party), level=None)
            for party in Party
            if row.ended_at_us and _key_of(row, party) != self._key.key_id
        )

    def dispute_moved(self, tx: Transaction, session: Session, move: DisputeMove) -> None:
        """A party's answer. One to a question that is not open any more changes nothing.

        Raises NotFound, EnvelopeError or InvalidInput (DISPUTE_MOVE) for what is not the party's
        signed word; the list itself is read by the referee.
        """
        row = self._dispute(tx, move.dispute_id)
        parties = _parties_of(row, session.key_id)
        if not parties:
            raise NotFound("there is no such dispute of this key", code="UNKNOWN_DISPUTE")
        party = parties[0]
        opening = row.question
        key = PublicKey(opening.claim(party).key)
        signed = open_envelope(
            move.envelope,
            SignedMove,
            keys={key.key_id: key},
            audience=self._key.key_id,
            now_us=None,
            replay=None,
        ).body
        if signed.dispute_id.hex() != row.dispute_id:
            raise InvalidInput("the move is signed for another dispute", code="DISPUTE_MOVE")
        if row.ended_at_us or signed.level.value != row.level or party in _answered(tx, row):
            return
        if row.event_count >= MAX_DISPUTE_MOVES:
            return  # it has sent nothing but lists that it did not sign: it is silent
        self._check_list(tx, move, signed)
        disputes.add_event(
            tx,
            row,
            RecordKind.MOVE.value,
            party=party.value,
            envelope=move.envelope.to_bytes(),
            payload=move.payload,
            payload_artifact=move.payload_artifact,
        )

    def _check_list(self, tx: Transaction, move: DisputeMove, signed: SignedMove) -> None:
        if move.payload_artifact:
            size = work.artifact_size(tx, move.payload_artifact)
            if size is None or size > MAX_DISPUTE_MOVE_BYTES or move.payload:
                raise InvalidInput("the list was not uploaded", code="DISPUTE_MOVE")
            return
        if len(move.payload) > MAX_INLINE_DISPUTE_BYTES:
            raise InvalidInput("a list of this size is uploaded", code="DISPUTE_MOVE")
        if payload_digest(move.payload) != signed.payload_digest:
            raise InvalidInput("the list is not the one that was signed", code="DISPUTE_MOVE")

    def house_questions(self, tx: Transaction) -> tuple[DisputeAsked, ...]:
        """What the house is asked where it is a party itself."""
        return self.dispute_questions(tx, self._key.key_id)

    def house_moved(
        self,
        tx: Transaction,
        asked: DisputeAsked,
        list_digest: bytes,
        payload: bytes,
        artifact: str,
        size_bytes: int,
    ) -> None:
        """The house's answer to a question; signed here, where its key is."""
        row = self._dispute(tx, asked.dispute_id)
        level = asked.level
        if level is None or row.ended_at_us or row.level != level.value:
            return
        if asked.party in _answered(tx, row):
            return
        envelope = seal_move(
            row.question, level, list_digest, self._key, self._entropy(16), tx.now_us
        )
        if artifact:
            disputes.add_artifact(tx, artifact, size_bytes)
        disputes.add_event(
            tx,
            row,
            RecordKind.MOVE.value,
            party=asked.party.value,
            envelope=envelope.to_bytes(),
            payload=payload,
            payload_artifact=artifact,
        )

    # ------------------------------------------------------------ the referee

    def open_disputes(self, tx: Transaction) -> tuple[DisputeRow, ...]:
        """All that last, oldest first."""
        return tuple(disputes.open_ones(tx))

    def referee_task(self, tx: Transaction, dispute_id: str, *, whole: bool) -> RefereeTask:
        """What the referee judges: events since it judged last, or from the beginning."""
        row = self._dispute(tx, dispute_id)
        job = self._job(tx, row.job_id)
        first = 0 if whole else row.handled_count
        events = tuple(disputes.events(tx, dispute_id, first))
        return RefereeTask(row, job.spec, job.program_artifact, events)

    def dispute_files(self, tx: Transaction, row: DisputeRow) -> tuple[str, str, str]:
        """Artifacts of the job behind a dispute: program, frozen tensors, data; empty for none."""
        job = self._job(tx, row.job_id)
        return job.program_artifact, job.frozen_artifact, job.data_artifact

    def dispute_judged(self, tx: Transaction, finding: RefereeFinding) -> bool:
        """Apply what the referee found; False when somebody was faster."""
        row = self._dispute(tx, finding.dispute_id)
        if row.ended_at_us or finding.handled < row.handled_count:
            return False
        disputes.refuse_events(tx, row.dispute_id, finding.refused)
        if finding.verdict is not None:
            self._end_dispute(tx, row, finding, finding.verdict)
            return True
        disputes.update(
            tx,
            row.dispute_id,
            level=finding.level.value,
            step=_stored(finding.place.step),
            operation=_stored(finding.place.operation),
            tile=_stored(finding.place.tile),
            deadline_us=finding.deadline_us,
            handled_count=finding.handled,
        )
        late = finding.deadline_us - row.question.answer_us + _LATE_QUESTION_US < tx.now_us
        if finding.level.value != row.level and late:
            self._ask_again(tx, self._dispute(tx, row.dispute_id))
        return True

    def expire(self, tx: Transaction, *, resumed: bool = False) -> ExpireReport:
        """See :meth:`DispatchingUseCases.expire`; a level whose time is over ends its dispute,
        and so does a segment that fell or a party that was banned."""
        report = super().expire(tx, resumed=resumed)
        self._drop_disputes(tx)
        for row in disputes.open_ones(tx):
            if report.downtime_us:
                self._ask_again(tx, row)
            elif row.deadline_us < tx.now_us and row.event_count == row.handled_count:
                disputes.add_event(tx, row, RecordKind.CLOCK.value)
        return report

    def _ask_again(self, tx: Transaction, row: DisputeRow) -> None:
        """The parties could not answer while we were away: the question's time begins anew."""
        if row.asked_again >= MAX_DISPUTE_ASKED_AGAIN or row.event_count >= MAX_DISPUTE_MOVES:
            return
        disputes.add_event(tx, row, RecordKind.AGAIN.value)
        disputes.update(
            tx,
            row.dispute_id,
            asked_again=row.asked_again + 1,
            deadline_us=tx.now_us + row.question.answer_us,
        )

    def _note_end(
        self, tx: Transaction, row: DisputeRow, finding: RefereeFinding, verdict: DisputeVerdict
    ) -> DisputeRow:
        """Sign and keep a verdict; the dispute as it is now."""
        sealed = seal(
            verdict,
            self._key,
            audience=self._key.key_id,
            nonce=self._entropy(16),
            issued_at_us=tx.now_us,
            expires_at_us=tx.now_us + VERDICT_LIFETIME_US,
        )
        if finding.transcript_artifact:
            disputes.add_artifact(tx, finding.transcript_artifact, finding.transcript_bytes)
            disputes.forget_lists(tx, row.dispute_id)
        disputes.update(
            tx,
            row.dispute_id,
            step=_stored(verdict.step),
            operation=_stored(verdict.operation),
            tile=_stored(verdict.tile),
            handled_count=row.event_count,
            ended_at_us=tx.now_us,
            outcome=verdict.outcome.value,
            reason=verdict.reason.value,
            verdict=sealed.to_bytes(),
            transcript_artifact=finding.transcript_artifact,
        )
        ended = self._dispute(tx, row.dispute_id)
        text = f"dispute {row.dispute_id[:16]}: {verdict.outcome} ({verdict.reason})"
        jobs.record(tx, row.job_id, EventKind.DISPUTED, text, row.dispute_id)
        return ended

    def _end_dispute(
        self, tx: Transaction, row: DisputeRow, finding: RefereeFinding, verdict: DisputeVerdict
    ) -> None:
        ended = self._note_end(tx, row, finding, verdict)
        signatures = finding.signatures or {}
        segment = self._disputed(tx, ended)
        if segment is not None and verdict.outcome in (Outcome.PRODUCER_WRONG, Outcome.BOTH_WRONG):
            signature = signatures.get(Party.PRODUCER)
            both = verdict.outcome is Outcome.BOTH_WRONG
            self._reject_disputed(tx, segment, row.question, signature, both=both)
        self._after_dispute(tx, ended, verdict, signatures)

    def _reject_disputed(
        self,
        tx: Transaction,
        row: SegmentRow,
        opening: DisputeOpening,
        signature: Signature | None,
        *,
        both: bool = False,
    ) -> None:
        """The worker is wrong; ``both``: so is the other party."""
        ours, theirs = opening.producer, opening.auditor
        code = VerdictCode.OUTPUTS_DIFFER
        if ours.state_root_after != theirs.state_root_after:
            code = VerdictCode.STATE_DIFFERS
        found = AuditResult(theirs.state_root_after, theirs.outputs_root, None, None)
        verdict = self._verdict(tx, row, code, found).to_bytes()
        auditor = PublicKey(theirs.key).key_id
        self._reject(tx, row, code, verdict, auditor=auditor, signature=signature)

    # ------------------------------------------------------------ people

    def list_disputes(
        self, tx: Transaction, session: Session, size: int, token: str
    ) -> DisputePage:
        """Disputes of the caller's account, as a party or as the buyer; newest first."""
        query = f"{_ANY_PAGE} {session.account_id}"
        before = self._page_position(query, token)
        limit = page_size(size)
        rows = disputes.page(
            tx, session.account_id, 2**62 if before is None else int(before), limit + 1
        )
        views = tuple(self._dispute_view(tx, session, row) for row in rows[:limit])
        more = self._page_token(query, rows[limit - 1].number) if len(rows) > limit else ""
        return DisputePage(views, more)

    def get_dispute(self, tx: Transaction, session: Session, dispute_id: str) -> DisputeView:
        """A dispute of the caller's account; anything else is not there."""
        view = self._dispute_view(tx, session, self._dispute(tx, dispute_id))
        if not view.roles:
            raise _unknown()
        return view

    def _dispute_view(self, tx: Transaction, session: Session, row: DisputeRow) -> DisputeView:
        opening, job = row.question, self._job(tx, row.job_id)
        verdict = None
        if row.verdict is not None:
            header = decode(Header, Envelope.from_bytes(row.verdict).payload)
            verdict = decode(DisputeVerdict, header.body)
        return DisputeView(
            row,
            opening.segment_index,
            opening.first_step,
            opening.steps,
            roles_of(row, job.buyer, session.account_id),
            verdict,
        )

    # ------------------------------------------------------------ rows

    def _dispute(self, tx: Transaction, dispute_id: str) -> DisputeRow:
        row = disputes.get(tx, dispute_id)
        if row is None:
            raise _unknown()
        return row

    def _disputed(self, tx: Transaction, row: DisputeRow) -> SegmentRow | None:
        """The segment, unless it fell meanwhile."""
        segment = jobs.segment(tx, row.segment_id)
        return segment if segment is not None and segment.state in LIVE_SEGMENT_STATES else None

    def _question(self, tx: Transaction, row: DisputeRow, party: Party) -> DisputeAsked:
        job, segment = self._job(tx, row.job_id), jobs.segment(tx, row.segment_id)
        assert segment is not None, "a dispute refers to a segment"
        lease = work.lease(tx, segment.lease_id)
        assert lease is not None, "a segment refers to a lease"
        is_producer = party is Party.PRODUCER
        offered = lease_offer(
            tx,
            job,
            replace(
                lease,
                lease_id=row.dispute_id,
                fence=0,
                device_key_id=_key_of(row, party),
                device_id=segment.device_id if is_producer else row.auditor_device_id,
                first_step=row.replay_step,
                step_count=segment.first_step + segment.steps - row.replay_step,
                first_segment=row.replay_step // job.segment_steps,
                state_artifact=row.replay_artifact,
                state_root=row.replay_root,
                expires_at_us=row.deadline_us,
            ),
        )
        return DisputeAsked(
            _key_of(row, party),
            row.dispute_id,
            row.opening,
            party,
            row.settled_level,
            Place(*(NOWHERE if at < 0 else at for at in (row.step, row.operation, row.tile))),
            row.deadline_us,
            offered,
        )


def _parties_of(row: DisputeRow, key_id: str) -> tuple[Party, ...]:
    return tuple(party for party in Party if _key_of(row, party) == key_id)


def _key_of(row: DisputeRow, party: Party) -> str:
    return row.producer_key_id if party is Party.PRODUCER else row.auditor_key_id


def _answered(tx: Transaction, row: DisputeRow) -> frozenset[Party]:
    """Parties whose list of the present level has arrived. Levels end when both lists are judged,
    so whoever has sent more lists than there were levels has answered this one."""
    moves = disputes.moves(tx, row.dispute_id)
    levels = min(_moves_of(moves, party, row.handled_count) for party in Party)
    return frozenset(party for party in Party if _moves_of(moves, party, row.event_count) > levels)


def _moves_of(moves: Sequence[tuple[int, str]], party: Party, before: int) -> int:
    return sum(sender == party.value and sequence < before for sequence, sender in moves)


def _stored(index: int) -> int:
    return -1 if index == NOWHERE else index


def _unknown() -> NotFound:
    return NotFound("there is no such dispute, or it is not yours", code="UNKNOWN_DISPUTE")
