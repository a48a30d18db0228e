"""Which clock a guest reads, and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from advice_cases.enlightenments import HYPERCALL, SECOND, TIME, guest, reads, unit, wrmsr
from builders.store import Row, tiny_store

from hvtrace.analysis.advice.finding import Severity
from hvtrace.analysis.advise import Question, advise
from hvtrace.store import Store

TIME_REF_COUNT, REFERENCE_TSC = 0x4000_0020, 0x4000_0021
MSR_EXIT = 0x7C


def test_figures_are_those_of_a_walk_over_the_events(recorded: Callable[..., Store]) -> None:
    """Reads of the HPET's counter and their time: what a plain walk over exits and entries finds."""
    store = recorded("linux-clock-hpet-1s")
    tables = {"kvm_exit": "exit", "kvm_entry": "entry", "kvm_mmio": "mmio"}
    events = sorted(
        (row["seq"], row["ts_ns"], tables[name], row["tid"], row.get("gpa"), row.get("type"))
        for name in tables
        for row in store.scan(name).collect().iter_rows(named=True)
        if row["vcpu"] is not None
    )
    opened: dict[int, tuple[int, bool]] = {}
    entered: set[int] = set()
    count = time_ns = 0
    for _, ts, kind, tid, address, access in events:
        if kind == "exit" and tid in entered:
            opened[tid] = (ts, False)
        elif kind == "mmio" and address == 0xFED0_00F0 and access != 2 and tid in opened:
            opened[tid] = (opened[tid][0], True)
        elif kind == "entry":
            entered.add(tid)
            if tid in opened:
                start, read = opened.pop(tid)
                count, time_ns = count + read, time_ns + (ts - start if read else 0)
    (found,) = advise(store, Question(codes=("AD202",))).findings
    assert (found.evidence[0].count, found.evidence[0].time_ns) == (count, time_ns)
    assert found.effect is not None
    length_ns = store.manifest.time["duration_ns"]
    assert length_ns is not None
    assert found.effect.saved_share == pytest.approx(time_ns / length_ns)
    assert found.severity is Severity.HIGH


def test_a_burst_is_no_habit(tmp_path: Path) -> None:
    """A boot that reads the PIT 20,000 times in 0.4 s, and then no more: nothing is found in ten seconds."""
    burst = reads(port=0x40, rate=50_000, seconds=1)[: 3 * 20_000 + 1]
    store = tiny_store(tmp_path / "boot.hvt", burst, last_ns=10 * SECOND)
    answer = advise(store, Question(codes=("AD205",)))
    assert (answer.findings, [fine.code for fine in answer.fine]) == ([], ["AD205"])


@pytest.mark.parametrize(("rate", "found"), [(90, 0), (110, 1)])
def test_the_rate_that_counts(tmp_path: Path, rate: int, found: int) -> None:
    """From 100 reads a second on, in three slices."""
    store = tiny_store(tmp_path / "pit.hvt", reads(port=0x40, rate=rate, seconds=5))
    assert len(advise(store, Question(codes=("AD205",))).findings) == found


def counter_reads(start: int) -> list[Row]:
    """The reference counter, 200 times a second for four seconds."""
    return [
        row
        for n in range(800)
        for row in unit(
            start + n * SECOND // 200, MSR_EXIT, "kvm_msr", write=0, ecx=TIME_REF_COUNT, data=n, exception=0
        )
    ]


def advised(path: Path, rows: list[Row], cpu: str | None = None) -> tuple[str, str]:
    """What AD204 and AD201 say: the change, and the clock in use."""
    store = tiny_store(path, rows)
    if cpu is not None:
        store.manifest.host["qemu_command"] = f"qemu-system-x86_64 -cpu {cpu}"
    answer = advise(store, Question(codes=("AD201", "AD204")))
    by = {found.code: found for found in answer.findings}
    return str(by["AD204"].change), by["AD201"].title


def test_a_page_that_the_guest_enabled_and_does_not_read(tmp_path: Path) -> None:
    """It could: the guest was told to read the MSR."""
    rows = [*guest(HYPERCALL | TIME), *wrmsr(600_000, REFERENCE_TSC, 0x1000 | 1), *counter_reads(SECOND)]
    change, title = advised(tmp_path / "page.hvt", rows)
    assert change.startswith("let the guest choose the TSC page")
    assert title == "The guest's clock: HV_X64_MSR_TIME_REF_COUNT"


def test_a_page_that_the_host_marks_invalid(tmp_path: Path) -> None:
    """Its master clock is off: the host is at fault, not the guest."""
    off: Row = (700_000, "kvm_update_master_clock", 0, 0, {"use_master_clock": False, "host_clock": 2})
    rows = [*guest(HYPERCALL | TIME), *wrmsr(600_000, REFERENCE_TSC, 0x1001), off, *counter_reads(SECOND)]
    change, _ = advised(tmp_path / "invalid.hvt", rows)
    assert change.startswith("let the host keep time by its TSC")


def test_a_page_that_the_guest_never_enables(tmp_path: Path) -> None:
    """The guest's start is in the recording: it did not."""
    change, _ = advised(tmp_path / "never.hvt", [*guest(HYPERCALL | TIME), *counter_reads(SECOND)])
    assert change.startswith("let the Windows guest use the TSC page that hv-time offers")


def test_a_recording_that_begins_late(tmp_path: Path) -> None:
    """Whether the guest enabled the page is not known, and that is said."""
    rows: list[Row] = [(0, "kvm_entry", 0, 0, {}), *counter_reads(SECOND)]
    change, _ = advised(tmp_path / "late.hvt", rows, "host,hv-time")
    assert change.startswith("if the guest has enabled the TSC page, let it choose that clock")


def test_reads_through_the_tsc_page_leave_no_trace(recorded: Callable[..., Store]) -> None:
    """A guest with the TSC page reads the counter a few times at most: the page is its clock."""
    store = recorded("linux-vmbus-msg")
    answer = advise(store, Question(codes=("AD201", "AD204")))
    assert [found.title for found in answer.findings] == [
        "The guest's clock: Hyper-V's TSC page, read without an exit"
    ]
    counted = store.scan("kvm_msr").filter(pl.col("ecx") == TIME_REF_COUNT).select(pl.len()).collect().item()
    assert counted < 100


def test_ticks_of_unknown_length_have_no_rate(tmp_path: Path) -> None:
    """Where the clock counts ticks, rates are not known: not judged."""
    store = tiny_store(tmp_path / "ticks.hvt", reads(port=0x40, rate=300, seconds=4), unit="ticks")
    answer = advise(store, Question(codes=("AD205",)))
    assert [open_.reason for open_ in answer.unjudged] == ["the clock counts ticks: rates are not known"]
    assert answer.findings == []


def test_a_tsc_that_the_guest_may_distrust(recorded: Callable[..., Store]) -> None:
    """Where CPUID shows no invariant TSC, that is said: it is why a guest may fall back on the HPET."""
    (found,) = advise(recorded("linux-hv-min-boot"), Question(codes=("AD202",))).findings
    assert found.evidence[-1].sentence == "CPUID shows no invariant TSC (0x80000007.EDX, bit 8)"
    assert "invtsc" in str(found.change)
