"""Advices on single hv-* flags whose lack, or presence, shows in the exits. AD11x."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from hvtrace.abi.exit_reasons import ISA_VMX
from hvtrace.analysis.advice import snippets
from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Effect, Evidence, Finding, Severity, Unjudged, severity_of
from hvtrace.analysis.advice.offered import Offered
from hvtrace.analysis.advice.steady import Accesses, about, accesses, per_slice, too_short
from hvtrace.analysis.advice.wording import duration, each_second, percent, times

__all__ = ["ADVICES", "CALIBRATION_READS", "EOIS_PER_SECOND"]

#: EOIs that exit, a second, from which on they are worth avoiding: an idle guest's timer gives that many.
EOIS_PER_SECOND = 100

#: EOI by x2APIC MSR and by the xAPIC's page.
X2APIC_EOI, XAPIC_EOI = about("msr", 0x80B, write=True), about("address", 0xFEE0_00B0, write=True)
#: EOI by the MSR that hv-vapic gives.
HYPERV_EOI = about("msr", 0x4000_0070, write=True)
_EOIS = frozenset({X2APIC_EOI, XAPIC_EOI, HYPERV_EOI})

#: Accesses of the xAPIC's page on VMX, where no instruction was emulated: KVM ends the interrupt at once
#: (handle_apic_access in arch/x86/kvm/vmx/vmx.c), and traces no kvm_mmio.
_VMX_EOI = (ISA_VMX << 32 | 44, XAPIC_EOI)

#: Reads of port 0x61 (the PIT's gate, on which a calibration waits) of one boot: a firmware makes a few, a calibration
#: dozens or thousands.
CALIBRATION_READS = 100
_GATE = about("port", 0x61)

_WINDOWS_BUGCHECK = "CLOCK_WATCHDOG_TIMEOUT"


def _eois(facts: Facts, vm: int) -> tuple[Accesses, Accesses]:
    """EOIs that exit through the APIC itself, and those through Hyper-V's MSR."""
    slices = facts.once("EOIs", lambda: per_slice(facts, _EOIS, _VMX_EOI))
    apic = accesses(facts, slices, vm, {X2APIC_EOI, XAPIC_EOI}, EOIS_PER_SECOND)
    return apic, accesses(facts, slices, vm, {HYPERV_EOI}, EOIS_PER_SECOND)


def _told(facts: Facts, seen: Accesses) -> Evidence:
    rate = each_second(seen.count, facts.length_ns)
    cost = f"{duration(seen.mean_ns)} each, {duration(seen.time_ns)} in all"
    return Evidence(
        f"{times(seen.count, 'EOI')} through the APIC, {rate}; {cost}",
        seen.count,
        facts.per_second(seen.count),
        seen.time_ns,
        seen.seqs,
    )


