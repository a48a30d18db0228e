"""Advices on vCPUs that do not get on: the same instruction exits for ever, or KVM itself goes round in a circle."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import polars as pl

from hvtrace.abi.exit_reasons import ISA_SVM, ISA_VMX
from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Evidence, Finding, Severity
from hvtrace.analysis.advice.wording import basic, duration, exit_label, times

__all__ = ["ADVICES"]

#: So many times in a row the same instruction exits and is entered again, with nothing injected in between. An
#: instruction that KVM completes is not entered again; one that faults is, once or twice a page; a host's tick of
#: 250 Hz meets one and the same instruction for a whole second only where the guest executes nothing else.
REPEATS = 256
#: Where it is the host's interrupts that end the guest's turn, it has to be this long as well: interrupts may come much
#: more often than a host's tick, and guests do wait for each other.
STANDS_NS = 1_000_000_000
#: A timer fires once, or is re-armed by the guest, before its vCPU enters the guest again. KVM's four timers of a vCPU
#: and retries make that some; not hundreds.
EXPIRATIONS = 256

_SEQ_BITS = 40

#: Of an access to a port, bits that say it is a string instruction, which stays where it is until it is through.
_STRING = {ISA_VMX: 1 << 4, ISA_SVM: 1 << 2}
_PORTS = {(ISA_VMX, 30), (ISA_SVM, 0x7B)}
#: Being idle is no lack of progress.
_IDLE = {(ISA_VMX, 12), (ISA_VMX, 36), (ISA_SVM, 0x78), (ISA_SVM, 0x8B), (ISA_SVM, 0x8C), (ISA_SVM, 0xA6)}
#: What such an exit tells when it never ends.
_INTERRUPTED = {(ISA_VMX, 1), (ISA_VMX, 52), (ISA_SVM, 0x60), (ISA_SVM, 0x61)}


def no_progress(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """A finding for each vCPU: its longest row of the same exit at the same instruction."""
    for vcpu, runs in _runs(facts).get(vm, {}).items():
        rip, reason, count, seqs, ns = max(runs, key=lambda run: run[2])
        label = exit_label(reason)
        evidence = [
            Evidence(
                f"rip {rip:#x}, {label}: {times(count, 'exit')} in a row, over {duration(ns)}; each entry was at that"
                " instruction again, and nothing was injected meanwhile",
                count,
                None,
                ns,
                seqs,
            )
        ]
        if len(runs) > 1:
            rest = sum(run[2] for run in runs) - count
            evidence.append(
                Evidence(f"{times(len(runs) - 1, 'shorter row')} of that kind, {times(rest, 'exit')}", rest)
            )
        spins = basic(reason) in _INTERRUPTED
        yield Finding(
            advice.code,
            advice.name,
            Severity.MEDIUM if spins else Severity.HIGH,
            vm,
            f"stands at rip {rip:#x}: {times(count, 'exit')} ({label}) in a row",
            tuple(evidence),
            change=(
                "the guest spins there and takes no interrupt: a busy wait for another vCPU, a deadlock, or the loop"
                " after a crash; look at that address in the guest"
                if spins
                else "the instruction is never completed: look at what KVM or the VMM does about this exit (the events"
                " between two of them), and at the instruction in the guest"
            ),
            vcpu=vcpu,
        )


Run = tuple[int, int, int, tuple[int, int], int]


def _runs(facts: Facts) -> dict[int, dict[int, list[Run]]]:
    """VM → vCPU → rows of exits: rip, reason, how many, first and last seq, how long."""
    return facts.once("no-progress", lambda: _found(facts))


def _found(facts: Facts) -> dict[int, dict[int, list[Run]]]:
    runs: dict[int, dict[int, list[Run]]] = {}
    alike = list(_alike(facts))
    if not alike:
        return runs
    rips = _rips(facts, pl.concat([facts.handled[at : at + length] for at, length in alike]))
    start = 0
    for _, length in alike:
        row, start = rips[start : start + length], start + length
        kind = basic(row["reason"][0])
        for first, last in _standing(facts, row):
            own = row[first:last]
            seqs, ns = (own["seq"][0], own["seq"][-1]), own["ts_ns"][-1] - own["ts_ns"][0]
            if kind not in _INTERRUPTED or ns >= STANDS_NS:
                run = (own["guest_rip"][0], own["reason"][0], len(own), seqs, ns)
                runs.setdefault(own["vm"][0], {}).setdefault(own["vcpu"][0], []).append(run)
    return runs


def _alike(facts: Facts) -> Iterator[tuple[int, int]]:
    """Rows of exits of one vCPU, one reason and one subject, long enough: position in Facts.handled, how many."""
    exits = facts.handled
    if exits.is_empty():
        return
    new = np.ones(len(exits), dtype=bool)
    new[1:] = False
    for name in ("tid", "vm", "vcpu", "reason", "about"):
        # No subject has the number 0.
        values = exits[name].fill_null(0).to_numpy()
        new[1:] |= values[1:] != values[:-1]
    starts = np.flatnonzero(new)
    lengths = np.diff(np.append(starts, len(exits)))
    long = lengths >= REPEATS
    starts, lengths = starts[long], lengths[long]
    reasons = exits["reason"].gather(starts).to_list()
    for start, length, reason in zip(starts.tolist(), lengths.tolist(), reasons, strict=True):
        if basic(reason) not in _IDLE:
            yield start, length


def _rips(facts: Facts, rows: pl.DataFrame) -> pl.DataFrame:
    """The same with guest_rip; a string instruction, which stays where it is until it is through, has its seq there."""
    string = pl.lit(value=False)
    for isa, number in sorted(_PORTS):
        here = (pl.col("isa") == isa) & (pl.col("exit_reason") == number)
        string = string | (here & ((pl.col("info1") & _STRING[isa]) != 0))
    rips = (
        facts.store.scan("kvm_exit")
        .select("seq", guest_rip=pl.when(string.fill_null(value=False)).then("seq").otherwise("guest_rip"))
        .join(rows.lazy().select("seq"), on="seq", how="semi")
    )
    return rows.lazy().join(rips, on="seq", how="left", maintain_order="left").collect()


def _standing(facts: Facts, row: pl.DataFrame) -> Iterator[tuple[int, int]]:
    """Parts of a row, as positions in it, that are long enough, at one instruction, with every entry there as well and
    nothing injected.
    """
    rip = row["guest_rip"]
    moved = (rip != rip.shift(1)).fill_null(value=True)
    starts = [*moved.arg_true().to_list(), len(row)]
    for start, end in pairwise(starts):
        if end - start >= REPEATS and rip[start] is not None:
            for first, last in _unbroken(facts, row[start:end]):
                yield start + first, start + last


def _unbroken(facts: Facts, row: pl.DataFrame) -> Iterator[tuple[int, int]]:
    vm, vcpu, rip = row["vm"][0], row["vcpu"][0], row["guest_rip"][0]
    own = [
        pl.col("seq").is_between(row["seq"][0], row["seq"][-1]),
        pl.col("vm") == vm,
        pl.col("vcpu") == vcpu,
    ]
    tables = facts.tables
    breaks = [tables["kvm_entry"].filter(*own, pl.col("rip") != rip)]
    breaks += [tables[name].filter(*own) for name in ("kvm_inj_virq", "kvm_inj_exception") if name in tables]
    at = pl.concat([rows.select("seq") for rows in breaks]).collect()["seq"]
    edges = {0, len(row), *row["seq"].search_sorted(at, side="right").to_list()}
    for first, last in pairwise(sorted(edges)):
        if last - first >= REPEATS:
            yield first, last


def stuck(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """A finding for each vCPU whose timers expired hundreds of times between two entries."""
    for vcpu, timer, count, first, last, ns in facts.once("stuck", lambda: _circles(facts)).get(vm, []):
        yield Finding(
            advice.code,
            advice.name,
            Severity.HIGH,
            vm,
            f"goes round inside KVM: synthetic timer {timer} expired {count:,} times without the guest being entered",
            (
                Evidence(
                    f"{times(count, 'expiration')} of timer {timer} over {duration(ns)} with no kvm_entry of this vCPU"
                    " between them",
                    count,
                    None,
                    ns,
                    (first, last),
                ),
            ),
            change="a fault of KVM: update the host's kernel; `hvtrace replay --check` says which rule it breaks",
            vcpu=vcpu,
        )


def _circles(facts: Facts) -> dict[int, list[tuple[int, int, int, int, int, int]]]:
    """VM → vCPU, timer, expirations, first and last seq, how long: the longest of each vCPU."""
    order = pl.col("tid").cast(pl.UInt64) * (1 << _SEQ_BITS)
    # By thread and seq already.
    entries = facts.handled.select(order=order + pl.col("end_seq"))["order"]
    # How many entries came before: of two expirations with the same number, none lay between.
    rows = (
        facts.tables["kvm_hv_stimer_expiration"]
        .filter(pl.col("vm").is_not_null(), pl.col("vcpu").is_not_null())
        .with_columns(unit=pl.lit(entries).search_sorted(order + pl.col("seq")))
        .group_by("vm", "vcpu", "tid", "timer_index", "unit")
        .agg(
            count=pl.len(),
            first=pl.col("seq").min(),
            last=pl.col("seq").max(),
            ns=pl.col("ts_ns").max() - pl.col("ts_ns").min(),
        )
        .filter(pl.col("count") >= EXPIRATIONS)
        .sort(["count", "first"], descending=[True, False])
        .unique(["vm", "vcpu"], keep="first", maintain_order=True)
        .select("vm", "vcpu", "timer_index", "count", "first", "last", "ns")
        .collect()
    )
    found: dict[int, list[tuple[int, int, int, int, int, int]]] = {}
    for vm, vcpu, timer, count, first, last, ns in rows.iter_rows():
        found.setdefault(vm, []).append((vcpu, timer, count, first, last, ns))
    return found


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD402",
        "no-progress",
        "A vCPU exits over and over at one instruction, which it never gets past.",
        ("kvm_exit", "kvm_entry"),
        no_progress,
        f"It is found where a vCPU has {REPEATS} or more exits in a row for the same reason at the same instruction"
        " pointer, each entry in between is at that instruction again, and no interrupt or exception was injected. An"
        " instruction that KVM completes is followed by an entry behind it; one that is not, over and over, means that"
        " nobody resolves what it exits for. String instructions on ports, which do get on, and idling do not"
        f" count.\n\nWhere the exits are the host's interrupts, the guest itself stands still: it has to last"
        f" {duration(STANDS_NS)} as well. That may be a loop with interrupts off after a crash, a deadlock, or a long"
        " wait for another vCPU.",
    ),
    Advice(
        "AD403",
        "timer-circle",
        "A vCPU's synthetic timer expires again and again inside KVM, which never enters the guest.",
        ("kvm_hv_stimer_expiration", "kvm_exit", "kvm_entry"),
        stuck,
        f"It is found where a synthetic timer of a vCPU expires {EXPIRATIONS} or more times with no kvm_entry of that"
        " vCPU in between. The vCPU then uses a whole host CPU and does nothing, and its guest hangs. Only a fault of"
        " KVM does so; retries of one-shot and of periodic messages without end were such faults.",
    ),
)
