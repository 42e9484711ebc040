"""Disputes between two workers, or a worker and the house, about one segment.

The events of a dispute are rows, in order: lists as they arrived, time that ran out, questions that
were asked again after the coordinator was away. What they come to is computed outside the writer
(:mod:`flopmarket_coordinator.daemons.referee`) and returns as a :class:`RefereeFinding`; a process
that is started anew plays the same events again.
"""

from __future__ import annotations

from flopmarket.errors import InvalidInput, NotFound
from flopmarket.limits import (
    MAX_CHECKSUM_LIST_BYTES,
    MAX_DISPUTE_ASKED_AGAIN,
    MAX_DISPUTE_MOVE_BYTES,
    MAX_DISPUTE_MOVES,
    MAX_INLINE_DISPUTE_BYTES,
)
from flopmarket.trust.dispute_documents import DisputeMove as SignedMove
from flopmarket.trust.dispute_documents import Party
from flopmarket.trust.envelope import open_envelope
from flopmarket.trust.keys import PublicKey
from flopmarket.trust.transcript import RecordKind, payload_digest
from flopmarket_coordinator.application.dispute_ends import DisputeEndUseCases, stored_index
from flopmarket_coordinator.application.dispute_questions import answered, parties_of
from flopmarket_coordinator.application.dispute_views import DisputeViewUseCases
from flopmarket_coordinator.application.house_disputes import HouseDisputeUseCases
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_disputes import (
    DisputeMove,
    KeptList,
    RefereeFinding,
    RefereeTask,
)
from flopmarket_coordinator.application.types_working import ExpireReport
from flopmarket_coordinator.store import disputes, identity, work
from flopmarket_coordinator.store.disputes import KEPT_LIST, DisputeRow
from flopmarket_coordinator.store.engine import Transaction

_LATE_QUESTION_US = 5_000_000
"""A question that goes out later than this after its time began gets its time anew."""


class DisputingUseCases(DisputeEndUseCases, HouseDisputeUseCases, DisputeViewUseCases):
    """The protocol of docs/disputes.md between the parties."""

    # ------------------------------------------------------------ parties

    def dispute_moved(self, tx: Transaction, session: Session, move: DisputeMove) -> None:
        """A party's answer. One to a question that is not open any more changes nothing.

        Raises NotFound, EnvelopeError or InvalidInput (DISPUTE_MOVE) for what is not the party's
        signed word; the list itself is read by the referee.
        """
        row = self._dispute(tx, move.dispute_id)
        parties = [
            party
            for each in identity.answers_for(tx, session.key_id)
            for party in parties_of(row, each)
        ]
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
        if row.ended_at_us or signed.level.value != row.level or party in answered(tx, row):
            return
        if row.event_count >= MAX_DISPUTE_MOVES:
            return  # it has sent nothing but lists that it did not sign: it is silent
        self._check_list(tx, move, signed)
        if move.kept is not None and disputes.kept(tx, row.dispute_id, party.value) is None:
            row = self._keep_list(tx, row, party, move.kept)
        disputes.add_event(
            tx,
            row,
            RecordKind.MOVE.value,
            party=party.value,
            envelope=move.envelope.to_bytes(),
            payload=move.payload,
            payload_artifact=move.payload_artifact,
        )

    def _keep_list(
        self, tx: Transaction, row: DisputeRow, party: Party, kept: KeptList
    ) -> DisputeRow:
        """What a party kept of its segment; the dispute as it is then. It is read when it ends."""
        size = len(kept.checksums)
        if kept.artifact:
            size = work.artifact_size(tx, kept.artifact) or 0
        most = MAX_CHECKSUM_LIST_BYTES if kept.artifact else MAX_INLINE_DISPUTE_BYTES
        if not 0 < size <= most or (kept.artifact and kept.checksums):
            raise InvalidInput("the kept list was not uploaded", code="DISPUTE_MOVE")
        disputes.add_event(
            tx,
            row,
            KEPT_LIST,
            party=party.value,
            envelope=kept.secret.to_bytes(),
            payload=kept.checksums,
            payload_artifact=kept.artifact,
        )
        return self._dispute(tx, row.dispute_id)

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
            step=stored_index(finding.place.step),
            operation=stored_index(finding.place.operation),
            tile=stored_index(finding.place.tile),
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
