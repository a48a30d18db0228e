"""HV701 ipi-targets

## What it finds
An IPI hypercall after which the vector was not taken by exactly the virtual processors that it addressed: one is
missing, one gets it that was not meant, one gets it twice, or the call failed and the interrupt was sent all the same.

## Why it matters
A processor that waits for an answer waits for ever, and another handles a request that is not its own.

## What the specification says
> SendSyntheticClusterIpi sends a fixed, edge-triggered interrupt with the vector to each virtual processor of the set,
> the sender included (TLFS). The APICs take it in the sender's thread before the result: one kvm_apic_accept_irq each,
> with the APIC switched off as well. Bits of processors that do not exist are ignored (kvm_hv_send_ipi_to_many).

## When it cannot tell
The banks of a sparse set are in guest memory or XMM registers: only processors outside the valid banks, and the vector
of what was sent, are judged. Where a vCPU's VP index is not known, it is left out. Where no result is traced and the
input leaves the outcome open, a missing target is not reported.

## Example
    kvm_hv_send_ipi: vector 6a processor_mask 0x2
    kvm_apic_accept_irq: apicid 0 vec 106
    kvm_hv_hypercall_done: result 0x0
    expected vCPU 1, observed vCPU 0
"""

from __future__ import annotations

from hvtrace.replay.model.ending import ALL_EMPTY
from hvtrace.replay.model.vp_set import Sent, indices
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


def check(sent: Sent) -> Verdict | None:
    """Those that are addressed, once each, and no others."""
    call = sent.call
    vm, event = call.vcpu.vm, call.shown
    assert event is not None
    if sent.succeeded is False:
        if not sent.took:
            return HOLDS
        return Diverges("no interrupt", _words(sorted(sent.took)), "the call failed and sends its interrupt")
    expected, wrong, judged = [], [], False
    for number, index in indices(vm).items():
        addressed = sent.targets.has(index)
        if addressed is None:
            continue
        if not addressed:
            judged = True
            if number in sent.took:
                wrong.append(number)
        elif sent.succeeded and number in sent.known and vm.has_apic:
            judged = True
            expected.append(number)
    missing = [number for number in expected if number not in sent.took]
    if missing:
        empty = event[2] == "kvm_hv_send_ipi_ex" and sent.targets.everyone and not event[7]
        bug = ALL_EMPTY if empty and not sent.took and not vm.bench.profile.is_fixed(ALL_EMPTY) else ""
        return Diverges(
            _words(expected), _words(sorted(sent.took)), "a target does not get the interrupt", bug
        )
    if wrong:
        text = "a processor that is not addressed gets the interrupt"
        return Diverges(f"not {_words(wrong)}", _words(sorted(sent.took)), text)
    if any(count > 1 for count in sent.took.values()):
        twice = sorted(number for number, count in sent.took.items() if count > 1)
        return Diverges("one interrupt each", f"{_words(twice)} twice", "a target gets the interrupt twice")
    if sent.targets.banks and sent.succeeded and sent.others and not sent.took:
        text = "the targets get another vector or another kind of interrupt"
        return Diverges(f"vector {event[5]}", f"vector {', '.join(map(str, sent.others))}", text)
    return HOLDS if judged else unknown(call.vcpu.why)


def _words(numbers: list[int]) -> str:
    return f"vCPU {', '.join(map(str, numbers))}" if numbers else "no vCPU"


RULE = Rule(
    "HV701",
    "ipi-targets",
    (Moment.SENT,),
    ("kvm_hv_hypercall", "kvm_apic_accept_irq", "kvm_msr"),
    check,
)
