"""Pay that is earned and not to be spent yet: where it is, and what takes it away.

A segment's ``held_state``: ``held`` while its job runs, ``waiting`` once it has ended, then
``released``; or ``forfeited``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flopmarket.market.money import Nano
from flopmarket_coordinator.core.changes import SegmentChanged
from flopmarket_coordinator.core.lifecycle import SegmentState
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction
from flopmarket_coordinator.store.rows import any_of, constant, constants, given

HELD, WAITING, RELEASED, FORFEITED = "held", "waiting", "released", "forfeited"

_segment = schema.segment
_IS_WAITING = sa.text(f"segment.{schema.WAITING_PAY}")
_RECOMPUTE = "recompute"
_LOOKED_AT = (_RECOMPUTE, "steps")
"""Tasks of the house about a segment whose pay has to wait for it."""
_UNPAID = [SegmentState.COMMITTED.value, SegmentState.VERIFIED.value]
_RIGHT_SO_FAR = [SegmentState.VERIFIED.value, SegmentState.SETTLED.value]


@dataclass(frozen=True, slots=True)
class Due:
    """Pay of one account and job that may be spent now; ``last`` is its newest segment."""

    account_id: str
    job_id: str
    amount_nano: Nano
    last: int
    segments: tuple[int, ...]


_WAITS = (
    sa.select(
        _segment.c.account_id, _segment.c.job_id, _segment.c.segment_id, _segment.c.to_held_nano
    )
    .where(_IS_WAITING, _segment.c.house_task.not_in(constants(_LOOKED_AT)))
    .order_by(_segment.c.settled_at_us, _segment.c.segment_id)
)
_DUE = _WAITS.where(
    _segment.c.account_id == given("which"),
    sa.or_(_segment.c.settled_at_us <= given("before_us"), _segment.c.segment_id < given("cutoff")),
)
_OVERDUE = _WAITS.where(_segment.c.settled_at_us <= given("before_us")).limit(given("most"))
_HELD_NOW = sa.and_(_segment.c.job_id == given("which"), _segment.c.held_state == constant(HELD))
_HELD_OF_JOB = sa.select(_segment.c.account_id).where(_HELD_NOW).distinct()
_NOW_WAITING = sa.update(_segment).where(_HELD_NOW).values(held_state=WAITING)
_NEWEST = (
    sa.select(_segment.c.segment_id)
    .where(_segment.c.account_id == given("which"))
    .order_by(_segment.c.segment_id.desc())
    .offset(given("skipped"))
    .limit(1)
)
_SET = (
    sa.update(_segment)
    .where(_segment.c.segment_id.in_(any_of("some")))
    .values(held_state=given("now_is"))
)


def job_ended(tx: Transaction, job_id: str) -> list[str]:
    """Held pay of a job waits from now on; the accounts it is of, in order of id."""
    found = sorted(tx.connection.execute(_HELD_OF_JOB, {"which": job_id}).scalars())
    tx.connection.execute(_NOW_WAITING, {"which": job_id})
    return found


def due(tx: Transaction, account_id: str, before_us: int, held_units: int) -> list[Due]:
    """Waiting pay of an account that was earned until then, or with that many units after it.

    Segments that the house is to recompute keep theirs.
    """
    cutoff = _newest(tx, account_id, held_units)
    return _due(tx, _DUE, {"which": account_id, "before_us": before_us, "cutoff": cutoff})


def overdue(tx: Transaction, before_us: int, limit: int) -> list[Due]:
    """Waiting pay of anybody that was earned until then, from so many segments at most."""
    return _due(tx, _OVERDUE, {"before_us": before_us, "most": limit})


def release(tx: Transaction, found: Sequence[Due]) -> None:
    """This pay is its workers' to spend."""
    for item in found:
        _set(tx, item.segments, RELEASED)


def forfeit_all(tx: Transaction, account_id: str) -> Nano:
    """Everything an account has held and waiting is forfeited; the sum."""
    query = sa.select(_segment.c.segment_id, _segment.c.to_held_nano).where(
        _segment.c.account_id == account_id, _segment.c.held_state.in_([HELD, WAITING])
    )
    return _forfeit(tx, query)


def forfeit(tx: Transaction, segments: Collection[int]) -> Nano:
    """What of the pay for these segments is still held is forfeited; the sum."""
    query = sa.select(_segment.c.segment_id, _segment.c.to_held_nano).where(
        _segment.c.segment_id.in_(segments), _segment.c.held_state.in_([HELD, WAITING])
    )
    return _forfeit(tx, query)


