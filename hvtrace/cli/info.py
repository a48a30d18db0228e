"""`hvtrace info`: what a store holds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hvtrace.cli.options import opened

__all__ = ["Format", "info"]


class Format(StrEnum):
    """Forms of an answer."""

    TEXT = "text"
    JSON = "json"


def info(
    source: Annotated[Path, typer.Argument(metavar="STORE", help="A store, or a recording.")],
    output_format: Annotated[Format, typer.Option("--output-format", help="text or json.")] = Format.TEXT,
) -> None:
    """Show what a store holds: events, losses, VMs, vCPUs, enlightenments offered and used.

    Examples:

      hvtrace info trace.hvt

      hvtrace info trace.dat --output-format json | jq .vms
    """
    from hvtrace.analysis.overview import overview
    from hvtrace.render.info import print_json, print_text

    answer = overview(opened(source))
    (print_json if output_format is Format.JSON else print_text)(answer)