def _without_vapic(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """AD111: EOIs exit, and hv-vapic would let most of them be."""
    if short := list(too_short(facts, vm, advice)):
        yield from short
        return
    offered = facts.offered[vm]
    seen, _ = _eois(facts, vm)
    # A guest without Hyper-V's interface has KVM's own PV EOI.
    if not seen.steady or not offered.uses_hyperv or offered.has("hv-vapic") is not False:
        return
    share = seen.time_ns / facts.length_ns
    yield Finding(
        advice.code,
        advice.name,
        severity_of(share),
        vm,
        f"{percent(share)} of one CPU goes into EOIs that exit, and hv-vapic is not offered",
        (_told(facts, seen),),
        "offer hv-vapic: with its VP assist page a guest ends most interrupts by clearing a bit, without an exit;"
        " leave hv-avic out where the CPU's APIC virtualization is not in use (AD112)",
        Effect(
            f"at most {duration(seen.time_ns)} of {duration(facts.length_ns)} would be saved: an EOI still exits"
            " where another interrupt waits",
            "the time of these exits, as hvtrace exits has it",
            seen.time_ns,
            share,
        ),
        qemu=snippets.qemu(["hv-vapic"]),
        libvirt=snippets.libvirt(["hv-vapic"]),
    )


#: Where the modules say whether the CPU's APIC virtualization may be used.
_ACCELERATION = {"kvm_amd": "avic", "kvm_intel": "enable_apicv"}


def _avic_alone(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """AD112: hv-avic takes the recommendation to use the APIC MSRs back, and no hardware makes up for it."""
    if short := list(too_short(facts, vm, advice)):
        yield from short
        return
    offered = facts.offered[vm]
    seen, own = _eois(facts, vm)
    wanted = offered.has("hv-avic") and offered.has("hv-vapic") and offered.uses_hyperv
    if not wanted or not seen.steady or own.count > seen.count:
        return
    share = seen.time_ns / facts.length_ns
    yield Finding(
        advice.code,
        advice.name,
        severity_of(share),
        vm,
        f"hv-avic is offered, but EOIs exit: {percent(share)} of one CPU goes into them",
        (
            _told(facts, seen),
            Evidence(
                f"{times(own.count, 'EOI')} by HV_X64_MSR_EOI: with hv-avic QEMU no longer recommends it, as the"
                " hardware should see to EOIs",
                own.count,
            ),
            *_parameters(facts),
        ),
        "either let KVM use the CPU's APIC virtualization (kvm_intel enable_apicv=Y; kvm_amd avic=Y, which x2APIC"
        " needs x2AVIC for), or leave hv-avic out: the guest then ends interrupts through the VP assist page, most"
        " of them without an exit",
        Effect(
            f"at most {duration(seen.time_ns)} of {duration(facts.length_ns)} would be saved: an EOI still exits"
            " where another interrupt waits",
            "the time of these exits, as hvtrace exits has it",
            seen.time_ns,
            share,
        ),
        qemu=snippets.qemu(["hv-avic"], off=True),
        libvirt=snippets.libvirt(["hv-avic"], off=True),
    )


def _parameters(facts: Facts) -> Iterator[Evidence]:
    """What the host's module parameters say about APIC virtualization."""
    parameters = facts.store.manifest.host.get("module_parameters")
    for module, name in _ACCELERATION.items():
        own = parameters.get(module) if isinstance(parameters, dict) else None
        if isinstance(own, dict) and name in own:
            yield Evidence(
                f"the host's {module}.{name} is {str(own[name])[:8]!r}, as noted beside the recording"
            )


def _without_relaxed(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """AD113: a Windows guest whose watchdogs are on."""
    offered = facts.offered[vm]
    if not offered.uses_hyperv or offered.guest not in (None, "Windows"):
        return
    if (has := offered.has("hv-relaxed")) is None:
        yield Unjudged(advice.code, advice.name, vm, "whether hv-relaxed is offered is not known")
    elif not has and offered.guest == "Windows":
        yield Finding(
            advice.code,
            advice.name,
            Severity.LOW,
            vm,
            "The Windows guest is not offered hv-relaxed: its watchdogs take a preempted vCPU for a hung one",
            (Evidence(f"hv-relaxed is not offered, by {offered.source}", seqs=_seqs(offered)),),
            f"offer hv-relaxed: on a busy host the guest may otherwise stop with {_WINDOWS_BUGCHECK}",
            Effect("no exit is saved; a bug check is", "not estimated: no event shows a watchdog"),
            qemu=snippets.qemu(["hv-relaxed"]),
            libvirt=snippets.libvirt(["hv-relaxed"]),
        )


def _seqs(offered: Offered) -> tuple[int, ...]:
    return () if offered.first_seq is None else (offered.first_seq,)


def _calibrates(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """AD114: a guest that measures its TSC because nobody tells it."""
    offered = facts.offered[vm]
    if not offered.uses_hyperv or offered.has("hv-frequencies") is not False:
        return
    reads = facts.once("gate reads", lambda: _gate_reads(facts))
    own = reads.filter(pl.col("vm") == vm)
    count = int(own["count"].sum())
    if count < CALIBRATION_READS:
        return
    time_ns = int(own["time_ns"].sum())
    ends = (min(own["first_seq"].to_list()), max(own["last_seq"].to_list()))
    took = f"; {duration(time_ns)} in these exits" if facts.in_ns else ""
    yield Finding(
        advice.code,
        advice.name,
        Severity.LOW,
        vm,
        "The guest measures the frequency of its TSC or APIC timer against the PIT, and hv-frequencies is not"
        " offered",
        (Evidence(f"{times(count, 'read')} of port 0x61{took}", count, None, time_ns, ends),),
        "offer hv-frequencies: the guest reads both frequencies from MSRs, and has them exact",
        Effect(
            "a start is shorter by the time of the measurement, and clocks do not drift by its error",
            "the time of these exits alone; the guest waits between them as well",
            time_ns if facts.in_ns else None,
            time_ns / facts.length_ns if facts.in_ns and facts.length_ns else None,
        ),
        qemu=snippets.qemu(["hv-frequencies"]),
        libvirt=snippets.libvirt(["hv-frequencies"]),
    )


def _gate_reads(facts: Facts) -> pl.DataFrame:
    return (
        facts.handled.lazy()
        .filter(pl.col("about") == _GATE)
        .group_by("vm")
        .agg(
            count=pl.len().cast(pl.Int64),
            time_ns=pl.col("ns").sum(),
            first_seq=pl.col("seq").min(),
            last_seq=pl.col("seq").max(),
        )
        .collect()
    )


_EOI_NEEDS = ("kvm_exit", "kvm_entry", "kvm_msr")
_STEADY = (
    f"It is found where such EOIs come to {EOIS_PER_SECOND} a second in at least three slices of the part looked at"
    " (ten slices, none shorter than 0.1 s or longer than 1 s)."
)

ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD111",
        "hv-vapic-missing",
        "EOIs exit, and hv-vapic is not offered.",
        _EOI_NEEDS,
        _without_vapic,
        "Where the CPU does not virtualize the APIC, each EOI is an exit: a write of an MSR (x2APIC), or an emulated"
        " write to the APIC's page (xAPIC), which takes longer. hv-vapic offers EOI, ICR and TPR as MSRs, and the VP"
        " assist page, in which KVM says that no EOI is needed. It is found for guests that use Hyper-V's interface;"
        f" others have KVM's PV EOI. {_STEADY}",
    ),
    Advice(
        "AD112",
        "hv-avic-without-hardware",
        "hv-avic is offered, and EOIs exit all the same.",
        _EOI_NEEDS,
        _avic_alone,
        "hv-avic asks the guest not to use AutoEOI, so that APICv and AVIC may stay on. With it QEMU also takes back"
        " the recommendation to use the APIC's MSRs and the VP assist page, which the hardware makes needless. Where"
        " that hardware is absent, off, or inhibited, EOIs then exit through the APIC itself: an accelerated EOI"
        f" leaves no exit on the register. {_STEADY}",
    ),
    Advice(
        "AD113",
        "hv-relaxed-missing",
        "A Windows guest is not offered hv-relaxed.",
        (),
        _without_relaxed,
        "hv-relaxed tells the guest that its vCPUs may be preempted, and it turns its watchdogs off. Nothing in a"
        f" trace shows a watchdog; but a guest that stops with {_WINDOWS_BUGCHECK} under load is what the flag is"
        " for. It is found where GUEST_OS_ID says Windows.",
    ),
    Advice(
        "AD114",
        "hv-frequencies-missing",
        "The guest measures frequencies that hv-frequencies would tell it.",
        ("kvm_exit", "kvm_entry", "kvm_pio"),
        _calibrates,
        "A guest that is not told the frequencies of TSC and APIC timer counts them against the PIT, waiting at port"
        f" 0x61; each look is an exit. It is found from {CALIBRATION_READS} reads on, for guests that use Hyper-V's"
        " interface and are not offered the flag.",
    ),
)
