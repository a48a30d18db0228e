"""Every rule has its page and its cases, and gives the verdict each case asks for."""

from __future__ import annotations

import pytest
from replay_cases import CASES, Case, replay

from hvtrace.replay.rules import RULES, page_of, rule_by_code, select
from hvtrace.replay.tape import TAPE
from hvtrace.replay.verdict import Severity

SECTIONS = (
    "## What it finds",
    "## Why it matters",
    "## What the specification says",
    "## When it cannot tell",
    "## Example",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.name}")
def test_a_case_gives_its_verdict(case: Case) -> None:
    """The rule says what the case asks for, at the line it names, and no other rule diverges."""
    outcome = replay(case)
    found = sorted(outcome.judge.divergences.values(), key=lambda divergence: divergence.seq)
    counted = outcome.judge.coverage[case.rule]
    if case.verdict == "diverges":
        assert [divergence.rule for divergence in found] == [case.rule]
        assert outcome.lines[found[0].seq] == case.at
        if case.warning is not None:
            assert (found[0].severity is Severity.WARNING) == case.warning
        return
    assert [(divergence.rule, divergence.message) for divergence in found] == []
    if case.verdict == "holds":
        assert counted.holds
    else:
        assert case.reason in {reason.value for reason in counted.unknown}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_has_its_page_and_a_case_of_each_verdict(rule) -> None:
    """A page with the five sections that starts with code and name; cases that diverge, hold and cannot be told."""
    page = page_of(rule)
    assert page.startswith(f"{rule.code} {rule.name}\n")
    assert [section for section in SECTIONS if section not in page] == []
    verdicts = {case.verdict for case in CASES if case.rule == rule.code}
    # Some rules never cannot tell, or are silent where all is well: their page says so.
    expected = {"diverges", "holds", "unknown"} - SILENT.get(rule.code, set())
    assert expected <= verdicts


#: Verdicts a rule cannot give.
SILENT = {
    "HV206": {"unknown"},
    "HV281": {"unknown"},
    "HV301": {"unknown"},
    "HV302": {"unknown"},
    "HV303": {"unknown"},
    "HV308": {"unknown"},
    "HV381": {"unknown"},
    "HV214": {"unknown"},
    "HV902": {"unknown"},
    "HV513": {"unknown"},
    "HV406": {"holds"},
    "KP120": {"holds"},
    "HV408": {"holds"},
    "HV813": {"holds"},
}


def test_codes_and_names_are_unique_and_needs_are_on_the_tape() -> None:
    """No two rules share a code or a name; a rule needs only what the model consumes."""
    assert len({rule.code for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)
    assert {need for rule in RULES for need in rule.needs if need.startswith("kvm_")} <= set(TAPE)


def test_rules_are_found_by_code_and_name_and_chosen_by_prefix() -> None:
    """`rule_by_code` takes either; `select` takes prefixes of codes and knows a wrong one."""
    assert rule_by_code("hv509") is rule_by_code("stimer-periodic-off-grid")
    assert {rule.code[:3] for rule in select(("HV5",))} == {"HV5"}
    assert not [rule for rule in select((), ("HV5",)) if rule.code.startswith("HV5")]
    with pytest.raises(ValueError, match="no rule begins with 'XX'"):
        select(("XX",))
