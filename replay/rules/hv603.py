"""HV603 reference-time-off

## What it finds
A value of the reference time (a read of TIME_REF_COUNT, or the time at which a timer is armed) that does not fit the
time that has passed since the VM's other values: too far ahead, too far behind, or at another rate than 10 MHz.

## Why it matters
Everything the guest measures is wrong by as much, and its timers expire at the wrong time.

## What the specification says
> The reference counter counts in units of 100 ns from the creation of the partition, at a constant rate, alike for
> all virtual processors (TLFS, Partition reference counter).

A value was read between the thread's last event before it and the stamp of its own event. Between any two values of a
VM there must lie no less than the shortest and no more than the longest time this allows, but for 1 % by which the
rates of host clocks may differ (10 % where one of them follows NTP, or where it is not known whether it does), and
20 µs of skew between CPUs (1 ms on kernels in which the first vCPU alone fills the TSC page). Where the first two
values contradict each other, the third decides whether the second is reported.

## When it cannot tell
At the first value; after a loss, a reset or a change of a TSC offset, and after userspace set the clock; where the
guest froze its TSC page (TSC_EMULATION_CONTROL); with clocks of the trace that do not give nanoseconds, or give them in
steps, or whose host does not trust its TSC. When a vCPU updates the master clock, the time may move by as much as host
clocks can have run apart since the update before, and by any amount where the VM starts or ceases to use the master
clock.

## Example
    kvm_msr: msr_read 40000020 = 0x17cc6ea       (26.335000)
    kvm_msr: msr_read 40000020 = 0x17cca00       (26.335088)
    kvm_msr: msr_read 40000020 = 0x1799100       (26.335180)
    expected 0x17ccd20 to 0x17cce40, observed 0x1799100
"""

from __future__ import annotations

from hvtrace.replay.model.clock import Sighting
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(seen: Sighting) -> Verdict | None:
    """The value lies on the VM's line."""
    if seen.fits:
        return HOLDS
    vcpu = seen.vcpu
    if seen.fits is None:
        usable = vcpu.bench.stamps.apart(counted=False) is not None and not vcpu.vm.time.untrusted
        return unknown(vcpu.why if usable else Reason.CLOCK_UNKNOWN)
    ahead = seen.value > seen.high
    by = seen.value - seen.high if ahead else seen.low - seen.value
    text = (
        f"the reference time is {by} (100 ns) too {'high' if ahead else 'low'} for the time that has passed"
    )
    return Diverges(f"0x{max(seen.low, 0):x} to 0x{max(seen.high, 0):x}", f"0x{seen.value:x}", text)


RULE = Rule(
    "HV603",
    "reference-time-off",
    (Moment.REFERENCE,),
    ("kvm_exit", "kvm_update_master_clock", "kvm_write_tsc_offset"),
    check,
    theme="reference time",
)
