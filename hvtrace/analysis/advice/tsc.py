"""Advices on the clocks that KVM keeps for a VM: TSC offsets, the master clock, the reference time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Evidence, Finding, Severity, Unjudged
from hvtrace.analysis.advice.wording import duration, listed, percent, times

__all__ = ["ADVICES"]

TIME_REF_COUNT = 0x40000020
#: A unit of the reference time.
UNIT_NS = 100
#: How fast two clocks of one host may drift apart: NTP slews a clock by no more than this.
DRIFT = 500e-6
#: A jump is told from this on. The bounds of each read are those of its exit; what is left are the two clocks' units.
LEAST_NS = 10_000

#: Of kvm_update_master_clock's host_clock: VDSO_CLOCKMODE_NONE; the host does not keep time by its TSC.
_NO_TSC = 0

_SIGNED = 1 << 63


def offsets(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """The vCPUs' TSCs differ."""
    rows = (
        facts.tables["kvm_write_tsc_offset"]
        .filter(pl.col("vm") == vm, pl.col("vcpu").is_not_null())
        .select("vcpu", "seq", "ts_ns", "next_tsc_offset")
        .sort("seq")
        .collect()
    )
    last = rows.unique("vcpu", keep="last", maintain_order=True)
    if last["next_tsc_offset"].n_unique() < 2:
        return
    values = {
        vcpu: offset - 2 * _SIGNED * (offset >= _SIGNED)
        for vcpu, offset in last.select("vcpu", "next_tsc_offset").iter_rows()
    }
    spread = max(values.values()) - min(values.values())
    life = facts.life(vm)
    if life is None or life[1] <= max(last["ts_ns"].to_list()):
        # A VMM sets one vCPU after the other.
        return
    khz = facts.store.manifest.host.get("tsc_khz")
    length = (
        f" ({duration(spread * 1e6 / int(khz))} at {int(khz) / 1e6:.2f} GHz)"
        if khz and str(khz).isdigit()
        else ""
    )
    told = [f"vCPU {vcpu} {value:,}" for vcpu, value in sorted(values.items())[:4]]
    wrote = _guest_wrote(facts, vm)
    yield Finding(
        advice.code,
        advice.name,
        Severity.HIGH,
        vm,
        f"The vCPUs' TSCs are {spread:,} cycles apart{length}",
        (
            Evidence(
                f"offsets of the host's TSC written last: {listed(told)}{' …' if len(values) > 4 else ''}",
                len(rows),
                seqs=tuple(last.sort("seq")["seq"].tail(2)),
            ),
            *(
                [
                    Evidence(
                        f"the guest itself wrote its TSC (MSR 0x10), {times(len(wrote), 'time')}",
                        len(wrote),
                        seqs=tuple(wrote[:3]),
                    )
                ]
                if wrote
                else []
            ),
        ),
        change=(
            "the guest sets its TSC on some vCPUs only: see why (firmware, a test, suspend)"
            if wrote
            else "the VMM gave its vCPUs different TSCs: it has to write the same offset to all (KVM_VCPU_TSC_OFFSET),"
            " or their TSCs close together; see what it restores after a migration or a hotplug"
        ),
    )


def _guest_wrote(facts: Facts, vm: int) -> list[int]:
    if not facts.has("kvm_msr"):
        return []
    # IA32_TSC and IA32_TSC_ADJUST.
    rows = facts.tables["kvm_msr"].filter(
        pl.col("vm") == vm, pl.col("write") != 0, pl.col("ecx").is_in([0x10, 0x3B])
    )
    return rows.select("seq").collect()["seq"].to_list()


