"""HV518 stimer-message-unsent

## What it finds
A timer in message mode that reports success without the interrupt of its source, or with another
source's.

## Why it matters
The message lies in its slot and the guest is never told.

## What the specification says
> When a message is placed, the source's interrupt is raised (TLFS, Message delivery). KVM shows
> kvm_hv_synic_set_irq before the expiration.

## When it cannot tell
Until CONFIG was seen. A periodic timer whose slot is busy also reports success without an interrupt: of periodic timers
only the wrong source is found, and an interrupt that the APIC took just before and that no source raised.

## Example
    kvm_hv_stimer_expiration: vcpu_id 0 timer 0 direct 0 send result 0
    expected kvm_hv_synic_set_irq of sint 2 before it, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.stimer import Expiration, sint_of
from hvtrace.replay.model.synic import SINT0, masked, vector
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]

IPI = "kvm_apic_ipi"
TAKES = ("kvm_apic_accept_irq", "kvm_apicv_accept_irq")


def check(expiration: Expiration) -> Verdict | None:
    """A message comes with its interrupt."""
    timer = expiration.timer
    if expiration.confirmed is not None or expiration.direct or expiration.result != 0:
        return None
    if timer.config is None or not expiration.vcpu.whole:
        return unknown(expiration.vcpu.why)
    sint = sint_of(timer.config)
    if timer.periodic and (not expiration.raised or expiration.vcpu.visited):
        # A busy slot costs the tick; userspace may have raised another source.
        return _taken(expiration, sint)
    if any(raised == sint for raised, _ in expiration.raised):
        return HOLDS
    shown = ", ".join(f"sint {raised}" for raised, _ in expiration.raised) or "none"
    text = f"timer {timer.number} reports a message for SINT{sint} without its interrupt"
    return Diverges(f"kvm_hv_synic_set_irq of sint {sint}", shown, text)


def _taken(expiration: Expiration, sint: int) -> Verdict | None:
    """The APIC took the source's vector just before: then the slot was not busy."""
    vcpu = expiration.vcpu
    source, last = vcpu.registers.get(SINT0 + sint), vcpu.just_before()
    if source is None or masked(source) or last is None or last[2] not in TAKES or last[5] != vector(source):
        return None
    sent = any(seen[2] == IPI and seen[0] > vcpu.exit_seq for seen in vcpu.history)
    if last[0] < vcpu.exit_seq or sent or IPI not in vcpu.bench.traced:
        # It came in an exit before, or the guest may have sent it to itself.
        return None
    text = f"the APIC took vector {vector(source)} for timer {expiration.timer.number}, and SINT{sint} was not raised"
    return Diverges(f"kvm_hv_synic_set_irq of sint {sint}", "none", text)


RULE = Rule(
    "HV518",
    "stimer-message-unsent",
    (Moment.EXPIRATION,),
    ("kvm_hv_stimer_set_config", "kvm_hv_synic_set_irq", "kvm_entry"),
    check,
    theme="SynIC",
)
