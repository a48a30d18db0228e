"""Advices on vCPUs that wait for others that do not run: spin-wait notifications, pauses, preemption."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from hvtrace.abi.exit_reasons import ISA_SVM, ISA_VMX
from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Effect, Evidence, Finding, Severity, Unjudged
from hvtrace.analysis.advice.wording import duration, each_second, percent, times

__all__ = ["ADVICES"]

SECOND = 1_000_000_000

#: HvCallNotifyLongSpinWait: a guest makes it after thousands of attempts at a lock (hv-spinlocks=8191), which is longer
#: than any lock should be held. Now and then it happens; so many in a second mean that holders do not run.
NOTIFY, NOTIFIED = 0x08, 100
#: Exits of the pause filter (PLE): hardware makes one after some thousand cycles in a tight loop with PAUSE.
PAUSES = ((ISA_VMX, 40), (ISA_SVM, 0x77))
PAUSED = 1_000
#: Preempted means: the vCPU thread could run, and did not. A share of the vCPUs' time below this is the host's tick.
PREEMPTED_SHARE = 0.05

#: prev_state of sched_switch: 0 is running, and so preempted.
_RUNNING = 0


def notified(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """The guest says that it spins for long."""
    call = (pl.col("kind") == "hypercall") & (pl.col("key") == NOTIFY)
    yield from _spinning(
        facts,
        vm,
        advice,
        facts.seconds.filter(pl.col("vm") == vm, ~pl.col("nested"), call),
        NOTIFIED,
        "The guest spins for long at locks: {} (HvCallNotifyLongSpinWait)",
        "notification",
    )


def paused(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """The hardware says that a vCPU spins."""
    reasons = [isa << 32 | reason for isa, reason in PAUSES]
    yield from _spinning(
        facts,
        vm,
        advice,
        facts.seconds.filter(pl.col("vm") == vm, ~pl.col("nested"), pl.col("reason").is_in(reasons)),
        PAUSED,
        "vCPUs wait for others in loops: {} for PAUSE",
        "exit",
    )


def _spinning(
    facts: Facts, vm: int, advice: Advice, rows: pl.DataFrame, least: int, title: str, noun: str
) -> Iterator[Finding | Unjudged]:
    if not facts.in_ns:
        yield Unjudged(advice.code, advice.name, vm, "the clock counts ticks: there are no rates")
        return
    by_second = rows.group_by("second").agg(
        pl.col("count", "time_ns").sum(), pl.col("first_seq").min(), pl.col("last_seq").max()
    )
    busy = by_second.filter(pl.col("count") >= least).sort("count", descending=True)
    if busy.is_empty():
        return
    start = facts.store.manifest.time.get("first_ns") or 0
    count, time_ns = int(rows["count"].sum()), int(rows["time_ns"].sum())
    share = time_ns / facts.vcpu_ns(vm)
    worst = busy.row(0, named=True)
    at = (start + worst["second"] * SECOND) / 1e9
    evidence = [
        Evidence(
            f"{times(len(busy), 'second')} with {least} or more; the worst from {at:.3f}: {worst['count']:,}, which"
            f" took {duration(worst['time_ns'])}",
            int(busy["count"].sum()),
            None,
            int(busy["time_ns"].sum()),
            (worst["first_seq"], worst["last_seq"]),
        )
    ]
    lost = facts.once("preempted", lambda: _preempted(facts)).get(vm) if _scheduling(facts) else None
    if lost is not None:
        evidence.append(
            Evidence(
                f"meanwhile and otherwise the VM's vCPU threads were preempted {times(lost[0], 'time')}, for"
                f" {duration(lost[1])} in all ({percent(lost[1] / facts.vcpu_ns(vm))} of their time), perhaps"
                " with locks held",
                lost[0],
                None,
                lost[1],
            )
        )
    else:
        evidence.append(
            Evidence("whether vCPUs were preempted was not recorded (sched_switch, sched_wakeup)")
        )
    yield Finding(
        advice.code,
        advice.name,
        Severity.HIGH if share >= 0.1 else Severity.MEDIUM,
        vm,
        title.format(times(count, noun)) + f", which took {duration(time_ns)}",
        tuple(evidence),
        change="give the VM's vCPUs host CPUs of their own: more vCPUs than CPUs to run them let holders of locks wait"
        " (pin vCPUs, run fewer of them, or use core scheduling)",
        effect=Effect(
            f"{duration(time_ns)} of vCPU time ({percent(share)}) in these exits, and the spinning before them",
            "adding up these exits; how long the guest spun before each does not show",
            time_ns,
            share,
        ),
    )


def _scheduling(facts: Facts) -> bool:
    return facts.has("sched_switch")


def _preempted(facts: Facts) -> dict[int, tuple[int, int, int, tuple[int, int]]]:
    """VM → how often its vCPU threads were preempted, for how long in all, the longest, and its two events.

    From a switch away from a thread that could go on, to the next switch to it.
    """
    vcpus = [
        {"tid": tid, "vm": vm["vm"], "since": vm.get("first_seq") or 0, "until": vm.get("last_seq")}
        for vm in facts.store.manifest.vms
        for vcpu in vm["vcpus"]
        for tid in vcpu["tids"]
        if vm["vm"] in facts.vms and facts.scope.vcpu in (None, vcpu["vcpu"])
    ]
    if not vcpus:
        return {}
    # A thread may run a VM after another.
    kinds = {"tid": pl.Int32, "vm": pl.UInt16, "since": pl.UInt64, "until": pl.UInt64}
    threads = pl.LazyFrame(vcpus, schema=kinds).sort("since")
    switches = facts.store.scan("sched_switch").filter(pl.lit(value=True), *facts.scope.span())
    away = switches.select(
        "seq", "ts_ns", tid=pl.col("prev_pid").cast(pl.Int32), back=pl.lit(value=False),
        ready=(pl.col("prev_state") & 0xFF) == _RUNNING,
    )  # fmt: skip
    back = switches.select(
        "seq",
        "ts_ns",
        tid=pl.col("next_pid").cast(pl.Int32),
        back=pl.lit(value=True),
        ready=pl.lit(value=False),
    )
    rows = (
        pl.concat([away, back])
        .filter(pl.col("tid").is_in(sorted({vcpu["tid"] for vcpu in vcpus})))
        .sort("seq")
        .join_asof(threads, left_on="seq", right_on="since", by="tid", check_sortedness=False)
        .filter(pl.col("vm").is_not_null(), (pl.col("seq") <= pl.col("until")).fill_null(value=True))
        .sort("vm", "tid", "seq")
        .with_columns(
            pl.col("ready", "ts_ns", "seq").shift(1).over("vm", "tid").name.prefix("before_"),
        )
        .filter(pl.col("back"), pl.col("before_ready"))
        .with_columns(ns=pl.col("ts_ns") - pl.col("before_ts_ns"))
        .filter(pl.col("ns") >= 0)
        .group_by("vm")
        .agg(
            count=pl.len(),
            ns=pl.col("ns").sum(),
            longest=pl.col("ns").max(),
            first=pl.col("before_seq").sort_by("ns").last(),
            last=pl.col("seq").sort_by("ns").last(),
        )
        .collect()
    )
    return {
        vm: (count, ns, longest, (first, last)) for vm, count, ns, longest, first, last in rows.iter_rows()
    }


def preempted(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """Threads of vCPUs that could run wait for a CPU."""
    found = facts.once("preempted", lambda: _preempted(facts)).get(vm)
    if found is None:
        return
    count, ns, longest, seqs = found
    share = ns / facts.vcpu_ns(vm)
    if share < PREEMPTED_SHARE:
        return
    life = facts.life_ns(vm)
    yield Finding(
        advice.code,
        advice.name,
        Severity.HIGH if share >= 4 * PREEMPTED_SHARE else Severity.MEDIUM,
        vm,
        f"vCPU threads that could run waited for a CPU for {duration(ns)}, {percent(share)} of their time",
        (
            Evidence(
                f"preempted {times(count, 'time')}{', ' + each_second(count, life) if facts.in_ns else ''}; the longest"
                f" for {duration(longest)}",
                count,
                count * 1e9 / life if facts.in_ns else None,
                ns,
                seqs,
            ),
        ),
        change="give the vCPU threads host CPUs of their own, or see who else runs there (`hvtrace latency` names those"
        " who ran instead)",
        effect=Effect(
            f"up to {duration(ns)} of vCPU time ({percent(share)})",
            "adding up the times from a switch away from a thread that could go on to the next switch to it",
            ns,
            share,
        ),
    )


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD451",
        "spin-waits",
        "The guest tells that it spins for long at locks, as it does where their holders do not run.",
        ("kvm_exit", "kvm_entry", "kvm_hv_hypercall"),
        notified,
        f"It is found where a VM makes {NOTIFIED} or more calls of HvCallNotifyLongSpinWait within a second. A guest"
        " makes it after so many attempts at a lock as hv-spinlocks says (8191, say), which is longer than locks are"
        " held: the holder does not run. KVM then lets another vCPU of the VM run (directed yield), if it finds one"
        " that was preempted. With sched_switch in the recording the finding says for how long vCPUs were preempted;"
        " Linux guests sleep instead of making this call.",
    ),
    Advice(
        "AD452",
        "pause-exits",
        "vCPUs exit for PAUSE in plenty: they wait in loops for others.",
        ("kvm_exit", "kvm_entry"),
        paused,
        f"It is found where a VM has {PAUSED:,} or more exits of the pause filter (VMX: PAUSE_INSTRUCTION, by PLE; SVM:"
        " pause) within a second. The hardware makes one where a vCPU goes round in a short loop with PAUSE for"
        " thousands of cycles: it waits for another vCPU, which does not run. On a host with CPUs to spare the exits"
        " themselves are the cost (kvm_intel.ple_gap=0, kvm_amd.pause_filter_count=0 switch them off).",
    ),
    Advice(
        "AD453",
        "vcpus-preempted",
        "vCPU threads that could run wait for a host CPU.",
        ("sched_switch", "kvm_exit", "kvm_entry"),
        preempted,
        f"It is found where the VM's vCPU threads spend {percent(PREEMPTED_SHARE)} or more of their time switched away"
        " from though they could go on (sched_switch with prev_state R). Time that a thread waits after it was woken up"
        " is not in it: see wake-up in `hvtrace latency`. While it is preempted in the guest, a vCPU may hold a lock"
        " that others spin for.",
    ),
)