def master_clock(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """KVM does not give all vCPUs one clock."""
    updates = (
        facts.tables["kvm_update_master_clock"]
        .filter(pl.col("vm") == vm)
        .select("seq", "ts_ns", "use_master_clock", "host_clock", "offset_matched")
        .sort("seq")
        .collect()
    )
    life = facts.life(vm)
    if life is None:
        yield Unjudged(advice.code, advice.name, vm, "no vCPU ran")
        return
    first, last = life
    if updates.is_empty():
        yield Unjudged(advice.code, advice.name, vm, "the clock was set up before the recording began")
        return
    if not _told(facts, vm, updates.row(-1, named=True), first):
        reason = "the clock was set up while nothing was recorded"
        yield Unjudged(advice.code, advice.name, vm, reason)
        return
    # Each holds until the next one.
    spans = updates.with_columns(until=pl.col("ts_ns").shift(-1).fill_null(last).clip(upper_bound=last))
    ns = pl.col("until") - pl.col("ts_ns").clip(lower_bound=first)
    off = spans.with_columns(ns=ns.clip(lower_bound=0)).filter(~pl.col("use_master_clock"), pl.col("ns") > 0)
    lost = int((updates["use_master_clock"].shift(1) & ~updates["use_master_clock"]).sum())
    if off.is_empty() or (off["ns"].sum() < OFF_SHARE * facts.life_ns(vm) and not lost):
        return
    time = int(off["ns"].sum())
    clockless = bool((off["host_clock"] == _NO_TSC).any())
    unmatched = not bool(off["offset_matched"].all())
    why = (
        "the host does not keep time by its TSC"
        if clockless
        else "the vCPUs' TSCs do not match"
        if unmatched
        else "KVM does not say why"
    )
    reads = facts.exits.filter(
        pl.col("vm") == vm, pl.col("kind") == "msr", pl.col("key") == TIME_REF_COUNT * 2
    )
    count, read_ns = int(reads["count"].sum()), int(reads["time_ns"].sum())
    clock = facts.store.manifest.host.get("clocksource")
    yield Finding(
        advice.code,
        advice.name,
        Severity.HIGH if count * 1e9 >= READ_RATE * facts.life_ns(vm) or lost else Severity.MEDIUM,
        vm,
        f"KVM's master clock was {'lost' if lost else 'off'}: {why}",
        (
            Evidence(
                f"off for {duration(time)}, {percent(time / facts.life_ns(vm))} of the VM's time"
                + (f"; lost {times(lost, 'time')}" if lost else ""),
                len(off),
                None,
                time,
                tuple(off["seq"].head(3)),
            ),
            *([Evidence(f"the host's clock source was {clock}")] if clock else []),
            *(
                [
                    Evidence(
                        f"the guest read the time by MSR {times(count, 'time')} (HV_X64_MSR_TIME_REF_COUNT), which took"
                        f" {duration(read_ns)}: without a master clock its TSC page holds no time",
                        count,
                        count * 1e9 / facts.life_ns(vm),
                        read_ns,
                    )
                ]
                if count
                else []
            ),
        ),
        change=(
            "make the host keep time by its TSC: see why it does not (dmesg: clocksource), and its BIOS and firmware"
            if clockless
            else "give all vCPUs the same TSC: see AD601"
        ),
    )


def _told(facts: Facts, vm: int, last: dict[str, Any], first_ns: int) -> bool:
    """Whether the last update tells what held while vCPUs ran.

    A VM begins without a master clock; as soon as its vCPUs run, KVM says that they have one, unless the host's clock
    or their TSCs forbid it. Where they do not, and nothing was said, there is a hole in the recording.
    """
    if last["use_master_clock"] or last["host_clock"] == _NO_TSC or last["ts_ns"] >= first_ns:
        return True
    if not facts.has("kvm_track_tsc"):
        return False
    tracked = (
        facts.store.scan("kvm_track_tsc")
        .filter(pl.col("vm") == vm)
        .sort("seq")
        .last()
        .select("host_clock", apart=pl.col("nr_vcpus_matched_tsc") + 1 < pl.col("online_vcpus"))
        .collect()
    )
    return not tracked.is_empty() and (tracked["host_clock"][0] == _NO_TSC or bool(tracked["apart"][0]))


#: A VM begins without, until all its vCPUs have come up.
OFF_SHARE = 0.1
#: So many reads of the time by MSR a second are a habit.
READ_RATE = 100


def _reads(facts: Facts) -> pl.DataFrame:
    """Reads of the reference time, by vm and seq: vm, vcpu, seq, ref (100 ns), lo and hi (what the clock was less the
    recording's, in ns: between those), from_ns and to_ns (of the exit).
    """
    reads = (
        facts.tables["kvm_msr"]
        .filter(
            pl.col("vm").is_not_null(),
            pl.col("ecx") == TIME_REF_COUNT,
            pl.col("write") == 0,
            pl.col("exception") == 0,
        )
        .select("vm", "vcpu", "tid", "seq", to_ns="ts_ns", ref=pl.col("data").cast(pl.Int64, strict=False))
        .collect()
    )
    threads = reads["tid"].unique().to_list()
    exits = facts.handled.filter(pl.col("tid").is_in(threads)).select(
        "tid", "end_seq", exit="seq", from_ns="ts_ns"
    )
    # The clock is read after the exit's event, and before its own.
    return (
        reads.join_asof(
            exits, left_on="seq", right_on="exit", by="tid", strategy="backward", check_sortedness=False
        )
        .filter(
            pl.col("seq") < pl.col("end_seq"),
            pl.col("ref").is_not_null(),
            pl.col("from_ns") <= pl.col("to_ns"),
        )
        .with_columns(
            lo=pl.col("ref") * UNIT_NS - pl.col("to_ns"), hi=(pl.col("ref") + 1) * UNIT_NS - pl.col("from_ns")
        )
        .sort("vm", "seq")
    )


def _jumps(facts: Facts) -> pl.DataFrame:
    """Reads that do not go with the one before: vm, seq, before (its seq), backwards, jump_ns, at_ns."""
    slack = (pl.col("to_ns") - pl.col("to_ns").shift(1).over("vm")).abs() * DRIFT + LEAST_NS
    previous = {name: pl.col(name).shift(1).over("vm") for name in ("seq", "ref", "lo", "hi", "to_ns")}
    back = (previous["ref"] - pl.col("ref")) * UNIT_NS
    return (
        _reads(facts)
        .lazy()
        .select(
            "vm",
            "seq",
            before=previous["seq"],
            # The later one began after the earlier one was over, whichever vCPUs they were of.
            backwards=(back > 0) & (pl.col("from_ns") >= previous["to_ns"]),
            back=back,
            ahead=pl.col("lo") - previous["hi"] - slack,
            at_ns="to_ns",
        )
        .filter(pl.col("before").is_not_null(), pl.col("backwards") | (pl.col("ahead") > 0))
        .with_columns(jump_ns=pl.when("backwards").then("back").otherwise("ahead").cast(pl.Int64))
        .collect()
    )


def _set_between(facts: Facts, vm: int, jumps: pl.DataFrame) -> int:
    """How many of the jumps have a new computation of the VM's clock between their two reads."""
    if not facts.has("kvm_update_master_clock"):
        return 0
    updates = (
        facts.store.scan("kvm_update_master_clock").filter(pl.col("vm") == vm).select("seq").collect()["seq"]
    )
    return int((updates.search_sorted(jumps["before"]) != updates.search_sorted(jumps["seq"])).sum())


def reference_time(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """The reference time jumps."""
    if not facts.in_ns:
        yield Unjudged(
            advice.code, advice.name, vm, "the clock counts ticks: nothing to hold the reference time against"
        )
        return
    if not facts.has("kvm_msr"):
        # Recorded, and none happened.
        return
    rows = facts.once("reference time", lambda: _jumps(facts)).filter(pl.col("vm") == vm)
    if rows.is_empty():
        return
    evidence = []
    for backwards, title in ((True, "backwards"), (False, "ahead")):
        own = rows.filter(pl.col("backwards") == backwards).sort("jump_ns", descending=True)
        if not own.is_empty():
            worst = own.row(0, named=True)
            least = "" if backwards else "at least "
            evidence.append(
                Evidence(
                    f"{title} {times(len(own), 'time')}; most at {worst['at_ns'] / 1e9:.6f}, by {least}"
                    f"{duration(worst['jump_ns'])}",
                    len(own),
                    None,
                    worst["jump_ns"],
                    (worst["before"], worst["seq"]),
                )
            )
    set_ = _set_between(facts, vm, rows)
    if set_:
        evidence.append(
            Evidence(
                f"between the two reads of {times(set_, 'jump')} KVM computed the VM's clock anew"
                " (kvm_update_master_clock), as it does when the VMM sets it",
                set_,
            )
        )
    yield Finding(
        advice.code,
        advice.name,
        Severity.MEDIUM if set_ == len(rows) else Severity.HIGH,
        vm,
        f"The reference time jumped {times(len(rows), 'time')}, as the guest read it (HV_X64_MSR_TIME_REF_COUNT)",
        tuple(evidence),
        change=(
            "see what set the VM's clock (KVM_SET_CLOCK: a snapshot restored, a migration, a test)"
            if set_ == len(rows)
            else "update the host's kernel; `hvtrace replay --check` says which rules it breaks"
        ),
    )


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD601",
        "tsc-offsets",
        "The TSCs of a VM's vCPUs differ.",
        ("kvm_write_tsc_offset",),
        offsets,
        "It is found where the offsets written last to two vCPUs are not the same, and vCPUs ran after that. A guest"
        " that reads the TSC on one vCPU and then on another sees time jump, and KVM, which compares what the VMM"
        " writes, may have to do without a master clock (AD602). Where it was the guest that wrote its TSC, the"
        " finding says so. A VMM that migrates a VM sets one vCPU after the other: what counts is what is written"
        " last.",
    ),
    Advice(
        "AD602",
        "master-clock",
        "KVM's master clock is off or was lost: kvmclock and the TSC page cannot serve all vCPUs.",
        ("kvm_update_master_clock", "kvm_exit", "kvm_entry"),
        master_clock,
        f"It is found where the master clock was off for {percent(OFF_SHARE)} or more of the time in which vCPUs ran,"
        " or was switched off while they ran. KVM needs a host that keeps time by its TSC, and vCPUs whose TSCs match."
        " Without it kvmclock has to be read with care for each vCPU by itself, and Hyper-V's TSC page holds no time"
        " at all: the guest then reads HV_X64_MSR_TIME_REF_COUNT, an exit each time, which are counted here.\n\n"
        "A VM is without one until its vCPUs run. Where nothing was recorded then, it is not judged.",
    ),
    Advice(
        "AD603",
        "reference-time-jumps",
        "The reference time goes backwards, or ahead of the clock.",
        ("kvm_msr", "kvm_exit", "kvm_entry"),
        reference_time,
        "It is found where the guest reads a lower value in an exit that began after the exit of the read before was"
        " over, or one that is further on than the time between the beginning of the one exit and the end of the other"
        f" allows (with {DRIFT * 1e6:.0f} ppm and {duration(LEAST_NS)} for the clocks themselves). A value is read"
        " somewhere within its exit, however late its event is stamped, so that these bounds do not depend on how busy"
        " the host was. A time that stands still while the VM is paused is no jump; one that is set back by a snapshot"
        " is, and shows by kvm_update_master_clock in between. Reads of the TSC page leave no events.",
    ),
)
