"""HV519 stimer-direct-vector

## What it finds
A timer in direct mode whose interrupt did not come, or came with another vector than CONFIG's.

## Why it matters
The guest's timer handler is not called, another is.

## What the specification says
> In direct mode the timer raises the vector of CONFIG bits 11:4 (TLFS, Direct synthetic timers). KVM
> shows kvm_apic_accept_irq before the expiration.

## When it cannot tell
Until CONFIG was seen, and where the APIC may be in userspace.

## Example
    kvm_hv_stimer_set_config: vcpu_id 0 timer 0 config 0x1ed1 host 0
    kvm_apic_accept_irq: apicid 0 vec 238 (Fixed|edge)
    kvm_hv_stimer_expiration: vcpu_id 0 timer 0 direct 1 send result 0
    expected vector 237, observed vector 238
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Expiration, vector_of
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(expiration: Expiration) -> Verdict | None:
    """The interrupt has CONFIG's vector."""
    timer = expiration.timer
    if expiration.confirmed is not None or not expiration.direct:
        return None
    if (
        timer.config is None
        or not timer.direct
        or not expiration.vcpu.whole
        or not expiration.vcpu.vm.has_apic
    ):
        return unknown(expiration.vcpu.why)
    wanted = vector_of(timer.config)
    if wanted in expiration.accepted:
        return HOLDS
    shown = ", ".join(f"vector {vector}" for vector in expiration.accepted) or "no interrupt"
    text = f"timer {timer.number} must raise vector {wanted}"
    return Diverges(f"vector {wanted}", shown, text)


RULE = Rule(
    "HV519",
    "stimer-direct-vector",
    (Moment.EXPIRATION,),
    ("kvm_hv_stimer_set_config", "kvm_apic_accept_irq", "kvm_entry"),
    check,
    theme="SynIC",
)
