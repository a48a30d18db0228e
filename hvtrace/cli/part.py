"""Which part of a recording a command draws: options that export and view share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvtrace.cli.times import TIME_HELP, parse_time

if TYPE_CHECKING:
    from hvtrace.export.streams import Which
    from hvtrace.store import Store

__all__ = ["From", "Kinds", "Source", "To", "Vcpu", "Vm", "which_of"]

Source = Annotated[Path, typer.Argument(metavar="STORE", help="A store, or a recording.")]
From = Annotated[str | None, typer.Option("--from", metavar="TIME", help=f"Only from then on: {TIME_HELP}.")]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only until then.")]
Vm = Annotated[int | None, typer.Option("--vm", min=0, help="Only this VM, by number.")]
Vcpu = Annotated[int | None, typer.Option("--vcpu", min=0, help="Only vCPUs with this id.")]
Kinds = Annotated[
    str | None,
    typer.Option(
        "--tracks",
        metavar="KIND,…",
        help="Only these: states, timers, synic, interrupts, sched, counters, divergences.",
    ),
]


def which_of(
    store: Store,
    start: str | None,
    end: str | None,
    vm: int | None,
    vcpu: int | None,
    tracks: str | None = None,
) -> Which:
    """Return the part of a store that the options mean. Raises typer.BadParameter where one means nothing."""
    from hvtrace.export.streams import Which
    from hvtrace.export.tracks import PARTS

    first, unit = store.manifest.time.get("first_ns") or 0, store.manifest.clock.get("unit", "ns")
    span = [None if t is None else parse_time(t, first, unit=unit) for t in (start, end)]
    if span[0] is not None and span[1] is not None and span[1] < span[0]:
        raise typer.BadParameter(f"--to {end} is before --from {start}")
    kinds = None if tracks is None else frozenset(word.strip() for word in tracks.split(","))
    if kinds is not None and (unknown := sorted(kinds - set(PARTS))):
        raise typer.BadParameter(f"--tracks: no {unknown[0]!r}; there are {', '.join(PARTS)}")
    return Which(vm, vcpu, span[0], span[1], kinds)
