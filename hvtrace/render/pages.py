"""The rules' pages in pieces: sections, and the sentence that explains a rule in a line."""

from __future__ import annotations

import re

from hvtrace.replay.rule import Rule
from hvtrace.replay.rules import page_of, rule_by_code

__all__ = ["rule_of", "section", "summary"]

FINDS = "What it finds"

#: Characters of a sentence that say enough.
ENOUGH = 40

_HEAD = re.compile(r"^## +(.+?) *$", re.MULTILINE)
_PART = re.compile(r"[:;] ")
_SENTENCE = re.compile(r"(?<=\.)\s")


def rule_of(code: str) -> Rule:
    """The rule of a code that a divergence or a coverage names. KeyError: there is none."""
    rule = rule_by_code(code)
    if rule is None:
        raise KeyError(code)
    return rule


def section(rule: Rule, title: str) -> str:
    """A section of the rule's page, each paragraph on one line; "" where the page has none of that title."""
    parts = _HEAD.split(page_of(rule))
    text = dict(zip(parts[1::2], parts[2::2], strict=True)).get(title, "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


def summary(rule: Rule) -> str:
    """What the rule finds, in its page's first sentence, up to a colon or semicolon where that says enough."""
    first = _SENTENCE.split(section(rule, FINDS), maxsplit=1)[0]
    head = _PART.split(first, maxsplit=1)[0]
    return (head if len(head) >= ENOUGH else first).rstrip(".") + "."
