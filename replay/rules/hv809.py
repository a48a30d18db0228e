"""HV809 apic-msr-read

## What it finds
A guest's read of the synthetic TPR or ICR register that returns another value than the APIC's register holds.

## Why it matters
The guest restores a wrong priority, or waits for a wrong interrupt.

## What the specification says
> The synthetic registers are the APIC's own (TLFS, Virtual interrupt controller). A read of TPR shows the APIC's
> register by kvm_apic before its kvm_msr, with the same value. ICR reads what was last written through it, busy bit
> clear, as long as the guest writes the register in no other way (kvm_hv_vapic_msr_read).

## When it cannot tell
ICR: until it was written through the synthetic register, after a reset, and where APICv or AVIC may serve the guest.

## Example
    kvm_apic: apic_read APIC_TASKPRI = 0x20
    kvm_msr: msr_read 40000072 = 0x0
    expected 0x20, observed 0x0
"""

from __future__ import annotations

from hvtrace.replay.model.apic import ICR_LOW, TPR_REGISTER, Through
from hvtrace.replay.rule import RESETS, Moment, Rule
from hvtrace.replay.verdict import HOLDS, Diverges, Verdict, unknown

__all__ = ["RULE"]


LOW = 0xFFFF_FFFF


def check(through: Through) -> Verdict | None:
    """The APIC's register is read."""
    access, register = through.access, through.register
    if access.write or access.late or access.refused or register not in (ICR_LOW, TPR_REGISTER):
        return None
    if register == TPR_REGISTER:
        if not access.whole:
            return unknown(access.why)
        read = [act for act in through.acts if act[2] == "kvm_apic" and not act[5]]
        if not read:
            return Diverges("kvm_apic read of register 0x80", "none", "TPR is not read from the APIC")
        if read[-1][6] != register:
            text = "another register is read"
            return Diverges("kvm_apic read of register 0x80", f"register 0x{read[-1][6]:x}", text)
        expected = read[-1][7]
    elif through.command is None:
        return unknown(access.why)
    else:
        # Older kernels keep the high half in a register of its own, with fewer bits.
        single = access.vcpu.bench.profile.fact("icr_whole")
        mask = LOW | (LOW << 32 if single else 0)
        if (access.value ^ through.command) & mask == 0:
            return HOLDS
        expected = through.command
    if access.value == expected:
        return HOLDS
    text = f"{access.name} reads 0x{access.value:x} and the APIC holds 0x{expected:x}"
    return Diverges(f"0x{expected:x}", f"0x{access.value:x}", text)


RULE = Rule(
    "HV809",
    "apic-msr-read",
    (Moment.THROUGH,),
    ("kvm_msr", "kvm_apic", "kvm_exit", "kvm_entry", RESETS),
    check,
    theme="APIC register",
)
