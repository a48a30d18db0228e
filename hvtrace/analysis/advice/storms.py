"""Advices on exits that come in storms: one thing, over and over, in the same second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from hvtrace.abi.exit_reasons import ISA_SVM, ISA_VMX
from hvtrace.analysis.advice.clock_source import CLOCKS, READS_PER_SECOND
from hvtrace.analysis.advice.facts import Facts, about_of
from hvtrace.analysis.advice.finding import Advice, Effect, Evidence, Finding, Severity, Unjudged
from hvtrace.analysis.advice.steady import accesses, per_slice
from hvtrace.analysis.advice.wording import duration, each_second, exit_label, listed, percent, times

__all__ = ["ADVICES"]

SECOND = 1_000_000_000

#: A storm takes so much of a second of a vCPU; less is work that a guest may well have to do.
SHARE = 0.2
#: And it is so many exits in that second; fewer that take as long are slow, not many.
COUNT = 1_000
#: What every boot does in plenty: reading PCI configuration space (some 17,000 accesses of 0xcf8 and 0xcfc), writing
#: to the console, reading the firmware's configuration and the disk. A fast host does all of a boot's within a second:
#: more than this in one is something else.
BOOT_COUNT = 20_000
BOOT_PORTS = (
    range(0xCF8, 0xD00),
    range(0x3F8, 0x400),
    range(0x2F8, 0x300),
    range(0x402, 0x403),
    range(0x510, 0x51C),
    range(0x1F0, 0x1F8),
    range(0x170, 0x178),
)

#: (isa, exit reason) of exits that are nobody's storm, or told by advices of their own: the guest is idle, the host
#: interrupts, pauses, interrupt windows, the guest's own hypervisor.
OTHERS = (
    *((ISA_VMX, reason) for reason in (1, 7, 8, 12, 36, 40, 52, *range(19, 28), 50, 53)),
    *((ISA_SVM, reason) for reason in (0x60, 0x61, 0x64, 0x77, 0x78, 0x8B, 0x8C, 0xA6, *range(0x80, 0x86))),
)
#: Of faults in the second page tables those are meant that are an access to a device.
FAULTS = ((ISA_VMX, 48), (ISA_SVM, 0x400))

#: How many storms of a VM are listed, and how many spans of one.
LISTED, SPANS = 8, 3


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds in which it stormed on a vCPU, next to each other: the first, how many; exits, their time and ranks."""

    vcpu: int
    second: int
    seconds: int
    count: int
    time_ns: int
    userspace_ns: int
    seqs: tuple[int, int]


def _encoded(reasons: tuple[tuple[int, int], ...]) -> list[int]:
    return [isa << 32 | reason for isa, reason in reasons]


def stormy(seconds: pl.DataFrame) -> pl.DataFrame:
    """Return those rows of Facts.seconds that are a second of a storm."""
    port = pl.col("key") // 2
    boot = pl.any_horizontal(*(port.is_between(ports.start, ports.stop - 1) for ports in BOOT_PORTS))
    # An exit longer than a second counts whole in the second it begins; the count keeps it out.
    return seconds.filter(
        ~pl.col("nested"),
        ~pl.col("reason").is_in(_encoded(OTHERS)),
        pl.col("kind").is_not_null() | ~pl.col("reason").is_in(_encoded(FAULTS)),
        pl.col("time_ns") >= SHARE * SECOND,
        pl.col("count") >= pl.when((pl.col("kind") == "port") & boot).then(BOOT_COUNT).otherwise(COUNT),
    )


def spans(rows: pl.DataFrame) -> list[Span]:
    """Return the seconds of one thing's storm, those that follow each other as one."""
    found: list[Span] = []
    for vcpu, second, count, time_ns, userspace_ns, first, last in (
        rows.sort("vcpu", "second")
        .select("vcpu", "second", "count", "time_ns", "userspace_ns", "first_seq", "last_seq")
        .iter_rows()
    ):
        before = found[-1] if found else None
        if before is not None and before.vcpu == vcpu and before.second + before.seconds == second:
            found[-1] = Span(
                vcpu,
                before.second,
                before.seconds + 1,
                before.count + count,
                before.time_ns + time_ns,
                before.userspace_ns + userspace_ns,
                (before.seqs[0], last),
            )
        else:
            found.append(Span(vcpu, second, 1, count, time_ns, userspace_ns, (first, last)))
    return found


