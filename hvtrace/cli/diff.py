"""`hvtrace diff`: what changed between two recordings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvtrace.cli.options import Format, From, OutputFormat, To, Vcpu, opened, scope_of

if TYPE_CHECKING:
    from hvtrace.analysis.scope import Scope
    from hvtrace.store import Store

__all__ = ["diff"]

#: Rows of each table of the text form, unless told otherwise.
TOP = 10

_PERCENT = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(%?)")


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A store, or a recording.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="What to compare it with.")],
    threshold: Annotated[
        str | None,
        typer.Option("--threshold", metavar="10%", help="Exit code 1 where a significant change is larger."),
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Check what was not checked yet, as hvtrace replay --check does.")
    ] = False,
    align: Annotated[
        bool, typer.Option("--align", help="Find the first event in which two runs of one program differ.")
    ] = False,
    start: From = None,
    end: To = None,
    start_b: Annotated[
        str | None, typer.Option("--from-b", metavar="TIME", help="In B; else as --from.")
    ] = None,
    end_b: Annotated[str | None, typer.Option("--to-b", metavar="TIME", help="In B; else as --to.")] = None,
    vm: Annotated[int | None, typer.Option("--vm", min=0, help="Only this VM, by number, in both.")] = None,
    vm_a: Annotated[int | None, typer.Option("--vm-a", min=0, help="Only this VM of A.")] = None,
    vm_b: Annotated[int | None, typer.Option("--vm-b", min=0, help="Only this VM of B.")] = None,
    vcpu: Vcpu = None,
    top: Annotated[
        int, typer.Option("--top", min=0, metavar="N", help="Text: so many rows of each table; 0: all.")
    ] = TOP,
    output_format: OutputFormat = Format.TEXT,
) -> None:
    """Compare two recordings: exits, rates, latencies, enlightenments, divergences, side by side.

    Rates are per second of recorded time. A change counts as significant where blocks of time differ by more than
    chance, corrected for the number of figures tested.

    --align compares what each vCPU's guest did, event by event, whatever time it took.

    Exit code: 0; with --threshold 1 where a significant change is larger, or B has divergences of a kind that A has
    not; with --align 1 where the runs differ.

    Examples:

      hvtrace diff before.hvt after.hvt

      hvtrace diff before.hvt after.hvt --threshold 10% --replay

      hvtrace diff trace.hvt trace.hvt --from +1s --to +5s --from-b +5s --to-b +9s

      hvtrace diff good.hvt bad.hvt --align

      hvtrace diff two.hvt two.hvt --vm-a 0 --vm-b 1 --output-format csv
    """
    limit = None if threshold is None else _share(threshold)
    if align and (limit is not None or replay):
        raise typer.BadParameter("--align compares events: not with --threshold or --replay")
    stores = opened(first), opened(second)
    scopes = (
        scope_of(stores[0], start, end, vm if vm_a is None else vm_a, vcpu),
        scope_of(stores[1], start_b or start, end_b or end, vm if vm_b is None else vm_b, vcpu),
    )
    sources = str(first), str(second)
    if align:
        _align(sources, stores, scopes, top or None, output_format)
        return
    if replay:
        _check(stores)
    _compare(sources, stores, scopes, limit, top or None, output_format)


def _align(
    sources: tuple[str, str],
    stores: tuple[Store, Store],
    scopes: tuple[Scope, Scope],
    top: int | None,
    output_format: Format,
) -> None:
    from hvtrace.analysis.diff.align import COLUMNS
    from hvtrace.analysis.diff.align import align as answer
    from hvtrace.render.align import as_csv, as_json, as_text

    found = answer(*stores, *scopes)
    if output_format is Format.TEXT:
        typer.echo(as_text(found.as_dict(), sources, top))
    elif output_format is Format.JSON:
        typer.echo(as_json(found.as_dict(), sources))
    else:
        typer.echo(as_csv(found.as_dict(), COLUMNS))
    if found.differs:
        raise typer.Exit(1)


def _compare(
    sources: tuple[str, str],
    stores: tuple[Store, Store],
    scopes: tuple[Scope, Scope],
    limit: float | None,
    top: int | None,
    output_format: Format,
) -> None:
    from hvtrace.analysis.diff.compare import COLUMNS
    from hvtrace.analysis.diff.compare import diff as answer
    from hvtrace.render.diff import as_csv, as_json, as_text

    found = answer(*stores, *scopes)
    if output_format is Format.TEXT:
        typer.echo(as_text(found.as_dict(), sources, top))
    elif output_format is Format.JSON:
        typer.echo(as_json(found.as_dict(), sources))
    else:
        typer.echo(as_csv(found.as_dict(), COLUMNS))
    if limit is None:
        return
    beyond, new = found.beyond(limit), found.new_errors
    for number, what in ((len(beyond), f"changed by more than {100 * limit:g} %"), (len(new), "is new in B")):
        if number:
            noun = "figure" if what.startswith("changed") else "kind of divergence"
            typer.echo(f"{number:,} {noun}{'' if number == 1 else 's'} {what}", err=True)
    if beyond or new:
        raise typer.Exit(1)


def _share(text: str) -> float:
    found = _PERCENT.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"--threshold {text}: write 10%, or 0.1")
    return float(found[1]) / (100 if found[2] else 1)


def _check(stores: tuple[Store, ...]) -> None:
    from hvtrace.pipeline.check import check
    from hvtrace.render.progress import bar

    for store in stores:
        if not store.has("divergences"):
            with bar() as progress:
                check(store, progress=progress)
