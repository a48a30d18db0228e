"""`hvtrace rules`: the rule book."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["rules"]


def rules(
    code: Annotated[
        str | None, typer.Argument(metavar="[CODE]", help="A rule's code or name; all rules without it.")
    ] = None,
) -> None:
    """Show the rule book, or one rule's page.

    Examples:

      hvtrace rules

      hvtrace rules HV509
    """
    from hvtrace.errors import HvtraceError
    from hvtrace.replay.rules import RULES, page_of, rule_by_code

    if code is None:
        for rule in RULES:
            typer.echo(f"{rule.code}  {rule.severity.value:<8} {rule.name}")
        return
    found = rule_by_code(code)
    if found is None:
        raise HvtraceError(f"no rule {code!r}; `hvtrace rules` lists them")
    typer.echo(page_of(found).strip())
