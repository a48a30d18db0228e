"""HP106 halt-poll-while-off

## What it finds
A polling time that changes while polling is off: the guest has switched it off for this vCPU, or the cap is 0.

## Why it matters
A guest that polls by itself switches the host's polling off: with both, the CPU's time is wasted twice.

## What the specification says
> Without bit 0 of MSR_KVM_POLL_CONTROL the vCPU's polling time stays as it is; with a cap of 0 it becomes 0 without an
> event (kvm_arch_no_poll, kvm_vcpu_halt).

## When it cannot tell
Where the register, which the guest writes once, at boot, or the cap is not known.

## Example
    kvm_msr: msr_write 4b564d05 = 0x0
    kvm_halt_poll_ns: vcpu 0: halt_poll_ns 10000 (grow 0)
    expected no change, observed grow
"""

from __future__ import annotations

from hvtrace.replay.model.halt_poll import Change
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(change: Change) -> Verdict | None:
    """Where polling is off, its time does not change."""
    why = (
        "MSR_KVM_POLL_CONTROL is 0" if change.allowed is False else "the cap is 0" if change.cap == 0 else ""
    )
    if why:
        return Diverges("no change", "grow" if change.grew else "shrink", f"{why}: the host does not poll")
    if change.allowed is None:
        return unknown(change.vcpu.why)
    return HOLDS if change.cap else unknown(Reason.PARAMETER_UNKNOWN)


RULE = Rule(
    "HP106",
    "halt-poll-while-off",
    (Moment.HALT_POLL,),
    ("kvm_halt_poll_ns", RESETS),
    check,
    theme="halt polling",
)