def unsure(tx: Transaction, account_id: str, house: Collection[str]) -> Nano:
    """Pay that an account has at stake, in its bond or held, for segments that the ``house`` did
    not recompute itself: if one is found wrong, it is its buyer's."""
    query = sa.select(
        sa.func.coalesce(sa.func.sum(_segment.c.to_held_nano + _segment.c.to_bond_nano), 0)
    ).where(
        _segment.c.account_id == account_id,
        _segment.c.held_state.in_([HELD, WAITING]),
        sa.or_(_segment.c.verdict.is_(None), _segment.c.auditor.not_in(list(house))),
    )
    return int(tx.connection.execute(query).scalar_one())


def mark_forfeited(tx: Transaction, segment_id: int) -> None:
    """A segment that is not settled yet will not be paid to its worker."""
    _set(tx, (segment_id,), FORFEITED)


def look_back(
    tx: Transaction,
    account_id: str,
    but: int,
    house: Collection[str],
    kept_since_us: int,
) -> list[int]:
    """Put what an account may still lose up for recomputation by the house; which segments.

    That is everything unpaid or held, but for one segment, for those that the ``house`` recomputed
    itself and for jobs that ended so long ago that their files are gone.
    """
    ended = sa.select(schema.job.c.job_id).where(
        schema.job.c.ended_at_us > 0, schema.job.c.ended_at_us < kept_since_us
    )
    at_stake = sa.or_(_segment.c.held_state.in_([HELD, WAITING]), _segment.c.state.in_(_UNPAID))
    changed = tx.connection.execute(
        sa.update(_segment)
        .where(
            _segment.c.account_id == account_id,
            _segment.c.segment_id != but,
            _segment.c.state.in_([*_RIGHT_SO_FAR, SegmentState.COMMITTED.value]),
            at_stake,
            sa.or_(_segment.c.verdict.is_(None), _segment.c.auditor.not_in(list(house))),
            _segment.c.house_task.not_in(_LOOKED_AT),
            _segment.c.job_id.not_in(ended),
        )
        .values(house_task=_RECOMPUTE)
        .returning(_segment.c.segment_id, _segment.c.job_id)
    ).all()
    for segment_id, job_id in changed:
        tx.note(SegmentChanged(segment_id, job_id))
    return sorted(segment_id for segment_id, _ in changed)


def open_checks(tx: Transaction, account_id: str) -> int:
    """Segments of an account that somebody is still to look at."""
    query = (
        sa.select(sa.func.count())
        .select_from(_segment)
        .where(
            _segment.c.account_id == account_id,
            sa.or_(
                _segment.c.state.in_(_UNPAID),
                sa.and_(
                    _segment.c.house_task.in_(_LOOKED_AT),
                    _segment.c.state.in_([SegmentState.SETTLED.value, SegmentState.VOID.value]),
                ),
            ),
        )
    )
    return int(tx.connection.execute(query).scalar_one())


def last_delivery_us(tx: Transaction, account_id: str) -> int:
    """When an account committed its newest segment; 0 when it never did."""
    query = (
        sa.select(_segment.c.committed_at_us)
        .where(_segment.c.account_id == account_id)
        .order_by(_segment.c.segment_id.desc())
        .limit(1)
    )
    return int(tx.connection.execute(query).scalar() or 0)


def _newest(tx: Transaction, account_id: str, units: int) -> int:
    """The id of the ``units``-th newest segment: older ones have at least so many after them. 0
    when there are fewer."""
    if units == 0:
        return 2**62
    values = {"which": account_id, "skipped": units - 1}
    return tx.connection.execute(_NEWEST, values).scalar() or 0


def _due(tx: Transaction, query: sa.Select[Any], values: Mapping[str, Any]) -> list[Due]:
    groups: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for account, job_id, segment_id, amount in tx.connection.execute(query, values):
        groups.setdefault((account, job_id), []).append((segment_id, amount))
    return [
        Due(
            account,
            job_id,
            sum(amount for _, amount in rows),
            max(segment_id for segment_id, _ in rows),
            tuple(segment_id for segment_id, _ in rows),
        )
        for (account, job_id), rows in groups.items()
    ]


def _forfeit(tx: Transaction, query: sa.Select[Any]) -> Nano:
    rows = tx.connection.execute(query).all()
    _set(tx, [segment_id for segment_id, _ in rows], FORFEITED)
    return sum(amount for _, amount in rows)


def _set(tx: Transaction, segments: Collection[int], state: str) -> None:
    if segments:
        tx.connection.execute(_SET, {"some": list(segments), "now_is": state})