def storms(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """A finding for each thing that stormed."""
    if not facts.in_ns:
        yield Unjudged(advice.code, advice.name, vm, "the clock counts ticks: there are no rates")
        return
    rows = stormy(facts.seconds.filter(pl.col("vm") == vm)).filter(~_told(facts, vm))
    by = ("reason", "kind", "key")
    found = [(what, own, spans(own)) for what, own in rows.group_by(by, maintain_order=True)]
    found.sort(key=lambda one: -sum(span.time_ns for span in one[2]))
    for (reason, kind, key), _, own in found[:LISTED]:
        yield _storm(facts, vm, advice, (reason, kind, key), own)


def _told(facts: Facts, vm: int) -> pl.Expr:
    """Whether a row is about a clock of whose reads the advices on clocks speak, as they go on all the time."""
    watched = frozenset().union(*(clock.registers for clock in CLOCKS))
    slices = facts.once("clock reads", lambda: per_slice(facts, watched))
    told = [
        (pl.col("kind") == kind) & (pl.col("key") == number * 2)
        for clock in CLOCKS
        if accesses(facts, slices, vm, clock.registers, READS_PER_SECOND).steady
        for kind, number in clock.reads
    ]
    return pl.any_horizontal(pl.lit(value=False), *told).fill_null(value=False)


def _storm(
    facts: Facts, vm: int, advice: Advice, what: tuple[int, str | None, int | None], own: list[Span]
) -> Finding:
    label = exit_label(*what)
    count, time_ns = sum(span.count for span in own), sum(span.time_ns for span in own)
    seconds = sum(span.seconds for span in own)
    userspace_ns = sum(span.userspace_ns for span in own)
    share = time_ns / facts.vcpu_ns(vm)
    longest = sorted(own, key=lambda span: -span.time_ns)
    evidence = [_evidence(facts, span) for span in longest[:SPANS]]
    if len(own) > SPANS:
        evidence.append(Evidence(f"and {times(len(own) - SPANS, 'span')} more, on {_vcpus(own)}"))
    if rips := _rips(facts, vm, what, longest[0]):
        evidence.append(Evidence(f"in the longest, the exits came from rip {rips}"))
    return Finding(
        advice.code,
        advice.name,
        Severity.HIGH if share >= SHARE / 2 else Severity.MEDIUM,
        vm,
        f"{label}: {times(count, 'exit')} in {times(seconds, 'second')}, which took {duration(time_ns)},"
        f" {percent(time_ns / (seconds * SECOND))} of the vCPUs' time then",
        tuple(evidence),
        change=_change(what[1], what[2], userspace_ns / time_ns),
        effect=Effect(
            f"up to {duration(time_ns)} of vCPU time, {percent(share)} of all there was",
            "adding up the time from kvm_exit to kvm_entry of these exits, as if none were made",
            time_ns,
            share,
        ),
    )


def _vcpus(own: list[Span]) -> str:
    numbers = sorted({span.vcpu for span in own})
    return f"vCPU {listed([str(number) for number in numbers])}"


def _evidence(facts: Facts, span: Span) -> Evidence:
    length = span.seconds * SECOND
    start = (facts.store.manifest.time.get("first_ns") or 0) + span.second * SECOND
    userspace = f", {duration(span.userspace_ns)} of it in userspace" if span.userspace_ns else ""
    return Evidence(
        f"vCPU {span.vcpu}, {start / 1e9:.3f} to {(start + length) / 1e9:.3f}: {times(span.count, 'exit')},"
        f" {each_second(span.count, length)}, {duration(span.time_ns)} ({percent(span.time_ns / length)} of"
        f" the time){userspace}",
        span.count,
        span.count / span.seconds,
        span.time_ns,
        span.seqs,
    )


def _rips(facts: Facts, vm: int, what: tuple[int, str | None, int | None], span: Span) -> str:
    """Where in the guest most of a span's exits came from."""
    reason, kind, key = what
    about = None if kind is None or key is None else about_of(kind, key)
    own = facts.handled.lazy().filter(
        pl.col("seq").is_between(*span.seqs),
        pl.col("vm") == vm,
        pl.col("vcpu") == span.vcpu,
        pl.col("reason") == reason,
        pl.col("about").eq_missing(about),
    )
    rows = (
        facts.store.scan("kvm_exit")
        .filter(pl.col("seq").is_between(*span.seqs))
        .select("seq", "guest_rip")
        .join(own.select("seq"), on="seq", how="semi")
        .group_by("guest_rip")
        .len()
        .sort(["len", "guest_rip"], descending=[True, False])
        .collect()
    )
    total = rows["len"].sum()
    return (
        listed([f"{rip:#x} ({percent(number / total)})" for rip, number in rows.head(2).iter_rows()])
        if total
        else ""
    )


#: Where advices on clocks say what to do.
_CLOCK = "let the guest read time without exits: see the advices on its clock source (AD2)"
#: Kind, numbers → what to do about storms of them.
_CHANGES: tuple[tuple[str, range, str], ...] = (
    ("msr", range(0x40000020, 0x40000021), _CLOCK),
    ("address", range(0xFED00000, 0xFED00400), _CLOCK),
    ("port", range(0x608, 0x60C), _CLOCK),
    ("port", range(0x408, 0x40C), _CLOCK),
    ("port", range(0x70, 0x72), _CLOCK),
    ("port", range(0x40, 0x44), _CLOCK),
    (
        "msr",
        range(0x400000B0, 0x400000B8),
        "find what in the guest arms its timer so often (timer resolution)",
    ),
    ("msr", range(0x6E0, 0x6E1), "find what in the guest arms its timer so often (timer resolution)"),
    ("msr", range(0x830, 0x831), "see the advice on interprocessor interrupts (AD310)"),
    ("msr", range(0x40000071, 0x40000072), "see the advice on interprocessor interrupts (AD310)"),
    ("hypercall", range(0x0B, 0x0C), "find what in the guest interrupts other vCPUs so often"),
    ("hypercall", range(0x15, 0x16), "find what in the guest interrupts other vCPUs so often"),
    ("hypercall", range(0x02, 0x04), "find what in the guest unmaps memory so often"),
    ("hypercall", range(0x13, 0x15), "find what in the guest unmaps memory so often"),
    ("hypercall", range(0x08, 0x09), "see the advice on spin waits (AD451)"),
)
_DEFAULTS = {
    "msr": "find what in the guest accesses this register",
    "port": "find the driver in the guest that polls this port",
    "address": "find the driver in the guest that polls this address",
    "hypercall": "find what in the guest makes this hypercall",
    "cpuid": "find what in the guest executes CPUID; some programs do so to serialise, or to read a time stamp",
}


def _change(kind: str | None, key: int | None, userspace: float) -> str:
    if kind is None or key is None:
        return "find what in the guest causes these exits, by the instruction pointers below"
    number = key // 2 if kind in ("msr", "port", "address") else key
    known = next((text for own, numbers, text in _CHANGES if own == kind and number in numbers), None)
    if known is not None:
        return known
    paravirtual = (
        "; a paravirtual device instead of an emulated one needs fewer exits" if userspace > 0 else ""
    )
    return _DEFAULTS[kind] + paravirtual


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD401",
        "exit-storm",
        "One kind of exit, about one and the same thing, takes much of a vCPU's time.",
        ("kvm_exit", "kvm_entry"),
        storms,
        "It is found where, within a second, exits for the same reason about the same MSR, port, address, hypercall or"
        f" CPUID leaf number {COUNT:,} or more on a vCPU and take {percent(SHARE)} or more of that second. Seconds that"
        " follow each other are one span, told with its beginning and end, so that a storm of a second in a quiet hour"
        " is found, and when it was. Where it came from are the guest's instruction pointers.\n\n"
        "A boot is no storm: ports that every boot uses in plenty (PCI configuration, console, firmware, IDE) count"
        f" from {BOOT_COUNT:,} a second on. Idling, the host's interrupts, pauses, page faults of memory and a nested"
        " hypervisor's instructions are told by other advices, and so are clocks that the guest reads all the time.",
    ),
)
