"""The rules, one file each, named after its code; they are asked and printed in the order of their codes."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from hvtrace.replay.rule import Rule

__all__ = ["FAMILIES", "RULES", "page_of", "rule_by_code", "select"]

_MODULES = tuple(
    import_module(f"{__name__}.{found.name}")
    for found in sorted(iter_modules(__path__), key=lambda found: found.name)
)

RULES: tuple[Rule, ...] = tuple(module.RULE for module in _MODULES)

#: What the rules of a family are about, by the beginning of their codes.
FAMILIES: dict[str, str] = {
    "HP1": "halt polling",
    "HV1": "what the guest is offered (CPUID)",
    "HV2": "synthetic MSRs",
    "HV3": "hypercalls",
    "HV4": "SynIC",
    "HV5": "synthetic timers",
    "HV6": "clocks",
    "HV7": "IPIs and TLB flushes",
    "HV8": "APIC registers, ends of interrupts, paravirtual EOI",
    "HV9": "debugger, crash, nested guests",
    "KP1": "KVM's own interface",
    "VB1": "VMBus",
}

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
