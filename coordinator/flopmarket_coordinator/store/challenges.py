"""What draws follow from and what was drawn: terms of leases, lists of auditors, records."""

from __future__ import annotations

import sqlalchemy as sa

from flopmarket.trust.audit_policy import RULES, AuditRules
from flopmarket.trust.canaries import KnownSegments
from flopmarket.trust.challenge import AuditorList, ChallengeRecord, ChallengeTerms
from flopmarket.trust.encoding import decode, digest, encode
from flopmarket_coordinator.core.ledger import Balance
from flopmarket_coordinator.core.verification import VoidReason
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import AuditorRow, ChallengeRow, DrawnRow
from flopmarket_coordinator.store.rows import Rows, given
from flopmarket_coordinator.store.schema.base import AUDITOR

FORFEITED = "forfeited"
_SILENT = VoidReason.WORKER_SILENT.value
_challenge = schema.challenge
_document = schema.challenge_document
_record = schema.challenge_record
_offer = schema.offer
_account = schema.ledger_account
_CHALLENGES = Rows(ChallengeRow, _challenge)
_TERMS = _CHALLENGES.select.where(_challenge.c.lease_id == given("which"))
_ADD = sa.insert(_challenge)
_DOCUMENT = sa.select(_document.c.document).where(_document.c.digest == given("which"))
_IS_DOCUMENT = sa.select(_document.c.digest).where(_document.c.digest == given("which"))
_ADD_DOCUMENT = sa.insert(_document)
_RECORD = sa.select(_record.c.document).where(_record.c.segment_id == given("which"))
_ADD_RECORD = sa.insert(_record)
_COUNT_RIGHT = (
    sa.update(_challenge)
    .where(
        _challenge.c.lease_id == given("which"),
        sa.exists().where(_record.c.segment_id == given("segment"), _record.c.audited),
    )
    .values(right_verdicts=_challenge.c.right_verdicts + 1)
)


def put_document(tx: Transaction, body: AuditRules | AuditorList | KnownSegments) -> bytes:
    """Keep a document, once however many leases name it; its digest."""
    name = digest(body)
    if tx.connection.execute(_IS_DOCUMENT, {"which": name}).first() is None:
        tx.connection.execute(_ADD_DOCUMENT, {"digest": name, "document": encode(body)})
    return name


def document(tx: Transaction, name: bytes) -> bytes:
    """The encoded document with this digest."""
    return bytes(tx.connection.execute(_DOCUMENT, {"which": name}).scalar_one())


def add(tx: Transaction, terms: ChallengeTerms, envelope: bytes) -> None:
    """The terms of a new lease."""
    tx.connection.execute(
        _ADD,
        {
            "lease_id": terms.lease_id,
            "envelope": envelope,
            "rules": terms.rules,
            "candidates": terms.candidates,
            "house": terms.house,
            "right_verdicts": 0,
            "audit_steps": terms.audit_steps,
        },
    )


def get(tx: Transaction, lease_id: str) -> ChallengeRow | None:
    """The terms of a lease; None for one of an older version."""
    return _CHALLENGES.first(tx, _TERMS, {"which": lease_id})


def add_record(tx: Transaction, segment_id: int, lease_id: str, record: ChallengeRecord) -> None:
    """What was drawn for a segment."""
    tx.connection.execute(
        _ADD_RECORD,
        {
            "segment_id": segment_id,
            "lease_id": lease_id,
            "number": record.index,
            "audited": record.audited,
            "document": encode(record),
        },
    )


def record_of(tx: Transaction, segment_id: int) -> ChallengeRecord | None:
    """What was drawn for a segment; None for one of an older version."""
    found = tx.connection.execute(_RECORD, {"which": segment_id}).scalar()
    return None if found is None else decode(ChallengeRecord, found)


def count_right(tx: Transaction, segment_id: int, lease_id: str) -> None:
    """A right verdict was recorded; counts for the lease if the segment was drawn."""
    tx.connection.execute(_COUNT_RIGHT, {"which": lease_id, "segment": segment_id})


def auditors(
    tx: Transaction, from_lot: int, least_streak: int, most: int, device_class: str = ""
) -> list[AuditorRow]:
    """Offers of devices that are through their onboarding, in order of their lots from one on and
    round again: of a class of devices, or of those that compute exactly. By an index alone."""
    suits = _offer.c.device_class == device_class if device_class else _offer.c.exact
    from_here = sa.and_(suits, _offer.c.audit_lot >= from_lot)
    first = _auditors_between(tx, from_here, least_streak, most)
    if len(first) < most:
        up_to_here = sa.and_(suits, _offer.c.audit_lot < from_lot)
        return [*first, *_auditors_between(tx, up_to_here, least_streak, most - len(first))]
    return first


def _auditors_between(
    tx: Transaction, where: sa.ColumnElement[bool], least_streak: int, most: int
) -> list[AuditorRow]:
    bond = _account.c.ledger_account_id == _offer.c.account_id + f"/{Balance.BOND}"
    query = (
        sa.select(
            _offer.c.offer_id,
            _offer.c.device_key_id,
            _offer.c.account_id,
            sa.func.coalesce(_account.c.balance_nano, 0),
            _offer.c.updated_at_us,
        )
        .select_from(_offer.outerjoin(_account, bond))
        .where(_offer.c.listed, _offer.c.streak >= least_streak, where)
        .order_by(_offer.c.audit_lot, _offer.c.offer_id)
        .limit(most)
    )
    if least_streak >= RULES.onboarding_streak:
        query = query.where(sa.text(AUDITOR))  # spelled as the index is, which then serves it
    return [AuditorRow(*row) for row in tx.connection.execute(query).all()]


def drawn(
    tx: Transaction, job_id: str, after: tuple[int, ...], limit: int
) -> list[tuple[int, int, str, DrawnRow]]:
    """Commitments of a job with what was drawn, by fence and number, from after such a position:
    ``(fence, number, lease id, the rest)``. Leases of audits have no part in it. A unit whose
    worker did not open it in time is ``forfeited``: it counts, and nobody is paid for it."""
    lease, segment = schema.lease, schema.segment
    place = sa.tuple_(lease.c.fence, _record.c.number)
    query = (
        sa.select(
            lease.c.fence,
            _record.c.number,
            lease.c.lease_id,
            segment.c.segment_index,
            sa.case((segment.c.reason == _SILENT, FORFEITED), else_=segment.c.state),
            segment.c.auditor,
            segment.c.device_key_id,
            _record.c.document,
            segment.c.commitment,
            segment.c.verdict,
            segment.c.segment_id,
            segment.c.account_id,
        )
        .select_from(_record)
        .join(lease, lease.c.lease_id == _record.c.lease_id)
        .join(segment, segment.c.segment_id == _record.c.segment_id)
        .where(lease.c.job_id == job_id, place > sa.tuple_(*after))
        .order_by(lease.c.fence, _record.c.number)
        .limit(limit)
    )
    return [
        (fence, number, lease_id, DrawnRow(*rest))
        for fence, number, lease_id, *rest in tx.connection.execute(query)
    ]
