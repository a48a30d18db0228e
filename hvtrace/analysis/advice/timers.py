"""Advices on the timers that interrupt the guest: AD21x."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import polars as pl

from hvtrace.analysis.advice import interrupt_lines, snippets
from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Effect, Evidence, Finding, Severity, Unjudged, severity_of
from hvtrace.analysis.advice.interrupt_lines import (
    HPET,
    HPET_COMPARATOR,
    HPET_MOST,
    HPET_TIMER,
    HPET_TIMERS,
    TICKS_PER_SECOND,
    Ticks,
)
from hvtrace.analysis.advice.offered import GUESTS
from hvtrace.analysis.advice.steady import STEADY, Accesses, about, accesses, per_slice, slice_ns, too_short
from hvtrace.analysis.advice.wording import duration, each_second, percent, times

__all__ = [
    "ADVICES",
    "ARMS_PER_SECOND",
    "EXPIRATIONS_PER_SECOND",
    "RTC",
    "TICKS_PER_SECOND",
    "emulated_ticks",
    "ticks_of",
]

#: Settings of the APIC's timer, and expirations of synthetic timers, a second, from which on they are worth a word.
ARMS_PER_SECOND = EXPIRATIONS_PER_SECOND = 100

#: Initial count of the APIC's timer, by MSR and by the xAPIC's page.
X2APIC_TMICT, XAPIC_TMICT = about("msr", 0x838, write=True), about("address", 0xFEE0_0380, write=True)
EOM = about("msr", 0x4000_0084, write=True)
STIMER_COUNTS = frozenset(about("msr", index, write=True) for index in range(0x4000_00B1, 0x4000_00B8, 2))


@dataclass(frozen=True, slots=True)
class Device:
    """A device whose interrupts tick: what it is called, the registers by which it is set and acknowledged, and whether
    userspace raises its interrupts.
    """

    name: str
    registers: frozenset[int]
    outside: bool = True


PIT = Device(
    "the PIT",
    frozenset(about("port", port, write=True) for port in (0x40, 0x43)),
    outside=False,
)
RTC = Device(
    "the RTC",
    frozenset(about("port", port, write=write) for port in (0x70, 0x71) for write in (False, True)),
)
HPET_DEVICE = Device(
    "the HPET",
    frozenset(
        about("address", HPET + HPET_TIMERS + HPET_TIMER * timer + register, write=True)
        for timer in range(HPET_MOST)
        for register in (0, HPET_COMPARATOR)
    ),
)
_WATCHED = frozenset(
    {*PIT.registers, *RTC.registers, *HPET_DEVICE.registers, X2APIC_TMICT, XAPIC_TMICT, EOM, *STIMER_COUNTS}
)


def _handled(facts: Facts, vm: int, registers: frozenset[int], rate: float) -> Accesses:
    slices = facts.once("timer registers", lambda: per_slice(facts, _WATCHED))
    return accesses(facts, slices, vm, registers, rate)


def ticks_of(facts: Facts, vm: int, device: Device) -> Ticks | None:
    """The interrupts of a device; None where it raises none."""
    lines = facts.once("timer lines", lambda: interrupt_lines.lines(facts))
    hpet = facts.once("HPET lines", lambda: interrupt_lines.hpet_lines(facts)).get(vm, frozenset())
    if device is PIT:
        return lines.get((vm, 0, True))
    if device is RTC:
        return None if 8 in hpet else lines.get((vm, 8, False))
    several = [ticks for gsi in sorted(hpet) if (ticks := lines.get((vm, gsi, False))) is not None]
    return max(several, key=lambda ticks: ticks.count, default=None)


def _expirations(facts: Facts) -> dict[int, tuple[dict[bool, int], bool, tuple[int, ...]]]:
    """VM → expirations of synthetic timers, direct and by message; whether messages came all the time; their ends."""
    table = facts.tables.get("kvm_hv_stimer_expiration")
    if table is None:
        return {}
    width = slice_ns(facts)
    sliced = (
        table.filter(pl.col("vm").is_not_null())
        .group_by("vm", direct=pl.col("direct") != 0, slice=pl.col("ts_ns") // width)
        .agg(count=pl.len(), first=pl.col("seq").min(), last=pl.col("seq").max())
        .collect()
    )
    messages = ~pl.col("direct")
    rows = sliced.group_by("vm").agg(
        direct=pl.col("count").filter(pl.col("direct")).sum(),
        messages=pl.col("count").filter(messages).sum(),
        busy=(messages & (pl.col("count") >= EXPIRATIONS_PER_SECOND * width / 1e9)).sum(),
        first=pl.col("first").filter(messages).min(),
        last=pl.col("last").filter(messages).max(),
    )
    found = {}
    for vm, by_interrupt, by_message, busy, first, last in rows.iter_rows():
        ends = tuple(sorted({seq for seq in (first, last) if seq is not None}))
        found[vm] = ({True: by_interrupt, False: by_message}, facts.in_ns and busy >= STEADY, ends)
    return found


def _stimers(facts: Facts, vm: int) -> bool:
    """Whether the guest uses synthetic timers: one expired, or was set."""
    found = facts.once("expirations", lambda: _expirations(facts)).get(vm)
    return (found is not None and any(found[0].values())) or bool(_handled(facts, vm, STIMER_COUNTS, 0).count)


def emulated_ticks(facts: Facts, vm: int) -> list[str]:
    """Names of the devices that interrupt the guest all the time."""
    own = ((device, ticks_of(facts, vm, device)) for device in (RTC, PIT, HPET_DEVICE))
    return [device.name for device, ticks in own if ticks is not None and ticks.steady]


def _unseen(facts: Facts) -> str | None:
    """Why a VM's interrupt lines may not all be among what is looked at; None: they are."""
    if facts.scope.vcpu is not None:
        return "an interrupt line is of the VM, not of a vCPU: ask without --vcpu"
    strays = facts.once("stray lines", lambda: interrupt_lines.strays(facts))
    return f"{times(strays, 'interrupt')} of timers' lines are of no known VM" if strays else None


