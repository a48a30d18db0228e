"""Advices on page faults and emulation: the same page again and again, instructions that KVM cannot execute."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Evidence, Finding, Severity
from hvtrace.analysis.advice.wording import duration, each_second, times

__all__ = ["ADVICES"]

#: A page faults when it is touched first, and when it is written first; again where the host took it back,
#: write-protects it or splits a huge page. So many faults of one page within a second are none of these.
FAULTS = 100
#: Failed emulations of a VM; one may be a guest that tries out an instruction.
FAILED = 2
#: How many pages, addresses or instructions are listed.
LISTED = 3

PAGE = 1 << 12


def repeated(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """One page of the guest faults over and over."""
    rows = facts.once("repeated faults", lambda: _repeated(facts)).filter(pl.col("vm") == vm)
    if rows.is_empty():
        return
    count, pages = int(rows["count"].sum()), rows["page"].n_unique()
    yield Finding(
        advice.code,
        advice.name,
        Severity.MEDIUM,
        vm,
        f"{times(pages, 'page')} of the guest faulted {FAULTS} times or more within a second, {times(count, 'time')} in"
        " all",
        tuple(
            Evidence(
                f"page {page:#x} on vCPU {vcpu}: {times(number, 'fault')} in {duration(ns)}, error code {code:#x}, from"
                f" rip {rip:#x}",
                number,
                None,
                ns,
                (first, last),
            )
            for _, page, vcpu, _, number, first, last, ns, code, rip in rows.head(LISTED).iter_rows()
        ),
        change="see what takes the page away again: dirty logging (a migration under way), KSM, NUMA balancing, or"
        " write-protection of a page that the guest both executes and writes; or a page that KVM cannot map at all",
    )


def _repeated(facts: Facts) -> pl.DataFrame:
    """Pages with many faults in a second: vm, page, vcpu, second, count, first and last seq, ns, code, rip."""
    start = facts.store.manifest.time.get("first_ns") or 0
    # Faults that become an access to a device are told by kvm_mmio; the others are of memory.
    devices = _devices(facts)
    return (
        facts.tables["kvm_page_fault"]
        .filter(pl.col("vm").is_not_null(), pl.col("vcpu").is_not_null())
        .group_by(
            "vm",
            "vcpu",
            page=pl.col("fault_address") // PAGE * PAGE,
            second=(pl.col("ts_ns") - start) // 1_000_000_000,
        )
        .agg(
            count=pl.len().cast(pl.Int64),
            first=pl.col("seq").min(),
            last=pl.col("seq").max(),
            ns=pl.col("ts_ns").max() - pl.col("ts_ns").min(),
            code=pl.col("error_code").last(),
            rip=pl.col("guest_rip").last(),
        )
        .filter(pl.col("count") >= FAULTS, ~pl.col("page").is_in(devices))
        .sort(["count", "first"], descending=[True, False])
        .select("vm", "page", "vcpu", "second", "count", "first", "last", "ns", "code", "rip")
        .collect()
    )


def _devices(facts: Facts) -> list[int]:
    """Pages of devices: those of kvm_mmio and kvm_fast_mmio."""
    tables = [facts.store.scan(name) for name in ("kvm_mmio", "kvm_fast_mmio") if facts.has(name)]
    if not tables:
        return []
    pages = pl.concat([rows.select(page=pl.col("gpa") // PAGE * PAGE) for rows in tables])
    return pages.unique().collect()["page"].to_list()


def unemulated(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """Instructions that KVM failed to emulate."""
    rows = (
        facts.tables["kvm_emulate_insn"]
        .filter(pl.col("vm") == vm, pl.col("failed") != 0)
        .select("seq", "rip", "csbase", "len", "insn")
        .sort("seq")
        .collect()
    )
    if len(rows) < FAILED:
        return
    own = (
        rows.group_by("rip", "csbase", maintain_order=True)
        .agg(count=pl.len(), insn=pl.col("insn").first(), seq=pl.col("seq").first())
        .sort("count", descending=True, maintain_order=True)
    )
    yield Finding(
        advice.code,
        advice.name,
        Severity.HIGH,
        vm,
        f"KVM failed to emulate {times(len(rows), 'instruction')}",
        tuple(
            Evidence(
                f"at {base + rip:#x}, bytes {(insn or b'').hex(' ')}: {times(count, 'time')}",
                count,
                seqs=(seq,),
            )
            for rip, base, count, insn, seq in own.head(LISTED).iter_rows()
        ),
        change="the guest executes something on device memory, or in a mode, that KVM's emulator does not know: see"
        " what lies at that address, and whether the host's kernel is recent",
    )


#: Windows for interrupts that KVM asks for, for each interrupt it injects, and so many a second: from there on most
#: interrupts find the guest with interrupts off.
WINDOWS, WINDOW_RATE = 0.5, 1_000

_WINDOW_REASONS = (1 << 32 | 7, 2 << 32 | 0x64)


def windows(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """Most interrupts have to wait for the guest to take them."""
    rows = facts.exits.filter(pl.col("vm") == vm, ~pl.col("nested"), pl.col("reason").is_in(_WINDOW_REASONS))
    count, life = int(rows["count"].sum()), facts.life_ns(vm)
    injected = int(facts.counts("kvm_inj_virq").filter(pl.col("vm") == vm)["count"].sum())
    if not facts.in_ns or count * 1e9 < WINDOW_RATE * life or count < WINDOWS * injected:
        return
    time_ns = int(rows["time_ns"].sum())
    yield Finding(
        advice.code,
        advice.name,
        Severity.LOW,
        vm,
        f"{times(count, 'interrupt')} of {injected:,} had to wait for the guest to enable interrupts",
        (
            Evidence(
                f"{times(count, 'exit')} of interrupt windows, {each_second(count, life)}, which took"
                f" {duration(time_ns)}",
                count,
                count * 1e9 / life,
                time_ns,
                tuple(rows["first_seq"].head(1)),
            ),
        ),
        change="APIC virtualisation (APICv, AVIC) delivers interrupts without such exits: see AD301 and AD302",
    )


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD404",
        "repeated-faults",
        "The same page of the guest faults over and over.",
        ("kvm_page_fault",),
        repeated,
        f"It is found where a page has {FAULTS} or more faults of a vCPU within a second. Pages of devices (those of"
        " kvm_mmio) fault at every access and do not count. Memory faults when it is touched first and when it is"
        " written first; what takes a mapping away again and again (dirty logging, KSM, NUMA balancing, write"
        " protection for a nested guest or for code that is changed) costs a fault each time. Which of them it was,"
        " the events do not tell.",
    ),
    Advice(
        "AD405",
        "failed-emulation",
        "KVM cannot emulate instructions of the guest.",
        ("kvm_emulate_insn",),
        unemulated,
        f"It is found where {FAILED} or more events of kvm_emulate_insn say that they failed. KVM then gives up: the"
        " guest gets an exception, or the VM stops with an internal error.",
    ),
    Advice(
        "AD406",
        "interrupt-windows",
        "Most interrupts cost an exit more, since the guest has interrupts off when they come.",
        ("kvm_exit", "kvm_entry", "kvm_inj_virq"),
        windows,
        f"It is found where there are {WINDOW_RATE:,} exits of interrupt windows a second or more, and one for every"
        " second interrupt injected or more. Such an exit tells KVM that the guest has enabled interrupts, or has ended"
        " what stood in the way of one that waits. SVM's vintr and VMX's INTERRUPT_WINDOW are meant.",
    ),
)
