"""HV481 sint-raised-while-disabled

## What it finds
In the profile `tlfs`: a synthetic source that interrupts although SCONTROL's enable bit is clear.

## Why it matters
A guest that clears SCONTROL to be left alone is not.

## What the specification says
> While the SynIC is disabled, no messages and no interrupts are delivered (TLFS, SCONTROL register). KVM
> stores the register and never looks at it.

## When it cannot tell
Where SCONTROL was not seen. It is asked only in the profile `tlfs`, and is a warning: KVM departs from the
specification knowingly.

## Example
    kvm_msr: msr_write 40000080 = 0x0
    kvm_hv_synic_set_irq: vcpu_id 0 sint 2 vector 98 ret 1
    expected no interrupt, observed vector 98: SCONTROL.enable is 0
"""

from __future__ import annotations

from hvtrace.replay.model.synic import Raised
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Severity, Verdict, unknown

__all__ = ["RULE"]

SCONTROL = 0x4000_0080


def check(raised: Raised) -> Verdict | None:
    """Disabled is silent."""
    control = raised.vcpu.registers.get(SCONTROL)
    if control is None:
        return unknown(raised.vcpu.why)
    if control & 1:
        return HOLDS
    return Diverges("no interrupt", f"vector {raised.vector}", "SCONTROL.enable is 0")


RULE = Rule(
    "HV481",
    "sint-raised-while-disabled",
    (Moment.RAISED,),
    ("kvm_hv_synic_set_irq", "kvm_hv_synic_set_msr"),
    check,
    severity=Severity.WARNING,
    specification=True,
)
