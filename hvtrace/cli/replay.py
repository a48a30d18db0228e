"""`hvtrace replay`: re-executes a recording through the reference model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Format", "replay"]


class Format(StrEnum):
    """Forms of an answer."""

    TEXT = "text"
    JSON = "json"


def replay(
    source: Annotated[Path, typer.Argument(metavar="STORE", help="A store, or a recording.")],
    check: Annotated[
        bool, typer.Option("--check", help="Print divergences and coverage, and set the exit code.")
    ] = False,
    output_format: Annotated[Format, typer.Option("--output-format", help="text or json.")] = Format.TEXT,
    cpu: Annotated[
        str | None, typer.Option("--cpu", metavar="OPTION", help="What the guest was offered: host,hv-time,…")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="Reference: kvm-5.4 to kvm-7.1, or kvm.")
    ] = None,
    selected: Annotated[
        list[str] | None, typer.Option("--select", metavar="PREFIX", help="Only rules whose code begins so.")
    ] = None,
    ignored: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="PREFIX", help="No rules whose code begins so.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Verdicts that could not be given count.")] = False,
) -> None:
    """Re-execute a recording through the reference model of the enlightenments.

    With --check, exit code 1 means that the hypervisor did not do what the model says, 2 that nothing could be
    judged.

    Examples:
      hvtrace replay trace.hvt --check

      hvtrace replay trace.dat --check --output-format json | jq .divergences

      hvtrace replay trace.hvt --check --select HV5 --cpu host,hv-vpindex,hv-time,hv-synic,hv-stimer
    """
    from hvtrace.cli.main import printable
    from hvtrace.pipeline.check import Options
    from hvtrace.pipeline.check import check as judge
    from hvtrace.pipeline.opening import store_for
    from hvtrace.render.progress import bar
    from hvtrace.render.verdicts import as_json, as_text
    from hvtrace.store import Store

    options = Options(cpu, profile, tuple(selected or ()), tuple(ignored or ()))
    with bar() as progress:
        store = Store(store_for(source, progress))
    result = judge(store, options)
    if output_format is Format.JSON:
        typer.echo(as_json(result))
    else:
        typer.echo(printable(as_text(result, coverage=check)))
    if not check:
        return
    if result.verdict == "unjudged":
        if output_format is Format.JSON:
            typer.echo("hvtrace: nothing could be judged", err=True)
        raise typer.Exit(2)
    if result.verdict == "diverged" or (strict and result.unknown):
        raise typer.Exit(1)
