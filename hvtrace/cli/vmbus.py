"""`hvtrace vmbus`: what a guest and its host say to each other over VMBus."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hvtrace.cli.options import Format, From, OutputFormat, Source, To, Vm, opened, scope_of, unit_of

__all__ = ["Table", "vmbus"]


class Table(StrEnum):
    """Tables of the answer."""

    CHANNELS = "channels"
    MESSAGES = "messages"
    UNANSWERED = "unanswered"
    CALLS = "calls"
    INTERRUPTS = "interrupts"
    LATENCIES = "latencies"
    CONVERSATION = "conversation"


#: Rows of a table that the text form shows unless told otherwise.
TOP = 20


def vmbus(
    source: Source,
    messages: Annotated[bool, typer.Option("--messages", help="List each message by itself (text).")] = False,
    table: Annotated[
        Table,
        typer.Option(
            "--table",
            metavar="NAME",
            help="Rows of csv, and `rows` of json: channels, messages, unanswered, calls, interrupts, latencies, "
            "conversation.",
        ),
    ] = Table.CHANNELS,
    top: Annotated[
        int | None,
        typer.Option("--top", min=0, metavar="N", help=f"Rows of each table; 0: all. Text: {TOP}, else all."),
    ] = None,
    start: From = None,
    end: To = None,
    vm: Vm = None,
    output_format: OutputFormat = Format.TEXT,
) -> None:
    """Show the conversation over VMBus: versions, channels, messages and answers, signals, interrupts.

    KVM's events show hypercalls and interrupts alone; what was said stands in QEMU's trace events (docs/vmbus.md).

    Examples:

      hvtrace ingest trace.dat --qemu qemu-trace.log && hvtrace vmbus trace.hvt

      hvtrace vmbus trace.hvt --messages --from +12s --to +14s

      hvtrace vmbus trace.dat --vm 0

      hvtrace vmbus trace.hvt --table latencies --output-format csv

      hvtrace vmbus trace.hvt --output-format json | jq .unanswered
    """
    from dataclasses import asdict

    from hvtrace.analysis.vmbus import Question
    from hvtrace.analysis.vmbus import vmbus as answer
    from hvtrace.render.vmbus import as_csv, as_json, as_text

    store = opened(source)
    unit = unit_of(store)
    question = Question(**asdict(scope_of(store, start, end, vm, None)), table=str(table))
    found = answer(store, question).as_dict()
    if output_format is Format.TEXT:
        typer.echo(as_text(found, unit, TOP if top is None else top or None, conversation=messages))
    elif output_format is Format.JSON:
        typer.echo(as_json(found, str(source), unit, top or None))
    else:
        typer.echo(as_csv(found, question.columns, top or None))
