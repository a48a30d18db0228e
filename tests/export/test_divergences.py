"""Divergences on the timeline."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from builders.perfetto_ui import PerfettoUi, perfetto_ui
from builders.store import Row, add_divergences, tiny_store
from builders.timeline import Drawn, Timeline, read_timeline
from recordings import get

from hvtrace.export.divergences import without_verdicts
from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import WINDOW, Which
from hvtrace.pipeline.check import check
from hvtrace.pipeline.ingest import ingest
from hvtrace.replay.verdict import Divergence
from hvtrace.store import Store

EVENTS: list[Row] = [
    (100, "kvm_entry", 0, 0, {}),
    (200, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x7C}),
    (250, "kvm_msr", 0, 0, {"write": 1, "ecx": 0x40000091, "data": 0x10041, "exception": 0}),
    (300, "kvm_entry", 0, 0, {}),
    (400, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x7C}),
    (450, "kvm_msr", 0, 0, {"write": 1, "ecx": 0x40000092, "data": 0x5, "exception": 0}),
    (500, "kvm_entry", 0, 0, {}),
    (600, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x7C}),
    (650, "kvm_msr", 0, 0, {"write": 0, "ecx": 0x40000092, "data": 0x5, "exception": 0}),
    (700, "kvm_entry", 0, 0, {}),
]
ONE: dict[str, Any] = {
    "rule": "HV201",
    "name": "msr-fault-missing",
    "severity": "error",
    "seq": 5,
    "ts_ns": 450,
    "vm": 0,
    "vcpu": 0,
    "tracepoint": "kvm_msr",
    "expected": "(#GP)",
    "observed": "no fault",
    "message": "the write of HV_X64_MSR_SINT2 must raise #GP",
    "count": 3,
    "known": False,
    "history": [2, 5],
}
ON_VCPU, ON_VM = ("VM 0", "vCPU 0", "Divergences"), ("VM 0", "Divergences")


def drawn(store: Store, which: Which | None = None, window: int = WINDOW) -> Timeline:
    out = io.BytesIO()
    write_trace(store, out, which, window=window)
    return read_timeline(out.getvalue())


def found(folder: Path, *rows: dict[str, Any], events: list[Row] = EVENTS) -> Timeline:
    """The timeline of a store with these divergences."""
    store = tiny_store(folder / "t.hvt", events)
    add_divergences(store, list(rows))
    return drawn(store)


def arrows(timeline: Timeline) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """Beginning and name at either end of each arrow, in order of time."""
    return sorted(((a.start, a.name), (b.start, b.name)) for a, b in timeline.arrows())


def test_a_divergence_is_an_instant_on_its_vcpu_and_on_its_vm(tmp_path: Path) -> None:
    """Rule, name and severity are its name; what was expected and observed and what led there are arguments."""
    on_vcpu, on_vm = found(tmp_path, ONE).instants
    assert (on_vcpu.track, on_vm.track) == (ON_VCPU, ON_VM)
    assert (
        (on_vcpu.start, on_vcpu.name) == (450, "HV201 msr-fault-missing (error)") == (on_vm.start, on_vm.name)
    )
    assert on_vcpu.arguments == {
        "severity": "error",
        "rule": "HV201",
        "name": "msr-fault-missing",
        "expected": "(#GP)",
        "observed": "no fault",
        "message": "the write of HV_X64_MSR_SINT2 must raise #GP",
        "count": 3,
        "known": False,
        "tracepoint": "kvm_msr",
        "seq": 5,
        "vcpu": 0,
        "history": [
            "2 kvm_msr write=1 ecx=0x40000091 data=0x10041 exception=0",
            "5 kvm_msr write=1 ecx=0x40000092 data=0x5 exception=0",
        ],
    }
    assert on_vm.arguments == on_vcpu.arguments


def test_each_is_counted_once_by_its_category(tmp_path: Path) -> None:
    """Shown again it has another; without a vCPU it is on the VM's track alone, without a VM on the recording's."""
    timeline = found(tmp_path, ONE, ONE | {"vcpu": None}, ONE | {"vm": None, "vcpu": None})
    assert [(i.track, i.category) for i in timeline.instants] == [
        (ON_VCPU, "divergence"),
        (ON_VM, "divergence of VM"),
        (ON_VM, "divergence"),
        (("Recording", "Divergences"), "divergence"),
    ]


def test_errors_warnings_and_known_ones_are_told_apart(tmp_path: Path) -> None:
    """By name and colour; two rules of one severity have one colour; older stores know less."""
    warning, known = ONE | {"severity": "warning"}, ONE | {"known": True}
    other, older = ONE | {"rule": "HV204"}, ONE | {"severity": None}
    shown = [i for i in found(tmp_path, ONE, warning, known, other, older).instants if i.track == ON_VCPU]
    words = ["(error)", "(warning)", "(known)", "(error)", "msr-fault-missing"]
    assert [i.name.split()[-1] for i in shown] == words
    colours = [i.correlation for i in shown]
    assert colours[0] == colours[3]
    assert len(set(colours)) == 4


def test_those_of_other_vcpus_and_times_are_left_out(tmp_path: Path) -> None:
    """The part asked for holds for divergences as well."""
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    add_divergences(store, [ONE])
    for which in (Which(vcpu=1), Which(first_ns=451), Which(last_ns=449), Which(vm=3)):
        timeline = drawn(store, which)
        assert timeline.instants == []
        assert timeline.arrows() == []


def test_arrows_lead_from_the_exits_of_what_happened_before(tmp_path: Path) -> None:
    """One from each exit to the instant, however many events lie in it; from there one to the VM's."""
    sint = {"msr": 0x40000091, "data": 0x10041}
    two_in_one = [*EVENTS[:2], (240, "kvm_hv_synic_set_msr", 0, 0, sint), *EVENTS[2:]]
    timeline = found(tmp_path, ONE | {"seq": 6, "history": [2, 3, 6]}, events=two_in_one)
    instant = (450, "HV201 msr-fault-missing (error)")
    assert arrows(timeline) == [
        ((200, "write HV_X64_MSR_SINT1"), instant),
        ((400, "write HV_X64_MSR_SINT2"), instant),
        (instant, instant),
    ]
    assert [(a.track, b.track) for a, b in timeline.arrows() if a.start == 450] == [(ON_VCPU, ON_VM)]


