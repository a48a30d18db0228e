"""Advices on Hyper-V's interface as a whole: what the guest was offered, and whether it took it up. AD10x."""

from __future__ import annotations

from collections.abc import Iterator

from hvtrace.abi import cpuid
from hvtrace.abi.flags import FLAGS
from hvtrace.abi.msr import msr_name
from hvtrace.analysis.advice import snippets
from hvtrace.analysis.advice.clock_source import emulated_clocks
from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Effect, Evidence, Finding, Severity, Unjudged
from hvtrace.analysis.advice.offered import HYPERV_VENDOR, KVM_VENDOR, Offered
from hvtrace.analysis.advice.timers import emulated_ticks
from hvtrace.analysis.advice.wording import listed

__all__ = ["ADVICES", "USES"]

#: Flag → what a guest that uses it does: indices of MSRs, and codes of hypercalls. Flags that only tell the guest
#: something (hv-relaxed, hv-avic), and those for the day when things go wrong (hv-crash, hv-reset), are not here.
USES: dict[str, tuple[frozenset[int], frozenset[int]]] = {
    "hv-vapic": (frozenset(range(0x4000_0070, 0x4000_0074)), frozenset()),
    "hv-spinlocks": (frozenset(), frozenset({0x08})),
    "hv-vpindex": (frozenset({0x4000_0002}), frozenset()),
    "hv-runtime": (frozenset({0x4000_0010}), frozenset()),
    "hv-time": (frozenset({0x4000_0020, 0x4000_0021}), frozenset()),
    "hv-synic": (
        frozenset({*range(0x4000_0080, 0x4000_0085), *range(0x4000_0090, 0x4000_00A0)}),
        frozenset(),
    ),
    "hv-stimer": (frozenset(range(0x4000_00B0, 0x4000_00B8)), frozenset()),
    "hv-tlbflush": (frozenset(), frozenset({0x02, 0x03, 0x13, 0x14})),
    "hv-ipi": (frozenset(), frozenset({0x0B, 0x15})),
    "hv-frequencies": (frozenset({0x4000_0022, 0x4000_0023}), frozenset()),
    "hv-reenlightenment": (frozenset(range(0x4000_0106, 0x4000_0109)), frozenset()),
}

_SYNTHETIC = frozenset(range(0x4000_0000, 0x4000_0200))

#: As many registers are named where nothing else is known.
MSRS_NAMED = 6


def _used(facts: Facts, vm: int) -> list[str]:
    """Flags of USES that the guest was seen to use."""
    msrs, calls = facts.used[vm]
    return [name for name, (own_msrs, own_calls) in USES.items() if own_msrs & msrs or own_calls & calls]


