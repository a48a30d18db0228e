"""KP112 pvclock-time-wrong

## What it finds
A clock page with another point of time than the master clock's, or, after the master clock was updated, with
one that does not lie on the line that the page had before.

## Why it matters
The guest's time jumps, or its vCPUs disagree about it.

## What the specification says
> While the master clock is in use all vCPUs get the same system_time, taken with their tsc_timestamp at one
> instant, until kvm_update_master_clock takes another (pvclock_update_vm_gtod_copy). The time goes on at the
> page's slope. Tolerance: 1 part in 10,000 of the time between, where the slope in whole kHz and the host's
> raw clock differ by one in a million at most, and 5 µs; on kernels whose kvmclock follows a clock that can be
> slewed, 1 part in 8.

## When it cannot tell
Where the TSC is not stable, at the first point, and where userspace set the clock or a TSC meanwhile.

## Example
    kvm_pvclock_update: vcpu_id 0, … system_time 0x4829b92f …
    kvm_pvclock_update: vcpu_id 1, … system_time 0x482ab92f …
    expected system_time 0x4829b92f, observed 0x482ab92f
"""

from __future__ import annotations

from hvtrace.replay.model.pvclock import Update, elapsed
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]

#: Tolerance: a share of the time between two points, for a raw and for a slewed clock, and ns on top.
RAW, SLEWED, FLOOR_NS = 10_000, 8, 5_000


def check(update: Update) -> Verdict | None:
    """The point is the master clock's, and lies on the line."""
    vcpu, now = update.vcpu, update.point
    master, before = vcpu.vm.master, vcpu.paravirt.clock.point
    if not update.stable or vcpu.vm.paravirt.xen or vcpu.number in master.stale:
        return unknown(Reason.STATE_UNSEEN)
    if now.time in master.former and (update.late or update.overtaken):
        # It was read before the master clock was updated.
        return HOLDS
    if now.time in master.former:
        return Diverges(
            "another system_time", f"0x{now.time:x}", "the master clock was updated and its time was not"
        )
    if master.time is not None and now.time != master.time and not update.overtaken:
        return Diverges(
            f"system_time 0x{master.time:x}",
            f"0x{now.time:x}",
            "the master clock's time changed without an update",
        )
    if before is None:
        return unknown(Reason.STATE_UNSEEN) if master.time is None else HOLDS
    if before.time == now.time:
        if before.tsc == now.tsc:
            return HOLDS
        return Diverges(
            f"tsc_timestamp 0x{before.tsc:x}", f"0x{now.tsc:x}", "one instant has two counts of cycles"
        )
    share = RAW if vcpu.bench.profile.fact("pvclock_raw") else SLEWED
    computed = elapsed(before, now.tsc)
    if abs(now.time - before.time - computed) <= abs(computed) // share + FLOOR_NS:
        return HOLDS
    text = f"{now.time - before.time} ns passed where the page's line says {computed}"
    return Diverges(f"system_time 0x{before.time + computed:x}", f"0x{now.time:x}", text)


RULE = Rule(
    "KP112",
    "pvclock-time-wrong",
    (Moment.PVCLOCK,),
    ("kvm_pvclock_update", "kvm_update_master_clock", "kvm_write_tsc_offset", RESETS),
    check,
    theme="pvclock",
)
