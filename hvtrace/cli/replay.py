"""`hvtrace replay`: re-executes a recording through the reference model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvtrace.cli.times import TIME_HELP

if TYPE_CHECKING:
    from hvtrace.pipeline.check import Options
    from hvtrace.pipeline.result import CheckResult
    from hvtrace.store import Store

__all__ = ["Format", "replay"]


class Format(StrEnum):
    """Forms of an answer."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    JUNIT = "junit"
    GITHUB = "github"


def replay(
    source: Annotated[Path, typer.Argument(metavar="STORE", help="A store, or a recording.")],
    check: Annotated[
        bool, typer.Option("--check", help="Print divergences and coverage, and set the exit code.")
    ] = False,
    output_format: Annotated[
        Format, typer.Option("--output-format", help="text, json, sarif, junit or github.")
    ] = Format.TEXT,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help=f"Print the modelled state then: {TIME_HELP}.")
    ] = None,
    cpu: Annotated[
        str | None, typer.Option("--cpu", metavar="OPTION", help="What the guest was offered: host,hv-time,…")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="NAME", help="Reference: kvm-5.4 to kvm-7.1, kvm, tlfs."),
    ] = None,
    selected: Annotated[
        list[str] | None, typer.Option("--select", metavar="PREFIX", help="Only rules whose code begins so.")
    ] = None,
    ignored: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="PREFIX", help="No rules whose code begins so.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Verdicts that could not be given count.")] = False,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="Divergences of this earlier answer do not count."),
    ] = None,
    write_baseline: Annotated[
        Path | None,
        typer.Option("--write-baseline", metavar="FILE", help="Write what is found, for --baseline."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            metavar="N",
            help="Processes among which VMs are divided; default: the CPUs, for large recordings.",
        ),
    ] = None,
) -> None:
    """Re-execute a recording through the reference model of the enlightenments.

    With --check, exit code 1 means that the hypervisor did not do what the model says, 2 that nothing could be
    judged; warnings and known divergences give 0.

    Examples:

      hvtrace replay trace.hvt --check

      hvtrace replay trace.dat --check --output-format json | jq .divergences

      hvtrace replay trace.hvt --check --select HV5 --cpu host,hv-time,hv-synic

      hvtrace replay trace.hvt --check --write-baseline known.json

      hvtrace replay trace.hvt --check --baseline known.json

      hvtrace replay trace.hvt --check --output-format sarif > hvtrace.sarif

      hvtrace replay trace.hvt --at +1.5s
    """
    from hvtrace.pipeline.check import Options
    from hvtrace.pipeline.check import check as judge
    from hvtrace.pipeline.opening import store_for
    from hvtrace.render.progress import bar
    from hvtrace.store import Store

    if at is not None and (check or baseline or write_baseline):
        raise typer.BadParameter("--at prints the state and judges nothing: not with --check or a baseline")
    if at is not None and output_format not in (Format.TEXT, Format.JSON):
        raise typer.BadParameter("--at has the output formats text and json")
    options = Options(cpu, profile, tuple(selected or ()), tuple(ignored or ()), baseline, strict, jobs)
    with bar() as progress:
        store = Store(store_for(source, progress))
        if at is None:
            result = judge(store, options, progress)
    if at is not None:
        _state(store, options, output_format, at)
    else:
        _verdicts(result, output_format, write_baseline, check=check)


def _verdicts(result: CheckResult, output_format: Format, baseline: Path | None, *, check: bool) -> None:
    """Print the verdicts; with `check` in full, and leave with the exit code."""
    from hvtrace.cli.main import printable
    from hvtrace.pipeline.baseline import write_baseline

    if baseline is not None:
        write_baseline(baseline, result)
    if output_format is Format.TEXT:
        from hvtrace.render.findings import as_text

        typer.echo(as_text(result, coverage=check))
    else:
        typer.echo(_rendered(result, output_format))
        for note in result.notes:
            typer.echo(f"hvtrace: {printable(note)}", err=True)
        if check and result.verdict == "unjudged":
            typer.echo("hvtrace: nothing could be judged", err=True)
    if check and result.exit_code:
        raise typer.Exit(result.exit_code)


def _rendered(result: CheckResult, output_format: Format) -> str:
    if output_format is Format.SARIF:
        from hvtrace.render.sarif import as_sarif

        return as_sarif(result)
    if output_format is Format.JUNIT:
        from hvtrace.render.junit import as_junit

        return as_junit(result)
    if output_format is Format.GITHUB:
        from hvtrace.render.github import as_github

        return as_github(result)
    from hvtrace.render.verdicts import as_json

    return as_json(result)


def _state(store: Store, options: Options, output_format: Format, at: str) -> None:
    """Print the modelled state at a time."""
    from hvtrace.cli.times import parse_time
    from hvtrace.pipeline.state import state_at
    from hvtrace.render.state import state_json, state_text

    first, unit = store.manifest.time.get("first_ns") or 0, store.manifest.clock.get("unit", "ns")
    state = state_at(store, parse_time(at, first, unit=unit), options)
    typer.echo((state_json if output_format is Format.JSON else state_text)(state))
