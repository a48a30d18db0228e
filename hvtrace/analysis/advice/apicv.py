"""Advices on hardware APIC virtualisation (APICv, AVIC): switched off, inhibited, at odds with auto-EOI."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from hvtrace.abi.apicv import ABSENT, DISABLED, HYPERV, inhibit_name
from hvtrace.abi.exit_reasons import ISA_SVM, ISA_VMX
from hvtrace.abi.msr import MSRS
from hvtrace.analysis.advice import snippets
from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Effect, Evidence, Finding, Severity, Unjudged
from hvtrace.analysis.advice.wording import duration, listed, percent, times

__all__ = ["ADVICES", "of_apic"]

#: Where APIC exits take less of the vCPUs' time than this, or are fewer a second or in all, hardware for them saves
#: little.
SHARE, RATE, LEAST = 0.01, 100, 1_000
#: From there on it is no longer little, and then much.
MEDIUM_SHARE, HIGH_SHARE = 0.05, 0.2

#: What the local APIC is accessed by: x2APIC's MSRs, those of hv-vapic, the page at its usual address.
_X2APIC, _HV_APIC = range(0x802, 0x840), range(0x40000070, 0x40000073)
_PAGE = range(0xFEE00000, 0xFEE01000)
#: Exits that are about the APIC whatever they access.
_REASONS = (
    *((ISA_VMX, reason) for reason in (43, 44, 45, 56)),
    (ISA_SVM, 0x401),
    (ISA_SVM, 0x402),
)

#: What tells when something begins or ceases to inhibit APICv, since Linux 5.18 and before.
_TABLES = ("kvm_apicv_inhibit_changed", "kvm_apicv_update_request")

_SINTS = [row.index for row in MSRS if row.name.startswith("HV_X64_MSR_SINT")]
_MASKED, _AUTO_EOI = 1 << 16, 1 << 17
#: An unmasked SINT's vector is at least this.
_LOWEST_VECTOR = 16


def of_apic() -> pl.Expr:
    """Whether a row of Facts.exits is an access of the local APIC."""
    number = pl.col("key") // 2
    return pl.any_horizontal(
        pl.col("reason").is_in([isa << 32 | reason for isa, reason in _REASONS]),
        (pl.col("kind") == "msr") & number.is_between(_X2APIC.start, _X2APIC.stop - 1),
        (pl.col("kind") == "msr") & number.is_between(_HV_APIC.start, _HV_APIC.stop - 1),
        (pl.col("kind") == "address") & number.is_between(_PAGE.start, _PAGE.stop - 1),
    ).fill_null(value=False)


@dataclass(frozen=True, slots=True)
class Spell:
    """A time in which something inhibited APICv: why, from when on, until when; the event that set it."""

    reason: str
    from_ns: int
    to_ns: int
    seq: int
    cleared: bool


def spells(facts: Facts, vm: int) -> list[Spell]:
    """Return when APICv was inhibited, by each reason; what is set at the end lasts until there."""
    end = facts.store.manifest.time.get("last_ns") or 0
    end = end if facts.scope.last_ns is None else min(end, facts.scope.last_ns)
    found: list[Spell] = []
    since: dict[str, tuple[int, int]] = {}
    for seq, ts_ns, reason, on in _changes(facts, vm):
        if on:
            since.setdefault(reason, (ts_ns, seq))
        elif reason in since:
            from_ns, own = since.pop(reason)
            found.append(Spell(reason, from_ns, ts_ns, own, cleared=True))
    found += [Spell(reason, from_ns, end, seq, cleared=False) for reason, (from_ns, seq) in since.items()]
    return found


def _changes(facts: Facts, vm: int) -> Iterator[tuple[int, int, str, bool]]:
    """Rank, time, name of the reason, whether it inhibits from then on."""
    kernel = facts.store.manifest.kernel
    for table, number, on, requested in (
        (_TABLES[0], "reason", pl.col("set"), False),
        (_TABLES[1], "bit", ~pl.col("activate"), True),
    ):
        if table in facts.tables:
            rows = facts.tables[table].filter(pl.col("vm") == vm).select("seq", "ts_ns", number, on=on)
            for seq, ts_ns, reason, set_ in rows.sort("seq").collect().iter_rows():
                yield seq, ts_ns, inhibit_name(reason, kernel, requested=requested), set_


def _cost(facts: Facts, vm: int, from_ns: int | None = None, to_ns: int | None = None) -> tuple[int, int]:
    """Exits for accesses of the APIC, and what they took; of a time, by whole seconds that touch it."""
    rows = facts.once("apic exits", lambda: facts.seconds.filter(of_apic())).filter(pl.col("vm") == vm)
    if from_ns is not None and to_ns is not None:
        start = facts.store.manifest.time.get("first_ns") or 0
        first, last = (from_ns - start) // 1_000_000_000, (to_ns - start) // 1_000_000_000
        rows = rows.filter(pl.col("second").is_between(first, last))
    return int(rows["count"].sum()), int(rows["time_ns"].sum())


def _setting(facts: Facts, vm: int) -> tuple[str, str | None]:
    """The module parameter that switches APICv on this host, and its value, if that was noted."""
    exits = facts.exits.filter(pl.col("vm") == vm)["reason"].head(1)
    module, name = (
        ("kvm_amd", "avic")
        if any(reason >> 32 == ISA_SVM for reason in exits)
        else ("kvm_intel", "enable_apicv")
    )
    value = facts.store.manifest.host.get("module_parameters", {}).get(module, {}).get(name)
    return f"{module}.{name}", value


def _severity(share: float) -> Severity:
    return (
        Severity.HIGH if share >= HIGH_SHARE else Severity.MEDIUM if share >= MEDIUM_SHARE else Severity.LOW
    )


def off(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """APICv is off on the host, or its CPU has none, and exits for the APIC cost time."""
    if not facts.in_ns:
        yield Unjudged(advice.code, advice.name, vm, "the clock counts ticks: there are no rates")
        return
    told = [spell for spell in spells(facts, vm) if spell.reason == DISABLED]
    if not told:
        return
    count, time_ns = _cost(facts, vm)
    share = time_ns / facts.vcpu_ns(vm)
    if share < SHARE or count < LEAST or count * 1e9 < RATE * facts.life_ns(vm):
        return
    setting, value = _setting(facts, vm)
    seen = f"; {setting} was {value} on the host" if value is not None else ""
    yield Finding(
        advice.code,
        advice.name,
        _severity(share),
        vm,
        "The host gives this VM no APIC virtualisation (APICv, AVIC)",
        (
            Evidence(
                f"KVM inhibits it for the VM's whole life (reason {DISABLED}){seen}", 1, seqs=(told[0].seq,)
            ),
            Evidence(
                f"{times(count, 'exit')} for accesses of the local APIC, which took {duration(time_ns)},"
                f" {percent(share)} of the vCPUs' time",
                count,
                count * 1e9 / facts.life_ns(vm),
                time_ns,
            ),
        ),
        change=f"if the CPU has it, load KVM with {setting.replace('.', ' ')}=1",
        effect=Effect(
            f"most of these exits, at most {duration(time_ns)} of vCPU time ({percent(share)}), and interrupts"
            " that reach a running vCPU without an exit",
            "adding up the time of all exits for the local APIC; how many remain depends on the CPU",
            time_ns,
            share,
        ),
    )


#: Reason → what to do about it.
_CHANGES = {
    HYPERV: "the guest uses auto-EOI: offer hv-avic, which asks it not to",
    ABSENT: "the VM has no APIC in the kernel: use kernel-irqchip=on (QEMU's default) or split",
    "BLOCKIRQ": "a debugger blocks the guest's interrupts (KVM_GUESTDBG_BLOCKIRQ): detach it",
    "NESTED": "AVIC is off while a vCPU runs a guest of its own; nothing to set",
    "IRQWIN": "AVIC is off while an interrupt of the PIC (ExtINT) waits for its window: let the guest use the APIC only"
    " (no PIT or PIC interrupts)",
    "PIT_REINJ": "the PIT makes up for lost ticks, which AVIC cannot do: give it no such policy"
    " (-global kvm-pit.lost_tick_policy=discard), or no PIT",
    "X2APIC": "this kernel's AVIC knows no x2APIC: use a kernel from 6.0 on, or a guest CPU without x2apic",
    "APIC_ID_MODIFIED": "the guest changed an APIC id; APICv stays off until it is reset",
    "APIC_BASE_MODIFIED": "the guest moved its APIC; APICv stays off until it is reset",
    "PHYSICAL_ID_ALIASED": "two vCPUs have the same APIC id: check the ids the VMM gives",
    "LOGICAL_ID_ALIASED": "two vCPUs have the same logical APIC id",
    "PHYSICAL_ID_TOO_BIG": "a vCPU's APIC id is beyond what AVIC can address: give the VM fewer vCPUs, or denser ids",
    "SEV": "AVIC does not work with SEV on this kernel",
}


def inhibited(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """A finding for each reason that held APICv off while the VM ran."""
    if not any(facts.has(table) for table in _TABLES):
        reason = f"no {' and no '.join(_TABLES)} in the recording"
        yield Unjudged(advice.code, advice.name, vm, reason, _TABLES[:1])
        return
    rows = spells(facts, vm)
    if any(spell.reason == DISABLED for spell in rows):
        # Nothing else makes a difference then.
        return
    life = facts.life(vm)
    if life is None:
        return
    first, last = life
    for reason in dict.fromkeys(spell.reason for spell in rows):
        own = [
            spell for spell in rows if spell.reason == reason and spell.to_ns > first and spell.from_ns < last
        ]
        time = sum(min(spell.to_ns, last) - max(spell.from_ns, first) for spell in own)
        share = time / facts.life_ns(vm)
        if share < SHARE:
            continue
        costs = (
            [_cost(facts, vm, spell.from_ns, spell.to_ns) for spell in own]
            if len(own) == 1
            else [_cost(facts, vm)]
        )
        count, time_ns = costs[0]
        cost = time_ns / facts.vcpu_ns(vm)
        longest = max(own, key=lambda spell: spell.to_ns - spell.from_ns)
        until = "until the end" if not longest.cleared else f"until {longest.to_ns / 1e9:.6f}"
        yield Finding(
            advice.code,
            advice.name,
            _severity(cost),
            vm,
            f"APIC virtualisation was inhibited by {reason} for {percent(share)} of the VM's time",
            (
                Evidence(
                    f"{times(len(own), 'spell')}, {duration(time)} in all; the longest from"
                    f" {longest.from_ns / 1e9:.6f} {until}",
                    len(own),
                    None,
                    time,
                    (longest.seq,),
                ),
                Evidence(
                    f"{times(count, 'exit')} for accesses of the local APIC"
                    f" {'in those seconds' if len(own) == 1 else 'in all the time'}, which took {duration(time_ns)}",
                    count,
                    None,
                    time_ns,
                ),
            ),
            change=_CHANGES.get(reason, "look up this reason in the host kernel's enum kvm_apicv_inhibit"),
            effect=Effect(
                f"at most {duration(time_ns)} of vCPU time ({percent(cost)})",
                "adding up the time of the exits for the local APIC; how many remain depends on the CPU",
                time_ns,
                cost,
            ),
            qemu=snippets.qemu(["hv-avic"]) if reason == HYPERV else None,
            libvirt=snippets.libvirt(["hv-avic"]) if reason == HYPERV else None,
        )


def auto_eoi(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """The guest set up SINTs with auto-EOI."""
    rows = (
        facts.tables["kvm_hv_synic_set_msr"]
        .filter(
            pl.col("vm") == vm,
            ~pl.col("host"),
            pl.col("msr").is_in(_SINTS),
            pl.col("data") & (_AUTO_EOI | _MASKED) == _AUTO_EOI,
            pl.col("data") & 0xFF >= _LOWEST_VECTOR,
        )
        .select("seq", "vcpu", sint=pl.col("msr") - min(_SINTS))
        .collect()
    )
    if rows.is_empty():
        return
    offered = facts.overview[vm]["offered"]
    asked = offered is not None and "hv-avic" in offered
    told = any(spell.reason == DISABLED for spell in spells(facts, vm))
    host_off = told or _setting(facts, vm)[1] in ("N", "0")
    sints = listed([str(sint) for sint in sorted(set(rows["sint"]))])
    vcpus = listed([str(vcpu) for vcpu in sorted(set(rows["vcpu"].drop_nulls()))])
    yield Finding(
        advice.code,
        advice.name,
        Severity.INFO if asked else Severity.LOW if host_off else Severity.MEDIUM,
        vm,
        "The guest has interrupts acknowledge themselves (auto-EOI), which keeps APIC virtualisation off"
        + (" although hv-avic asks it not to" if asked else ""),
        (
            Evidence(
                f"{times(len(rows), 'write')} of SINT {sints} with the auto-EOI bit, on vCPU {vcpus}",
                len(rows),
                seqs=tuple(rows["seq"].head(3)),
            ),
            *(
                []
                if offered is not None
                else [Evidence("whether hv-avic is offered was not recorded (kvm_cpuid)")]
            ),
        ),
        change=(
            "nothing on the host's side: hv-avic is offered, and this guest does not heed it"
            if asked
            else "offer hv-avic: the guest then ends these interrupts itself, and KVM can leave APICv on"
        ),
        effect=Effect(
            "none on this host, where APICv is off anyway"
            if host_off
            else "APICv works while the SynIC is in use",
            "KVM's rule: any SINT with auto-EOI inhibits APICv for the whole VM",
        ),
        qemu=None if asked else snippets.qemu(["hv-avic"]),
        libvirt=None if asked else snippets.libvirt(["hv-avic"]),
    )


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD301",
        "apicv-off",
        "The host's KVM does not use APICv or AVIC at all, and exits for the APIC cost time.",
        ("kvm_apicv_inhibit_changed", "kvm_exit", "kvm_entry"),
        off,
        "KVM says so when it creates the VM: reason DISABLED, which is never cleared, and nothing else about APICv is"
        " traced after that. Without it every access of the local APIC, an interrupt's end above all, is an exit, and"
        " an interrupt for a vCPU that runs makes it exit first.\n\n"
        f"It is found where accesses of the local APIC (x2APIC's MSRs, those of hv-vapic, the page at 0xfee00000) take"
        f" {percent(SHARE)} or more of the vCPUs' time and are {RATE} or more a second, {LEAST:,} or"
        " more in all. Whether the CPU has APICv or AVIC, and AVIC with x2APIC, no event tells. With hv-avic offered"
        " see AD112.",
    ),
    Advice(
        "AD302",
        "apicv-inhibited",
        "APICv or AVIC was off while the VM ran, for a reason that can go away.",
        ("kvm_exit", "kvm_entry"),
        inhibited,
        f"It is found for each reason that lasted {percent(SHARE)} or more of the time between the VM's first and last"
        " exit; several may hold at once, and APICv is on only while none does. What it cost are the exits for accesses"
        " of the local APIC in the seconds that a spell touches (in all the time, where there were several spells).\n\n"
        "The names of reasons are those of the host's kernel, which has renumbered them more than once; where its"
        " numbering is not known, the number stands. Before Linux 5.18 the event is"
        " kvm_apicv_update_request.",
    ),
    Advice(
        "AD303",
        "auto-eoi",
        "SINTs with auto-EOI inhibit APICv; hv-avic asks guests not to use it.",
        ("kvm_hv_synic_set_msr",),
        auto_eoi,
        "It is found where the guest writes an unmasked SINT with bit 17 set. KVM then inhibits APICv for the whole VM"
        " (reason HYPERV), as the hardware does not know of interrupts that end by themselves. Guests that see hv-avic"
        " (CPUID 0x40000004.EAX bit 9) do not ask for auto-EOI. Where the host has no APICv in use anyway, it costs"
        " nothing, and the finding says so.",
    ),
)
