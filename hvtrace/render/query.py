"""Results of `hvtrace query`: a table for people; CSV, JSON, Parquet, Arrow for programs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import polars as pl

from hvtrace.render.table import Column, Units, table, terminal_width
from hvtrace.render.terminal import count, safe, styled, wrapped

__all__ = ["as_text", "tables_as_text", "write_arrow", "write_csv", "write_json", "write_parquet", "written"]

#: Longest cell of the text form.
CELL = 60

#: Rows that are turned into text at a time.
SLICE = 1 << 16


def as_text(frame: pl.DataFrame, top: int | None, *, expanded: bool = False) -> str:
    """Return the rows as a table that fits the terminal, or a value a line; at most `top` of them (None: all).

    `frame` has one row more than `top` where there are more.
    """
    rows = list((frame if top is None else frame.head(top)).iter_rows(named=True))
    left = [] if len(rows) == frame.height else ["… and more rows (all: --top 0)"]
    if not rows:
        return "\n".join([styled(safe(" ".join(frame.columns), terminal_width()), "bold"), "no rows"])
    lines = _expanded(rows) if expanded else _table(frame.schema, rows)
    return "\n".join([*lines, *left])


def _column(name: str, order: int, *, right: bool) -> Column:
    return Column(safe(name, CELL), order, lambda row, _: safe(_cell(row[name]), CELL), right=right)


def _table(schema: pl.Schema, rows: Sequence[dict[str, Any]]) -> list[str]:
    columns = [
        _column(name, order, right=dtype.is_numeric()) for order, (name, dtype) in enumerate(schema.items())
    ]
    lines = table(columns, rows)
    fitting = _fitting(columns, rows)
    if fitting == len(columns):
        return lines
    names = ", ".join(safe(name) for name in list(schema)[fitting:])
    return [*lines, *wrapped(f"Not shown, for want of room: {names} (all: -x).")]


def _fitting(columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> int:
    """How many of the columns hvtrace.render.table.table shows; the first of all it always does."""
    used, width, units = -1, terminal_width(), Units()
    for number, column in enumerate(columns):
        used += 1 + max(len(column.title), *(len(column.cell(row, units)) for row in rows))
        if number and used > width:
            return number
    return len(columns)


def _expanded(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A value a line, after a line for each row."""
    names = {name: safe(name, CELL) for name in rows[0]}
    width = max(map(len, names.values()))
    lines: list[str] = []
    for number, row in enumerate(rows, 1):
        lines.append(styled(f"row {number}", "bold"))
        lines += [f"{shown:{width}}  {safe(_cell(row[name]))}" for name, shown in names.items()]
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return f"[{', '.join(map(_cell, value))}]"
    return str(value)


def _plain(frame: pl.LazyFrame, *, nested: bool) -> pl.LazyFrame:
    """Columns as text forms can have them: names as strings, bytes as hexadecimal digits, whole decimals as integers.

    Without `nested`, lists and structs are JSON in a string.
    """
    chosen = []
    for name, dtype in frame.collect_schema().items():
        column = pl.col(name)
        if dtype == pl.Categorical or isinstance(dtype, pl.Enum):
            chosen.append(column.cast(pl.String))
        elif dtype == pl.Binary:
            chosen.append(column.bin.encode("hex"))
        elif isinstance(dtype, pl.Decimal) and dtype.scale == 0:
            chosen.append(column.cast(pl.Int128))
        elif isinstance(dtype, pl.Decimal):
            chosen.append(column.cast(pl.Float64))
        elif dtype == pl.Duration:
            chosen.append(column.dt.total_nanoseconds())
        elif dtype.is_nested() and not nested:
            chosen.append(column.map_elements(_json, return_dtype=pl.String))
        elif nested and dtype.is_float():
            # JSON has neither NaN nor infinities.
            chosen.append(pl.when(column.is_finite()).then(column).alias(name))
    return frame.with_columns(chosen)


