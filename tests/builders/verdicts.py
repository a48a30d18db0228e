"""Outcomes of checks, written down."""

from __future__ import annotations

from typing import Any

from hvtrace.pipeline.result import CheckResult
from hvtrace.replay.judge import Coverage
from hvtrace.replay.verdict import Divergence, Reason, Severity, form_of

__all__ = ["coverage", "divergence", "outcome_of"]


def divergence(rule: str = "HV509", **changes: Any) -> Divergence:
    """A divergence of a rule; what is not given is usual."""
    found: dict[str, Any] = {
        "rule": rule,
        "name": "stimer-periodic-off-grid",
        "severity": Severity.ERROR,
        "seq": 7,
        "ts_ns": 1_500_000_001,
        "vm": 0,
        "vcpu": 1,
        "tracepoint": "kvm_hv_stimer_start_periodic",
        "expected": "exp_time 10",
        "observed": "exp_time 12",
        "message": "timer 0: period 10",
        "last_seq": 7,
        "last_ts_ns": 1_500_000_001,
        "state": {"stimer0": "config 0x3, count 10", "HV_X64_MSR_SINT2": "0x62", "HV_X64_MSR_SIMP": "0x0"},
        "history": ["6 kvm_msr write=1", "7 kvm_hv_stimer_start_periodic timer_index=0"],
    } | changes
    made = Divergence(**found)
    made.add_form(form_of(made.rule, made.tracepoint, made.message), made.count)
    return made


def coverage(holds: int = 0, diverges: int = 0, **unknown: int) -> Coverage:
    """Counted verdicts; reasons with _ for -."""
    counted = Coverage()
    counted.holds, counted.diverges = holds, diverges
    for reason, number in unknown.items():
        counted.unknown[Reason(reason.replace("_", "-"))] = number
    return counted


def outcome_of(*found: Divergence, **counted: Coverage) -> CheckResult:
    """A check that found these; the coverage of HV509 and HV504 unless others are given."""
    result = CheckResult("trace.dat", "kvm-6.1", 200)
    result.divergences = list(found)
    result.coverage = counted or {"HV504": coverage(5), "HV509": coverage(3, len(found))}
    result.totals = {"kvm_entry": 50, "kvm_hv_stimer_start_periodic": 40, "kvm_msr": 10}
    result.judged = {"kvm_entry": 0, "kvm_hv_stimer_start_periodic": 40, "kvm_msr": 9}
    return result
