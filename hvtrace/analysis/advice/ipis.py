"""Advices on interprocessor interrupts and TLB flushes, the hypercalls for them, and what is done without."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from hvtrace.abi.exit_reasons import ISA_SVM
from hvtrace.abi.hypercall import HYPERV_HYPERCALLS
from hvtrace.abi.status import status_name
from hvtrace.analysis.advice import snippets
from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Effect, Evidence, Finding, Severity, Unjudged
from hvtrace.analysis.advice.wording import duration, listed, percent, times

__all__ = ["ADVICES"]

SECOND = 1_000_000_000
#: A second counts where sending takes so much of it on a vCPU; a hypercall that sends to many at once saves most of it.
SHARE = 0.05
#: And so many are sent in that second; fewer that take as long are slow for another reason.
COUNT = 100

#: Interrupt command register: x2APIC's MSR, that of hv-vapic; xAPIC's low half at its usual address, whose write sends.
_ICR_MSRS, _ICR_ADDRESS = (0x830, 0x40000071), 0xFEE00300
#: AVIC hands over what it cannot send itself.
_INCOMPLETE = ISA_SVM << 32 | 0x401
_SEND, _FLUSH = (0x0B, 0x15), (0x02, 0x03, 0x13, 0x14)

#: In kvm_apic_ipi's icr_low: delivery mode fixed, and no shorthand "self".
_MODE, _SHORTHAND, _SELF = 0x700, 0xC0000, 0x40000

#: Of calls that fail so many must do so, and this share of them: a guest may try one out.
FAILED, FAILED_SHARE = 10, 0.01

_NAMES = {call.code: call.name for call in HYPERV_HYPERCALLS}


def _by_apic() -> pl.Expr:
    number = pl.col("key") // 2
    return pl.any_horizontal(
        (pl.col("kind") == "msr") & number.is_in(_ICR_MSRS) & (pl.col("key") % 2 == 1),
        (pl.col("kind") == "address") & (number == _ICR_ADDRESS) & (pl.col("key") % 2 == 1),
        pl.col("reason") == _INCOMPLETE,
    ).fill_null(value=False)


def _by_hypercall() -> pl.Expr:
    return ((pl.col("kind") == "hypercall") & pl.col("key").is_in(_SEND)).fill_null(value=False)


def _busy(facts: Facts, vm: int, sending: pl.Expr) -> pl.DataFrame:
    """Seconds of a vCPU in which sending takes much: vcpu, second, count, time_ns, first_seq, last_seq."""
    return (
        facts.seconds.filter(pl.col("vm") == vm, ~pl.col("nested"), sending)
        .group_by("vcpu", "second")
        .agg(pl.col("count", "time_ns").sum(), pl.col("first_seq").min(), pl.col("last_seq").max())
        .filter(pl.col("count") >= COUNT, pl.col("time_ns") >= SHARE * SECOND)
        .sort("second", "vcpu")
    )


def _evidence(facts: Facts, busy: pl.DataFrame) -> Evidence:
    start = facts.store.manifest.time.get("first_ns") or 0
    worst = busy.sort("time_ns", descending=True).row(0, named=True)
    at = (start + worst["second"] * SECOND) / 1e9
    return Evidence(
        f"{times(len(busy), 'second')} of a vCPU with {COUNT} or more, which took {percent(SHARE)} of it or more; the"
        f" worst on vCPU {worst['vcpu']} from {at:.3f}: {times(worst['count'], 'exit')}, {duration(worst['time_ns'])}",
        int(busy["count"].sum()),
        None,
        int(busy["time_ns"].sum()),
        (worst["first_seq"], worst["last_seq"]),
    )


def _vectors(facts: Facts, vm: int) -> list[Evidence]:
    if "kvm_apic_ipi" not in facts.tables:
        return []
    sent = facts.once(
        "ipi vectors",
        lambda: (
            facts.tables["kvm_apic_ipi"]
            .filter(pl.col("icr_low") & _MODE == 0, pl.col("icr_low") & _SHORTHAND != _SELF)
            .group_by("vm", vector=pl.col("icr_low") & 0xFF)
            .agg(count=pl.len().cast(pl.Int64))
            .sort("count", descending=True)
            .collect()
        ),
    ).filter(pl.col("vm") == vm)
    if sent.is_empty():
        return []
    top = [f"{vector:#x} ({count:,})" for _, vector, count in sent.head(3).iter_rows()]
    return [Evidence(f"vectors sent most: {listed(top)}", int(sent["count"].sum()))]


def by_apic(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """Interrupts sent by the APIC, an exit or more for each target, although Hyper-V's call could send them."""
    shown = facts.offered[vm]
    if not facts.in_ns:
        yield Unjudged(advice.code, advice.name, vm, "the clock counts ticks: there are no rates")
        return
    if shown.hyperv is False:
        return
    busy = _busy(facts, vm, _by_apic())
    if busy.is_empty():
        return
    if shown.has("hv-ipi") is None:
        yield Unjudged(
            advice.code, advice.name, vm, "whether hv-ipi is offered does not show in the recording"
        )
        return
    all_ = facts.exits.filter(pl.col("vm") == vm, ~pl.col("nested"), _by_apic())
    count, time_ns = int(all_["count"].sum()), int(all_["time_ns"].sum())
    share = time_ns / facts.vcpu_ns(vm)
    offered = bool(shown.has("hv-ipi"))
    wanted = ["hv-ipi", *([] if shown.has("hv-tlbflush") else ["hv-tlbflush"])]
    flush = (
        ""
        if shown.has("hv-tlbflush")
        else ", and hv-tlbflush, since flushes of other vCPUs' TLBs are such interrupts"
    )
    added = snippets.with_needs(wanted, shown.flags)
    yield Finding(
        advice.code,
        advice.name,
        Severity.LOW if offered else Severity.HIGH if share >= 2 * SHARE else Severity.MEDIUM,
        vm,
        f"vCPUs interrupt each other by the APIC, {times(count, 'exit')} that took {duration(time_ns)}"
        + (", although hv-ipi is offered" if offered else ""),
        (_evidence(facts, busy), *_vectors(facts, vm)),
        change=(
            "the guest does not use the hypercall it is offered: see whether it knows it"
            if offered
            else f"offer hv-ipi: one hypercall sends to any number of vCPUs{flush}"
        ),
        effect=Effect(
            f"at most {duration(time_ns)} of vCPU time ({percent(share)}); a call to a single vCPU costs an exit too,"
            " so that what is saved is that of interrupts to several",
            "adding up the exits that write the interrupt command register; which of them flush TLBs, no event tells",
            time_ns,
            share,
        ),
        qemu=None if offered else snippets.qemu(added),
        libvirt=None if offered else snippets.libvirt(added),
    )