def _json(value: Any) -> str:
    return json.dumps(value.to_list() if isinstance(value, pl.Series) else value, default=str)


def write_csv(frame: pl.LazyFrame, out: IO[bytes]) -> None:
    """Write the rows, a line each, under a line of names; null is empty."""
    whole = _plain(frame, nested=False).collect()
    out.write(whole.clear().write_csv().encode())
    for part in whole.iter_slices(SLICE):
        out.write(part.write_csv(include_header=False).encode())


def write_json(frame: pl.LazyFrame, out: IO[bytes], head: dict[str, Any]) -> None:
    """Write one object: schema_version, `head`, columns (name and type of each), rows (an object each)."""
    columns = [{"name": name, "type": _type(dtype)} for name, dtype in frame.collect_schema().items()]
    # What fails does so before anything is written.
    whole = _plain(frame, nested=True).collect()
    text = json.dumps({"schema_version": 1} | head | {"columns": columns}, indent=1, ensure_ascii=False)
    out.write(text.removesuffix("\n}").encode() + b',\n "rows": [')
    first = True
    for part in whole.iter_slices(SLICE):
        lines = part.write_ndjson().strip()
        if lines:
            out.write((("\n  " if first else ",\n  ") + lines.replace("\n", ",\n  ")).encode())
            first = False
    out.write(b"]\n}\n" if first else b"\n ]\n}\n")


def write_parquet(frame: pl.LazyFrame, out: IO[bytes]) -> None:
    """Write a Parquet file."""
    frame.collect().write_parquet(out)


def write_arrow(frame: pl.LazyFrame, out: IO[bytes]) -> None:
    """Write an Arrow IPC stream."""
    frame.collect().write_ipc_stream(out)


#: How the words of the schema begin, by how polars' do: UInt64 is u64.
_KINDS = {"UInt": "u", "Int": "s", "Float": "f"}
_OTHERS = {"Boolean": "bool", "Binary": "bytes", "String": "str", "Categorical": "str", "Enum": "str"}


def _type(dtype: Any) -> str:
    """A polars type in the words of the schema: u64, str, u64 list; polars' own for others."""
    if dtype == pl.List:
        return f"{_type(dtype.inner)} list"
    if dtype == pl.Decimal and dtype.scale == 0:
        return "s128"
    name = str(dtype.base_type())
    number = re.fullmatch(r"(UInt|Int|Float)(\d+)", name)
    return f"{_KINDS[number[1]]}{number[2]}" if number else _OTHERS.get(name, str(dtype).lower())


def tables_as_text(tables: Sequence[dict[str, Any]], *, columns: bool) -> str:
    """Return names, rows and sentences of tables; or of a single one the `columns`."""
    if not columns:
        width = max((len(safe(found["name"], 40)) for found in tables), default=0)
        digits = max((len(count(found["rows"])) for found in tables), default=0)
        return "\n".join(line for found in tables for line in _line(found, width, digits))
    (found,) = tables
    rows = "not in this recording" if found["rows"] is None else f"{count(found['rows'])} rows"
    lines = [styled(f"{safe(found['name'])}, {rows}", "bold")]
    lines += wrapped(found["doc"]) if found["doc"] else []
    return "\n".join([*lines, "", *_columns(found["columns"])])


def _line(found: dict[str, Any], width: int, digits: int) -> list[str]:
    head = f"{safe(found['name'], 40):{width}}  {count(found['rows']):>{digits}}  "
    return wrapped(found["doc"] or "(not known to the schema)", head, " " * len(head))


def _columns(columns: Sequence[dict[str, Any]]) -> Iterator[str]:
    width = max((len(safe(column["name"], 40)) for column in columns), default=0)
    kind = max((len(column["type"]) for column in columns), default=0)
    for column in columns:
        head = f"{safe(column['name'], 40):{width}}  {safe(column['type']):{kind}}  "
        yield from wrapped(column["doc"] or "", head, " " * len(head))


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing; it gets its name when it is whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as out:
            yield out
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
