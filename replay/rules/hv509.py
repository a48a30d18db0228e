"""HV509 stimer-periodic-off-grid

## What it finds
A periodic timer whose next expiry does not lie on the grid of its period: the first is now + count, the
following are whole multiples of the count later, and always ahead of now.

## Why it matters
A guest that counts ticks loses time, a little with each tick.

## What the specification says
> A periodic timer expires at equal distances; KVM skips expirations that are overdue and keeps the grid
> (TLFS, Timers; stimer_start).

## When it cannot tell
Until COUNT and the last expiry were seen; where only the count is known, the distance alone is judged.

## Example
    kvm_hv_stimer_start_periodic: vcpu_id 0 timer 0 time_now 100 exp_time 20100
    kvm_hv_stimer_start_periodic: vcpu_id 0 timer 0 time_now 20500 exp_time 40500
    expected exp_time 40100, observed exp_time 40500
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Start
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


U64 = (1 << 64) - 1


def check(start: Start) -> Verdict | None:
    """exp_time is on the grid."""
    if not start.periodic or start.timer.enable is False:
        return None
    timer = start.timer
    count, before, now = timer.count, timer.expiry, start.now
    if not count:
        return unknown(start.vcpu.why) if count is None else None
    if before is None:
        if 0 < start.expiry - now & U64 <= count:
            return unknown(start.vcpu.why)
        text = f"timer {timer.number} has a period of {count}"
        return Diverges(f"at most {count} after time_now", f"{start.expiry - now} after it", text)
    if before == 0:
        expected = now + count & U64
    elif now >= before:
        expected = now + count - (now - before) % count & U64
    else:
        expected = before
    if start.expiry == expected:
        return HOLDS
    text = f"timer {timer.number}: period {count}, last expiry {before or 'none'}, now {now}"
    return Diverges(f"exp_time {expected}", f"exp_time {start.expiry}", text)


RULE = Rule(
    "HV509",
    "stimer-periodic-off-grid",
    (Moment.START,),
    ("kvm_hv_stimer_set_count", "kvm_hv_stimer_cleanup"),
    check,
    theme="SynIC",
)
