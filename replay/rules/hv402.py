"""HV402 sint-raised-wrongly

## What it finds
A synthetic interrupt raised with a vector that is not its source's, or by a source that is masked or does
not exist.

## Why it matters
The interrupt goes to another handler, or comes while the guest has shut the source.

## What the specification says
> The interrupt is raised at the vector of the SINT register unless the source is masked (TLFS, SINT
> registers). KVM prints nothing for a masked source.

## When it cannot tell
Until the source's register was seen, and where another thread raises it while the vCPU is out of the
guest and may be writing the register.

## Example
    kvm_hv_synic_set_irq: vcpu_id 0 sint 2 vector 48 ret 1     (SINT2 holds vector 49)
    expected vector 49, observed vector 48
"""

from __future__ import annotations

from hvtrace.replay.model.synic import Raised, masked, vector
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown

__all__ = ["RULE"]


def check(raised: Raised) -> Verdict | None:
    """Vector and mask are the register's."""
    if not 0 <= raised.sint < 16:
        return Diverges("sint 0 to 15", f"sint {raised.sint}", "there is no such source")
    register = raised.register
    if register is None:
        return unknown(raised.vcpu.why)
    if not masked(register) and vector(register) == raised.vector:
        return HOLDS
    if raised.racing:
        return unknown(Reason.STATE_UNSEEN)
    if masked(register):
        text = f"SINT{raised.sint} is masked (0x{register:x})"
        return Diverges("no kvm_hv_synic_set_irq", f"sint {raised.sint}", text)
    text = f"SINT{raised.sint} holds 0x{register:x}"
    return Diverges(f"vector {vector(register)}", f"vector {raised.vector}", text)


RULE = Rule(
    "HV402",
    "sint-raised-wrongly",
    (Moment.RAISED,),
    ("kvm_hv_synic_set_irq", "kvm_hv_synic_set_msr", "kvm_msr"),
    check,
    theme="SynIC",
)
