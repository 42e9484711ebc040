"""Requests to pay money out, each beside the pending transfer that reserves its amount."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from flopmarket_coordinator.core.payments import WithdrawalState
from flopmarket_coordinator.store import schema
from flopmarket_coordinator.store.engine import Transaction

_withdrawal = schema.withdrawal


@dataclass(frozen=True, slots=True)
class WithdrawalRow:
    """One request. ``reference`` is the payment's, or why there was none; empty while pending."""

    withdrawal_id: str
    account_id: str
    amount_nano: int
    destination: str
    state: WithdrawalState
    reference: str
    created_at_us: int
    expires_at_us: int
    decided_at_us: int


_COLUMNS = [_withdrawal.c[name] for name in WithdrawalRow.__dataclass_fields__]


def add(tx: Transaction, row: WithdrawalRow, envelope: bytes) -> None:
    """A new request; ``envelope`` is what its owner signed."""
    values = {name: getattr(row, name) for name in WithdrawalRow.__dataclass_fields__}
    values |= {"state": row.state.value, "envelope": envelope, "decision": None}
    tx.connection.execute(sa.insert(_withdrawal).values(**values))


def get(tx: Transaction, withdrawal_id: str) -> WithdrawalRow | None:
    """The request with this id."""
    query = sa.select(*_COLUMNS).where(_withdrawal.c.withdrawal_id == withdrawal_id)
    row = tx.connection.execute(query).first()
    return None if row is None else _record(row)


def decide(
    tx: Transaction,
    withdrawal_id: str,
    state: WithdrawalState,
    reference: str,
    evidence: bytes | None,
) -> None:
    """Write down how a pending request ended."""
    tx.connection.execute(
        sa.update(_withdrawal)
        .where(_withdrawal.c.withdrawal_id == withdrawal_id)
        .values(state=state.value, reference=reference, decision=evidence, decided_at_us=tx.now_us)
    )


def page(
    tx: Transaction,
    account_id: str | None,
    *,
    pending_only: bool,
    after: tuple[int, str] | None,
    limit: int,
) -> list[WithdrawalRow]:
    """Requests of an account, or of all; oldest first, from after ``(created_at_us, id)``."""
    query = sa.select(*_COLUMNS)
    if account_id is not None:
        query = query.where(_withdrawal.c.account_id == account_id)
    if pending_only:
        query = query.where(_withdrawal.c.state == WithdrawalState.PENDING.value)
    if after is not None:
        position = sa.tuple_(_withdrawal.c.created_at_us, _withdrawal.c.withdrawal_id)
        query = query.where(position > sa.tuple_(*(sa.literal(item) for item in after)))
    query = query.order_by(_withdrawal.c.created_at_us, _withdrawal.c.withdrawal_id).limit(limit)
    return [_record(row) for row in tx.connection.execute(query)]


def count_pending(tx: Transaction, account_id: str) -> int:
    """Open requests of an account."""
    query = (
        sa.select(sa.func.count())
        .select_from(_withdrawal)
        .where(
            _withdrawal.c.account_id == account_id,
            _withdrawal.c.state == WithdrawalState.PENDING.value,
        )
    )
    return int(tx.connection.execute(query).scalar_one())


def _record(row: sa.Row[tuple[object, ...]]) -> WithdrawalRow:
    values = dict(row._mapping)
    return WithdrawalRow(**(values | {"state": WithdrawalState(values["state"])}))
