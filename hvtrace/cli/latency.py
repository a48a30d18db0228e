"""`hvtrace latency`: how long things take that a guest waits for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hvtrace.cli.options import Format, From, OutputFormat, Source, To, Vcpu, Vm, opened, scope_of, unit_of

__all__ = ["latency"]


class By(StrEnum):
    """What rows are broken down by, beside what they are about."""

    VM = "vm"
    VCPU = "vcpu"


#: Rows of a measure that the text form shows unless told otherwise.
TOP = 5


def _list(wanted: bool) -> None:
    if wanted:
        from hvtrace.analysis.latency import MEASURES
        from hvtrace.render.latency import as_list

        typer.echo(as_list({name: measure.sentence for name, measure in MEASURES.items()}))
        raise typer.Exit


def latency(
    source: Source,
    measure: Annotated[
        list[str] | None,
        typer.Option("--measure", metavar="NAME", help="Only this one (repeatable); --list names them."),
    ] = None,
    by: Annotated[
        list[By] | None,
        typer.Option("--by", metavar="WORD", help="Break rows down by vm or vcpu."),
    ] = None,
    histogram: Annotated[
        bool, typer.Option("--histogram", help="Show how the times are spread (text, json).")
    ] = False,
    worst: Annotated[
        int,
        typer.Option("--worst", min=0, metavar="N", help="List the longest of each measure (text, json)."),
    ] = 0,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", min=0, metavar="N", help=f"Rows of each measure; 0: all. Text: {TOP}, else all."
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="List the measures and exit.")
    ] = False,
    start: From = None,
    end: To = None,
    vm: Vm = None,
    vcpu: Vcpu = None,
    output_format: OutputFormat = Format.TEXT,
) -> None:
    """Say how long things take that a guest waits for.

    Timers from due to injected, interrupts, messages, IPIs, wake-ups, hypercalls, userspace, preemption.

    Examples:

      hvtrace latency trace.hvt

      hvtrace latency trace.hvt --measure inject-eoi --by vcpu

      hvtrace latency trace.dat --measure stimer-callback --worst 5 --histogram

      hvtrace latency trace.hvt --from +1.5s --to +2s --output-format csv

      hvtrace latency trace.hvt --output-format json | jq .rows
    """
    from dataclasses import asdict

    from hvtrace.analysis.latency import MEASURES, Question
    from hvtrace.analysis.latency import latency as answer
    from hvtrace.render.latency import as_csv, as_json, as_text

    names = tuple(dict.fromkeys(measure or ()))
    if unknown := [name for name in names if name not in MEASURES]:
        raise typer.BadParameter(f"--measure: no {unknown[0]!r}; there are {', '.join(MEASURES)}")
    store = opened(source)
    unit = unit_of(store)
    question = Question(
        **asdict(scope_of(store, start, end, vm, vcpu)),
        measures=names,
        by=tuple(dict.fromkeys(str(word) for word in by or ())),
        histogram=histogram,
        worst=worst,
    )
    found = answer(store, question).as_dict()
    if output_format is Format.TEXT:
        typer.echo(as_text(found, unit, TOP if top is None else top or None))
    elif output_format is Format.JSON:
        typer.echo(as_json(found, str(source), unit, top or None))
    else:
        typer.echo(as_csv(found, question.columns, top or None))
