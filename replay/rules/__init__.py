"""The rules, one file each. The order here is the order in which they are asked and printed."""

from __future__ import annotations

from hvtrace.replay.rule import Rule
from hvtrace.replay.rules import (
    hv201,
    hv202,
    hv203,
    hv204,
    hv205,
    hv206,
    hv207,
    hv208,
    hv209,
    hv210,
    hv211,
    hv212,
    hv213,
    hv214,
    hv215,
    hv301,
    hv401,
    hv402,
    hv403,
    hv404,
    hv405,
    hv406,
    hv407,
    hv501,
    hv502,
    hv503,
    hv504,
    hv505,
    hv506,
    hv507,
    hv508,
    hv509,
    hv510,
    hv511,
    hv512,
    hv513,
    hv514,
    hv515,
    hv516,
    hv517,
    hv518,
    hv519,
    hv520,
    hv601,
    hv602,
    hv801,
    kp101,
    kp102,
)

__all__ = ["RULES", "page_of", "rule_by_code", "select"]

_MODULES = (
    hv201,
    hv202,
    hv203,
    hv204,
    hv205,
    hv206,
    hv207,
    hv208,
    hv209,
    hv210,
    hv211,
    hv212,
    hv213,
    hv214,
    hv215,
    hv301,
    hv401,
    hv402,
    hv403,
    hv404,
    hv405,
    hv406,
    hv407,
    hv501,
    hv502,
    hv503,
    hv504,
    hv505,
    hv506,
    hv507,
    hv508,
    hv509,
    hv510,
    hv511,
    hv512,
    hv513,
    hv514,
    hv515,
    hv516,
    hv517,
    hv518,
    hv519,
    hv520,
    hv601,
    hv602,
    hv801,
    kp101,
    kp102,
)

RULES: tuple[Rule, ...] = tuple(module.RULE for module in _MODULES)

_PAGES: dict[str, str] = {module.RULE.code: module.__doc__ or "" for module in _MODULES}


def rule_by_code(code: str) -> Rule | None:
    """The rule of a code or of a name, in any case; None: there is none."""
    wanted = code.lower()
    return next((rule for rule in RULES if wanted in (rule.code.lower(), rule.name)), None)


def page_of(rule: Rule) -> str:
    """The rule's page, as Markdown: what it finds, why it matters, what the specification says, and so on."""
    return _PAGES[rule.code]


def select(chosen: tuple[str, ...] = (), ignored: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """Rules whose code begins with one of `chosen` (all where empty) and with none of `ignored`.

    ValueError where a prefix fits no rule.
    """
    for prefix in (*chosen, *ignored):
        if not any(rule.code.startswith(prefix.upper()) for rule in RULES):
            raise ValueError(f"no rule begins with {prefix!r}")
    chosen_codes = tuple(prefix.upper() for prefix in chosen) or ("",)
    ignored_codes = tuple(prefix.upper() for prefix in ignored)
    return tuple(
        rule
        for rule in RULES
        if rule.code.startswith(chosen_codes) and not (ignored_codes and rule.code.startswith(ignored_codes))
    )
