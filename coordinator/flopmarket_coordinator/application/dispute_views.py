"""What people read about disputes: parties and buyers."""

from __future__ import annotations

from flopmarket.trust.dispute_documents import DisputeVerdict
from flopmarket.trust.envelope import unverified_body
from flopmarket_coordinator.application.context import page_size
from flopmarket_coordinator.application.dispute_access import roles_of
from flopmarket_coordinator.application.dispute_questions import (
    DisputeQuestionUseCases,
    unknown_dispute,
)
from flopmarket_coordinator.application.types_accounts import Session
from flopmarket_coordinator.application.types_disputes import DisputePage, DisputeView
from flopmarket_coordinator.store import disputes
from flopmarket_coordinator.store.disputes import DisputeRow
from flopmarket_coordinator.store.engine import Transaction

_ANY_PAGE = "disputes"


class DisputeViewUseCases(DisputeQuestionUseCases):
    """Disputes as their parties and the buyer see them."""

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
            raise unknown_dispute()
        return view

    def _dispute_view(self, tx: Transaction, session: Session, row: DisputeRow) -> DisputeView:
        opening, job = row.question, self._job(tx, row.job_id)
        verdict = None
        if row.verdict is not None:
            verdict = unverified_body(row.verdict, DisputeVerdict)
        return DisputeView(
            row,
            opening.segment_index,
            opening.first_step,
            opening.steps,
            roles_of(row, job.buyer, session.account_id),
            verdict,
        )
