"""Disputes as rows, and what they ask whom.

A dispute asks both parties the same question until both have answered; which it is follows from
the events that the referee has judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flopmarket.errors import NotFound
from flopmarket.limits import MAX_DISPUTE_STEPS, MAX_OPEN_DISPUTES
from flopmarket.trust.dispute_documents import NOWHERE, Claim, DisputeOpening, Level, Party
from flopmarket.trust.dispute_port import Place
from flopmarket.trust.encoding import digest, encode
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.keys import PublicKey
from flopmarket_coordinator.application.types_auditing import AuditKind, AuditResult
from flopmarket_coordinator.application.types_disputes import DisputeAsked, FlipClaim, KeptList
from flopmarket_coordinator.application.views import lease_offer
from flopmarket_coordinator.application.voiding import VoidingUseCases
from flopmarket_coordinator.core.events import EventKind
from flopmarket_coordinator.core.lifecycle import LIVE_SEGMENT_STATES, SegmentState
from flopmarket_coordinator.store import audits, disputes, identity, jobs, segments, work
from flopmarket_coordinator.store.disputes import DisputeRow
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import SegmentRow

_UNKNOWN = bytes(32)
"""In place of an ``inner`` that nobody has opened: roots that differ need none."""


class DisputeQuestionUseCases(VoidingUseCases):
    """Disputes that begin, and the questions of those that last."""

    # ------------------------------------------------------------ beginning

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
            start = self._replay_start(tx, row)
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
            segments.update(tx, row, house_task=AuditKind.RECOMPUTE.value)
        return opened

    # ------------------------------------------------------------ questions

    def dispute_questions(self, tx: Transaction, key_id: str) -> tuple[DisputeAsked, ...]:
        """What a device key is asked and has not answered, or a key whose place it took."""
        return tuple(
            self._question(tx, row, party)
            for each in identity.answers_for(tx, key_id)
            for row in disputes.open_ones(tx, each)
            for party in parties_of(row, each)
            if party not in answered(tx, row)
        )

    def dispute_over(self, tx: Transaction, dispute_id: str) -> tuple[DisputeAsked, ...]:
        """That nothing is asked any more, to both parties of a dispute that ended."""
        row = self._dispute(tx, dispute_id)
        return tuple(
            replace(self._question(tx, row, party), level=None)
            for party in Party
            if row.ended_at_us and key_of(row, party) != self._key.key_id
        )

    def _question(self, tx: Transaction, row: DisputeRow, party: Party) -> DisputeAsked:
        job, segment = self._job(tx, row.job_id), segments.get(tx, row.segment_id)
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
                device_key_id=key_of(row, party),
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
            key_of(row, party),
            row.dispute_id,
            row.opening,
            party,
            row.settled_level,
            Place(*(NOWHERE if at < 0 else at for at in (row.step, row.operation, row.tile))),
            row.deadline_us,
            offered,
            self._committed_under(tx, row, party),
        )

    def _committed_under(self, tx: Transaction, row: DisputeRow, party: Party) -> str:
        """The lease of a party's commitment; empty for the house."""
        if party is Party.PRODUCER:
            segment = segments.get(tx, row.segment_id)
            return "" if segment is None else segment.lease_id
        audit = audits.get(tx, row.audit_id) if row.audit_id else None
        return "" if audit is None else audit.lease_id

    def flip_claim(self, tx: Transaction, dispute_id: str, party: Party) -> FlipClaim | None:
        """What a party that did not come to its own end kept of the segment, if it sent it."""
        row = self._dispute(tx, dispute_id)
        kept = disputes.kept(tx, dispute_id, party.value)
        segment = segments.get(tx, row.segment_id)
        if kept is None or segment is None:
            return None
        found = KeptList(Envelope.from_bytes(kept.envelope), kept.payload, kept.payload_artifact)
        if party is Party.PRODUCER:
            commitment = Envelope.from_bytes(segment.commitment)
            files = segment.checkpoint_artifact, segment.outputs_artifact
            return FlipClaim(commitment, found, *files)
        lease_id = self._committed_under(tx, row, party)
        for answer in audits.commitments(tx, lease_id) if lease_id else ():
            if answer.segment_index == segment.segment_index:
                commitment = Envelope.from_bytes(answer.commitment)
                files = answer.checkpoint_artifact, answer.outputs_artifact
                return FlipClaim(commitment, found, *files)
        return None

    # ------------------------------------------------------------ rows

    def _dispute(self, tx: Transaction, dispute_id: str) -> DisputeRow:
        row = disputes.get(tx, dispute_id)
        if row is None:
            raise unknown_dispute()
        return row

    def _disputed(self, tx: Transaction, row: DisputeRow) -> SegmentRow | None:
        """The segment, unless it fell meanwhile."""
        segment = segments.get(tx, row.segment_id)
        if segment is None:
            return None
        claimed = segment.state is SegmentState.VOID and segment.house_task != ""
        return segment if claimed or segment.state in LIVE_SEGMENT_STATES else None


def parties_of(row: DisputeRow, key_id: str) -> tuple[Party, ...]:
    """What a key is in a dispute; empty for a stranger's."""
    return tuple(party for party in Party if key_of(row, party) == key_id)


def key_of(row: DisputeRow, party: Party) -> str:
    """The key id that answers for a party."""
    return row.producer_key_id if party is Party.PRODUCER else row.auditor_key_id


def answered(tx: Transaction, row: DisputeRow) -> frozenset[Party]:
    """Parties whose list of the present level has arrived. Levels end when both lists are judged,
    so whoever has sent more lists than there were levels has answered this one."""
    moves = disputes.moves(tx, row.dispute_id)
    levels = min(_moves_of(moves, party, row.handled_count) for party in Party)
    return frozenset(party for party in Party if _moves_of(moves, party, row.event_count) > levels)


def _moves_of(moves: Sequence[tuple[int, str]], party: Party, before: int) -> int:
    return sum(sender == party.value and sequence < before for sequence, sender in moves)


def unknown_dispute() -> NotFound:
    """The same words for a dispute that is not there and for somebody else's."""
    return NotFound("there is no such dispute, or it is not yours", code="UNKNOWN_DISPUTE")
