"""HV214 synic-write-impossible

## What it finds
A SynIC event for an index that is no SynIC register, or a non-zero write by userspace that a SynIC which
is not active let in.

## Why it matters
State that userspace restores into a unit that is off is lost, and the guest's timers with it.

## What the specification says
> The SynIC's registers are 0x40000080 to 0x40000084 and 0x40000090 to 0x4000009f (TLFS). Userspace may
> write nothing but 0 to an inactive SynIC.

## When it cannot tell
Where the VM's -cpu flags are not known, whether the SynIC is active cannot be told from this event.

## Example
    kvm_hv_synic_set_msr: vcpu_id 0 msr 0x40000080 data 0x1 host 1     (no hv-synic)
    expected no write, observed data 0x1
"""

from __future__ import annotations

from hvtrace.replay.model.synic import SynicWrite, is_register
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict

__all__ = ["RULE"]


def check(write: SynicWrite) -> Verdict | None:
    """A register that is there, in a unit that is on."""
    if not is_register(write.index):
        return Diverges("a SynIC register", f"msr 0x{write.index:x}", "there is no such SynIC register")
    if write.host and write.value and write.vcpu.synic is False:
        text = "userspace wrote to a SynIC that is not active"
        return Diverges("no write but of 0", f"data 0x{write.value:x}", text, "host-write-inactive")
    return HOLDS


RULE = Rule("HV214", "synic-write-impossible", (Moment.SYNIC,), ("kvm_hv_synic_set_msr",), check)
