"""HV606 master-clock-contradictory

## What it finds
kvm_update_master_clock that says the VM uses the master clock although the TSCs of its vCPUs do not match, or although
the host's clock is not the TSC.

## Why it matters
The TSC page and kvmclock promise the guest one clock for all vCPUs, and every vCPU has another.

## What the specification says
> The TSC page is valid only where the TSCs of all processors are in step (TLFS, Partition reference TSC mechanism). KVM
> uses the master clock where the host's clock is the TSC or Hyper-V's TSC page, all vCPUs' TSCs match, none was seen to
> go backwards, and the boot processor does not use the old kvmclock MSR (pvclock_update_vm_gtod_copy).

## When it cannot tell
Where the master clock is not used: the reason need not be visible.

## Example
    kvm_update_master_clock: masterclock 1 hostclock tsc offsetmatched 0
    expected masterclock 0, observed masterclock 1
"""

from __future__ import annotations

from hvtrace.replay.model.clock import COUNT_TSC, MasterClock
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(clock: MasterClock) -> Verdict | None:
    """The master clock is used only where it can be."""
    if not clock.used:
        could = clock.matched and clock.host_clock in COUNT_TSC
        return unknown(clock.vcpu.why) if could else HOLDS
    if not clock.matched:
        return Diverges("masterclock 0", "masterclock 1", "the vCPUs' TSCs do not match")
    if clock.host_clock not in COUNT_TSC:
        return Diverges("masterclock 0", "masterclock 1", f"the host's clock is {clock.host_clock}, no TSC")
    return HOLDS


RULE = Rule(
    "HV606", "master-clock-contradictory", (Moment.MASTER_CLOCK,), ("kvm_update_master_clock",), check
)
