"""HV406 sint-raised-alone

## What it finds
A source raised by the vCPU's own thread, in an exit that was served in the kernel without a hypercall,
and no timer's expiration that accounts for it.

## Why it matters
The guest gets an interrupt without a message.

## What the specification says
> In the vCPU's own thread a source is raised for a timer's message, whose expiration is traced next
> (stimer_expiration), or by userspace.

## When it cannot tell
Where the thread was in userspace, made a hypercall or acknowledged a source in the same exit: eventfds
may be wired to a source.

## Example
    kvm_exit: vcpu 0 reason hlt
    kvm_hv_synic_set_irq: vcpu_id 0 sint 2 vector 98 ret 1
    kvm_entry: vcpu 0
    expected a kvm_hv_stimer_expiration, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.synic import Unsent
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import Diverges, Severity, Verdict

__all__ = ["RULE"]


def check(raised: Unsent) -> Verdict | None:
    """Each interrupt has its expiration."""
    text = f"the vCPU's own thread raised SINT{raised.sint} for no timer"
    return Diverges("a kvm_hv_stimer_expiration", "none", text)


RULE = Rule(
    "HV406",
    "sint-raised-alone",
    (Moment.UNSENT,),
    (
        "kvm_hv_synic_set_irq",
        "kvm_hv_stimer_expiration",
        "kvm_entry",
        "kvm_exit",
        "kvm_userspace_exit",
        "kvm_hv_hypercall",
        "kvm_hv_notify_acked_sint",
    ),
    check,
    Severity.WARNING,
)
