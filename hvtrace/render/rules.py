"""The rule book: a line for each rule, its page, and its object for scripts."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from hvtrace.render.pages import summary
from hvtrace.render.terminal import WIDTH, wrapped
from hvtrace.replay.rule import Rule
from hvtrace.replay.rules import FAMILIES, page_of

__all__ = ["as_object", "book", "page"]

#: Marks of a page's lines that stand as they are: headings and examples.
FIXED = ("#", "    ")


def book(rules: Iterable[Rule]) -> list[str]:
    """The listing: a line for each rule, under its family."""
    lines: list[str] = []
    for family, members in groupby(rules, lambda rule: rule.code[:3]):
        lines += ["", f"{family}xx  {FAMILIES[family]}"]
        lines += [f"  {rule.code}  {rule.severity.value:<7}  {rule.name}" for rule in members]
    return lines[1:]


def page(rule: Rule) -> list[str]:
    """A rule's page, in lines that fit a terminal."""
    lines: list[str] = []
    paragraph: list[str] = []
    for line in (*page_of(rule).strip().splitlines(), ""):
        if line.strip() and not line.startswith(FIXED):
            paragraph.append(line)
            continue
        lines += _set(paragraph)
        paragraph = []
        lines += [line] if len(line) <= WIDTH else wrapped(line.strip(), "    ", "        ")
    return lines[:-1]


def _set(paragraph: list[str]) -> list[str]:
    """A paragraph, or a quotation whose lines begin with ">", set anew."""
    if not paragraph:
        return []
    mark = "> " if all(line.startswith("> ") for line in paragraph) else ""
    return wrapped(" ".join(line.removeprefix(mark).strip() for line in paragraph), mark, mark)


def as_object(rule: Rule) -> dict[str, Any]:
    """A rule for scripts."""
    return {
        "code": rule.code,
        "name": rule.name,
        "severity": rule.severity.value,
        "summary": summary(rule),
        "needs": list(rule.needs),
        "specification": rule.specification,
        "page": page_of(rule).strip(),
    }
