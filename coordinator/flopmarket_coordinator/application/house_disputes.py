"""The house's answers where it is a party of a dispute itself."""

from __future__ import annotations

from flopmarket.trust.transcript import RecordKind, seal_move
from flopmarket_coordinator.application.dispute_questions import DisputeQuestionUseCases, answered
from flopmarket_coordinator.application.types_disputes import DisputeAsked
from flopmarket_coordinator.store import disputes
from flopmarket_coordinator.store.engine import Transaction


class HouseDisputeUseCases(DisputeQuestionUseCases):
    """What :mod:`flopmarket_coordinator.daemons.house_party` asks and says."""

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
        if asked.party in answered(tx, row):
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
