"""`hvtrace export`: a store as a timeline for the Perfetto UI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hvtrace.cli.options import From, Kinds, Source, To, Vcpu, Vm, which_of

__all__ = ["export"]


def export(
    source: Source,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Default: NAME.pftrace in this directory; - is stdout."
        ),
    ] = None,
    start: From = None,
    end: To = None,
    vm: Vm = None,
    vcpu: Vcpu = None,
    tracks: Kinds = None,
    gzip: Annotated[
        bool, typer.Option("--gzip", help="Compress the file; the UI opens it as it is.")
    ] = False,
) -> None:
    """Draw a Perfetto timeline: open the file at https://ui.perfetto.dev.

    For each VM and vCPU it shows guest time, exits by reason with what they were about, returns to userspace, halt
    polling; synthetic timers, SINTs, interrupts and who raised them; the host's scheduling, where it was recorded;
    counters; and the divergences found by `hvtrace replay --check`.

    Examples:

      hvtrace export trace.hvt -o trace.pftrace

      hvtrace export trace.dat --from +1.5s --to +2s --vcpu 0 --gzip

      hvtrace export trace.hvt --tracks timers,divergences
    """
    from hvtrace.export.divergences import without_verdicts
    from hvtrace.export.file import export_file
    from hvtrace.pipeline.opening import store_for
    from hvtrace.render.progress import bar
    from hvtrace.store import Store

    with bar() as progress:
        store = Store(store_for(source, progress))
        which = which_of(store, start, end, vm, vcpu, tracks)
        written = export_file(store, output, source, which, compress=gzip, progress=progress)
    if written.path is not None:
        typer.echo(f"{written.path}: {written.slices:,} slices, {written.size:,} bytes", err=True)
    if hint := without_verdicts(store, source, which):
        typer.echo(hint, err=True)