def _summary(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """AD101: offered, used, offered but never used."""
    offered = facts.offered[vm]
    if offered.hyperv is None and not offered.uses_hyperv and not offered.vendors:
        yield _unknown(advice, vm)
        return
    seen = _used(facts, vm)
    told = [*_vendors(offered), *_told(offered)]
    if not told and (indices := sorted(facts.used[vm][0] & _SYNTHETIC)):
        named = [msr_name(index) or f"{index:#x}" for index in indices[:MSRS_NAMED]]
        more = f" and {len(indices) - MSRS_NAMED} more" if len(indices) > MSRS_NAMED else ""
        told.append(Evidence(f"synthetic MSRs accessed: {', '.join(named)}{more}"))
    if used := [name for name in seen if offered.has(name) is not False]:
        told.append(Evidence(f"used: {', '.join(used)}"))
    if tried := [name for name in seen if offered.has(name) is False]:
        told.append(Evidence(f"used, or tried, without being offered: {', '.join(tried)}"))
    if offered.hyperv and offered.started:
        idle = [name for name in offered.flags if name in USES and name not in seen]
        if idle:
            told.append(Evidence(f"offered, and not used in the recording: {', '.join(idle)}"))
    if offered.hyperv and (absent := [name for name in offered.absent if name not in _SPECIAL]):
        told.append(Evidence(f"not offered: {', '.join(absent)}"))
    guest = "The guest" if offered.guest is None else f"The {offered.guest} guest"
    if offered.hyperv:
        does = "uses it" if offered.uses_hyperv else "was not seen to use it"
        title = f"{guest} is offered Hyper-V's interface and {does}"
    elif offered.hyperv is False:
        kvm = "uses KVM's" if offered.uses_kvm else "was not seen to use KVM's"
        title = f"{guest} is not offered Hyper-V's interface, and {kvm}"
    elif offered.uses_hyperv:
        title = f"{guest} uses Hyper-V's interface; what it was offered is not known"
    else:
        title = f"{guest} was shown a vendor, and read nothing else of the interface"
    yield Finding(advice.code, advice.name, Severity.INFO, vm, title, tuple(told))


def _vendors(offered: Offered) -> list[Evidence]:
    if not offered.vendors:
        return []
    names = ", ".join(f"{name!r} at {leaf:#x}" for leaf, name in sorted(offered.vendors.items()))
    return [Evidence(f"vendors that CPUID shows: {names}", seqs=_seqs(offered))]


def _seqs(offered: Offered) -> tuple[int, ...]:
    """The guest's first read of a vendor."""
    return () if offered.first_seq is None else (offered.first_seq,)


#: Flags for nested guests, debuggers and single hosts: their absence is no news.
_SPECIAL = frozenset(
    {
        "hv-evmcs",
        "hv-emsr-bitmap",
        "hv-tlbflush-direct",
        "hv-no-nonarch-coresharing",
        "hv-syndbg",
        "hv-passthrough",
    }
)


def _told(offered: Offered) -> list[Evidence]:
    if not offered.hyperv or not offered.flags:
        return []
    return [Evidence(f"offered, by {offered.source}: {', '.join(offered.flags)}")]


def _not_offered(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """AD102: the guest sees neither interface that it could use."""
    offered = facts.offered[vm]
    if offered.hyperv is None and not offered.uses_hyperv:
        yield _unknown(advice, vm)
        return
    if offered.hyperv is not False or offered.uses_kvm:
        return
    if not offered.read and offered.kvm is not False:
        reason = "whether the guest uses KVM's interface is not known: its start is not in the recording"
        yield Unjudged(advice.code, advice.name, vm, reason)
        return
    told = [
        Evidence(
            f"no leaf has Hyper-V's signature or vendor, by {offered.source}",
            seqs=_seqs(offered),
        ),
        Evidence(
            "KVM's interface is offered, and the guest was not seen to use it (no write of kvmclock's or another of"
            " its MSRs)"
            if offered.kvm
            else "KVM's interface is not offered either (kvm=off)"
        ),
    ]
    clocks, ticks = emulated_clocks(facts, vm), emulated_ticks(facts, vm)
    if clocks:
        told.append(Evidence(f"it keeps reading {listed(clocks)}"))
    if ticks:
        told.append(
            Evidence(f"{listed(ticks)} {'interrupts' if len(ticks) == 1 else 'interrupt'} it all the time")
        )
    flags = [name for name in _BASIC if name not in offered.flags]
    yield Finding(
        advice.code,
        advice.name,
        Severity.MEDIUM if clocks or ticks else Severity.LOW,
        vm,
        "The guest runs without a hypervisor's interface: neither Hyper-V's nor KVM's is in use",
        tuple(told),
        "for a Windows guest offer Hyper-V's interface, for Linux and the BSDs KVM's (no kvm=off). Which guest this"
        " is cannot be seen: a guest that knows neither gains nothing",
        Effect(
            "clocks, timers, interrupts and TLB flushes of a guest that takes it up cost fewer exits; how many"
            " depends on the guest",
            "not estimated: the findings on clocks, timers and interrupts of this VM have figures",
        ),
        qemu=snippets.qemu(flags),
        libvirt=snippets.libvirt(flags),
    )


#: What QEMU's documentation (docs/system/i386/hyperv.rst) names for Windows guests, without the flags for nested guests
#: and those that forbid migration.
_BASIC = (
    "hv-relaxed",
    "hv-vapic",
    "hv-spinlocks",
    "hv-vpindex",
    "hv-runtime",
    "hv-time",
    "hv-synic",
    "hv-stimer",
    "hv-stimer-direct",
    "hv-tlbflush",
    "hv-ipi",
    "hv-frequencies",
)


def _unknown(advice: Advice, vm: int) -> Unjudged:
    reason = "what the guest was offered is not known: its CPUID reads are not in the recording, nor the -cpu option"
    " beside it"
    return Unjudged(advice.code, advice.name, vm, reason)


def _unrecognised(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """AD103: a guest that goes by the vendor."""
    offered = facts.offered[vm]
    if not offered.read:
        yield Unjudged(advice.code, advice.name, vm, "the guest's CPUID reads are not in the recording")
        return
    vendor = offered.vendors.get(cpuid.VENDOR)
    if vendor in (None, HYPERV_VENDOR, KVM_VENDOR) or offered.uses_hyperv or offered.uses_kvm:
        return
    yield Finding(
        advice.code,
        advice.name,
        Severity.MEDIUM,
        vm,
        f"The guest was shown the vendor {vendor!r} and took up neither Hyper-V's interface nor KVM's",
        (
            Evidence(
                f"CPUID 0x40000000 answers {vendor!r}"
                + (
                    "; the leaf after it, which has Hyper-V's signature, was not read"
                    if offered.unread
                    else ""
                ),
                seqs=_seqs(offered),
            ),
            Evidence("no synthetic MSR was accessed, no hypercall made, no MSR of KVM's interface written"),
        ),
        f"Linux knows Hyper-V by the vendor {HYPERV_VENDOR!r} alone, and hv-passthrough shows the vendor that KVM"
        " reports: name the flags one by one instead, QEMU's vendor is then right; or give a Linux guest KVM's own"
        " interface (no kvm=off). Windows goes by the signature, not the vendor",
        Effect(
            "every enlightenment that is offered lies idle until then",
            "not estimated: the findings on clocks, timers and interrupts of this VM have figures",
        ),
        qemu=snippets.qemu(snippets.with_needs(_BASIC)),
        libvirt=snippets.libvirt(snippets.with_needs(_BASIC)),
    )


def _passed_over(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """AD104: offered both, the guest took KVM's."""
    offered = facts.offered[vm]
    if offered.hyperv is None:
        yield _unknown(advice, vm)
        return
    if not offered.hyperv or offered.uses_hyperv or not offered.uses_kvm:
        return
    yield Finding(
        advice.code,
        advice.name,
        Severity.INFO,
        vm,
        "The guest is offered Hyper-V's interface and KVM's, and uses KVM's: the hv-* flags do nothing for it",
        (
            *_told(offered),
            Evidence("it wrote MSRs of KVM's interface, and accessed no synthetic MSR"),
        ),
        "leave the flags out, unless another system is to boot in this VM: Linux prefers KVM's interface where it"
        " sees both, and it serves Linux as well",
    )


def _dependencies(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """AD105: a flag that is offered without another that it needs."""
    offered = facts.offered[vm]
    if offered.hyperv is None:
        yield _unknown(advice, vm)
        return
    broken = [
        (flag.name, missing)
        for flag in FLAGS
        if offered.has(flag.name) and (missing := [need for need in flag.needs if offered.has(need) is False])
    ]
    if not broken:
        return
    wanted = snippets.with_needs([need for _, missing in broken for need in missing], offered.flags)
    yield Finding(
        advice.code,
        advice.name,
        Severity.MEDIUM,
        vm,
        f"{listed([name for name, _ in broken])} {'is' if len(broken) == 1 else 'are'} offered without what"
        f" {'it needs' if len(broken) == 1 else 'they need'}",
        tuple(
            Evidence(
                f"{name} needs {listed(missing)}, which {'is' if len(missing) == 1 else 'are'} not offered, by"
                f" {offered.source}",
                seqs=_seqs(offered),
            )
            for name, missing in broken
        ),
        "offer what is missing as well: a guest may leave the whole feature unused, or fault where it takes the rest"
        " for granted. QEMU refuses such a set; other VMMs hand it on",
        qemu=snippets.qemu(wanted),
        libvirt=snippets.libvirt(wanted),
    )


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD101",
        "enlightenments",
        "Enlightenments that are offered, used, and not offered.",
        (),
        _summary,
        "What is offered is known from the guest's CPUID reads, which lie in its boot, or else from the -cpu option"
        " noted beside the recording. What is used is known from accesses to synthetic MSRs that did not fault, and"
        " from hypercalls. Flags that only tell the guest something cannot be seen in use. That a flag is not used"
        " says something only where the guest's start is in the recording.",
    ),
    Advice(
        "AD102",
        "no-hypervisor-interface",
        "The guest was offered no Hyper-V interface and does not use KVM's.",
        ("kvm_msr",),
        _not_offered,
        "It is found where no CPUID leaf that the guest read has Hyper-V's signature (or the -cpu option beside the"
        " recording has no hv-* flag) and the guest wrote none of KVM's MSRs. Such a guest runs on emulated hardware"
        " alone: it is medium where the guest is seen to pay for that with its clock or timer, else low. A Linux"
        " guest that uses KVM's interface is none of these: it needs no hv-* flags.",
    ),
    Advice(
        "AD103",
        "vendor-not-recognised",
        "The guest looked at the hypervisor's vendor and turned away.",
        ("kvm_msr",),
        _unrecognised,
        "It is found where the guest read CPUID 0x40000000, saw a vendor that is neither Hyper-V's nor KVM's, and"
        " then used neither interface. hv-passthrough shows 'Linux KVM Hv', as KVM reports it: Windows does not"
        " mind, Linux does.",
    ),
    Advice(
        "AD104",
        "kvm-preferred",
        "The guest is offered both interfaces and uses KVM's.",
        ("kvm_msr",),
        _passed_over,
        "Linux prefers KVM's interface where it sees both. The hv-* flags then do nothing, and cost nothing.",
    ),
    Advice(
        "AD105",
        "flag-without-its-needs",
        "A flag is offered without another that it needs.",
        (),
        _dependencies,
        "The dependencies are QEMU's (hvtrace abi cpuid lists the bits): hv-stimer needs hv-synic and hv-time,"
        " hv-synic, hv-ipi and hv-tlbflush need hv-vpindex, and so on. It is found in what the guest read, or in the"
        " -cpu option.",
    ),
)
