"""`hvtrace halt-poll`: what halt polling cost and saved, and what other parameters would."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hvtrace.cli.options import Format, From, OutputFormat, Source, To, Vcpu, Vm, opened, scope_of, unit_of

__all__ = ["Prefer", "halt_poll"]


class Prefer(StrEnum):
    """What a recommendation is to favour."""

    CPU = "cpu"
    BALANCE = "balance"
    LATENCY = "latency"


def halt_poll(
    source: Source,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="NAME=VALUE,…",
            help="Run the halts again: halt_poll_ns, grow, grow_start, shrink, vm_cap; off; guest=on. Repeatable.",
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep", metavar="GRID", help="And through a grid: auto, or halt_poll_ns=0:400000:50000."
        ),
    ] = None,
    own: Annotated[
        str | None,
        typer.Option(
            "--own", metavar="NAME=VALUE,…", help="Parameters of the recording, where known better."
        ),
    ] = None,
    prefer: Annotated[
        Prefer,
        typer.Option(
            "--prefer",
            help="What to recommend: cheap (cpu), worth its price (balance), or what saves most (latency).",
        ),
    ] = Prefer.BALANCE,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw CPU time against latency: .png, .svg or .html."),
    ] = None,
    start: From = None,
    end: To = None,
    vm: Vm = None,
    vcpu: Vcpu = None,
    output_format: OutputFormat = Format.TEXT,
) -> None:
    """Say what halt polling cost and saved, and what it would under other parameters.

    The recorded halts are run through the algorithm again; its own parameters must give the recorded changes.

    Examples:

      hvtrace halt-poll trace.hvt

      hvtrace halt-poll trace.hvt --what-if halt_poll_ns=50000,shrink=2

      hvtrace halt-poll trace.hvt --sweep auto --prefer latency

      hvtrace halt-poll trace.dat --sweep halt_poll_ns=0:400000:50000

      hvtrace halt-poll trace.hvt --what-if off --what-if guest=on

      hvtrace halt-poll trace.hvt --sweep auto --plot polling.html

      hvtrace halt-poll trace.hvt --own shrink=0 --output-format json
    """
    from dataclasses import asdict

    from hvtrace.analysis.halt_poll.answer import COLUMNS, Question
    from hvtrace.analysis.halt_poll.answer import halt_poll as answer
    from hvtrace.render.halt_poll import as_csv, as_json, as_text

    if plot is not None:
        from hvtrace.render.halt_poll_plot import check, draw

        check(plot)
        if sweep is None and not what_if:
            sweep = "auto"
    store = opened(source)
    unit = unit_of(store)
    scope = scope_of(store, start, end, vm, vcpu)
    question = Question(
        **asdict(scope), what_if=tuple(what_if or ()), sweep=sweep, own=own, prefer=str(prefer)
    )
    found = answer(store, question).as_dict()
    if plot is not None:
        draw(found, str(source), plot)
    if output_format is Format.TEXT:
        typer.echo(as_text(found, unit))
    elif output_format is Format.JSON:
        typer.echo(as_json(found, str(source), unit))
    else:
        typer.echo(as_csv(found, COLUMNS))