def _ticking(device: Device, facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """A device that ticks where synthetic timers could."""
    if short := list(too_short(facts, vm, advice)):
        yield from short
        return
    ticks = ticks_of(facts, vm, device)
    if (ticks is None or not ticks.steady) and (reason := _unseen(facts)) is not None:
        yield Unjudged(advice.code, advice.name, vm, reason)
        return
    if ticks is None or not ticks.steady or _stimers(facts, vm):
        return
    seen = _handled(facts, vm, device.registers, 0)
    share = seen.time_ns / facts.length_ns
    rate = each_second(ticks.count, facts.length_ns)
    rhythm = f", one every {duration(ticks.middle_ns)}" if ticks.regular else ""
    raised = "userspace raises them" if device.outside else "KVM's PIT raises them"
    trips = ", and the trips of userspace that raise the interrupts" if device.outside else ""
    change, flags = _instead(facts, vm)
    told = [
        Evidence(
            f"{times(ticks.count, 'interrupt')} of {device.name}, {rate}{rhythm}; {raised}",
            ticks.count,
            facts.per_second(ticks.count),
            None,
            ticks.seqs,
        )
    ]
    if seen.count:
        cost = f"{duration(seen.mean_ns)} each, {duration(seen.time_ns)} in all"
        told.append(
            Evidence(
                f"{times(seen.count, 'access', 'accesses')} that set or acknowledge it; {cost}",
                seen.count,
                facts.per_second(seen.count),
                seen.time_ns,
                seen.seqs,
            )
        )
    told.append(Evidence("no synthetic timer was set, and none expired", 0))
    yield Finding(
        advice.code,
        advice.name,
        max(severity_of(share), Severity.MEDIUM),
        vm,
        f"{device.name[0].upper()}{device.name[1:]} interrupts the guest {rate}, and no synthetic timer is in use",
        tuple(told),
        change,
        Effect(
            f"at most {duration(seen.time_ns)} of {duration(facts.length_ns)} would be saved in these exits{trips}; a"
            " synthetic timer is set by one write of an MSR",
            "the time of the exits that set and acknowledge it, as hvtrace exits has it",
            seen.time_ns,
            share,
        ),
        qemu=snippets.qemu(flags) if flags else None,
        libvirt=snippets.libvirt(flags) if flags else None,
    )


def _instead(facts: Facts, vm: int) -> tuple[str, list[str]]:
    """What would tick instead, and the flags that need be added for it."""
    offered = facts.offered[vm]
    guest = GUESTS[offered.guest]
    flags = snippets.with_needs(["hv-stimer", "hv-stimer-direct"], offered.flags)
    if offered.has("hv-stimer") and offered.uses_hyperv:
        return f"hv-stimer is offered: find out why {guest} does not use it", []
    if offered.uses_hyperv:
        return (
            f"offer hv-stimer, and hv-stimer-direct, which spares the messages: {guest} uses Hyper-V's interface",
            flags,
        )
    if offered.uses_kvm:
        return "let the guest use the APIC's timer (Linux: no nolapic_timer on its command line)", []
    return (
        "a Windows guest that is offered hv-stimer (and what it needs) sets synthetic timers instead; Linux then"
        " does so too, or uses the APIC's timer unless it is told not to (nolapic_timer)",
        flags,
    )


def _apic_timer(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """AD214: the APIC's timer where a synthetic one is not offered."""
    if short := list(too_short(facts, vm, advice)):
        yield from short
        return
    offered = facts.offered[vm]
    seen = _handled(facts, vm, frozenset({X2APIC_TMICT, XAPIC_TMICT}), ARMS_PER_SECOND)
    if not seen.steady or not offered.uses_hyperv or _stimers(facts, vm):
        return
    if offered.has("hv-stimer") is not False:
        return
    share = seen.time_ns / facts.length_ns
    page = _handled(facts, vm, frozenset({XAPIC_TMICT}), ARMS_PER_SECOND)
    flags = snippets.with_needs(["hv-stimer", "hv-stimer-direct"], offered.flags)
    by_page = f", {times(page.count, 'of them', 'of them')} by the xAPIC's page" if page.count else ""
    rate = each_second(seen.count, facts.length_ns)
    yield Finding(
        advice.code,
        advice.name,
        Severity.LOW,
        vm,
        f"The guest sets the APIC's timer {rate}, and hv-stimer is not offered",
        (
            Evidence(
                f"{times(seen.count, 'write')} of the timer's count{by_page}; {duration(seen.mean_ns)} each,"
                f" {duration(seen.time_ns)} in all, {percent(share)} of one CPU",
                seen.count,
                facts.per_second(seen.count),
                seen.time_ns,
                seen.seqs,
            ),
        ),
        "offer hv-stimer and hv-stimer-direct: the guest sets a time instead of a count, which needs no calibration"
        " and does not drift",
        Effect(
            "a synthetic timer is set by an exit as well; what falls away is the decoding of writes to the APIC's"
            " page, and the measurement of the APIC's frequency",
            "not estimated: the number of exits stays",
        ),
        qemu=snippets.qemu(flags),
        libvirt=snippets.libvirt(flags),
    )


def _by_message(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """AD215: synthetic timers that expire by message."""
    if short := list(too_short(facts, vm, advice)):
        yield from short
        return
    if not facts.has("kvm_hv_stimer_expiration"):
        if _stimers(facts, vm):
            missing = ("kvm_hv_stimer_expiration",)
            reason = "synthetic timers were set, and no expiration is in the recording"
            yield Unjudged(advice.code, advice.name, vm, reason, missing)
        return
    found = facts.once("expirations", lambda: _expirations(facts)).get(vm)
    offered = facts.offered[vm]
    if found is None or not found[1]:
        return
    if (direct := offered.has("hv-stimer-direct")) is None:
        yield Unjudged(advice.code, advice.name, vm, "whether hv-stimer-direct is offered is not known")
        return
    if direct:
        return
    number = found[0][False]
    eoms = _handled(facts, vm, frozenset({EOM}), 0)
    share = eoms.time_ns / facts.length_ns
    told = [
        Evidence(
            f"{times(number, 'expiration')} by message, {each_second(number, facts.length_ns)}",
            number,
            facts.per_second(number),
            None,
            found[2],
        )
    ]
    if eoms.count:
        told.append(
            Evidence(
                f"{times(eoms.count, 'write')} of HV_X64_MSR_EOM; {duration(eoms.time_ns)} in all",
                eoms.count,
                facts.per_second(eoms.count),
                eoms.time_ns,
                eoms.seqs,
            )
        )
    yield Finding(
        advice.code,
        advice.name,
        max(Severity.LOW, severity_of(share)),
        vm,
        "Synthetic timers expire by message, and hv-stimer-direct is not offered",
        tuple(told),
        "offer hv-stimer-direct: the timer raises its interrupt itself, without a message slot, which may be busy",
        Effect(
            f"{duration(eoms.time_ns)} of EOM writes would be saved, and the handling of messages in KVM and the"
            " guest"
            if eoms.count
            else "the handling of messages in KVM and the guest would be saved",
            "the time of the EOM writes, as hvtrace exits has it"
            if eoms.count
            else "not estimated: no exit is spent on it",
            eoms.time_ns or None,
            share or None,
        ),
        qemu=snippets.qemu(["hv-stimer-direct"]),
        libvirt=snippets.libvirt(["hv-stimer-direct"]),
    )


_TICKS = (
    f"It is found where the interrupts come to {TICKS_PER_SECOND} a second in at least three slices of the part"
    " looked at (ten slices, none shorter than 0.1 s or longer than 1 s) and no synthetic timer expired."
)
_EXITS = ("kvm_exit", "kvm_entry")
_TICK_NEEDS = (*_EXITS, "kvm_msr", "kvm_set_irq")

ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD211",
        "rtc-ticks",
        "The RTC's periodic interrupt ticks.",
        (*_TICK_NEEDS, "kvm_pio"),
        partial(_ticking, RTC),
        "Windows without synthetic timers keeps time by the RTC's periodic interrupt, 64 times a second and up to"
        " 1,024. Userspace raises each (GSI 8), and the guest acknowledges it by register C: two exits and two trips"
        f" to QEMU. {_TICKS}",
    ),
    Advice(
        "AD212",
        "pit-ticks",
        "The PIT ticks.",
        _TICK_NEEDS,
        partial(_ticking, PIT),
        "Guests that know no better timer, or are told to use none, tick by the PIT (GSI 0, raised by KVM's own PIT):"
        f" where each tick is set by itself, that is two or three port accesses. {_TICKS}",
    ),
    Advice(
        "AD213",
        "hpet-ticks",
        "The HPET ticks.",
        (*_TICK_NEEDS, "kvm_mmio"),
        partial(_ticking, HPET_DEVICE),
        "The HPET's timers are userspace's: each interrupt is raised by QEMU, and each setting is an exit with a"
        " decoded instruction and a trip to QEMU. Which lines are the HPET's is known from what the guest wrote to"
        f" its registers (0xfed00010 and the timers' from 0xfed00100 on), in the whole recording. {_TICKS}",
    ),
    Advice(
        "AD214",
        "apic-timer",
        "The guest sets the APIC's timer, and hv-stimer is not offered.",
        (*_EXITS, "kvm_msr"),
        _apic_timer,
        "A guest that uses Hyper-V's interface and is not offered synthetic timers sets the APIC's timer by a count,"
        " the frequency of which it has to measure. Each setting is an exit, as that of a synthetic timer is: the"
        f" gain is small. It is found from {ARMS_PER_SECOND} settings a second on, in at least three slices of the"
        " part looked at. TSC deadlines are no such case: they are times already, and CPUs with a timer for them let"
        " KVM set them on a fast path.",
    ),
    Advice(
        "AD215",
        "stimer-by-message",
        "Synthetic timers expire by message, and hv-stimer-direct is not offered.",
        (*_EXITS, "kvm_msr"),
        _by_message,
        "In direct mode a synthetic timer raises an interrupt of its own; else it writes a message into a slot and"
        " raises the SINT, and where the slot is busy it waits for the guest's EOM, an exit more. It is found from"
        f" {EXPIRATIONS_PER_SECOND} such expirations a second on, in at least three slices of the part looked at.",
    ),
)
