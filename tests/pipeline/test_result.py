"""The outcome of a check: verdict, exit code, remarks."""

from __future__ import annotations

import pytest
from builders.verdicts import coverage, divergence, outcome_of

from hvtrace.pipeline.result import CheckResult, concerns_interface, merged
from hvtrace.replay.verdict import Reason, Severity


@pytest.mark.parametrize(
    ("result", "verdict", "code"),
    [
        (outcome_of(), "clean", 0),
        (outcome_of(divergence()), "diverged", 1),
        (outcome_of(divergence(known=True)), "clean", 0),
        (outcome_of(divergence(severity=Severity.WARNING)), "clean", 0),
        (outcome_of(HV509=coverage(0, 0, state_unseen=1)), "unjudged", 2),
        (outcome_of(HV509=coverage(1, 0, state_unseen=1)), "clean", 0),
    ],
)
def test_what_sets_the_exit_code(result: CheckResult, verdict: str, code: int) -> None:
    """Errors that are not known; nothing judged."""
    assert (result.verdict, result.exit_code) == (verdict, code)


def test_strict_counts_what_is_unknown() -> None:
    """A finding, unless nothing was judged at all."""
    result = outcome_of(HV509=coverage(1, 0, state_unseen=1))
    result.strict = True
    assert (result.verdict, result.exit_code) == ("clean", 1)
    nothing = outcome_of(HV509=coverage(0, 0, state_unseen=1))
    nothing.strict = True
    assert nothing.exit_code == 2


def test_little_judged_is_said_with_the_reasons() -> None:
    """Below half of the interface's events."""
    result = outcome_of(
        HV504=coverage(5, 0, events_lost=7), HV509=coverage(3, 0, not_traced=1234, events_lost=2)
    )
    assert result.poverty() == []
    result.judged = {"kvm_entry": 50, "kvm_hv_stimer_start_periodic": 5, "kvm_msr": 1}
    assert result.poverty() == [
        "only 12.0 % of the interface's events could be judged; verdicts that could not be given: not-traced 1,234, "
        "events-lost 9"
    ]


def test_results_of_several_vms_are_added() -> None:
    """Divergences in order; verdicts and events summed; what all counted is counted once."""
    one, two = (
        outcome_of(divergence(seq=9)),
        outcome_of(divergence(seq=3, vm=1), HV504=coverage(1), HV509=coverage(2, 1)),
    )
    two.coverage["HV504"].unknown[Reason.EVENTS_LOST] = 4
    two.totals, two.judged = {"kvm_entry": 7, "kvm_msr": 2}, {"kvm_entry": 0, "kvm_msr": 2}
    both = merged([one, two], {"kvm_entry": 5})
    assert [found.seq for found in both.divergences] == [3, 9]
    counted = both.coverage["HV504"]
    assert (counted.holds, counted.diverges, dict(counted.unknown)) == (6, 0, {Reason.EVENTS_LOST: 4})
    assert both.totals == {"kvm_entry": 52, "kvm_hv_stimer_start_periodic": 40, "kvm_msr": 12}
    assert both.judged == {"kvm_entry": 0, "kvm_hv_stimer_start_periodic": 40, "kvm_msr": 11}


@pytest.mark.parametrize(
    ("tracepoint", "belongs"),
    [
        ("kvm_hv_send_ipi", True),
        ("kvm_msr", True),
        ("kvm_pv_eoi", True),
        ("kvm_exit", False),
        ("kvm_eoi", False),
    ],
)
def test_what_the_interface_is(tracepoint: str, belongs: bool) -> None:
    """The tracepoints whose events should all be judged."""
    assert concerns_interface(tracepoint) is belongs
