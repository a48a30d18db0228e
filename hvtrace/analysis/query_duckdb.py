"""SQL by DuckDB, which is an extra: the store's Parquet files as views, and nothing else within reach."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import polars as pl

from hvtrace.analysis.catalogue import absent
from hvtrace.errors import HvtraceError, InputError
from hvtrace.store import Store

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

__all__ = ["run"]

#: No extension is fetched or loaded, whatever a query names.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
}

_NO_TABLE = re.compile(r"Table with name (.*) does not exist")

#: How DuckDB's messages go on below their first lines.
_DETAILS = re.compile(r"\s*\n\s*(LINE \d+:|Did you mean).*", re.S)


def run(store: Store, sql: str, where: dict[str, str | None]) -> pl.LazyFrame:
    """Run a query over the tables in `where`, each restricted to the rows that meet its SQL condition (None: all).

    Raises HvtraceError where DuckDB is not installed or does not like the query, InputError where a table is missing.
    """
    try:
        import duckdb
    except ImportError as error:
        raise HvtraceError(
            "DuckDB is not installed: pip install 'hvtrace[duckdb]' (or --engine polars)"
        ) from error
    with duckdb.connect(":memory:", config=_CONFIG) as connection:
        try:
            _lock_up(connection, store, where)
            statements = connection.extract_statements(sql)
            if len(statements) != 1:
                raise HvtraceError(f"SQL: one query at a time, not {len(statements)}")
            if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
                raise HvtraceError("SQL: a query begins with SELECT (or WITH, FROM, VALUES, EXPLAIN)")
            relation = connection.sql(sql)
            return _frame(relation.to_arrow_table()).lazy()
        except duckdb.Error as error:
            if found := _NO_TABLE.search(str(error)):
                raise InputError(store.path, absent(store, found[1])) from error
            message = " ".join(_DETAILS.sub("", str(error)).split())
            raise HvtraceError(f"SQL: {message}") from error


def _lock_up(connection: duckdb.DuckDBPyConnection, store: Store, where: dict[str, str | None]) -> None:
    """Make the views; afterwards no other file can be read or written, and no setting be changed back."""
    files = {name: str(store.file(name).resolve()) for name in where}
    connection.execute(f"SET allowed_paths = [{', '.join(map(_text, files.values()))}]")
    for name, condition in where.items():
        rows = f"SELECT * FROM read_parquet({_text(files[name])})"
        rows += "" if condition is None else f" WHERE {condition}"
        connection.execute(f'CREATE VIEW "{name.replace(chr(34), 2 * chr(34))}" AS {rows}')
    for setting in (
        # Variables of this program are no tables.
        "python_enable_replacements = false",
        "temp_directory = ''",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _frame(table: pa.Table) -> pl.DataFrame:
    """The result; of columns with the same name the later ones get a number."""
    counts: Counter[str] = Counter()
    columns = []
    for name in table.column_names:
        counts[name] += 1
        columns.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
    try:
        return pl.DataFrame(pl.from_arrow(table.rename_columns(columns)))
    except pl.exceptions.PolarsError as error:
        raise HvtraceError(
            "SQL: a column is of a type that has no counterpart here (an interval?); cast it to VARCHAR"
        ) from error
