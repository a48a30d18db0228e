"""HV605 vp-runtime-impossible

## What it finds
A read of VP_RUNTIME that has grown by more than the time that has passed, or that stands still for longer than a thread
that runs can go unbilled.

## Why it matters
Guests bill processor time with it, and compute from it how much of its time the vCPU was held up.

## What the specification says
> The run time of a virtual processor is the time it has consumed, in units of 100 ns (TLFS, Virtual processor run
> time). KVM gives the user and system time of the vCPU's thread.

Linux brings a thread's account up to date when the thread leaves the CPU and at each tick, so that it may be behind,
by 50 ms at most (ticks are 10 ms apart at most, and a host that is itself a guest may get them late); on CPUs without
ticks and kernels before 5.16, by 2 s. What is read may grow by that much more than the time that passes, and must not
be the same for longer.

## When it cannot tell
At the first read, after a loss, when another thread runs the vCPU, after userspace may have set the counter, and with
clocks of the trace that do not give nanoseconds or whose host does not trust its TSC.

## Example
    kvm_msr: msr_read 40000010 = 0x2000          (3.100000)
    kvm_msr: msr_read 40000010 = 0xf4240         (3.100050)
    expected 0x7c000 at most, observed 0xf4240
"""

from __future__ import annotations

from hvtrace.replay.model.clock import RUNTIME, ClockMoment
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(reading: ClockMoment) -> Verdict | None:
    """Run time grows, and no faster than time."""
    if reading.index != RUNTIME:
        return None
    if reading.most is None:
        usable = (
            reading.vcpu.bench.stamps.apart(counted=True) is not None and not reading.vcpu.vm.time.untrusted
        )
        return unknown(reading.vcpu.why if usable else Reason.CLOCK_UNKNOWN)
    if reading.value > reading.most:
        text = (
            f"VP_RUNTIME is {reading.value - reading.most} (100 ns) more than the time that has passed allows"
        )
        return Diverges(f"0x{reading.most:x} at most", f"0x{reading.value:x}", text)
    if reading.still:
        text = f"VP_RUNTIME has stood still for {reading.still // 1000} µs while its thread ran"
        return Diverges(f"more than 0x{reading.value:x}", f"0x{reading.value:x}", text)
    return HOLDS


RULE = Rule(
    "HV605",
    "vp-runtime-impossible",
    (Moment.CLOCK,),
    ("kvm_msr", "kvm_exit", RESETS),
    check,
    theme="run time",
)
