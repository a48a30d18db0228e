"""Advices on the clock that the guest reads: AD20x."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import polars as pl

from hvtrace.analysis.advice import snippets, timers
from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import (
    HIGH_SHARE,
    MEDIUM_SHARE,
    Advice,
    Effect,
    Evidence,
    Finding,
    Severity,
    Unjudged,
    severity_of,
)
from hvtrace.analysis.advice.offered import GUESTS
from hvtrace.analysis.advice.steady import Accesses, about, accesses, per_slice, too_short
from hvtrace.analysis.advice.wording import duration, each_second, percent, times

__all__ = ["ADVICES", "READS_PER_SECOND", "emulated_clocks"]

#: Reads a second from which on they are a habit. Kernels check one clock against another a few times a second, and an
#: idle guest with a cheap clock reads no other.
READS_PER_SECOND = 100

TIME_REF_COUNT, REFERENCE_TSC = 0x4000_0020, 0x4000_0021
#: kvmclock, by its new index and its old one.
SYSTEM_TIME = (0x4B56_4D01, 0x12)


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock whose reads exit: what it is called, where it is read, and how a machine does without it."""

    name: str
    reads: tuple[tuple[str, int], ...]
    without: str | None = None
    qemu: str | None = None
    libvirt: str | None = None

    @property
    def registers(self) -> frozenset[int]:
        """What Facts.handled calls the reads."""
        return frozenset(about(kind, number) for kind, number in self.reads)


HPET = Clock(
    "the HPET's counter",
    (("address", 0xFED0_00F0), ("address", 0xFED0_00F4)),
    "once it has another clock, the machine needs no HPET",
    "-machine …,hpet=off",
    "<clock>\n  <timer name='hpet' present='no'/>\n</clock>",
)
#: 0x608: PIIX4 under SeaBIOS, and Q35; 0xb008: PIIX4 under OVMF; 0x408: other firmware.
PM_TIMER = Clock("the ACPI PM timer", tuple(("port", port) for port in (0x608, 0x408, 0xB008)))
REFERENCE_COUNTER = Clock("HV_X64_MSR_TIME_REF_COUNT", (("msr", TIME_REF_COUNT),))
PIT = Clock("the PIT's counters", tuple(("port", port) for port in (0x40, 0x41, 0x42)))
RTC = Clock("the RTC", (("port", 0x71),))

CLOCKS = (HPET, PM_TIMER, REFERENCE_COUNTER, PIT, RTC)
_WATCHED = frozenset().union(*(clock.registers for clock in CLOCKS))