def test_what_came_afterwards_is_told_and_has_no_arrow(tmp_path: Path) -> None:
    """A broken obligation is reported on the event that opened it: its history goes on until the bound was passed."""
    timeline = found(tmp_path, ONE | {"history": [5, 8]})
    assert [one.split()[0] for one in timeline.instants[0].arguments["history"]] == ["5", "8"]
    assert [a[0] for a, _ in arrows(timeline)] == [400, 450]


def test_divergences_at_one_event_have_arrows_of_their_own(tmp_path: Path) -> None:
    """Each from its own history, and each to its like on the VM's track."""
    timeline = found(tmp_path, ONE, ONE | {"rule": "HV204", "history": [5]})
    assert [(a[0], b[1].split()[0]) for a, b in arrows(timeline)] == [
        (200, "HV201"),
        (400, "HV201"),
        (400, "HV204"),
        (450, "HV201"),
        (450, "HV204"),
    ]


def test_an_exit_traced_after_its_event_does_not_come_after_the_divergence(tmp_path: Path) -> None:
    """As KVM on SVM does before 6.6: the arrow comes from the guest time in which the event is drawn."""
    late: list[Row] = [
        *EVENTS[:3],
        (300, "kvm_entry", 0, 0, {}),
        EVENTS[5],
        (460, "kvm_exit", 0, 0, {}),
        EVENTS[6],
    ]
    timeline = found(tmp_path, ONE | {"seq": 4, "history": [2, 4]}, events=late)
    assert [a[0] for a, _ in arrows(timeline)] == [200, 300, 450]


def test_stores_of_older_versions_have_no_arrows(tmp_path: Path) -> None:
    """Their table has no column `history`."""
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    add_divergences(store, [ONE])
    table = pl.read_parquet(store.file("divergences")).drop("history")
    table.write_parquet(store.file("divergences"))
    timeline = drawn(store)
    assert [i.track for i in timeline.instants] == [ON_VCPU, ON_VM]
    assert all("history" not in i.arguments for i in timeline.instants)
    assert all(a.track == ON_VCPU for a, _ in timeline.arrows())


