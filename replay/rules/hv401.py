"""HV401 eom-acknowledgements

## What it finds
A guest's write of EOM that did not acknowledge the sixteen synthetic interrupt sources, in order, before
its kvm_msr.

## Why it matters
A timer whose message found its slot busy waits for this acknowledgement: without it the timer never fires
again.

## What the specification says
> A write of EOM makes the hypervisor scan for messages that wait (TLFS, EOM register). KVM acknowledges
> sources 0 to 15 in this order, whichever was busy.

## When it cannot tell
Where the beginning of the exit was not seen.

## Example
    kvm_hv_synic_set_msr: vcpu_id 0 msr 0x40000084 data 0x0 host 0
    kvm_msr: msr_write 40000084 = 0x0
    expected 16 kvm_hv_notify_acked_sint, observed 0
"""

from __future__ import annotations

from hvtrace.replay.model.synic import EndOfMessage
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


ALL = list(range(16))


def check(end: EndOfMessage) -> Verdict | None:
    """Sixteen sources, in order."""
    if not end.whole:
        return unknown(end.vcpu.why)
    if end.acknowledged == ALL:
        return HOLDS
    shown = ", ".join(map(str, end.acknowledged)) or "none"
    text = f"the write of EOM acknowledged {len(end.acknowledged)} sources"
    return Diverges("kvm_hv_notify_acked_sint for 0 to 15", shown, text)


RULE = Rule(
    "HV401",
    "eom-acknowledgements",
    (Moment.EOM,),
    ("kvm_hv_synic_set_msr", "kvm_hv_notify_acked_sint", "kvm_msr", "kvm_exit"),
    check,
    theme="SynIC",
)