def _reads(facts: Facts, vm: int, clock: Clock) -> Accesses:
    slices = facts.once("clock reads", lambda: per_slice(facts, _WATCHED))
    return accesses(facts, slices, vm, clock.registers, READS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class Pages:
    """Clocks that are read without an exit, as the guest set them up: when (seq); None: it did not in the recording."""

    tsc_page: int | None
    kvmclock: int | None
    #: Whether KVM last said that all vCPUs' clocks agree with the host's TSC; None: it was not recorded.
    master_clock: bool | None


def _pages(facts: Facts) -> dict[int, Pages]:
    """VM → its pages, as far as the whole recording tells."""
    last: dict[tuple[int, int], tuple[int, int]] = {}
    if facts.has("kvm_msr"):
        rows = (
            facts.store.scan("kvm_msr")
            .filter(
                pl.col("vm").is_not_null(),
                pl.col("write") != 0,
                pl.col("exception") == 0,
                pl.col("ecx").is_in([REFERENCE_TSC, *SYSTEM_TIME]),
            )
            .group_by("vm", "ecx")
            .agg(pl.col("data").last(), pl.col("seq").last())
            .collect()
        )
        last = {(vm, index): (value, seq) for vm, index, value, seq in rows.iter_rows()}
    master: dict[int, bool] = {}
    if facts.has("kvm_update_master_clock"):
        rows = (
            facts.store.scan("kvm_update_master_clock")
            .filter(pl.col("vm").is_not_null())
            .group_by("vm")
            .agg(pl.col("use_master_clock").last())
            .collect()
        )
        master = dict(rows.iter_rows())

    def enabled(vm: int, index: int) -> int | None:
        value, seq = last.get((vm, index), (0, 0))
        return seq if value & 1 else None

    return {
        vm: Pages(
            enabled(vm, REFERENCE_TSC),
            next((seq for index in SYSTEM_TIME if (seq := enabled(vm, index)) is not None), None),
            master.get(vm),
        )
        for vm in facts.vms
    }


def _own_pages(facts: Facts, vm: int) -> Pages:
    return facts.once("clock pages", lambda: _pages(facts))[vm]


#: What helps a guest that knows no other interface.
_INVTSC = (
    "an invariant TSC (-cpu …,invtsc, where the host has one; it forbids migration unless tsc-frequency is given)"
    " serves a guest that knows neither"
)


def _ticks(facts: Facts, vm: int) -> bool:
    """Whether the RTC interrupts the guest all the time."""
    ticks = timers.ticks_of(facts, vm, timers.RTC)
    return ticks is not None and ticks.steady


def _costly(clock: Clock, facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """A clock that is read all the time."""
    yield from (short := list(too_short(facts, vm, advice)))
    seen = _reads(facts, vm, clock)
    if short or not seen.steady:
        return
    if clock is RTC and _ticks(facts, vm):
        # They acknowledge its interrupt, of which AD211 tells.
        return
    share = seen.time_ns / facts.length_ns
    change, flags, notes = _instead(facts, vm, clock)
    outside = f", {percent(seen.userspace_ns / seen.time_ns)} of it in userspace" if seen.userspace_ns else ""
    rate = each_second(seen.count, facts.length_ns)
    cost = f"{duration(seen.mean_ns)} each, {duration(seen.time_ns)} in all{outside}"
    told = f"{times(seen.count, 'read')}, {rate}; {cost}"
    parts = [snippets.qemu(flags)] if flags else []
    xml = [text] if flags and (text := snippets.libvirt(flags)) else []
    if clock in (HPET, PM_TIMER) and facts.offered[vm].invariant_tsc is False:
        notes = (*notes, Evidence("CPUID shows no invariant TSC (0x80000007.EDX, bit 8)"))
        change = f"{change}; {_INVTSC}"
    if clock.without is not None:
        change = f"{change}; {clock.without}"
        parts += [] if clock.qemu is None else [clock.qemu]
        xml += [] if clock.libvirt is None else [clock.libvirt]
    yield Finding(
        advice.code,
        advice.name,
        severity_of(share),
        vm,
        f"The guest reads {clock.name} {rate}: {percent(share)} of one CPU goes into these exits",
        (Evidence(told, seen.count, facts.per_second(seen.count), seen.time_ns, seen.seqs), *notes),
        change,
        Effect(
            f"at most {duration(seen.time_ns)} of {duration(facts.length_ns)} would be saved: reads of a page or of"
            " the TSC do not exit",
            "the time of these exits, as hvtrace exits has it",
            seen.time_ns,
            share,
        ),
        qemu="\n".join(parts) or None,
        libvirt="\n".join(xml) or None,
    )


def _instead(facts: Facts, vm: int, clock: Clock) -> tuple[str, list[str], tuple[Evidence, ...]]:
    """What the guest should read instead: in a sentence, the flags to add, and what in the recording says so."""
    offered, pages = facts.offered[vm], _own_pages(facts, vm)
    if pages.tsc_page is not None:
        seen = Evidence("the guest has enabled the TSC page", seqs=(pages.tsc_page,))
        if pages.master_clock is False:
            off = Evidence(
                "KVM's master clock is off: it marks the page invalid, and the guest must read elsewhere"
            )
            return (
                "let the host keep time by its TSC (see AD6xx): only then is the page valid",
                [],
                (seen, off),
            )
        on = () if pages.master_clock is None else (Evidence("KVM's master clock is on: the page is valid"),)
        return (
            "let the guest choose the TSC page (Linux: no clocksource= on its command line; Windows: bcdedit"
            " /deletevalue useplatformclock)",
            [],
            (seen, *on),
        )
    if pages.kvmclock is not None:
        seen = Evidence("the guest has enabled kvmclock", seqs=(pages.kvmclock,))
        return (
            "let the guest choose kvmclock or the TSC (Linux: no clocksource= on its command line)",
            [],
            (seen,),
        )
    guest = GUESTS[offered.guest]
    if offered.has("hv-time") is True:
        if offered.uses_hyperv and not offered.started:
            late = Evidence(
                "the recording begins after the guest's start: whether it enabled the TSC page is not known"
            )
            return (
                "if the guest has enabled the TSC page, let it choose that clock (Linux: no clocksource= on its"
                " command line; Windows: bcdedit /deletevalue useplatformclock) and the host keep time by its TSC;"
                " hv-time is offered",
                [],
                (late,),
            )
        if offered.uses_hyperv:
            page = Evidence("hv-time is offered, and the guest did not enable the TSC page in the recording")
            return (
                f"let {guest} use the TSC page that hv-time offers: a system that never does is too old for it, or"
                " distrusts the TSC (the CPU model should have invtsc)",
                [],
                (page,),
            )
        page = Evidence("hv-time is offered; the guest uses nothing of Hyper-V's interface")
        return "find out why the guest does not take Hyper-V's interface up (AD103, AD104)", [], (page,)
    if offered.uses_hyperv:
        flags = snippets.with_needs(["hv-time"], offered.flags)
        return "offer hv-time: the guest uses Hyper-V's interface and can then read the TSC page", flags, ()
    if offered.hyperv is False:
        seen = Evidence(
            f"the guest is offered no Hyper-V interface, by {offered.source}", seqs=_first(offered.first_seq)
        )
        return (
            "offer a clock that is read without an exit: a Windows guest takes hv-time, a Linux guest kvmclock (no"
            " kvm=off)",
            snippets.with_needs(["hv-time"], offered.flags),
            (seen,),
        )
    flags = [] if offered.has("hv-time") else snippets.with_needs(["hv-time"], offered.flags)
    return "offer hv-time, or kvmclock, whichever the guest knows; what it is offered is not known", flags, ()


def _first(seq: int | None) -> tuple[int, ...]:
    return () if seq is None else (seq,)


def emulated_clocks(facts: Facts, vm: int) -> list[str]:
    """Names of the clocks that exit and that the guest reads all the time."""
    return [
        clock.name
        for clock in CLOCKS
        if _reads(facts, vm, clock).steady and not (clock is RTC and _ticks(facts, vm))
    ]


def _in_use(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """Which clock it is."""
    pages = _own_pages(facts, vm)
    read = [(clock, seen) for clock in CLOCKS if (seen := _reads(facts, vm, clock)).count]
    steady = emulated_clocks(facts, vm)
    told = []
    if pages.tsc_page is not None:
        told.append(Evidence("the guest enabled Hyper-V's TSC page", seqs=(pages.tsc_page,)))
    if pages.kvmclock is not None:
        told.append(Evidence("the guest enabled kvmclock", seqs=(pages.kvmclock,)))
    told += [
        Evidence(
            f"{times(seen.count, 'read')} of {clock.name}, {each_second(seen.count, facts.length_ns)}"
            if facts.in_ns
            else f"{times(seen.count, 'read')} of {clock.name}",
            seen.count,
            facts.per_second(seen.count),
            seen.time_ns,
            seen.seqs,
        )
        for clock, seen in read
    ]
    if not told:
        return
    if steady:
        title = f"The guest's clock: {' and '.join(steady)}"
    elif pages.tsc_page is not None:
        title = "The guest's clock: Hyper-V's TSC page, read without an exit"
    elif pages.kvmclock is not None:
        title = "The guest's clock: kvmclock or the TSC, read without an exit"
    elif facts.offered[vm].read:
        title = "The guest's clock cannot be seen: it keeps reading none that exits, and enabled no page"
    else:
        title = (
            "The guest's clock cannot be seen: the TSC itself, or a page that it enabled before the recording began;"
            " reads of either do not exit"
        )
    yield Finding(advice.code, advice.name, Severity.INFO, vm, title, tuple(told))


_STEADY = (
    f"It is found where these reads come to {READS_PER_SECOND} a second in at least three slices of the part looked"
    " at (ten slices, none shorter than 0.1 s or longer than 1 s), so that a boot's calibration does not count. It"
    f" is high from {HIGH_SHARE:.0%} of one CPU's time on, medium from {MEDIUM_SHARE:.0%}, else low."
)
_EXITS = ("kvm_exit", "kvm_entry")


def _row(code: str, name: str, clock: Clock, summary: str, needs: str, doc: str) -> Advice:
    return Advice(code, name, summary, (*_EXITS, needs), partial(_costly, clock), f"{doc}\n\n{_STEADY}")


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD201",
        "clock-in-use",
        "Which clock the guest reads.",
        _EXITS,
        _in_use,
        "Clocks that exit are seen by their reads: the RTC, the PIT, the HPET, the ACPI PM timer, Hyper-V's reference"
        " counter. Pages that are read without an exit are seen when the guest enables them (REFERENCE_TSC,"
        " kvmclock). A guest that reads the TSC alone shows nothing.",
    ),
    _row(
        "AD202",
        "hpet-reads",
        HPET,
        "The guest keeps reading the HPET's counter.",
        "kvm_mmio",
        "The HPET is emulated by userspace: each read is an exit, a decoded instruction and a trip to QEMU. A guest"
        " that has it as its clock reads it thousands of times a second. Hyper-V's TSC page (hv-time) and kvmclock"
        " are read without an exit.",
    ),
    _row(
        "AD203",
        "pm-timer-reads",
        PM_TIMER,
        "The guest keeps reading the ACPI PM timer.",
        "kvm_pio",
        "The ACPI PM timer (port 0x608, 0x408 or 0xb008) is emulated by userspace: each read is an exit and a trip to"
        " QEMU. Windows without hv-time falls back on it, Linux where neither the TSC nor the HPET will do.",
    ),
    _row(
        "AD204",
        "reference-counter-reads",
        REFERENCE_COUNTER,
        "The guest keeps reading HV_X64_MSR_TIME_REF_COUNT although it could read the TSC page.",
        "kvm_msr",
        "The reference counter is an MSR: each read exits. The TSC page (HV_X64_MSR_REFERENCE_TSC), which hv-time"
        " offers as well, gives the same time without one. It is not used where the guest does not know it, where it"
        " was told to read the MSR, or where KVM marks it invalid because the host does not keep time by its TSC.",
    ),
    _row(
        "AD205",
        "pit-reads",
        PIT,
        "The guest keeps reading the PIT's counters.",
        "kvm_pio",
        "The PIT's counters (ports 0x40 to 0x42) are emulated by KVM: each read exits, and a time takes three"
        " accesses. Only a guest that trusts no other clock reads them after it has booted.",
    ),
    _row(
        "AD206",
        "rtc-reads",
        RTC,
        "The guest keeps reading the RTC.",
        "kvm_pio",
        "The RTC (ports 0x70, 0x71) is emulated by userspace: each register takes two exits and two trips to QEMU. A"
        " guest reads it for the date, and to acknowledge its periodic interrupt (AD211): rates in the hundreds are"
        " the latter, or a program that polls it.",
    ),
)
