"""`hvtrace advise`: what should be changed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hvtrace.cli.options import From, To, Vcpu, Vm, opened, scope_of, unit_of

__all__ = ["Form", "advise"]


class Form(StrEnum):
    """Forms of the answer."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


def advise(
    source: Annotated[Path | None, typer.Argument(metavar="[STORE]", help="A store, or a recording.")] = None,
    code: Annotated[
        list[str] | None,
        typer.Option("--code", metavar="CODE", help="Only this advice, or those whose codes begin so: AD2."),
    ] = None,
    start: From = None,
    end: To = None,
    vm: Vm = None,
    vcpu: Vcpu = None,
    output_format: Annotated[
        Form, typer.Option("--output-format", help="text, json or markdown.")
    ] = Form.TEXT,
    listed: Annotated[bool, typer.Option("--list", help="List all advices instead.")] = False,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="CODE", help="Say when an advice is given, and why.")
    ] = None,
) -> None:
    """Say what should be changed: enlightenments, clocks and timers, interrupts, exits, polling, TSC, nesting.

    Each finding has its evidence (counts, rates, ranks of events), what to change, and what that would bring.

    Examples:

      hvtrace advise trace.hvt

      hvtrace advise trace.dat --code AD2 --from +5s

      hvtrace advise trace.hvt --output-format markdown > findings.md

      hvtrace advise trace.hvt --output-format json | jq '.rows[] | .title'

      hvtrace advise --list

      hvtrace advise --explain AD201
    """
    if listed or explain is not None:
        _book(explain, output_format)
        return
    if source is None:
        raise typer.BadParameter("which STORE?")

    from dataclasses import asdict

    from hvtrace.analysis.advise import Question, chosen
    from hvtrace.analysis.advise import advise as answer
    from hvtrace.render.advise import as_json, as_markdown, as_text

    codes = tuple(code or ())
    try:
        chosen(codes)
    except ValueError as error:
        raise typer.BadParameter(f"--code {error}: no such advice; --list shows them") from error
    store = opened(source)
    question = Question(**asdict(scope_of(store, start, end, vm, vcpu)), codes=codes)
    found = answer(store, question).as_dict()
    if output_format is Form.TEXT:
        typer.echo(as_text(found, unit_of(store)))
    elif output_format is Form.JSON:
        typer.echo(as_json(found, str(source), unit_of(store)))
    else:
        typer.echo(as_markdown(found, str(source), unit_of(store)))


def _book(code: str | None, output_format: Form) -> None:
    """Print the advices there are, or the page of one."""
    from hvtrace.analysis.advice.table import ADVICES, FAMILIES, advice_by_code
    from hvtrace.render.advise import book

    found = None if code is None else advice_by_code(code)
    if code is not None and found is None:
        raise typer.BadParameter(f"--explain {code}: no such advice; --list shows them")
    rows = [
        {
            "code": row.code,
            "name": row.name,
            "family": FAMILIES[row.code[:3]],
            "summary": row.summary,
            "needs": list(row.needs),
            "doc": row.doc,
        }
        for row in (ADVICES if found is None else (found,))
    ]
    typer.echo(book(rows, str(output_format), whole=found is not None))