def test_where_no_verdicts_are_it_is_said_how_to_get_them(tmp_path: Path) -> None:
    """Of a store, of a recording; not where divergences are not wanted, nor where a check found none."""
    store = tiny_store(tmp_path / "a b.hvt", EVENTS)
    every = Which()
    assert without_verdicts(store, store.path, every) == (
        f"no divergences are drawn: `hvtrace replay '{store.path}' --check` adds them to the store"
    )
    assert without_verdicts(store, Path("trace.dat"), every) == (
        "no divergences are drawn: they need a store (`hvtrace ingest trace.dat`) and `hvtrace replay --check`"
    )
    assert without_verdicts(store, store.path, Which(parts=frozenset({"states"}))) is None
    add_divergences(store, [])
    assert without_verdicts(store, store.path, every) is None


BROKEN = ("001-sint-low-vector-accepted", "006-eom-ignored", "013-periodic-drift", "061-eoi-msr-ignored")


@pytest.fixture(scope="module", params=BROKEN)
def diverging(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, Divergence]:
    """The recording of a KVM with one fault, and what the check told of it."""
    path = tmp_path_factory.mktemp("stores") / f"{request.param}.hvt"
    ingest([get(request.param) / "trace.dat"], path)
    store = Store(path)
    [divergence] = check(store).divergences
    return store, divergence


def exits_around(store: Store, timeline: Timeline, one: Divergence) -> list[Drawn]:
    """The exits in which the events of a divergence's history lie, up to its own: walked through event by event."""
    seqs = [int(line.partition(" ")[0]) for line in one.history]
    own = (pl.col("vm") == one.vm) & (pl.col("vcpu") == one.vcpu)
    tables = ("kvm_entry", "kvm_exit")
    [entries, exits] = [store.scan(t).filter(own).select("seq", "ts_ns").collect().rows() for t in tables]
    starts = set()
    for seq in (seq for seq in seqs if seq <= one.seq):
        entry = max(at for at, _ in entries if at < seq)
        starts.add(min(exit_ for exit_ in exits if exit_[0] > entry)[1])
    on_vcpu = [s for s in timeline.slices if s.track == ("VM 0", f"vCPU {one.vcpu}") and s.start in starts]
    details = {s.start: s for s in sorted(on_vcpu, key=lambda s: s.depth) if s.category in ("exit", "detail")}
    return [details[start] for start in sorted(starts)]


def test_arrows_to_a_recorded_divergence_come_from_its_history(diverging: tuple[Store, Divergence]) -> None:
    """From the exits around the events the check tells of; whatever the size of windows."""
    store, one = diverging
    for window in (300, WINDOW):
        timeline = drawn(store, window=window)
        on_vcpu, on_vm = [i for i in timeline.instants if i.category.startswith("divergence")]
        assert on_vcpu.arguments["history"] == one.history
        led = [a for a, b in timeline.arrows() if b == on_vcpu]
        assert sorted(led, key=lambda s: s.start) == exits_around(store, timeline, one)
        assert [b for a, b in timeline.arrows() if a == on_vcpu] == [on_vm]


@pytest.fixture(scope="module")
def ui() -> Iterator[PerfettoUi]:
    with perfetto_ui() as page:
        yield page


@pytest.mark.slow
def test_perfetto_draws_the_arrows(
    ui: PerfettoUi, diverging: tuple[Store, Divergence], tmp_path: Path
) -> None:
    """The flows that precede the instant come from the exits that led there, the one that follows leads to the VM's."""
    store, one = diverging
    path = tmp_path / "t.pftrace"
    with path.open("wb") as out:
        write_trace(store, out)
    ui.open(path)
    bad = "SELECT name FROM stats WHERE severity IN ('error', 'data_loss') AND value > 0"
    assert ui.query(bad) == []
    [(instant, rule)] = ui.query(
        "SELECT id, extract_arg(arg_set_id, 'debug.rule') FROM slice WHERE category = 'divergence'"
    )
    assert rule == one.rule
    led = exits_around(store, read_timeline(path.read_bytes()), one)
    rows = ui.query(
        f"SELECT s.ts, s.name FROM flow JOIN slice s ON slice_out = s.id WHERE slice_in = {instant} ORDER BY s.ts"
    )
    assert rows == [(s.start, s.name) for s in led]
    rows = ui.query(
        f"SELECT s.category FROM flow JOIN slice s ON slice_in = s.id WHERE slice_out = {instant}"
    )
    assert rows == [("divergence of VM",)]
