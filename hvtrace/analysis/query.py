"""SQL over a store's tables, by polars or by DuckDB. The answer of `hvtrace query`.

Tables are the tracepoints by their names, and lost, divergences, coverage. A query only reads, and only these tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import polars as pl

from hvtrace.analysis.catalogue import absent, names
from hvtrace.analysis.scope import Scope
from hvtrace.errors import HvtraceError, InputError
from hvtrace.store import Store

__all__ = ["ENGINES", "query", "told"]

#: What queries begin with; everything else changes something, or tells of the engine.
_BEGINNINGS = ("SELECT", "WITH", "FROM", "VALUES", "EXPLAIN")

#: A string, a quoted name, a comment: what is in them is no word of the language.
_STRING, _NAME, _COMMENT = r"'(?:[^']|'')*'", r'"(?:[^"]|"")*"|`[^`]*`', r"--[^\n]*|/\*.*?\*/"
_SKIPPED = re.compile(f"({_STRING})|({_NAME})|({_COMMENT})", re.S)

#: Functions of polars' SQL that read files: read_csv, read_parquet and the like.
_READS = re.compile(r"[\"`]?\b((?:read|scan)_\w+)[\"`]?\s*\(", re.I)

_NO_TABLE = re.compile(r"relation '(.*)' was not found")


def query(store: Store, sql: str, scope: Scope | None = None, engine: str = "polars") -> pl.LazyFrame:
    """Return what the SQL says, of the part of the recording in `scope`, as a LazyFrame.

    `engine` is one of ENGINES. Of `scope` the columns vm, vcpu and ts_ns are restricted in all tables that have them;
    of lost, losses that reach into the span are kept; coverage is that of the whole recording. A query by polars runs
    when it is collected: do that within `told`. Raises HvtraceError where the SQL cannot be understood, names what is
    not there or would do more than read, InputError where the scope means nothing.
    """
    if engine not in ENGINES:
        raise HvtraceError(f"no engine {engine!r}; there are {', '.join(ENGINES)}")
    scope = scope or Scope()
    scope.check(store)
    where = {name: _condition(name, scope) for name in names(store)}
    with told(store):
        return ENGINES[engine](store, sql, where)


@contextmanager
def told(store: Store) -> Iterator[None]:
    """Turn what polars says of a query into one line. Raises HvtraceError."""
    try:
        yield
    except pl.exceptions.PanicException as error:
        raise HvtraceError(f"SQL: polars failed: {_line(error)}") from error
    except pl.exceptions.SQLInterfaceError as error:
        if found := _NO_TABLE.search(str(error)):
            raise InputError(store.path, absent(store, found[1])) from error
        raise HvtraceError(f"SQL: {_line(error)}") from error
    except pl.exceptions.PolarsError as error:
        raise HvtraceError(f"SQL: {_line(error)}") from error


def _by_polars(store: Store, sql: str, where: dict[str, str | None]) -> pl.LazyFrame:
    _only_reads(sql)
    frames = {}
    for name, condition in where.items():
        # SQL's LIKE and functions want strings.
        frame = store.scan(name).with_columns(pl.col(pl.Categorical).cast(pl.String))
        frames[name] = frame if condition is None else frame.filter(pl.sql_expr(condition))
    found = pl.SQLContext(frames).execute(sql)
    # Most mistakes show here, before anything runs.
    found.collect_schema()
    return found


def _by_duckdb(store: Store, sql: str, where: dict[str, str | None]) -> pl.LazyFrame:
    from hvtrace.analysis.query_duckdb import run

    return run(store, sql, where)


#: Name → what runs a query: given the store, the SQL, and for each table the SQL condition its rows must meet.
ENGINES: dict[str, Callable[[Store, str, dict[str, str | None]], pl.LazyFrame]] = {
    "polars": _by_polars,
    "duckdb": _by_duckdb,
}


def _condition(name: str, scope: Scope) -> str | None:
    """The scope as SQL for one table; None where it restricts nothing."""
    first, last = scope.first_ns, scope.last_ns
    if name == "coverage":
        parts = []
    elif name == "lost":
        parts = [] if first is None else [f"(to_ns IS NULL OR to_ns >= {first})"]
        parts += [] if last is None else [f"(from_ns IS NULL OR from_ns <= {last})"]
    else:
        terms = [
            ("vm", "=", scope.vm),
            ("vcpu", "=", scope.vcpu),
            ("ts_ns", ">=", first),
            ("ts_ns", "<=", last),
        ]
        parts = [f"{column} {sign} {value}" for column, sign, value in terms if value is not None]
    return " AND ".join(parts) or None


def _only_reads(sql: str) -> None:
    """Refuse what is no query, and what would read other files. Raises HvtraceError."""
    words = _SKIPPED.sub(lambda found: found[2] or " ", sql)
    first = re.match(r"[\s(]*(\w*)", words)
    if first is None or first[1].upper() not in _BEGINNINGS:
        said = repr(first[1]) if first and first[1] else "nothing"
        raise HvtraceError(
            f"SQL: a query begins with SELECT (or {', '.join(_BEGINNINGS[1:])}), not with {said}"
        )
    if found := _READS.search(words):
        raise HvtraceError(
            f"SQL: {found[1]}() would read another file; a query reads the store's tables alone"
        )


def _line(error: BaseException) -> str:
    """The first paragraph of a message; what follows is a query plan."""
    text = re.split(r"\n\s*\n|\n\nResolved plan", str(error).strip())[0]
    return " ".join(text.split()) or type(error).__name__
