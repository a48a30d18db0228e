"""`hvtrace abi`: looks things up in the interface tables."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["Table", "abi"]


class Table(StrEnum):
    """The tables one can look things up in."""

    MSR = "msr"
    HYPERCALL = "hypercall"
    CPUID = "cpuid"
    STATUS = "status"


def abi(
    table: Annotated[Table, typer.Argument(help="msr, hypercall, cpuid or status.")],
    entry: Annotated[
        str | None, typer.Argument(metavar="[X]", help="A number or a name; all without it.")
    ] = None,
) -> None:
    """Look up an MSR, a hypercall, a CPUID leaf or hv-* flag, or a status.

    Examples:

      hvtrace abi msr 0x40000073

      hvtrace abi hypercall HvCallPostMessage

      hvtrace abi cpuid hv-stimer
    """
    from hvtrace.errors import HvtraceError
    from hvtrace.render.abi import lines_of

    found = lines_of(table.value, entry)
    if not found:
        raise HvtraceError(f"no {table.value} {entry!r}; `hvtrace abi {table.value}` lists them")
    for line in found:
        typer.echo(line)
