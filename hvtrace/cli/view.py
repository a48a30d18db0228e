"""`hvtrace view`: a store as a timeline, opened in the Perfetto UI."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Annotated

import typer

from hvtrace.cli.options import From, Kinds, Source, To, Vcpu, Vm, which_of

__all__ = ["view"]

UNTIL_FETCHED = "until the page has fetched it; where the browser asks, allow it. Ctrl-C gives up"


def view(
    source: Source,
    start: From = None,
    end: To = None,
    vm: Vm = None,
    vcpu: Vcpu = None,
    tracks: Kinds = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser, or only print the link.")
    ] = True,
    offline: Annotated[
        bool, typer.Option("--offline", help="Serve the UI as well: needs pip install 'hvtrace[ui]'.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=1,
            max=65535,
            metavar="PORT",
            help="With --offline: serve there. Default: 9002, or any free port.",
        ),
    ] = None,
) -> None:
    """Draw a Perfetto timeline and open it in the Perfetto UI.

    Prints a link and opens it in the browser: https://ui.perfetto.dev fetches the timeline from this machine
    (127.0.0.1:9001) and keeps it in the browser; then the command ends. With --offline, the UI itself comes from this
    machine, too, until Ctrl-C. The page shows the first divergence that hvtrace replay --check has found, if any.

    Examples:

      hvtrace view trace.hvt

      hvtrace view trace.dat --from +1.5s --to +2s --vcpu 0

      hvtrace view trace.hvt --offline --port 8080 --no-browser
    """
    from hvtrace.export.divergences import without_verdicts
    from hvtrace.export.file import default_output, export_file
    from hvtrace.export.view_link import first_divergence, view_link
    from hvtrace.export.view_server import PUBLIC_UI, offline_server, public_server
    from hvtrace.pipeline.opening import store_for
    from hvtrace.render.progress import bar
    from hvtrace.store import Store

    if port is not None and not offline:
        raise typer.BadParameter(f"--port needs --offline: {PUBLIC_UI} fetches from port 9001 alone")
    # First of all: a port that is taken is known before the work is done.
    with offline_server(port) if offline else public_server() as server:
        with bar() as progress, TemporaryDirectory(prefix="hvtrace-") as folder:
            store = Store(store_for(source, progress))
            which = which_of(store, start, end, vm, vcpu, tracks)
            name = default_output(source, compress=False).name
            written = export_file(store, Path(folder) / name, source, which, progress=progress)
            # The folder goes now; the file stays readable as long as it is open, and no longer.
            trace = (Path(folder) / name).open("rb")
        with trace:
            if hint := without_verdicts(store, source, which):
                typer.echo(hint, err=True)
            url = server.offer(name, trace)
            page = server.address if offline else PUBLIC_UI
            link = view_link(page, url, store, first_divergence(store, which))
            typer.echo(link)
            typer.echo(f"{name}, {written.size:,} bytes, is served at {server.address}", err=True)
            typer.echo("until Ctrl-C" if offline else UNTIL_FETCHED, err=True)
            if browser and _can_show():
                # A browser may be a command that ends with its window.
                Thread(target=webbrowser.open, args=(link,), daemon=True).start()
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                if not offline:
                    raise


def _can_show() -> bool:
    """Whether there is a browser with a screen: not one of those for terminals, which webbrowser takes as well."""
    screens = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform != "linux" or any(os.environ.get(name) for name in screens)
