"""HV205 msr-constant-changed

## What it finds
A read of VP_INDEX, TSC_FREQUENCY, APIC_FREQUENCY or SVERSION that differs from an earlier read by the
same vCPU, of VP_INDEX also from the index that the debugger's events name, or that the register can never
return.

## Why it matters
The guest computes masks and times from these once and keeps them.

## What the specification says
> The virtual processor index does not change while the partition runs; the frequencies are constant
> (TLFS, Virtual processor index; Timers). KVM: TSC_FREQUENCY is a multiple of 1000, APIC_FREQUENCY 10^9
> unless the VM was given another bus clock, then 10^9 by the ns of its cycle. A guest's TSC runs as fast as the
> host's unless the VM was given another frequency.

## When it cannot tell
Until it was read or named once in the recording, and after userspace may have set it (creation, reset, migration).

## Example
    kvm_msr: msr_read 40000002 = 0x1
    kvm_msr: msr_read 40000002 = 0x3
    expected 0x1, observed 0x3
"""

from __future__ import annotations

from hvtrace.abi.register import Kind, Msr
from hvtrace.replay.model.access import Access
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


VP_INDEX, TSC_FREQUENCY, APIC_FREQUENCY = 0x4000_0002, 0x4000_0022, 0x4000_0023
#: ns of a second.
SECOND = 10**9
#: KVM's limit of vCPUs is below this in every kernel.
MAX_VP_INDEX = 1 << 16
#: How far a TSC frequency in Hz may be from a hasty measurement in kHz: by a factor that no load explains.
MEASURED = (600, 1600)


def concerns(row: Msr | None, write: bool) -> bool:
    """The accesses the rule is asked about."""
    return not write and row is not None and row.kind is Kind.CONSTANT


def check(access: Access) -> Verdict | None:
    """Constants stay what they are."""
    row = access.row
    if row is None or access.write or access.late or access.refused or row.kind is not Kind.CONSTANT:
        return None
    value = access.value
    if (illegal := _illegal(access)) is not None:
        return Diverges(illegal, f"0x{value:x}", f"{access.name} reads 0x{value:x}, expected {illegal}")
    if access.before is None:
        return unknown(access.why)
    if value == access.before:
        return HOLDS
    text = f"{access.name} reads 0x{value:x} and was 0x{access.before:x} before"
    return Diverges(f"0x{access.before:x}", f"0x{value:x}", text)


def _illegal(access: Access) -> str | None:
    """What the value must be and is not, in words."""
    index, value = access.index, access.value
    if index == VP_INDEX and value >= MAX_VP_INDEX:
        return "the index of a vCPU"
    if index == TSC_FREQUENCY and (value == 0 or value % 1000):
        return "a multiple of 1000"
    khz = access.vcpu.bench.tsc_khz
    if index == TSC_FREQUENCY and khz is not None and not MEASURED[0] * khz < value < MEASURED[1] * khz:
        return f"about {khz} kHz"
    if index == APIC_FREQUENCY and value != SECOND:
        if access.vcpu.bench.profile.fact("apic_frequency_fixed"):
            return "10^9"
        # A bus cycle has a whole number of ns.
        if not 0 < value < SECOND or SECOND // (SECOND // value) != value:
            return "10^9 by the ns of a bus cycle"
    return None


RULE = Rule("HV205", "msr-constant-changed", (Moment.MSR,), ("kvm_msr",), check, concerns=concerns)
