"""Advices on guests that are hypervisors themselves."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from hvtrace.abi.exit_reasons import ISA_SVM, ISA_VMX
from hvtrace.analysis.advice import snippets
from hvtrace.analysis.advice.facts import Facts, ends
from hvtrace.analysis.advice.finding import Advice, Effect, Evidence, Finding, Severity, Unjudged
from hvtrace.analysis.advice.wording import duration, each_second, percent, times

__all__ = ["ADVICES"]

#: A nested entry costs an exit of VMLAUNCH or VMRESUME anyway; with the hardware's VMCS shadowing few VMREAD and
#: VMWRITE exit beside it.
EACH = 2
#: Below so many a second nobody runs guests in earnest.
RATE = 100
#: And so many in all.
LEAST = 1_000
#: Share of the vCPUs' time from which on it costs much.
HIGH_SHARE = 0.1

_VMREAD, _VMWRITE = ISA_VMX << 32 | 23, ISA_VMX << 32 | 25
_VMLAUNCH, _VMRESUME = ISA_VMX << 32 | 20, ISA_VMX << 32 | 24
#: VMCLEAR, VMPTRLD, VMPTRST: an enlightened VMCS needs none of them to switch.
_POINTERS = [ISA_VMX << 32 | reason for reason in (19, 21, 22)]
_HYPERCALLS = [ISA_VMX << 32 | 18, ISA_SVM << 32 | 0x81]


def vmcs_accesses(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """A hypervisor in the guest reads and writes its VMCS by instructions that exit."""
    rows = facts.exits.filter(pl.col("vm") == vm, ~pl.col("nested"))
    accesses = rows.filter(pl.col("reason").is_in([_VMREAD, _VMWRITE]))
    entries = int(rows.filter(pl.col("reason").is_in([_VMLAUNCH, _VMRESUME]))["count"].sum())
    count, life = int(accesses["count"].sum()), facts.life_ns(vm)
    if count < LEAST or count < EACH * entries or (facts.in_ns and count * 1e9 < RATE * life):
        return
    reads = int(accesses.filter(pl.col("reason") == _VMREAD)["count"].sum())
    pointers = rows.filter(pl.col("reason").is_in(_POINTERS))
    time_ns = int(accesses["time_ns"].sum()) + int(pointers["time_ns"].sum())
    share = time_ns / facts.vcpu_ns(vm)
    shown = facts.offered[vm]
    offered = shown.has("hv-evmcs")
    added = snippets.with_needs(["hv-evmcs"], shown.flags)
    switches = times(int(pointers["count"].sum()), "VMCS switch", "VMCS switches")
    each = f", {count / entries:.1f} for each of its {times(entries, 'entry', 'entries')}" if entries else ""
    yield Finding(
        advice.code,
        advice.name,
        Severity.HIGH if share >= HIGH_SHARE else Severity.MEDIUM,
        vm,
        f"The guest runs guests of its own, and accesses their VMCS by {times(count, 'exit')}{each}",
        (
            Evidence(
                f"{reads:,} VMREAD, {count - reads:,} VMWRITE, {switches}"
                f" (VMCLEAR, VMPTRLD, VMPTRST), which took {duration(time_ns)}, {percent(share)} of the vCPUs' time",
                count,
                count * 1e9 / life if facts.in_ns else None,
                time_ns,
                ends(accesses),
            ),
        ),
        change=(
            "hv-evmcs is offered, and the hypervisor in the guest does not use it: Hyper-V and KVM do, others may not"
            if offered
            else "offer hv-evmcs: Hyper-V (and KVM) as a guest then keep the VMCS in memory that both sides read;"
            " or a CPU whose VMCS shadowing KVM uses (kvm_intel.enable_shadow_vmcs)"
        ),
        effect=Effect(
            f"nearly all of it: {duration(time_ns)} of vCPU time ({percent(share)})",
            "adding up the exits for VMREAD, VMWRITE, VMCLEAR, VMPTRLD and VMPTRST; an enlightened VMCS needs none",
            time_ns,
            share,
        ),
        qemu=None if offered else snippets.qemu(added),
        libvirt=None if offered else snippets.libvirt(added),
    )


def forwarded(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """Hypercalls of a nested guest go to its hypervisor through KVM."""
    if not facts.in_ns:
        yield Unjudged(advice.code, advice.name, vm, "the clock counts ticks: there are no rates")
        return
    shown = facts.offered[vm]
    if shown.hyperv is False or shown.has("hv-tlbflush-direct"):
        return
    rows = facts.exits.filter(pl.col("vm") == vm, pl.col("nested"), pl.col("reason").is_in(_HYPERCALLS))
    count, time_ns, life = int(rows["count"].sum()), int(rows["time_ns"].sum()), facts.life_ns(vm)
    if count < LEAST or count * 1e9 < RATE * life:
        return
    share = time_ns / facts.vcpu_ns(vm)
    flags = (
        ["hv-tlbflush-direct"] if rows["reason"][0] >> 32 == ISA_SVM else ["hv-evmcs", "hv-tlbflush-direct"]
    )
    added = snippets.with_needs(flags, shown.flags)
    yield Finding(
        advice.code,
        advice.name,
        Severity.HIGH if share >= HIGH_SHARE else Severity.MEDIUM,
        vm,
        f"A nested guest makes {times(count, 'hypercall')} that its own hypervisor has to answer",
        (
            Evidence(
                f"{each_second(count, life)}; on the way out alone they took {duration(time_ns)}",
                count,
                count * 1e9 / life,
                time_ns,
                ends(rows),
            ),
        ),
        change="offer hv-tlbflush-direct, if the nested guest is one of Hyper-V's: KVM then answers its TLB flushes"
        " itself (Linux 6.2 and later); which of the calls are flushes no event tells",
        effect=Effect(
            "not known",
            "nothing: the registers of a nested guest's hypercalls are not recorded",
        ),
        qemu=snippets.qemu(added),
        libvirt=snippets.libvirt(added),
    )


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD701",
        "vmcs-accesses",
        "A hypervisor in the guest accesses its VMCS by VMREAD and VMWRITE that exit: hv-evmcs.",
        ("kvm_exit", "kvm_entry"),
        vmcs_accesses,
        f"It is found on Intel where there are {EACH} or more such exits for each VMLAUNCH or VMRESUME, {RATE} or more"
        f" a second, and {LEAST:,} or more in all. A hypervisor reads and writes dozens of fields of the VMCS around"
        " each entry of its guest; each is an exit, unless the CPU shadows the VMCS or both sides keep it in memory"
        " (the enlightened VMCS). No recording of an Intel CPU was at hand: this is built after KVM's source.",
    ),
    Advice(
        "AD702",
        "nested-hypercalls",
        "Hypercalls of a nested guest are passed to its hypervisor: hv-tlbflush-direct.",
        ("kvm_exit", "kvm_entry", "kvm_nested_vmexit"),
        forwarded,
        f"It is found where a nested guest makes {RATE} hypercalls a second or more ({LEAST:,} or more in all), in a"
        " guest that may have been offered Hyper-V, but not direct TLB flushes. Each goes out of the nested guest to"
        " KVM, into the guest's hypervisor and back. With hv-tlbflush-direct KVM answers flushes itself. Which of the"
        " hypercalls are flushes the events do not tell; what hv-emsr-bitmap would save leaves no events either.",
    ),
)
