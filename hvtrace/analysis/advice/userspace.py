"""Advices on exits that userspace (QEMU) answers: slow ones, and interrupt controllers that could be in the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from hvtrace.abi.exit_reasons import USERSPACE
from hvtrace.analysis.advice.facts import KIND_BITS, KINDS, Facts, about_of
from hvtrace.analysis.advice.finding import Advice, Effect, Evidence, Finding, Severity, Unjudged
from hvtrace.analysis.advice.wording import duration, each_second, exit_label, percent, times

__all__ = ["ADVICES"]

#: Emulating a device takes userspace some µs to some tens of them; as long as this a guest's tick of 64 Hz does not
#: wait, so that it loses time, and its threads notice.
SLOW_NS = 10_000_000
#: So many of them that take so much of the vCPUs' time together, or one so long.
COUNT, SHARE, LONG_NS = 5, 0.01, 100_000_000
#: What KVM traces when a VMM sets a VM's clock.
_SET = "kvm_update_master_clock"

#: How many kinds of exit are listed.
LISTED = 5

#: kvm_userspace_exit's reasons for which userspace has work to do; after others it was kicked out, or the VM ended.
_WORK = {
    number
    for number, name in USERSPACE.items()
    if name.removeprefix("KVM_EXIT_")
    in (
        "IO",
        "MMIO",
        "HYPERV",
        "HYPERCALL",
        "XEN",
        "X86_RDMSR",
        "X86_WRMSR",
        "IOAPIC_EOI",
        "TPR_ACCESS",
        "SET_TPR",
    )
}

#: Interrupt controllers and timers that KVM can have in the kernel: name, kind, numbers.
_CHIPS = (
    ("the local APIC", "address", range(0xFEE00000, 0xFEE01000)),
    ("the I/O APIC", "address", range(0xFEC00000, 0xFEC01000)),
    ("the PIC", "port", range(0x20, 0x22)),
    ("the PIC", "port", range(0xA0, 0xA2)),
    ("the PIT", "port", range(0x40, 0x44)),
)
#: So many such exits a second and more are worth a change.
RATE = 100
_NUMBERS = {name.removeprefix("KVM_EXIT_"): number for number, name in USERSPACE.items()}
_IO, _MMIO, _IOAPIC_EOI = _NUMBERS["IO"], _NUMBERS["MMIO"], _NUMBERS["IOAPIC_EOI"]

#: fw_cfg: by one access of it the firmware loads a whole kernel.
_LOADING = range(0x510, 0x51C)
_PORTS = [None, *KINDS].index("port")


def _worked(facts: Facts, exits: pl.DataFrame) -> pl.DataFrame:
    """Those exits of Facts.handled for which userspace had work to do, with one more column: work, the reason."""
    if exits.is_empty():
        return exits.with_columns(work=pl.lit(None, pl.UInt32))
    returns = (
        facts.tables["kvm_userspace_exit"]
        .filter(pl.col("tid").is_in(exits["tid"].unique().to_list()))
        .select("tid", "errno", returned="seq", work="reason")
        .collect()
    )
    # The first return is that of the exit; later ones are of signals.
    return (
        exits.sort("seq")
        .join_asof(
            returns, left_on="seq", right_on="returned", by="tid", strategy="forward", check_sortedness=False
        )
        .filter(
            pl.col("returned") < pl.col("end_seq"), pl.col("errno") >= 0, pl.col("work").is_in(sorted(_WORK))
        )
        .drop("returned", "errno")
    )


def _slow(facts: Facts) -> pl.DataFrame:
    kind, key = pl.col("about") // (1 << KIND_BITS), pl.col("about") % (1 << KIND_BITS) // 2
    loading = (kind == _PORTS) & key.is_between(_LOADING.start, _LOADING.stop - 1)
    long = facts.handled.filter(pl.col("userspace_ns") >= SLOW_NS, ~loading.fill_null(value=False))
    return _worked(facts, long.filter(~_paused(facts, long)))


def _paused(facts: Facts, exits: pl.DataFrame) -> pl.Series:
    """Whether the VM was paused or reset during each of some exits: when it goes on, its clock is set anew."""
    paused = pl.Series([False] * len(exits), dtype=pl.Boolean)
    if not facts.has(_SET) or exits.is_empty():
        return paused
    rows = facts.store.scan(_SET).filter(pl.col("vm").is_not_null()).select("vm", "seq").collect()
    for vm in rows["vm"].unique():
        at = rows.filter(pl.col("vm") == vm)["seq"]
        within = at.search_sorted(exits["seq"]) != at.search_sorted(exits["end_seq"])
        paused = paused | (within & (exits["vm"] == vm))
    return paused


def slow(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """Userspace takes long for some exits."""
    if not facts.in_ns:
        yield Unjudged(advice.code, advice.name, vm, "the clock counts ticks: what is long is not known")
        return
    rows = facts.once("slow userspace", lambda: _slow(facts)).filter(pl.col("vm") == vm)
    if rows.is_empty():
        return
    time_ns, worst = int(rows["userspace_ns"].sum()), max(rows["userspace_ns"].to_list())
    share = time_ns / facts.vcpu_ns(vm)
    if (share < SHARE or len(rows) < COUNT) and worst < LONG_NS:
        return
    own = facts.handled.filter(pl.col("vm") == vm, pl.col("userspace_ns") > 0)
    by = ("reason", "about", "work")
    kinds = (
        rows.group_by(by)
        .agg(
            count=pl.len(),
            time_ns=pl.col("userspace_ns").sum(),
            worst=pl.col("userspace_ns").max(),
            seq=pl.col("seq").sort_by("userspace_ns").last(),
            end_seq=pl.col("end_seq").sort_by("userspace_ns").last(),
            vcpu=pl.col("vcpu").sort_by("userspace_ns").last(),
            ts_ns=pl.col("ts_ns").sort_by("userspace_ns").last(),
        )
        .sort(["time_ns", "seq"], descending=[True, False])
    )
    evidence = [_kind(own, row) for row in kinds.head(LISTED).iter_rows(named=True)]
    if len(kinds) > LISTED:
        evidence.append(Evidence(f"and {times(len(kinds) - LISTED, 'other kind')} of exit"))
    yield Finding(
        advice.code,
        advice.name,
        Severity.HIGH if share >= 10 * SHARE else Severity.MEDIUM,
        vm,
        f"Userspace took {duration(SLOW_NS)} or longer for {times(len(rows), 'exit')}, {duration(time_ns)} in all; the"
        f" worst took {duration(worst)}",
        tuple(evidence),
        change="see what holds userspace up: QEMU's big lock (a busy main loop, a monitor command), a slow disk behind"
        " an emulated device, or a vCPU thread that is not given a CPU (record sched_switch: `hvtrace latency` then"
        " says for how long)",
        effect=Effect(
            f"up to {duration(time_ns)} of vCPU time ({percent(share)}), and stalls that the guest sees",
            "adding up the time from kvm_userspace_exit to kvm_entry of these exits",
            time_ns,
            share,
        ),
    )


def _kind(own: pl.DataFrame, row: dict[str, Any]) -> Evidence:
    """What one kind of slow exit is about, beside all exits of that kind."""
    kind, key = _about(row["about"])
    same = own.filter(pl.col("reason") == row["reason"], pl.col("about").eq_missing(row["about"]))[
        "userspace_ns"
    ].sort()
    p99 = same[(len(same) * 990 + 999) // 1000 - 1]
    label = f"{exit_label(row['reason'], kind, key)} ({USERSPACE[row['work']]})"
    return Evidence(
        f"{label}: {row['count']:,} of {len(same):,} were slow, {duration(row['time_ns'])} in all; 99 % took"
        f" {duration(p99)} or less; the worst, {duration(row['worst'])}, was at {row['ts_ns'] / 1e9:.6f} on vCPU"
        f" {row['vcpu']}",
        row["count"],
        None,
        row["time_ns"],
        (row["seq"], row["end_seq"]),
    )


def _about(about: int | None) -> tuple[str | None, int | None]:
    return (
        (None, None)
        if about is None
        else ([*KINDS][(about >> KIND_BITS) - 1], about & ((1 << KIND_BITS) - 1))
    )


def _emulated(facts: Facts) -> pl.DataFrame:
    """Accesses of such chips that userspace answered, by vm and name: count, time_ns, first_seq, last_seq."""
    number, chip = pl.col("key") // 2, pl.lit(None, pl.String)
    for name, kind, numbers in _CHIPS:
        here = (pl.col("kind") == kind) & number.is_between(numbers.start, numbers.stop - 1)
        chip = pl.when(here).then(pl.lit(name)).otherwise(chip)
    # Few things are such accesses, and most machines have none.
    things = (
        facts.exits.filter(pl.col("userspace_ns") > 0, ~pl.col("nested"))
        .select("kind", "key", chip=chip)
        .drop_nulls()
        .unique()
    )
    names = {about_of(kind, key): name for kind, key, name in things.iter_rows()}
    exits = facts.handled.lazy().filter(
        pl.col("about").is_in(list(names)), pl.col("userspace_ns") > 0, ~pl.col("nested")
    )
    # KVM has the APIC in the kernel where userspace is only told of its TPR (KVM_EXIT_TPR_ACCESS).
    return (
        _worked(facts, exits.collect())
        .filter(pl.col("work").is_in([_IO, _MMIO]))
        .group_by("vm", chip=pl.col("about").replace_strict(names, return_dtype=pl.String))
        .agg(
            count=pl.len().cast(pl.Int64),
            time_ns=pl.col("ns").sum(),
            first_seq=pl.col("seq").min(),
            last_seq=pl.col("seq").max(),
        )
        .sort("vm", "time_ns", descending=[False, True])
    )


def chips(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """An interrupt controller that is emulated in userspace."""
    if not facts.in_ns:
        yield Unjudged(advice.code, advice.name, vm, "the clock counts ticks: there are no rates")
        return
    rows = facts.once("chips in userspace", lambda: _emulated(facts)).filter(pl.col("vm") == vm)
    life = facts.life_ns(vm)
    evidence, count, time_ns = [], 0, 0
    for name, own_count, own_ns, first, last in rows.drop("vm").iter_rows():
        sentence = f"{name}: {times(own_count, 'exit')} to userspace, which took {duration(own_ns)}"
        evidence.append(Evidence(sentence, own_count, own_count * 1e9 / life, own_ns, (first, last)))
        count, time_ns = count + own_count, time_ns + own_ns
    ends = facts.counts("kvm_userspace_exit", "reason").filter(
        pl.col("vm") == vm, pl.col("reason") == _IOAPIC_EOI
    )
    if not ends.is_empty():
        own_count = int(ends["count"].sum())
        sentence = f"the end of {times(own_count, 'level interrupt')} went to userspace (KVM_EXIT_IOAPIC_EOI)"
        evidence.append(
            Evidence(sentence, own_count, own_count * 1e9 / life, None, tuple(ends["first_seq"].head(1)))
        )
        count += own_count
    if count * 1e9 < RATE * life:
        return
    share = time_ns / facts.vcpu_ns(vm)
    yield Finding(
        advice.code,
        advice.name,
        Severity.HIGH if share >= 10 * SHARE else Severity.MEDIUM if share >= SHARE else Severity.LOW,
        vm,
        f"Interrupt controllers are emulated in userspace: {times(count, 'exit')}, {each_second(count, life)}",
        tuple(evidence),
        change="have them in the kernel: kernel-irqchip=on (QEMU's default; split leaves the I/O APIC, PIC and PIT to"
        " userspace). Hyper-V's SynIC needs at least the local APIC there",
        effect=Effect(
            f"up to {duration(time_ns)} of vCPU time ({percent(share)})",
            "adding up the time of these exits; those that remain then do not go to userspace",
            time_ns,
            share,
        ),
        qemu="-machine …,kernel-irqchip=on",
        libvirt="<features>\n  <ioapic driver='kvm'/>\n</features>",
    )


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD801",
        "slow-userspace",
        "Userspace takes long to answer exits.",
        ("kvm_userspace_exit", "kvm_exit", "kvm_entry"),
        slow,
        f"It is found where {COUNT} exits or more with {duration(SLOW_NS)} or more in userspace take {percent(SHARE)}"
        f" or more of the vCPUs' time, or one takes {duration(LONG_NS)} or more. Meanwhile the vCPU does not run: its"
        " timers are late, and whoever waits for it waits as well. Exits after which userspace has nothing to answer"
        " (a signal, the end of the VM) do not count, nor do pauses and resets (the VM's"
        " clock is set meanwhile: kvm_update_master_clock), nor the firmware's loading of a kernel through fw_cfg.\n\n"
        "Whether the thread worked, waited for a lock or had no CPU shows only with sched_switch in the recording."
        " Writes that change the memory map (PCI's BARs, HV_X64_MSR_SIMP and SIEFP) are slow in QEMU by themselves.",
    ),
    Advice(
        "AD802",
        "irqchip-in-userspace",
        "Interrupt controllers that KVM could have in the kernel are emulated in userspace.",
        ("kvm_userspace_exit", "kvm_exit", "kvm_entry"),
        chips,
        "It is found where accesses of the local APIC, I/O APIC, PIC or PIT go to userspace (KVM_EXIT_MMIO,"
        f" KVM_EXIT_IO), with the ends of level interrupts (KVM_EXIT_IOAPIC_EOI), {RATE} times a second or more. KVM"
        " has all of them in the kernel, and the I/O APIC, PIC and PIT optionally not (kernel-irqchip=split, which"
        " some devices and more than 255 vCPUs want). That userspace is only told of the APIC's TPR"
        " (KVM_EXIT_TPR_ACCESS) does not count.",
    ),
)
