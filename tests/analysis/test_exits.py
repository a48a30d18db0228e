"""The answer of `hvtrace exits`: rows, figures, what is left out; against the same found event by event."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from builders.store import Row, tiny_store

from hvtrace.analysis.exits import BY, Question, exits
from hvtrace.analysis.figures import FIGURES, SORT_KEYS, histograms, statistics
from hvtrace.errors import InputError
from hvtrace.store import Store

IO, HLT = 0x7B, 0x78


def exit_at(ts: int, reason: int, vcpu: int = 0) -> Row:
    return ts, "kvm_exit", vcpu, 0, {"isa": 2, "exit_reason": reason}


def entry(ts: int, vcpu: int = 0) -> Row:
    return ts, "kvm_entry", vcpu, 0, {}


EVENTS: list[Row] = [
    entry(0),
    exit_at(10, IO),
    (12, "kvm_pio", 0, 0, {"rw": 1, "port": 0x3F8}),
    (20, "kvm_userspace_exit", 0, 0, {"reason": 2, "errno": 0}),
    entry(40),
    exit_at(50, HLT),
    entry(120),
    exit_at(130, IO),
    (131, "kvm_pio", 0, 0, {"rw": 0, "port": 0x64}),
    entry(140),
    exit_at(150, HLT),
]


def test_an_answer(tmp_path: Path) -> None:
    """Counts, shares, times in the kernel and in userspace, percentiles that occurred; the longest time first."""
    answer = exits(tiny_store(tmp_path / "t.hvt", EVENTS))
    assert (answer.count, answer.time_ns) == (3, 110)
    assert answer.excluded == {"lost": 0, "backwards": 0, "unpaired": 1, "unattributed": 0}
    hlt, io = answer.rows
    assert hlt["reason"] == "hlt"
    assert io == {
        "reason": "io",
        "nested": False,
        "count": 2,
        "count_share": 2 / 3,
        "time_ns": 40,
        "time_share": 40 / 110,
        "kernel_ns": 20,
        "userspace_ns": 20,
        "min_ns": 10,
        "mean_ns": 20,
        "max_ns": 30,
        "deviation": pytest.approx(50.0),
        "p50_ns": 10,
        "p90_ns": 30,
        "p99_ns": 30,
        "p99_9_ns": 30,
    }
    assert list(io) == ["reason", "nested", *FIGURES] == answer.question.columns


def test_reasons_broken_down(tmp_path: Path) -> None:
    """Exits that are about a port, each port and direction by itself; shares stay those of all exits."""
    answer = exits(tiny_store(tmp_path / "t.hvt", EVENTS), Question(by=("port", "vcpu")))
    found = [[row[name] for name in answer.question.columns[:8]] for row in answer.rows]
    assert found == [
        [0, 0, "io", False, 0x3F8, "out", 1, 1 / 3],
        [0, 0, "io", False, 0x64, "in", 1, 1 / 3],
    ]
    assert answer.labels == ["VM 0 vCPU 0 io out 0x3f8", "VM 0 vCPU 0 io in 0x64"]
    assert answer.count == 3


def test_a_span_takes_exits_by_their_own_time(tmp_path: Path) -> None:
    """An exit counts where it lies in the span; its entry may lie behind it."""
    answer = exits(tiny_store(tmp_path / "t.hvt", EVENTS), Question(first_ns=50, last_ns=149))
    assert [(row["reason"], row["time_ns"]) for row in answer.rows] == [("hlt", 70), ("io", 10)]
    assert exits(tiny_store(tmp_path / "u.hvt", EVENTS), Question(first_ns=10, last_ns=50)).count == 2
    assert answer.excluded["unpaired"] == 0


def test_a_span_takes_a_read_of_mmio_by_its_value(tmp_path: Path) -> None:
    """That is the event it is about, though its time begins with the exit."""

    def mmio(ts: int, kind: int, gpa: int) -> Row:
        return ts, "kvm_mmio", 0, 0, {"type": kind, "gpa": gpa}

    rows = [entry(0), exit_at(10, IO), mmio(20, 1, 0x10), entry(30)]
    rows += [exit_at(40, IO), mmio(50, 2, 0x20), entry(60)]
    store = tiny_store(tmp_path / "t.hvt", rows)
    for first, last, expected in [(15, 25, ["0x10:R"]), (0, 15, []), (45, 55, ["0x20:W"]), (55, 65, [])]:
        answer = exits(store, Question(event="mmio", first_ns=first, last_ns=last))
        assert [row["reason"] for row in answer.rows] == expected
        assert answer.excluded["unpaired"] == 0


def test_an_event_of_another_kind(tmp_path: Path) -> None:
    """`ioport` names its rows as perf does."""
    answer = exits(tiny_store(tmp_path / "t.hvt", EVENTS), Question(event="ioport"))
    found = [(row["reason"], row["port"], row["access"], row["time_ns"]) for row in answer.rows]
    assert found == [("0x3f8:POUT", 0x3F8, "out", 28), ("0x64:PIN", 0x64, "in", 9)]


def test_numbers_without_a_name_are_shown_as_numbers(tmp_path: Path) -> None:
    """Also flags above the basic reason of VMX."""
    rows: list[Row] = [entry(0)]
    for isa, reason in ((2, 0x7FF0), (2, 0x10078), (1, 30), (1, 0x80000021), (1, 0xFFF0), (0, 5)):
        ts = 10 * len(rows)
        rows += [(ts, "kvm_exit", 0, 0, {"isa": isa, "exit_reason": reason}), entry(ts + 1)]
    answer = exits(tiny_store(tmp_path / "t.hvt", rows), Question(sort="reason"))
    names = [row["reason"] for row in answer.rows]
    assert names == ["0x10078", "0x5", "0x7ff0", "0xfff0", "INVALID_STATE FAILED_VMENTRY", "IO_INSTRUCTION"]


def test_hypercalls_by_name(tmp_path: Path) -> None:
    """Hyper-V's and KVM's own have the same numbers and different names."""
    rows: list[Row] = [entry(0)]
    calls = [
        ("kvm_hv_hypercall", "code", 0x5C),
        ("kvm_hv_hypercall", "code", 0x9999),
        ("kvm_hypercall", "nr", 5),
    ]
    for tracepoint, column, number in [*calls, ("kvm_hypercall", "nr", 99)]:
        ts = 10 * len(rows)
        rows += [exit_at(ts, 0x81), (ts + 1, tracepoint, 0, 0, {column: number}), entry(ts + 2)]
    answer = exits(tiny_store(tmp_path / "t.hvt", rows), Question(by=("hypercall",), sort="reason"))
    names = [(row["hypercall"], row["code"]) for row in answer.rows]
    assert names == [("0x9999", 0x9999), ("HvCallPostMessage", 0x5C), ("KVM 99", 99), ("KVM_HC_KICK_CPU", 5)]


def test_exits_of_a_nested_guest_are_rows_apart(tmp_path: Path) -> None:
    """KVM traces kvm_nested_vmexit for each exit from L2; built from that rule."""
    nested = (12, "kvm_nested_vmexit", 0, 0, {"isa": 2, "exit_reason": IO})
    rows = [entry(0), exit_at(10, IO), nested, entry(20), exit_at(30, IO), entry(33)]
    answer = exits(tiny_store(tmp_path / "t.hvt", rows))
    assert [(row["reason"], row["nested"], row["time_ns"]) for row in answer.rows] == [
        ("io", True, 10),
        ("io", False, 3),
    ]
    assert answer.labels == ["L2 io", "io"]


def test_exits_of_a_real_nested_guest_are_rows_apart(recorded: Callable[..., Store]) -> None:
    """`trace-cmd report | awk` counts 16 kvm_nested_vmexit by reason: 8 npf, 3 hypercall, 3 msr, 2 io."""
    answer = exits(recorded("selftest-hyperv_svm_test"), Question(sort="count"))
    nested = {row["reason"]: row["count"] for row in answer.rows if row["nested"]}
    assert nested == {"npf": 8, "hypercall": 3, "msr": 3, "io": 2}
    assert {row["reason"] for row in answer.rows if not row["nested"]} >= {"vmrun", "vmload", "vmsave", "npf"}


def test_accesses_of_nested_guests_are_not_apart(tmp_path: Path) -> None:
    """Only exits are."""
    pio = {"rw": 1, "port": 0x80}
    nested = (12, "kvm_nested_vmexit", 0, 0, {"isa": 2, "exit_reason": IO})
    rows: list[Row] = [entry(0), exit_at(10, IO), nested, (13, "kvm_pio", 0, 0, pio), entry(20)]
    rows += [exit_at(30, IO), (31, "kvm_pio", 0, 0, pio), entry(33)]
    answer = exits(tiny_store(tmp_path / "t.hvt", rows), Question(event="ioport"))
    assert [(row["reason"], row["count"]) for row in answer.rows] == [("0x80:POUT", 2)]


def test_what_took_longer_is_listed_one_by_one(tmp_path: Path) -> None:
    """The longest first, with both events; rows count these alone, shares stay those of all."""
    answer = exits(tiny_store(tmp_path / "t.hvt", EVENTS), Question(than_ns=10, interval_ns=1000))
    assert answer.slow_labels == ["VM 0 vCPU 0 hlt", "VM 0 vCPU 0 io"]
    assert answer.slow[1] == {
        "vm": 0,
        "vcpu": 0,
        "reason": "io",
        "nested": False,
        "tid": 100,
        "seq": 1,
        "ts_ns": 10,
        "end_seq": 4,
        "end_ns": 40,
        "ns": 30,
        "userspace_ns": 20,
    }
    assert [(row["reason"], row["count"], row["count_share"]) for row in answer.rows] == [
        ("hlt", 1, 1 / 3),
        ("io", 1, 1 / 3),
    ]
    assert answer.count == 3


def test_rates_over_time(tmp_path: Path) -> None:
    """Parts of the time begin with the recording; an exit is in the part in which it begins."""
    answer = exits(tiny_store(tmp_path / "t.hvt", EVENTS), Question(interval_ns=50))
    found = [(row["from_ns"], row["reason"], row["count"], row["per_second"]) for row in answer.rows]
    assert found == [(0, "io", 1, 2e7), (50, "hlt", 1, 2e7), (100, "io", 1, 2e7)]
    later: list[Row] = [(ts + 7_000_000_003, table, vcpu, cpu, own) for ts, table, vcpu, cpu, own in EVENTS]
    parts = exits(tiny_store(tmp_path / "v.hvt", later), Question(interval_ns=50)).rows
    assert [row["from_ns"] for row in parts] == [7_000_000_003, 7_000_000_053, 7_000_000_103]
    ticks = exits(tiny_store(tmp_path / "u.hvt", EVENTS, unit="ticks"), Question(interval_ns=50))
    assert {row["per_second"] for row in ticks.rows} == {None}


def test_histograms_have_steps_of_powers_of_two() -> None:
    """Each time is in the step that begins with the largest power of two that it reaches; 0 ns has its own."""
    frame = pl.LazyFrame({"key": [7] * 9, "ns": [0, 1, 2, 3, 4, 7, 8, (1 << 40) - 1, 1 << 62]})
    row = histograms(frame, ["key"]).collect().row(0, named=True)
    assert row["starts"] == [0, 1, 2, 4, 8, 1 << 39, 1 << 62]
    assert row["ends"] == [1, 2, 4, 8, 16, 1 << 40, (1 << 63) - 1]
    assert row["counts"] == [1, 1, 2, 2, 1, 1, 1]


@pytest.mark.parametrize("event", ["vmexit", "ioport"])
def test_histograms_and_intervals_add_up(recorded: Callable[..., Store], event: str) -> None:
    """Every pair is in one step, and in one part of the time."""
    store = recorded("baseline-hvmut-stimer")
    answer = exits(store, Question(event=event, histogram=True))
    for row in answer.rows:
        assert row["count"] == sum(count for *_, count in row["histogram"])
        assert row["histogram"][0][0] <= row["min_ns"] < row["histogram"][0][1]
        assert row["histogram"][-1][0] <= row["max_ns"] < row["histogram"][-1][1]
    parts = exits(store, Question(event=event, interval_ns=100_000_000, than_ns=0, histogram=True)).rows
    assert len({row["from_ns"] for row in parts}) > 10
    for name in ("count", "time_ns", "userspace_ns"):
        sums: Counter[str] = Counter()
        for row in parts:
            sums[row["reason"]] += row[name]
        assert {row["reason"]: row[name] for row in answer.rows if row[name]} == +sums


def test_percentiles_are_values_that_occurred() -> None:
    """The smallest value that at least so many of the pairs do not exceed."""
    frame = pl.LazyFrame({"key": [0] * 1000, "ns": range(1, 1001), "userspace_ns": [0] * 1000})
    row = statistics(frame, ["key"]).collect().row(0, named=True)
    assert [row[name] for name in ("p50_ns", "p90_ns", "p99_ns", "p99_9_ns")] == [500, 900, 990, 999]


@pytest.mark.parametrize("word", SORT_KEYS)
def test_the_largest_comes_first(recorded: Callable[..., Store], word: str) -> None:
    """Whatever the figure."""
    rows = exits(recorded("baseline-hvmut-stimer"), Question(sort=word)).rows
    values = [row[SORT_KEYS[word]] for row in rows]
    assert len(set(values)) > 1
    assert values == sorted(values, reverse=True)


MISSING = [
    ([entry(0), entry(5)], "holds no kvm_exit events: there is nothing to count"),
    ([exit_at(0, IO), exit_at(5, IO)], "holds no kvm_entry events: when an exit ends is not known"),
]


@pytest.mark.parametrize(("rows", "message"), MISSING)
def test_a_store_without_entries_or_exits_is_refused(tmp_path: Path, rows: list[Row], message: str) -> None:
    """An empty answer would look like a quiet machine."""
    with pytest.raises(InputError, match=message):
        exits(tiny_store(tmp_path / "t.hvt", rows))


#: What an exit is about: tracepoint, columns of a row of the answer and how they follow from the event; which counts.
ABOUT: dict[str, dict[str, Callable[[dict[str, Any]], tuple[Any, ...]]]] = {
    "msr": {"kvm_msr": lambda e: (e["ecx"], "write" if e["write"] else "read")},
    "port": {"kvm_pio": lambda e: (e["port"], "out" if e["rw"] else "in")},
    "address": {"kvm_mmio": lambda e: (e["gpa"], "write" if e["type"] == 2 else "read")},
    "hypercall": {"kvm_hv_hypercall": lambda e: (e["code"],), "kvm_hypercall": lambda e: (e["nr"],)},
    "cpuid": {"kvm_cpuid": lambda e: (e["function"],)},
    "vector": {"kvm_inj_virq": lambda e: (e["vector"],)},
}
COLUMNS = {
    "msr": ("index", "access"),
    "port": ("port", "access"),
    "address": ("address", "access"),
    "hypercall": ("code",),
    "cpuid": ("cpuid",),
    "vector": ("vector",),
}


def one_by_one(store: Store, subject: str) -> dict[tuple[Any, ...], tuple[int, int, int]]:
    """(VM, vCPU, reason, what it is about) → count, time, time in userspace; found event by event."""
    wanted = ABOUT[subject]
    events: list[dict[str, Any]] = []
    for table in ("kvm_entry", "kvm_exit", "kvm_userspace_exit", *wanted):
        if store.has(table):
            frame = store.scan(table).filter(pl.col("vcpu").is_not_null()).collect()
            events += [row | {"table": table} for row in frame.iter_rows(named=True)]
    sums: Counter[tuple[Any, ...]] = Counter()
    times: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    open_exit: dict[int, dict[str, Any] | None] = {}
    details: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    returned: dict[int, int | None] = {}
    for event in sorted(events, key=lambda e: e["seq"]):
        tid, table = event["tid"], event["table"]
        if table == "kvm_entry":
            begin = open_exit.get(tid)
            if begin and details[tid] and (begin["vm"], begin["vcpu"]) == (event["vm"], event["vcpu"]):
                about = details[tid][-1 if subject == "vector" else 0]
                key = (begin["vm"], begin["vcpu"], begin["exit_reason_name"], *about)
                sums[key] += 1
                times[key][0] += event["ts_ns"] - begin["ts_ns"]
                if (since := returned[tid]) is not None:
                    times[key][1] += event["ts_ns"] - since
            open_exit[tid], details[tid], returned[tid] = None, [], None
        elif tid not in open_exit:
            continue
        elif table == "kvm_exit":
            open_exit[tid], returned[tid] = event, None
        elif table == "kvm_userspace_exit":
            if open_exit[tid] and returned[tid] is None:
                returned[tid] = event["ts_ns"]
        else:
            details[tid].append(wanted[table](event))
    return {key: (count, times[key][0], times[key][1]) for key, count in sums.items()}


@pytest.mark.parametrize("subject", ABOUT)
@pytest.mark.parametrize("name", ["baseline-hvmut-stimer", "kut-hyperv_synic", "selftest-hyperv_features"])
def test_broken_down_as_event_by_event(recorded: Callable[..., Store], name: str, subject: str) -> None:
    """Every row of every breakdown has the count and the times that a loop over the events finds."""
    store = recorded(name)
    answer = exits(store, Question(by=("vcpu", subject)))
    keys = ("vm", "vcpu", "reason", *COLUMNS[subject])
    found = {
        tuple(row[key] for key in keys): (row["count"], row["time_ns"], row["userspace_ns"])
        for row in answer.rows
    }
    assert one_by_one(store, subject) == found
    assert len(found) == len(answer.rows)


def test_every_subject_is_held_against_the_loop() -> None:
    """A new one needs its row here."""
    assert set(BY) == {"vm", "vcpu", *ABOUT}


@pytest.mark.parametrize("name", ["kut-hyperv_synic", "two-vms", "selftest-hyperv_features", "lossy"])
def test_every_exit_is_accounted_for(recorded: Callable[..., Store], name: str) -> None:
    """It counts, or is excluded for one reason."""
    store = recorded(name)
    answer = exits(store)
    assert store.manifest.events["kvm_exit"] == answer.count + sum(answer.excluded.values())
    assert answer.count == sum(row["count"] for row in answer.rows)
    assert answer.time_ns == sum(row["kernel_ns"] + row["userspace_ns"] for row in answer.rows)


def test_parts_add_up(recorded: Callable[..., Store]) -> None:
    """The answers for each VM, for each vCPU, and for two halves of the time add up to the whole."""
    store = recorded("two-vms")
    whole = exits(store)
    middle = (store.manifest.time["first_ns"] + store.manifest.time["last_ns"]) // 2
    for parts in (
        [Question(vm=0), Question(vm=1)],
        [Question(vcpu=0), Question(vcpu=1)],
        [Question(last_ns=middle), Question(first_ns=middle + 1)],
    ):
        answers = [exits(store, question) for question in parts]
        assert (whole.count, whole.time_ns) == (
            sum(a.count for a in answers),
            sum(a.time_ns for a in answers),
        )
        assert all(a.count for a in answers)
    by_vcpu = exits(store, Question(by=("vcpu",)))
    assert {(row["vm"], row["vcpu"]) for row in by_vcpu.rows} == {(0, 0), (1, 0), (1, 1)}
