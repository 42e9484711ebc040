"""Statements compiled once: what the ledger's hot path runs, without the toolkit's work per call.

The SQL is SQLAlchemy's own for each database; only its handling of parameters and results is left
out, which these statements do not need: the drivers take and give integers, text and bytes as they
are. Every value is a named parameter; a constant inside the statement would be a nameless one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.compiler import SQLCompiler

from flopmarket_coordinator.store.engine import Transaction


class Prepared:
    """One statement. Its parameters are named, as in the statement itself."""

    def __init__(self, statement: sa.ClauseElement) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, tuple[str, ...] | None]] = {}

    def run(self, tx: Transaction, parameters: Mapping[str, Any]) -> sa.CursorResult[Any]:
        """Once."""
        sql, order = self._for(tx)
        given = dict(parameters) if order is None else tuple(parameters[name] for name in order)
        return tx.connection.exec_driver_sql(sql, given)

    def run_many(self, tx: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
        """For every row."""
        sql, order = self._for(tx)
        if order is None:
            tx.connection.exec_driver_sql(sql, [dict(row) for row in rows])
        else:
            given = [tuple([row[name] for name in order]) for row in rows]
            tx.connection.exec_driver_sql(sql, given)

    def _for(self, tx: Transaction) -> tuple[str, tuple[str, ...] | None]:
        """SQL text, and the order of parameters where the driver takes them by position."""
        dialect = tx.connection.dialect
        known = self._compiled.get(dialect.name)
        if known is None:
            compiled = self._statement.compile(dialect=dialect)
            assert isinstance(compiled, SQLCompiler), "a query or a change of rows"
            order = compiled.positiontup if compiled.positional else None
            known = (str(compiled), tuple(order) if order is not None else None)
            self._compiled[dialect.name] = known
        return known
