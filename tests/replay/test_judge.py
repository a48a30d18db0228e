"""The judge: what is reported once, and what hides nothing."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from hvtrace.replay.judge import Judge
from hvtrace.replay.model.exposure import Exposure
from hvtrace.replay.model.machine import Bench, Vcpu, Vm
from hvtrace.replay.profile import profile_for
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import Diverges, Severity


def rule(code: str, severity: Severity = Severity.ERROR, bug: str = "") -> Rule:
    """A rule that diverges on events of its own name."""

    def check(asked: str) -> Diverges | None:
        return Diverges("good", "bad", f"{code} is wrong", bug) if asked == code else None

    return Rule(code, code.lower(), (Moment.CALL,), (), check, severity=severity, theme="one cause")


def told(rules: list[Rule], codes: list[str], kernel: str = "6.1.0") -> list[tuple[Any, ...]]:
    """Rule, severity, count and what is folded in, of each divergence that is reported."""
    judge = Judge(rules, frozenset(), profile_for(kernel))
    bench = Bench(judge, profile_for(kernel), frozenset())
    vcpu = Vcpu(0, Vm(0, bench, Exposure()))
    for seq, code in enumerate(codes):
        judge.ask(Moment.CALL, code, (seq, seq, "kvm_hv_hypercall_done", 0, 1, 0), vcpu, [False])
    found = sorted(judge.divergences.values(), key=lambda one: one.seq)
    return [(one.rule, one.severity.value, one.count, one.also) for one in found]


def test_rules_of_one_theme_are_reported_together_under_the_first() -> None:
    """Each with its own number; the same rule again is counted."""
    rules = [rule("HV1"), rule("HV2")]
    assert told(rules, ["HV2", "HV1", "HV2"]) == [("HV2", "error", 2, {"HV1": 1})]


@pytest.mark.parametrize("codes", list(permutations(["HV1", "HV9", "HV9"])))
def test_a_warning_hides_no_error_and_says_nothing_beside_one(codes: tuple[str, ...]) -> None:
    """HV9 warns, HV1 is an error, both of one theme: the error is reported, whatever came first."""
    rules = [rule("HV1"), rule("HV9", Severity.WARNING)]
    assert told(rules, list(codes)) == [("HV1", "error", 1, {"HV9": 2})]


def test_a_known_bug_is_a_warning_of_its_own() -> None:
    """On a kernel that has it; on one that should not, it is an error like the others of its theme."""
    rules = [rule("HV1"), rule("HV2", bug="emulation-status")]
    assert told(rules, ["HV2", "HV1"], "5.10.0") == [("HV2", "warning", 1, {}), ("HV1", "error", 1, {})]
    assert told(rules, ["HV2", "HV1"], "6.1.0") == [("HV2", "error", 1, {"HV1": 1})]
