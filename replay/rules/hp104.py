"""HP104 halt-poll-change-undue

## What it finds
A polling time that grew or shrank after a halt that asks for neither, or for the other.

## Why it matters
Polling follows the wrong halts: it grows where it cannot help, and shrinks where it did.

## What the specification says
> After a halt longer than the polling time: where it was longer than the cap and the vCPU polled, the time shrinks;
> where it was shorter than the cap and the time is below the cap, it grows (kvm_vcpu_halt). The halt's length is in the
> kvm_vcpu_wakeup that follows.

## When it cannot tell
Where the cap is not known, as far as it matters: it is halt_poll_ns of the module kvm, noted beside the recording and
taken to hold throughout and for every VM (a VM may be given another by KVM_CAP_HALT_POLL, which QEMU does not use).

## Example
    kvm_halt_poll_ns: vcpu 0: halt_poll_ns 20000 (grow 10000)
    kvm_vcpu_wakeup: wait time 900000 ns, polling valid
    expected shrink, observed grow: the halt took 900000 ns, the cap is 200000
"""

from __future__ import annotations

from hvtrace.replay.model.halt_poll import Adjustment, due
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(adjustment: Adjustment) -> Verdict | None:
    """The halt asks for the change."""
    change, ns = adjustment.change, adjustment.ns
    observed = "grow" if change.grew else "shrink"
    cap, old = change.cap, change.old
    if cap == 0:
        return None
    if cap is not None:
        expected = due(old, ns, cap)
        if expected == observed:
            return HOLDS
        text = f"a halt of {ns} ns after polling for {old} ns, with a cap of {cap} ns"
        return Diverges(expected or "no change", observed, f"{text}: {observed}")
    if ns <= old or (not change.grew and not old):
        text = f"a halt of {ns} ns after polling for {old} ns: {observed}"
        return Diverges("no change", observed, text)
    return HOLDS if old else unknown(Reason.PARAMETER_UNKNOWN)


RULE = Rule(
    "HP104",
    "halt-poll-change-undue",
    (Moment.ADJUSTED,),
    ("kvm_halt_poll_ns", "kvm_vcpu_wakeup"),
    check,
    theme="halt polling",
)
