"""What draws follow from and what was drawn: terms of leases, lists of auditors, records."""

from __future__ import annotations

import sqlalchemy as sa

from flopmarket.trust.audit_policy import RULES, AuditRules
from flopmarket.trust.challenge import AuditorList, ChallengeRecord, ChallengeTerms
from flopmarket.trust.encoding import decode, digest, encode
from flopmarket_coordinator.core.ledger import Balance
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.records import AuditorRow, ChallengeRow, DrawnRow, to_record
from flopmarket_coordinator.store.schema.base import AUDITOR

_challenge = schema.challenge
_document = schema.challenge_document
_record = schema.challenge_record
_offer = schema.offer
_account = schema.ledger_account


def put_document(tx: Transaction, body: AuditRules | AuditorList) -> bytes:
    """Keep a document, once however many leases name it; its digest."""
    name = digest(body)
    known = sa.select(_document.c.digest).where(_document.c.digest == name)
    if tx.connection.execute(known).first() is None:
        tx.connection.execute(sa.insert(_document).values(digest=name, document=encode(body)))
    return name


def document(tx: Transaction, name: bytes) -> bytes:
    """The encoded document with this digest."""
    query = sa.select(_document.c.document).where(_document.c.digest == name)
    return bytes(tx.connection.execute(query).scalar_one())


def add(tx: Transaction, terms: ChallengeTerms, envelope: bytes) -> None:
    """The terms of a new lease."""
    tx.connection.execute(
        sa.insert(_challenge).values(
            lease_id=terms.lease_id,
            envelope=envelope,
            rules=terms.rules,
            candidates=terms.candidates,
            house=terms.house,
            right_verdicts=0,
        )
    )


def get(tx: Transaction, lease_id: str) -> ChallengeRow | None:
    """The terms of a lease; None for one of an older version."""
    query = sa.select(_challenge).where(_challenge.c.lease_id == lease_id)
    row = tx.connection.execute(query).mappings().first()
    return None if row is None else to_record(ChallengeRow, row)


def add_record(tx: Transaction, segment_id: int, lease_id: str, record: ChallengeRecord) -> None:
    """What was drawn for a segment."""
    tx.connection.execute(
        sa.insert(_record).values(
            segment_id=segment_id,
            lease_id=lease_id,
            number=record.index,
            audited=record.audited,
            document=encode(record),
        )
    )


def record_of(tx: Transaction, segment_id: int) -> ChallengeRecord | None:
    """What was drawn for a segment; None for one of an older version."""
    query = sa.select(_record.c.document).where(_record.c.segment_id == segment_id)
    found = tx.connection.execute(query).scalar()
    return None if found is None else decode(ChallengeRecord, found)


def count_right(tx: Transaction, segment_id: int, lease_id: str) -> None:
    """A right verdict was recorded; counts for the lease if the segment was drawn."""
    drawn = sa.select(_record.c.segment_id).where(
        _record.c.segment_id == segment_id, _record.c.audited
    )
    tx.connection.execute(
        sa.update(_challenge)
        .where(_challenge.c.lease_id == lease_id, sa.exists(drawn))
        .values(right_verdicts=_challenge.c.right_verdicts + 1)
    )


def auditors(tx: Transaction, from_lot: int, least_streak: int, most: int) -> list[AuditorRow]:
    """Offers of devices that are through their onboarding, in order of their lots from one on and
    round again. By an index alone."""
    first = _auditors_between(tx, _offer.c.audit_lot >= from_lot, least_streak, most)
    if len(first) < most:
        rest = _auditors_between(tx, _offer.c.audit_lot < from_lot, least_streak, most - len(first))
        return [*first, *rest]
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
    ``(fence, number, lease id, the rest)``. Leases of audits have no part in it."""
    lease, segment = schema.lease, schema.segment
    place = sa.tuple_(lease.c.fence, _record.c.number)
    query = (
        sa.select(
            lease.c.fence,
            _record.c.number,
            lease.c.lease_id,
            segment.c.segment_index,
            segment.c.state,
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
