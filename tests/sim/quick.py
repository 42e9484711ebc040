"""A connection that leaves out the toolkit's work per statement.

Two thirds of a simulated coordinator's time went into building results and contexts for rows in
memory. Statements are compiled by SQLAlchemy, once a process; here their parameters are laid out
and given to the driver directly. What is not a plain statement over integers, text, bytes and
truth values goes the ordinary way, and the tests compare the two.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql.cache_key import CacheKey
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import Delete, Insert, Update
from sqlalchemy.sql.selectable import Select

from flopmarket_coordinator.store import engine

_PLAIN = (Select, Insert, Update, Delete)


class _Plan:
    """One statement, compiled: its text, the order of its parameters, what its rows are called."""

    __slots__ = ("compiled", "expanded", "lists", "names", "ordinary", "positions", "row", "text",
                 "truths")  # fmt: skip

    def __init__(self, compiled: SQLCompiler) -> None:
        self.compiled = compiled
        self.text = str(compiled)
        self.positions = compiled.positiontup or []
        self.lists = [
            (parameter, compiled.bind_names[parameter])
            for parameter in sorted(compiled.post_compile_params, key=compiled.bind_names.get)  # type: ignore[arg-type]
        ]
        self.ordinary = bool(compiled.literal_execute_params) or any(
            not parameter.expanding or parameter.type._is_tuple_type for parameter, _ in self.lists
        )
        self.expanded: dict[tuple[int, ...], tuple[str, Any, Any]] = {}
        columns = compiled._result_columns
        self.names = [entry.keyname for entry in columns]
        self.truths = [at for at, entry in enumerate(columns) if isinstance(entry.type, sa.Boolean)]
        self.row = namedtuple("Row", self.names, rename=True) if columns else None  # type: ignore[misc]

    def layout(self, given: dict[str, Any]) -> tuple[str, list[Any]]:
        """SQL and parameters; lists of an IN get a mark for each of their values."""
        if not self.lists:
            return self.text, [given[name] for name in self.positions]
        lengths = tuple([len(given[name]) for _, name in self.lists])
        known = self.expanded.get(lengths)
        if known is None:
            state = self.compiled._process_parameters_for_postcompile(dict(given))
            known = state.statement, state.positiontup, state.parameter_expansion
            self.expanded[lengths] = known
        text, positions, expansion = known
        for name, marks in expansion.items():
            given.update(zip(marks, given[name], strict=True))
        return text, [given[name] for name in positions]


class Result:
    """The parts of a result that the store uses."""

    def __init__(self, plan: _Plan, rows: list[Any], rowcount: int) -> None:
        self._plan = plan
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> list[Any]:
        """Every row."""
        return self._rows

    def first(self) -> Any:
        """The first row or None."""
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        """The only row."""
        (row,) = self._rows
        return row

    def one_or_none(self) -> Any:
        """The only row, or None."""
        return self.one() if self._rows else None

    def tuples(self) -> Result:
        """Rows are tuples."""
        return self

    def mappings(self) -> Result:
        """Rows as mappings from the names of their columns."""
        names = self._plan.names
        rows = [dict(zip(names, row, strict=True)) for row in self._rows]
        return Result(self._plan, rows, self.rowcount)

    def scalars(self) -> Result:
        """The first column."""
        return Result(self._plan, [row[0] for row in self._rows], self.rowcount)

    def scalar(self) -> Any:
        """The first column of the first row, or None."""
        return self._rows[0][0] if self._rows else None

    def scalar_one(self) -> Any:
        """The only value."""
        (row,) = self._rows
        return row[0]

    def scalar_one_or_none(self) -> Any:
        """The only value, or None."""
        return self.scalar_one() if self._rows else None


class QuickConnection(sa.Connection):
    """Runs plain statements of :data:`_PLAIN` without execution contexts."""

    def execute(self, statement: Any, parameters: Any = None, **more: Any) -> Any:
        """As the base class does it, sooner."""
        named = parameters is None or isinstance(parameters, dict)
        if more or not named or not isinstance(statement, _PLAIN):
            return super().execute(statement, parameters, **more)
        key: CacheKey | None = statement._generate_cache_key()
        plan = None if key is None else self._plan(statement, key, parameters)
        if plan is None or key is None or plan.ordinary:
            return super().execute(statement, parameters)
        if not self.in_transaction():
            self.begin()
        given = plan.compiled.construct_params(parameters, extracted_parameters=key.bindparams)
        cursor = self._cursor()
        try:
            cursor.execute(*plan.layout(given))
            rows: list[Any] = []
            if plan.row is not None:
                rows = self._rows(plan, cursor.fetchall())
        except sqlite3.Error as error:
            dbapi = self.dialect.loaded_dbapi
            raise sa.exc.DBAPIError.instance(
                plan.text, None, error, dbapi.Error, dialect=self.dialect
            ) from error
        return Result(plan, rows, cursor.rowcount)

    def _rows(self, plan: _Plan, found: list[Any]) -> list[Any]:
        make: Callable[[Any], Any] = plan.row._make  # type: ignore[union-attr]
        if not plan.truths:
            return [make(row) for row in found]
        rows = []
        for row in found:
            values = list(row)
            for at in plan.truths:
                if values[at] is not None:
                    values[at] = bool(values[at])
            rows.append(make(values))
        return rows

    def _cursor(self) -> sqlite3.Cursor:
        driver = self.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        return driver.cursor()

    def _plan(self, statement: Any, key: CacheKey, parameters: Any) -> _Plan | None:
        columns = () if parameters is None else tuple(parameters)
        plan = _PLANS.get((key.key, columns))
        if plan is None:
            compiled = statement._compiler(
                self.dialect,
                cache_key=key,
                column_keys=sorted(columns),
                for_executemany=False,
                schema_translate_map=None,
            )
            plan = _PLANS[key.key, columns] = _Plan(compiled)
        return plan


def _say(word: str) -> Callable[[sa.Connection, str], None]:
    def run(connection: sa.Connection, name: str) -> None:
        connection.connection.cursor().execute(f"{word} {name}")

    return run


_PLANS: dict[Any, _Plan] = {}
_ORDINARY_PLANS: dict[Any, Any] = {}
_DIALECT: list[Dialect] = []


def store_of(image: sqlite3.Connection, *, quick: bool = True) -> sa.Engine:
    """A database in memory with the contents of ``image``, on one connection.

    All of them share what was compiled.
    """
    connection = sqlite3.connect(
        ":memory:", check_same_thread=False, cached_statements=engine.CACHED_STATEMENTS
    )
    connection.isolation_level = None
    image.backup(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    if not _DIALECT:
        first = sa.create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(":memory:"), poolclass=StaticPool
        )
        first.connect().close()
        dialect = first.dialect
        dialect.do_savepoint = _say("SAVEPOINT")  # type: ignore[method-assign]
        dialect.do_release_savepoint = _say("RELEASE")  # type: ignore[method-assign]
        dialect.do_rollback_to_savepoint = _say("ROLLBACK TO")  # type: ignore[method-assign]
        _DIALECT.append(dialect)
    made = sa.Engine(StaticPool(lambda: connection), _DIALECT[0], sa.make_url("sqlite://"))
    made._compiled_cache = _ORDINARY_PLANS  # type: ignore[assignment]
    if quick:
        made._connection_cls = QuickConnection
    event.listen(made, "begin", engine._begin_sqlite)
    return made
