"""`hvtrace query`: SQL over a store's tables."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from hvtrace.cli.options import From, Source, To, Vcpu, Vm, opened, scope_of, unit_of

if TYPE_CHECKING:
    import polars as pl

    from hvtrace.store import Store

__all__ = ["query"]

#: Rows that the text form shows unless told otherwise.
TOP = 40


class Form(StrEnum):
    """Forms of a result."""

    TEXT = "text"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"
    ARROW = "arrow"


class Engine(StrEnum):
    """What runs the SQL."""

    POLARS = "polars"
    DUCKDB = "duckdb"


def query(
    source: Source,
    sql: Annotated[
        str | None,
        typer.Argument(metavar="SQL", help="SELECT …; - reads it from stdin. With --tables: a table."),
    ] = None,
    tables: Annotated[
        bool, typer.Option("--tables", help="List the tables, or the columns of the one named.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option("--engine", help="polars, or duckdb (pip install 'hvtrace[duckdb]').")
    ] = Engine.POLARS,
    top: Annotated[
        int | None,
        typer.Option("--top", min=0, metavar="N", help=f"Only so many rows; 0: all. Text: {TOP}, else all."),
    ] = None,
    expanded: Annotated[bool, typer.Option("--expanded", "-x", help="Text: a value a line.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there; - is stdout.")
    ] = None,
    start: From = None,
    end: To = None,
    vm: Vm = None,
    vcpu: Vcpu = None,
    output_format: Annotated[
        Form, typer.Option("--output-format", help="text, csv, json, parquet or arrow.")
    ] = Form.TEXT,
) -> None:
    """Ask in SQL: every tracepoint is a table, and so are lost, divergences and coverage.

    A query only reads, and only these tables.

    Examples:

      hvtrace query trace.hvt --tables

      hvtrace query trace.hvt --tables kvm_exit

      hvtrace query trace.hvt "SELECT msr_name, count(*) AS n FROM kvm_msr GROUP BY msr_name ORDER BY n DESC"

      hvtrace query trace.hvt "SELECT * FROM kvm_exit" --output-format parquet -o exits.parquet

      hvtrace query trace.dat - --engine duckdb --output-format json < question.sql
    """
    if output_format in (Form.PARQUET, Form.ARROW) and _to_stdout(output) and sys.stdout.isatty():
        raise typer.BadParameter(f"--output-format {output_format} is binary: not to a terminal; -o FILE")
    if sql is None and not tables:
        raise typer.BadParameter("no SQL; or --tables")
    store = opened(source)
    if tables:
        _tables(store, sql, str(source), output_format)
        return
    from hvtrace.analysis.query import query as answer
    from hvtrace.analysis.query import told

    text = sys.stdin.read() if sql == "-" else str(sql)
    found = answer(store, text, scope_of(store, start, end, vm, vcpu), str(engine))
    with told(store):
        if output_format is Form.TEXT:
            _print(found, TOP if top is None else top or None, output, expanded=expanded)
            return
        found = found.head(top) if top else found
        head = {"source": str(source), "unit": unit_of(store), "sql": text, "engine": str(engine)}
        if _to_stdout(output):
            _write(found, output_format, sys.stdout.buffer, head)
            sys.stdout.buffer.flush()
        else:
            from hvtrace.render.query import written

            with written(Path(str(output))) as out:
                _write(found, output_format, out, head)


def _to_stdout(output: Path | None) -> bool:
    return output is None or str(output) == "-"


def _print(found: pl.LazyFrame, top: int | None, output: Path | None, *, expanded: bool) -> None:
    from hvtrace.render.query import as_text, written

    # One more than is shown tells whether there are more.
    frame = (found if top is None else found.head(top + 1)).collect()
    text = as_text(frame, top, expanded=expanded)
    if _to_stdout(output):
        typer.echo(text)
        return
    with written(Path(str(output))) as out:
        out.write(f"{text}\n".encode())


def _write(found: pl.LazyFrame, form: Form, out: IO[bytes], head: dict[str, object]) -> None:
    from hvtrace.render import query as render

    if form is Form.JSON:
        render.write_json(found, out, head)
    else:
        {Form.CSV: render.write_csv, Form.PARQUET: render.write_parquet, Form.ARROW: render.write_arrow}[
            form
        ](found, out)


def _tables(store: Store, name: str | None, source: str, form: Form) -> None:
    from hvtrace.analysis.catalogue import table, tables
    from hvtrace.render.answer import as_csv, as_json
    from hvtrace.render.query import tables_as_text

    if form not in (Form.TEXT, Form.JSON, Form.CSV):
        raise typer.BadParameter(f"--tables: text, json or csv, not {form}")
    found = [one.as_dict() for one in ([table(store, name)] if name else tables(store))]
    if form is Form.TEXT:
        typer.echo(tables_as_text(found, columns=name is not None))
    elif form is Form.JSON:
        typer.echo(as_json({"tables": found}, source, unit_of(store)))
    else:
        rows = [
            {"table": one["name"], "rows": one["rows"], "column": column["name"]}
            | {"type": column["type"], "doc": column["doc"]}
            for one in found
            for column in one["columns"]
        ]
        typer.echo(as_csv(rows, ("table", "rows", "column", "type", "doc")))
