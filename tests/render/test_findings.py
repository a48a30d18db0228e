"""Verdicts in words: what is said, and that it fits a terminal of 80 columns."""

from __future__ import annotations

import sys

import pytest
from builders.verdicts import coverage, divergence, outcome_of

from hvtrace.render.findings import as_text, outcome
from hvtrace.render.terminal import styled
from hvtrace.replay.verdict import Severity


def test_a_divergence_says_what_where_and_why() -> None:
    """Rule, place, message, expected, observed, folded ones, state, events, the rule in a sentence."""
    found = divergence(count=3, last_seq=99, also={"HV504": 2})
    assert as_text(outcome_of(found), coverage=False).splitlines() == [
        "trace.dat: profile kvm-6.1",
        "",
        "HV509 stimer-periodic-off-grid (error)",
        "  at 1.500000001, VM 0, vCPU 1, event 7, kvm_hv_stimer_start_periodic",
        "  timer 0: period 10",
        "  expected  exp_time 10",
        "  observed  exp_time 12",
        "  and 2 more, the last at event 99",
        "  other faces of it, as it seems: HV504 2 times",
        "  state (registers at their reset value are left out)",
        "    stimer0           config 0x3, count 10",
        "    HV_X64_MSR_SINT2  0x62",
        "  last events of this vCPU",
        "    6 kvm_msr write=1",
        "  > 7 kvm_hv_stimer_start_periodic timer_index=0",
        "  rule  A periodic timer whose next expiry does not lie on the grid of its",
        "        period. (hvtrace rules HV509)",
        "",
        "1 divergence; judged 49 of 50 interface events (98.0 %), tape 49.0 %",
    ]


def test_long_values_wrap_and_control_characters_are_shown() -> None:
    """Nothing is wider than 79, words without spaces included; nothing reaches a terminal raw."""
    state = {"stimer0": "config 0x20003, " * 12, "x" * 50: "y" * 200}
    found = divergence(
        message="\x1b[31mred " * 30,
        expected="exp_time " * 20,
        state=state,
        history=["8 kvm_hypercall " + "a0=0xffffffff " * 9],
    )
    shown = as_text(outcome_of(found, HV509=coverage(3, 1, state_unseen=12345, parameter_unknown=6789)))
    assert max(map(len, shown.splitlines())) < 80
    assert "\x1b" not in shown
    assert "\\x1b[31mred" in shown


def test_the_coverage_names_rules_and_tracepoints() -> None:
    """Rules that were asked, with reasons; the interface's tracepoints with their share; notes."""
    result = outcome_of(HV504=coverage(5), HV509=coverage(0, 0, state_unseen=4), HV510=coverage())
    result.notes = ["a note"]
    lines = as_text(result).splitlines()
    assert "HV504 stimer-cleanup-missing                5         0  -" in lines
    assert "HV509 stimer-periodic-off-grid              0         0  state-unseen 4" in lines
    assert "1 other rule: nothing in this recording concerns them" in lines
    assert "kvm_msr                                    10         9  90.0 %" in lines
    assert not any(line.startswith("kvm_entry") for line in lines)
    assert "a note" in lines


def test_known_divergences_are_told_in_a_line_and_do_not_count() -> None:
    """Apart from the new ones."""
    shown = as_text(outcome_of(divergence(known=True, count=4)), coverage=False).splitlines()
    assert shown[2:4] == [
        "Known, by the baseline:",
        "  HV509 stimer-periodic-off-grid: timer 0: period 10, 4 times",
    ]
    assert shown[-1].startswith("no divergence, 1 known; ")


def test_the_same_fault_in_several_vms_is_told_once() -> None:
    """With the numbers of the others."""
    many = [divergence(vm=vm, seq=7 + vm, message=f"timer {vm}: period {vm}") for vm in range(30)]
    shown = as_text(outcome_of(*many), coverage=False)
    assert shown.count("HV509 stimer-periodic-off-grid (error)") == 1
    numbers = ", ".join(map(str, range(1, 21)))
    assert f"the same in VM {numbers} and 9 more state" in " ".join(shown.split())
    assert shown.splitlines()[-1].startswith("30 divergences; ")


def test_the_last_line_counts_warnings_apart_and_is_loud_where_nothing_was_judged() -> None:
    """Warnings are no divergences; shares are never rounded up to all."""
    warning = divergence("HV504", severity=Severity.WARNING)
    both = outcome_of(divergence(), warning)
    assert outcome(both).startswith("1 divergence, 1 warning; ")
    both.totals, both.judged = {"kvm_msr": 1_000_000}, {"kvm_msr": 987_654}
    assert as_text(both).splitlines()[-2:] == [
        "1 divergence, 1 warning",
        "judged 987654 of 1000000 interface events (98.8 %), tape 98.8 %",
    ]
    nothing = outcome_of(HV509=coverage(0, 0, not_traced=3))
    nothing.judged = dict.fromkeys(nothing.totals, 0)
    assert outcome(nothing).startswith(
        "NOTHING WAS JUDGED: this says nothing about the hypervisor; judged 0 of 50 interface events (0.0 %)"
    )
    almost = outcome_of()
    almost.totals, almost.judged = {"kvm_msr": 100_000}, {"kvm_msr": 99_999}
    assert "judged 99999 of 100000 interface events (99.9 %)" in outcome(almost)


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "dumb"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colour_only_where_it_is_wanted(
    terminal: bool, environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal that is not dumb, without NO_COLOR."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert styled("x", "red") == ("\033[31mx\033[0m" if coloured else "x")