def flushes(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding | Unjudged]:
    """Many calls that send interrupts, of a guest that has no call to flush."""
    shown = facts.offered[vm]
    if not facts.in_ns:
        yield Unjudged(advice.code, advice.name, vm, "the clock counts ticks: there are no rates")
        return
    if shown.hyperv is False or shown.has("hv-tlbflush") is not False:
        return
    busy = _busy(facts, vm, _by_hypercall())
    if busy.is_empty():
        return
    added = snippets.with_needs(["hv-tlbflush"], shown.flags)
    yield Finding(
        advice.code,
        advice.name,
        Severity.LOW,
        vm,
        "vCPUs interrupt each other by hypercall in plenty, and the guest is offered no hypercall to flush TLBs",
        (_evidence(facts, busy),),
        change="offer hv-tlbflush; which of the interrupts flush a TLB no event tells",
        effect=Effect("not known", "nothing: how many of the interrupts are flushes does not show"),
        qemu=snippets.qemu(added),
        libvirt=snippets.libvirt(added),
    )


def failing(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """Calls to send interrupts or flush TLBs that KVM refuses."""
    if not facts.has("kvm_hv_hypercall"):
        # Recorded, and none was made.
        return
    rows = facts.once("ipi and flush calls", lambda: _results(facts)).filter(pl.col("vm") == vm)
    total = int(rows.filter(pl.col("status") != 0)["count"].sum())
    if total < FAILED or total < FAILED_SHARE * int(rows["count"].sum()):
        return
    evidence = []
    for code, own in rows.group_by("code", maintain_order=True):
        made = int(own["count"].sum())
        bad = own.filter(pl.col("status") != 0)
        failed = int(bad["count"].sum())
        if not failed:
            continue
        statuses = [
            f"{status_name(status)} ({count:,})" for status, count in bad.select("status", "count").rows()
        ]
        name = _NAMES.get(code[0], f"{code[0]:#x}")
        sentence = f"{failed:,} of {times(made, 'call')} of {name}: {listed(statuses)}"
        evidence.append(Evidence(sentence, failed, seqs=tuple(bad["first_seq"].head(3))))
    yield Finding(
        advice.code,
        advice.name,
        Severity.MEDIUM,
        vm,
        f"{times(total, 'hypercall')} to send interrupts or flush TLBs failed",
        tuple(evidence),
        change="a guest that is refused goes the slow way, or not at all: see `hvtrace replay --check` for whether KVM"
        " was right to refuse",
    )


def _results(facts: Facts) -> pl.DataFrame:
    """Calls of these kinds by vm, code and status: count, first_seq; those of no known result left out."""
    calls = facts.tables["kvm_hv_hypercall"].filter(
        pl.col("code").is_in(_SEND + _FLUSH), pl.col("vm").is_not_null()
    )
    done = facts.tables["kvm_hv_hypercall_done"].select("tid", done="seq", status=pl.col("result") & 0xFFFF)
    later = facts.tables["kvm_hv_hypercall"].select("tid", called="seq")
    return (
        calls.select("vm", "tid", "seq", "code")
        .sort("seq")
        .join_asof(
            done.sort("done"),
            left_on="seq",
            right_on="done",
            by="tid",
            strategy="forward",
            check_sortedness=False,
        )
        # A call without a result must not take that of the next.
        .join_asof(
            later.sort("called"),
            left_on="seq",
            right_on="called",
            by="tid",
            strategy="forward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        .filter(
            pl.col("done").is_not_null(), pl.col("called").is_null() | (pl.col("called") > pl.col("done"))
        )
        .group_by("vm", "code", "status")
        .agg(count=pl.len().cast(pl.Int64), first_seq=pl.col("seq").min())
        .sort("vm", "code", "count", descending=[False, False, True])
        .collect()
    )


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD310",
        "ipi-by-apic",
        "A guest that knows Hyper-V sends interprocessor interrupts by the APIC in plenty: hv-ipi.",
        ("kvm_exit", "kvm_entry"),
        by_apic,
        f"It is found where, in some second of a vCPU, {COUNT} or more writes of the interrupt command register (MSR"
        f" 0x830, MSR 0x40000071, address 0xfee00300) take {percent(SHARE)} or more of it, in a guest that is offered"
        " Hyper-V, or may be. Each such write is an exit; to several vCPUs it takes several of them, where one"
        " hypercall would do.\n\n"
        "Which of these interrupts flush the TLBs of other vCPUs, no event tells: the vectors sent most are listed, and"
        " hv-tlbflush is advised beside hv-ipi, if it is not offered.",
    ),
    Advice(
        "AD311",
        "flush-by-ipi",
        "A guest sends interrupts by hypercall in plenty, and has no hypercall to flush TLBs: hv-tlbflush.",
        ("kvm_exit", "kvm_entry", "kvm_hv_hypercall"),
        flushes,
        f"It is found where, in some second of a vCPU, {COUNT} or more calls of HvCallSendSyntheticClusterIpi or its"
        f" extended form take {percent(SHARE)} or more of it, and hv-tlbflush is known not to be offered. A flush by"
        " interrupts waits until every vCPU has run to answer, also those that the host preempted; the hypercall lets"
        " those that do not run flush later. The vectors do not tell what an interrupt is for, so that this is a hint.",
    ),
    Advice(
        "AD312",
        "ipi-flush-refused",
        "Hypercalls to send interrupts or flush TLBs fail.",
        ("kvm_hv_hypercall", "kvm_hv_hypercall_done"),
        failing,
        f"It is found where {FAILED} or more of the hypercalls to send interrupts (0x0b, 0x15) and to flush TLBs (0x02,"
        f" 0x03, 0x13, 0x14), and {percent(FAILED_SHARE)} or more of them all, have a result other than success. A"
        " guest that is refused takes the slow way each time, or believes that it was done. Test guests do so on"
        " purpose.",
    ),
)
