"""Options that commands share: the store, which part of it, the form of the answer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvtrace.cli.times import TIME_HELP, parse_time

if TYPE_CHECKING:
    from hvtrace.analysis.scope import Scope
    from hvtrace.export.streams import Which
    from hvtrace.store import Store

__all__ = [
    "Format",
    "From",
    "Kinds",
    "OutputFormat",
    "Source",
    "To",
    "Vcpu",
    "Vm",
    "opened",
    "scope_of",
    "unit_of",
    "which_of",
]


class Format(StrEnum):
    """Forms of an answer."""

    TEXT = "text"
    JSON = "json"
    CSV = "csv"


Source = Annotated[Path, typer.Argument(metavar="STORE", help="A store, or a recording.")]
From = Annotated[str | None, typer.Option("--from", metavar="TIME", help=f"Only from then on: {TIME_HELP}.")]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only until then.")]
Vm = Annotated[int | None, typer.Option("--vm", min=0, help="Only this VM, by number.")]
Vcpu = Annotated[int | None, typer.Option("--vcpu", min=0, help="Only vCPUs with this id.")]
OutputFormat = Annotated[Format, typer.Option("--output-format", help="text, json or csv.")]
Kinds = Annotated[
    str | None,
    typer.Option(
        "--tracks",
        metavar="KIND,…",
        help="Only these: states, timers, synic, interrupts, sched, counters, divergences, vmbus.",
    ),
]


def opened(source: Path) -> Store:
    """Return the store, or that of a recording, which is read under a progress bar. Raises InputError."""
    from hvtrace.pipeline.opening import store_for
    from hvtrace.render.progress import bar
    from hvtrace.store import Store

    with bar() as progress:
        return Store(store_for(source, progress))


def unit_of(store: Store) -> str:
    """Unit of the store's time stamps: "ns", or "ticks"."""
    return str(store.manifest.clock.get("unit", "ns"))


def _span(store: Store, start: str | None, end: str | None) -> tuple[int | None, int | None]:
    first = store.manifest.time.get("first_ns") or 0
    from_ns, to_ns = (None if t is None else parse_time(t, first, unit=unit_of(store)) for t in (start, end))
    if from_ns is not None and to_ns is not None and to_ns < from_ns:
        raise typer.BadParameter(f"--to {end} is before --from {start}")
    return from_ns, to_ns


def scope_of(store: Store, start: str | None, end: str | None, vm: int | None, vcpu: int | None) -> Scope:
    """Return the part of a store that the options mean. Raises typer.BadParameter where one means nothing."""
    from hvtrace.analysis.scope import Scope

    first_ns, last_ns = _span(store, start, end)
    return Scope(vm=vm, vcpu=vcpu, first_ns=first_ns, last_ns=last_ns)


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

    first_ns, last_ns = _span(store, start, end)
    kinds = None if tracks is None else frozenset(word.strip() for word in tracks.split(","))
    if kinds is not None and (unknown := sorted(kinds - set(PARTS))):
        raise typer.BadParameter(f"--tracks: no {unknown[0]!r}; there are {', '.join(PARTS)}")
    return Which(vm, vcpu, first_ns, last_ns, kinds)
