"""HP105 halt-poll-change-missing

## What it finds
A halt after which the polling time had to grow or shrink, and did not.

## Why it matters
The vCPU never comes to poll, or goes on polling in vain.

## What the specification says
> After a halt longer than the polling time: where it was longer than the cap and the vCPU polled, the time shrinks;
> where it was shorter than the cap and the time is below the cap, it grows (kvm_vcpu_halt). kvm_halt_poll_ns comes
> right before kvm_vcpu_wakeup, even where the value stays the same.

## When it cannot tell
Where the vCPU's polling time, the cap, or whether the guest allows polling (MSR_KVM_POLL_CONTROL, written at boot) is
not known.

## Example
    kvm_vcpu_wakeup: wait time 50000 ns, polling valid
    expected kvm_halt_poll_ns (grow) before it, observed none: the vCPU polled for 10000 ns, the cap is 200000
"""

from __future__ import annotations

from hvtrace.replay.model.halt_poll import Wakeup, due
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(wakeup: Wakeup) -> Verdict | None:
    """A change that is due comes."""
    cap, poll = wakeup.cap, wakeup.poll
    if wakeup.change is not None or wakeup.allowed is False or cap == 0:
        return None
    if cap is None:
        return unknown(Reason.PARAMETER_UNKNOWN)
    if poll is None or wakeup.allowed is None:
        return unknown(wakeup.vcpu.why)
    missing = due(poll, wakeup.ns, cap)
    if not missing:
        return HOLDS
    text = f"a halt of {wakeup.ns} ns after polling for {poll} ns, with a cap of {cap} ns: no {missing}"
    return Diverges(f"kvm_halt_poll_ns ({missing})", "no kvm_halt_poll_ns", text)


RULE = Rule(
    "HP105",
    "halt-poll-change-missing",
    (Moment.WAKEUP,),
    ("kvm_halt_poll_ns", "kvm_vcpu_wakeup", "kvm_msr", RESETS),
    check,
    theme="halt polling",
)
