"""`hvtrace exits`: what handling exits took."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hvtrace.cli.options import Format, From, OutputFormat, Source, To, Vcpu, Vm, opened, scope_of, unit_of

__all__ = ["Breakdown", "Event", "exits"]


class Event(StrEnum):
    """What is counted."""

    VMEXIT = "vmexit"
    MMIO = "mmio"
    IOPORT = "ioport"
    MSR = "msr"


class Breakdown(StrEnum):
    """What rows are broken down by, beside the reason."""

    REASON = "reason"
    MSR = "msr"
    PORT = "port"
    ADDRESS = "address"
    HYPERCALL = "hypercall"
    CPUID = "cpuid"
    VECTOR = "vector"
    VM = "vm"
    VCPU = "vcpu"


class Sort(StrEnum):
    """Figures to sort by, the largest first."""

    TIME = "time"
    COUNT = "count"
    KERNEL = "kernel"
    USERSPACE = "userspace"
    MIN = "min"
    MEAN = "mean"
    MAX = "max"
    DEVIATION = "deviation"
    P50 = "p50"
    P90 = "p90"
    P99 = "p99"
    P99_9 = "p99.9"
    REASON = "reason"


#: Rows that the text form shows unless told otherwise.
TOP = 25


def exits(
    source: Source,
    event: Annotated[
        Event, typer.Option("--event", help="As in `perf kvm stat report`: vmexit, mmio, ioport, msr.")
    ] = Event.VMEXIT,
    by: Annotated[
        list[Breakdown] | None,
        typer.Option(
            "--by",
            metavar="WORD",
            help="Break reasons down by vm or vcpu, and by one of msr, port, address, hypercall, cpuid, vector.",
        ),
    ] = None,
    sort: Annotated[
        Sort,
        typer.Option(
            "--sort",
            metavar="FIGURE",
            help="time, count, kernel, userspace, min, mean, max, deviation, p50, p90, p99, p99.9; or reason.",
        ),
    ] = Sort.TIME,
    top: Annotated[
        int | None,
        typer.Option("--top", min=0, metavar="N", help=f"Only so many rows; 0: all. Text: {TOP}, else all."),
    ] = None,
    than: Annotated[
        str | None,
        typer.Option("--than", metavar="TIME", help="Only what took longer, and each by itself: 5ms."),
    ] = None,
    interval: Annotated[
        str | None,
        typer.Option("--interval", metavar="TIME", help="Rows for each such part of the time: 100ms."),
    ] = None,
    histogram: Annotated[
        bool, typer.Option("--histogram", help="Show how the times are spread (text, json).")
    ] = False,
    start: From = None,
    end: To = None,
    vm: Vm = None,
    vcpu: Vcpu = None,
    output_format: OutputFormat = Format.TEXT,
) -> None:
    """Count exits by reason, and say what handling them took, in the kernel and in userspace.

    The pairs are those of `perf kvm stat report`: an exit lasts until the vCPU's next entry.

    Examples:

      hvtrace exits trace.hvt

      hvtrace exits trace.hvt --by msr --sort count --vcpu 0

      hvtrace exits trace.dat --event ioport --from +1.5s --to +2s

      hvtrace exits trace.hvt --by port --than 5ms

      hvtrace exits trace.hvt --interval 100ms --by vcpu --output-format csv

      hvtrace exits trace.hvt --by vcpu --output-format json | jq .rows
    """
    from dataclasses import asdict

    from hvtrace.analysis.exits import Question
    from hvtrace.analysis.exits import exits as answer
    from hvtrace.cli.times import parse_time
    from hvtrace.render.exits import as_csv, as_json, as_text

    words = tuple(dict.fromkeys(str(word) for word in by or ()))
    subjects = [word for word in words if word not in ("reason", "vm", "vcpu")]
    if len(subjects) > 1:
        raise typer.BadParameter(f"--by {subjects[0]} and --by {subjects[1]}: one at a time")
    if subjects and event is not Event.VMEXIT:
        raise typer.BadParameter(f"--by {subjects[0]} breaks exits down: not with --event {event}")
    store = opened(source)
    unit = unit_of(store)
    scope = scope_of(store, start, end, vm, vcpu)
    longer, width = (None if t is None else parse_time(t, 0, unit=unit) for t in (than, interval))
    if width == 0:
        raise typer.BadParameter("--interval 0: a part of the time is longer than nothing")
    question = Question(
        **asdict(scope),
        event=str(event),
        by=words,
        sort=str(sort),
        than_ns=longer,
        interval_ns=width,
        histogram=histogram,
    )
    found = answer(store, question)
    if output_format is Format.TEXT:
        shown = TOP if top is None else top or None
        typer.echo(as_text(found.as_dict(), found.labels, found.slow_labels, unit, shown))
    elif output_format is Format.JSON:
        typer.echo(as_json(found.as_dict(), str(source), unit, top or None))
    else:
        typer.echo(as_csv(found.as_dict(), question.columns, top or None))
