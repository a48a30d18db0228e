"""`hvtrace rules`: the rule book."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

__all__ = ["Format", "rules"]


class Format(StrEnum):
    """Forms of an answer."""

    TEXT = "text"
    JSON = "json"


def rules(
    code: Annotated[
        str | None,
        typer.Argument(metavar="[CODE]", help="A rule's code or name, or the beginning of codes."),
    ] = None,
    output_format: Annotated[Format, typer.Option("--output-format", help="text or json.")] = Format.TEXT,
) -> None:
    """Show the rule book, a family of rules, or one rule's page.

    Examples:

      hvtrace rules

      hvtrace rules HV5

      hvtrace rules HV509
    """
    import json

    from hvtrace.errors import HvtraceError
    from hvtrace.render.rules import as_object, book, page
    from hvtrace.replay.rules import RULES, rule_by_code

    found = None if code is None else rule_by_code(code)
    begin = "" if code is None else code.upper()
    chosen = tuple(rule for rule in RULES if rule.code.startswith(begin)) if found is None else (found,)
    if not chosen:
        raise HvtraceError(f"no rule {code!r}; `hvtrace rules` lists them")
    if output_format is Format.JSON:
        rows = [as_object(rule) for rule in chosen]
        typer.echo(json.dumps({"schema_version": 1, "rows": rows}, indent=2))
        return
    for line in book(chosen) if found is None else page(found):
        typer.echo(line)
