"""HV403 eoi-acknowledgements

## What it finds
The end of an interrupt with a synthetic source's vector that does not acknowledge exactly the unmasked
sources with this vector, in ascending order; and one that the SynIC takes for a source's although no unmasked
source has its vector.

## Why it matters
A timer message that waits for its slot is not tried again, or is tried again too early.

## What the specification says
> The end of a synthetic interrupt is an opportunity to deliver what waits (TLFS, Message delivery). KVM
> acknowledges every unmasked source that has the vector (kvm_hv_synic_send_eoi).

## When it cannot tell
Until all sixteen source registers were seen.

## Example
    kvm_hv_synic_send_eoi: vcpu_id 0 vector 98     (SINT2 holds vector 98)
    kvm_entry: vcpu 0
    expected kvm_hv_notify_acked_sint of 2, observed none
"""

from __future__ import annotations

from hvtrace.replay.model.synic import EndOfInterrupt
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(end: EndOfInterrupt) -> Verdict | None:
    """The sources with that vector, and no others."""
    if end.expected is None:
        return unknown(end.vcpu.why)
    if not end.expected:
        text = f"no unmasked source has vector {end.vector}"
        return Diverges("no kvm_hv_synic_send_eoi", f"vector {end.vector}", text)
    if end.acknowledged == end.expected:
        return HOLDS
    text = f"the end of vector {end.vector} acknowledges other sources than those that have it"
    return Diverges(_words(end.expected), _words(end.acknowledged), text)


def _words(sources: list[int]) -> str:
    return "kvm_hv_notify_acked_sint of " + (", ".join(map(str, sources)) or "none")


RULE = Rule(
    "HV403",
    "eoi-acknowledgements",
    (Moment.EOI,),
    ("kvm_hv_synic_send_eoi", "kvm_hv_notify_acked_sint", "kvm_msr", "kvm_entry", "kvm_hv_synic_set_msr"),
    check,
    theme="SynIC",
)
