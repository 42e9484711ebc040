"""Rows of a table as records of a class, by statements that are built once.

Building a statement costs several times what running it costs, and so does a mapping for every row:
a hot function executes a statement made at import, its values by name, and its rows become records
by position. Values of an INSERT or an UPDATE are given by the names of their columns; a name in a
WHERE is none of these.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from flopmarket_coordinator.store.engine import Transaction

Record = TypeVar("Record")


def given(name: str) -> sa.BindParameter[Any]:
    """A value that is named when the statement runs."""
    return sa.bindparam(name)


def any_of(name: str) -> sa.BindParameter[Any]:
    """A list for an IN that is named when the statement runs."""
    return sa.bindparam(name, expanding=True)


def constant(value: str | int) -> sa.ColumnClause[Any]:
    """A value spelled out in the statement.

    One that is bound where a partial index has a constant makes SQLite plan the statement anew at
    every execution, as its plan depends on the value, and keeps PostgreSQL from using the index.
    """
    if isinstance(value, int):
        return sa.literal_column(str(int(value)))
    return sa.literal_column("'" + str(value).replace("'", "''") + "'")


def constants(values: Iterable[str]) -> list[sa.ColumnClause[Any]]:
    """Values for an IN, spelled out."""
    return [constant(value) for value in sorted(values)]


class Rows(Generic[Record]):
    """Reads ``cls``, a dataclass whose fields are columns of ``table``."""

    def __init__(self, cls: type[Record], table: sa.FromClause) -> None:
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        hints = typing.get_type_hints(cls)
        self._make = cls
        self._kinds: tuple[tuple[int, type[Enum]], ...] = tuple(
            (at, hints[field.name])
            for at, field in enumerate(fields)
            if isinstance(hints[field.name], type) and issubclass(hints[field.name], Enum)
        )
        self.columns: tuple[sa.ColumnElement[Any], ...] = tuple(
            table.c[field.name] for field in fields
        )
        self.select: sa.Select[Any] = sa.select(*self.columns)
        """The columns in the order of the fields; a query adds its conditions to it."""

    def first(
        self, tx: Transaction, query: sa.Executable, values: Mapping[str, Any] | None = None
    ) -> Record | None:
        """The record of the first row, or None."""
        row = tx.connection.execute(query, values).first()
        return None if row is None else self.record(row)

    def all(
        self, tx: Transaction, query: sa.Executable, values: Mapping[str, Any] | None = None
    ) -> list[Record]:
        """The record of each row."""
        return [self.record(row) for row in tx.connection.execute(query, values)]

    def record(self, row: Any) -> Record:
        """The record of a row that has these columns, in this order, and no others."""
        if not self._kinds:
            return self._make(*row)
        values = list(row)
        for at, kind in self._kinds:
            values[at] = kind(values[at])
        return self._make(*values)
