"""Rulings without a dispute of lists, as messages."""

from __future__ import annotations

from flopmarket.trust.ruling_records import RulingRecord
from flopmarket.v1 import dispute_pb2
from flopmarket_coordinator.application.types_disputes import RulingPage, RulingView
from flopmarket_coordinator.rpc import convert_audits


def ruling(view: RulingView) -> dispute_pb2.Ruling:
    """A ruling as somebody whom it concerns sees it."""
    row = view.row
    return dispute_pb2.Ruling(
        ruling_id=view.ruling_id,
        kind=view.kind.value,
        job_id=row.job_id,
        segment_index=row.segment_index,
        first_step=row.first_step,
        steps=row.steps,
        roles=view.roles,
        opened_at_us=view.opened_at_us,
        ended_at_us=view.ended_at_us,
        outcome=view.outcome,
        reason=view.reason,
        seen=view.seen,
        unheard=[dispute_pb2.Unheard(key_id=key, word=word) for key, word in view.unheard],
        follows=view.follows,
    )


def page(value: RulingPage) -> dispute_pb2.ListRulingsResponse:
    """A page of rulings."""
    return dispute_pb2.ListRulingsResponse(
        rulings=[ruling(view) for view in value.rulings], next_page_token=value.next_page_token
    )


def whole(view: RulingView) -> dispute_pb2.GetRulingResponse:
    """A ruling with what stands behind it."""
    return dispute_pb2.GetRulingResponse(
        ruling=ruling(view), record=None if view.record is None else _record(view.record)
    )


def _record(record: RulingRecord) -> dispute_pb2.RulingRecord:
    draws = record.draws
    return dispute_pb2.RulingRecord(
        segment=convert_audits.drawn_commitment("", record.segment),
        witnesses=[convert_audits.auditor_answer(answer) for answer in record.witnesses],
        draws=None if draws is None else convert_audits.lease_draws(draws),
        drawn=(
            None
            if draws is None
            else convert_audits.drawn_commitment(draws.lease_id, draws.segments[0])
        ),
    )
