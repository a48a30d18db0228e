"""`hvtrace export`: a store as a timeline for the Perfetto UI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hvtrace.cli.times import TIME_HELP

__all__ = ["export"]


def export(
    source: Annotated[Path, typer.Argument(metavar="STORE", help="A store, or a recording.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Default: NAME.pftrace in this directory; - is stdout."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help=f"Only from then on: {TIME_HELP}.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only until then.")] = None,
    vm: Annotated[int | None, typer.Option("--vm", min=0, help="Only this VM, by number.")] = None,
    vcpu: Annotated[int | None, typer.Option("--vcpu", min=0, help="Only vCPUs with this id.")] = None,
    gzip: Annotated[
        bool, typer.Option("--gzip", help="Compress the file; the UI opens it as it is.")
    ] = False,
) -> None:
    """Draw a Perfetto timeline: open the file at https://ui.perfetto.dev.

    For each VM and vCPU it shows guest time, exits by reason with what they were about, returns to userspace, halt
    polling, exits per second, and the divergences found by `hvtrace replay --check`.

    Examples:

      hvtrace export trace.hvt -o trace.pftrace

      hvtrace export trace.dat --from +1.5s --to +2s --vcpu 0 --gzip
    """
    from hvtrace.cli.times import parse_time
    from hvtrace.export.file import export_file
    from hvtrace.export.streams import Which
    from hvtrace.pipeline.opening import store_for
    from hvtrace.render.progress import bar
    from hvtrace.store import Store

    with bar() as progress:
        store = Store(store_for(source, progress))
        first, unit = store.manifest.time.get("first_ns") or 0, store.manifest.clock.get("unit", "ns")
        span = [None if t is None else parse_time(t, first, unit=unit) for t in (start, end)]
        if span[0] is not None and span[1] is not None and span[1] < span[0]:
            raise typer.BadParameter(f"--to {end} is before --from {start}")
        which = Which(vm, vcpu, *span)
        written = export_file(store, output, source, which, compress=gzip, progress=progress)
    if written.path is not None:
        typer.echo(f"{written.path}: {written.slices:,} slices, {written.size:,} bytes", err=True)
