"""`hvtrace abi`: looks things up in the interface tables."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["Format", "Table", "abi"]


class Table(StrEnum):
    """The tables one can look things up in."""

    MSR = "msr"
    HYPERCALL = "hypercall"
    CPUID = "cpuid"
    FLAG = "flag"
    STATUS = "status"
    EXIT = "exit"


class Format(StrEnum):
    """Forms of an answer."""

    TEXT = "text"
    JSON = "json"


def abi(
    table: Annotated[Table, typer.Argument(help="msr, hypercall, cpuid, flag, status or exit.")],
    entry: Annotated[
        str | None, typer.Argument(metavar="[X]", help="A number or a name; all without it.")
    ] = None,
    output_format: Annotated[Format, typer.Option("--output-format", help="text or json.")] = Format.TEXT,
) -> None:
    """Look up an MSR, a hypercall, a CPUID leaf or bit, an hv-* flag, a status or an exit reason.

    Examples:

      hvtrace abi msr 0x40000073

      hvtrace abi hypercall HvCallPostMessage

      hvtrace abi flag hv-stimer
    """
    import json

    from hvtrace.errors import HvtraceError
    from hvtrace.render.abi import entries, find, lines_of, listing

    found = entries(table.value) if entry is None else find(table.value, entry)
    if not found:
        raise HvtraceError(f"no {table.value} {entry!r}; `hvtrace abi {table.value}` lists them")
    if output_format is Format.JSON:
        rows = [one.data for one in found]
        typer.echo(json.dumps({"schema_version": 1, "table": table.value, "rows": rows}, indent=2))
        return
    lines = listing(table.value) if entry is None else [line for one in found for line in lines_of(one)]
    for line in lines:
        typer.echo(line)
