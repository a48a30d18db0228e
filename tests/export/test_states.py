"""What is drawn for a few events: states, details beneath them, halts, gaps."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from builders.store import Row, tiny_store
from builders.timeline import Timeline, read_timeline

from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which

SVM, HLT, IO, MSR, HYPERCALL = 2, 0x78, 0x7B, 0x7C, 0x81


def entry(ts: int, vcpu: int = 0, cpu: int = 0) -> Row:
    return (ts, "kvm_entry", vcpu, cpu, {"rip": 0x1000})


def leave(ts: int, reason: int, vcpu: int = 0, cpu: int = 0) -> Row:
    return (ts, "kvm_exit", vcpu, cpu, {"isa": SVM, "exit_reason": reason, "guest_rip": 0xFFF0, "info1": 0})


def userspace(ts: int, reason: int = 2, errno: int = 0, vcpu: int = 0) -> Row:
    return (ts, "kvm_userspace_exit", vcpu, 0, {"reason": reason, "errno": errno})


def wakeup(ts: int, ns: int, waited: bool) -> Row:
    return (ts, "kvm_vcpu_wakeup", 0, 0, {"ns": ns, "waited": waited, "valid": True})


def polling(ts: int, old: int, new: int) -> Row:
    return (ts, "kvm_halt_poll_ns", 0, 0, {"grow": new > old, "old": old, "new": new})


def drawn(tmp_path: Path, rows: list[Row], which: Which | None = None, **store: Any) -> Timeline:
    out = io.BytesIO()
    write_trace(tiny_store(tmp_path / "t.hvt", rows, **store), out, which)
    return read_timeline(out.getvalue())


VCPU_0 = ("VM 0", "vCPU 0")


def test_guest_exit_and_userspace_follow_each_other(tmp_path: Path) -> None:
    """Guest until the exit, the exit until KVM_RUN returns, userspace until the next entry, to the nanosecond."""
    rows = [entry(1_000_000_007), leave(1_000_000_107, IO), userspace(1_000_000_150), entry(1_000_000_401)]
    timeline = drawn(tmp_path, rows, last_ns=1_000_000_401)
    assert timeline.on(*VCPU_0) == [
        (1_000_000_007, 1_000_000_107, 0, "guest"),
        (1_000_000_107, 1_000_000_150, 0, "io"),
        (1_000_000_150, 1_000_000_401, 0, "KVM_EXIT_IO"),
    ]
    assert [s.category for s in timeline.slices] == ["guest", "exit", "userspace"]
    assert timeline.facts["kernel"] == "6.1.0-test"
    assert timeline.facts["made by"].startswith("hvtrace ")


def test_a_detail_lies_beneath_its_exit(tmp_path: Path) -> None:
    """An MSR access by name, its value as an argument; the vector injected on the way back on the guest time."""
    rows: list[Row] = [
        entry(100),
        leave(200, MSR),
        (210, "kvm_msr", 0, 0, {"write": 1, "ecx": 0x400000B1, "data": 0x1234, "exception": 0}),
        (220, "kvm_inj_virq", 0, 0, {"vector": 0xEC, "soft": False, "reinjected": False}),
        entry(300),
        leave(400, HLT),
    ]
    timeline = drawn(tmp_path, rows)
    assert timeline.on(*VCPU_0) == [
        (100, 200, 0, "guest"),
        (200, 300, 0, "msr"),
        (200, 300, 1, "write HV_X64_MSR_STIMER0_COUNT"),
        (300, 400, 0, "guest"),
    ]
    first, outer, inner, second = timeline.slices
    assert first.arguments == {}
    assert outer.arguments == {"rip": 0xFFF0}
    assert inner.arguments == {"value": 0x1234, "msr": 0x400000B1}
    assert second.arguments == {"injected_vector": 0xEC}


def test_a_detail_traced_before_its_late_exit_is_found(tmp_path: Path) -> None:
    """KVM on SVM before 6.6 traces a fastpath MSR write before the exit it belongs to."""
    rows: list[Row] = [
        entry(100),
        (190, "kvm_msr", 0, 0, {"write": 1, "ecx": 0x830, "data": 0xFD, "exception": 0}),
        leave(200, MSR),
        entry(300),
    ]
    assert (200, 300, 1, "write IA32_X2APIC_ICR") in drawn(tmp_path, rows).on(*VCPU_0)


def test_a_hypercall_shows_what_it_answered(tmp_path: Path) -> None:
    """Input of the call and the status by name, also where the answer comes after a trip to userspace."""
    call = {"rep_cnt": 0, "rep_idx": 0, "ingpa": 0x42, "outgpa": 0, "code": 0x5C, "var_cnt": 0, "fast": False}
    rows: list[Row] = [
        entry(100),
        leave(200, HYPERCALL),
        (210, "kvm_hv_hypercall", 0, 0, call),
        userspace(220, reason=27),
        (280, "kvm_hv_hypercall_done", 0, 0, {"result": 0x12}),
        entry(300),
    ]
    timeline = drawn(tmp_path, rows)
    assert timeline.on(*VCPU_0)[1:] == [
        (200, 220, 0, "hypercall"),
        (200, 220, 1, "HvCallPostMessage"),
        (220, 300, 0, "KVM_EXIT_HYPERV"),
    ]
    assert timeline.slices[2].arguments == {
        "input": 0x42,
        "output": 0,
        "fast": False,
        "result": 0x12,
        "status": "HV_STATUS_INVALID_CONNECTION_ID",
    }


HALTS = [
    ("polling succeeded", wakeup(900, 600, False), [], [(300, 900, "halt poll (success)")]),
    ("slept, polling time not known", wakeup(900, 600, True), [], [(300, 900, "blocked")]),
    (
        "slept after polling for the time in force",
        wakeup(900, 600, True),
        [polling(890, 200, 400)],
        [(300, 500, "halt poll (failure)"), (500, 900, "blocked")],
    ),
    ("slept without polling", wakeup(900, 600, True), [polling(890, 0, 200)], [(300, 900, "blocked")]),
    ("longer than the exit", wakeup(900, 5000, True), [], [(200, 900, "blocked")]),
]


@pytest.mark.parametrize(("wake", "changes", "parts"), [h[1:] for h in HALTS], ids=[h[0] for h in HALTS])
def test_a_halt_lies_within_its_exit(
    tmp_path: Path, wake: Row, changes: list[Row], parts: list[tuple[int, int, str]]
) -> None:
    """The halt ends at the wake-up and began `ns` before; polling and sleeping are told apart where one can know."""
    timeline = drawn(tmp_path, [entry(100), leave(200, HLT), *changes, wake, entry(1000)])
    assert timeline.on(*VCPU_0)[1:] == [
        (200, 1000, 0, "hlt"),
        *((start, end, 1, name) for start, end, name in parts),
    ]


def test_the_hosts_cap_limits_polling(tmp_path: Path) -> None:
    """A polling time above the module parameter halt_poll_ns is cut to it at the next halt."""
    rows = [
        entry(100),
        leave(200, HLT),
        polling(290, 100, 400),
        wakeup(300, 100, True),
        wakeup(900, 500, True),
        entry(1000),
    ]
    parts = [s for s in drawn(tmp_path, rows, polling_cap=250).on(*VCPU_0) if s[2] == 1]
    assert parts == [
        (200, 300, 1, "blocked"),
        (400, 650, 1, "halt poll (failure)"),
        (650, 900, 1, "blocked"),
    ]


BROKEN = [
    ("no exit between two entries", [entry(100), entry(200), leave(300, IO), entry(400)]),
    ("no entry between two exits", [leave(100, IO), leave(200, IO), entry(200), leave(300, IO), entry(400)]),
    ("time runs backwards", [entry(900), leave(200, MSR), entry(200), leave(300, IO), entry(400)]),
]


@pytest.mark.parametrize("rows", [b[1] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_what_cannot_follow_is_a_gap(tmp_path: Path, rows: list[Row]) -> None:
    """Between events that cannot follow each other nothing is drawn; what is whole is."""
    outer = [s for s in drawn(tmp_path, rows, last_ns=400).on(*VCPU_0) if s[1] > s[0]]
    assert outer == [(200, 300, 0, "guest"), (300, 400, 0, "io")]


def test_lost_events_make_a_gap_on_their_cpu_only(tmp_path: Path) -> None:
    """A state during which its CPU lost events is not drawn; another CPU's loss does not matter."""
    rows = [entry(100), leave(200, IO), entry(300), entry(110, 1, 1), leave(210, IO, 1, 1), entry(310, 1, 1)]
    lost = [{"cpu": 0, "from_ns": 200, "to_ns": 300, "count": 7}]
    timeline = drawn(tmp_path, sorted(rows, key=lambda r: r[0]), lost=lost, last_ns=310)
    assert timeline.on("Recording", "Lost events, host CPU 0") == [(200, 300, 0, "7 lost")]
    assert [s[:2] for s in timeline.on(*VCPU_0)] == [(100, 200), (300, 310)]
    assert [s[:2] for s in timeline.on("VM 0", "vCPU 1")] == [(110, 210), (210, 310)]


def test_the_last_state_is_marked_as_unfinished(tmp_path: Path) -> None:
    """A vCPU stuck in an exit is drawn as such to the recording's end."""
    timeline = drawn(tmp_path, [entry(100), leave(200, HLT)], last_ns=5000)
    assert timeline.on(*VCPU_0) == [(100, 200, 0, "guest"), (200, 5000, 0, "hlt")]
    assert timeline.slices[-1].arguments["unfinished"] is True


def test_userspace_that_runs_the_vcpu_in_vain(tmp_path: Path) -> None:
    """KVM_RUN may return without an entry (a signal, a vCPU not yet started); errors are named."""
    rows = [userspace(100, 0, -4), userspace(200, 0, -11), entry(300)]
    assert drawn(tmp_path, rows, last_ns=300).on(*VCPU_0) == [
        (100, 200, 0, "userspace: restart (EINTR)"),
        (200, 300, 0, "userspace: error 11"),
    ]


def test_a_part_keeps_whole_slices(tmp_path: Path) -> None:
    """--from and --to keep what touches the span; --vcpu keeps one vCPU."""
    rows = [entry(100), leave(200, IO), entry(300), leave(400, IO), entry(500), leave(600, IO)]
    other = [entry(150, 1), leave(450, IO, 1)]
    both = sorted([*rows, *other], key=lambda r: r[0])
    timeline = drawn(tmp_path, both, Which(vcpu=0, first_ns=250, last_ns=350))
    assert [(s.track, s.start, s.end) for s in timeline.slices] == [
        (VCPU_0, 200, 300),
        (VCPU_0, 300, 400),
    ]


def test_ticks_are_said_to_be_ticks(tmp_path: Path) -> None:
    """Where the clock counts ticks, the VM's track says so."""
    timeline = drawn(tmp_path, [entry(100), leave(200, IO)], unit="ticks")
    assert "1 ns is one tick" in timeline.tracks["VM 0",].description


POOR = [
    (
        "no entries and exits at all",
        [wakeup(100, 50, True), (200, "kvm_msr", 0, 0, {"write": 0, "ecx": 1})],
        [],
    ),
    ("entries alone", [entry(100), entry(200), wakeup(250, 40, True)], []),
    ("exits alone", [leave(100, IO), (150, "kvm_pio", 0, 0, {"rw": 1, "port": 0x3F8}), leave(200, IO)], []),
    (
        "events of no vCPU",
        [(100, "kvm_exit", None, 0, {"isa": 2}), entry(200), leave(300, IO)],
        [(200, 300, "guest")],
    ),
    ("an exit of no known reason", [leave(100, 0x9999), entry(200)], [(100, 200, "exit 0x9999")]),
    ("null where a number should be", [(100, "kvm_exit", 0, 0, {}), entry(200)], [(100, 200, "exit 0x0")]),
]


@pytest.mark.parametrize(("rows", "expected"), [p[1:] for p in POOR], ids=[p[0] for p in POOR])
def test_recordings_that_lack_something(
    tmp_path: Path, rows: list[Row], expected: list[tuple[int, int, str]]
) -> None:
    """What can be drawn is drawn; nothing else is, and nothing fails."""
    timeline = drawn(tmp_path, rows)
    assert [(s.start, s.end, s.name) for s in timeline.slices] == expected


def test_a_vcpu_that_never_enters_is_carried_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past a number of returns to userspace without an entry, the earlier ones are drawn and forgotten."""
    monkeypatch.setattr("hvtrace.export.timeline.CARRIED_POINTS", 3)
    rows = [userspace(100 * i, errno=-4) for i in range(1, 40)]
    out = io.BytesIO()
    write_trace(tiny_store(tmp_path / "t.hvt", rows), out, window=5)
    found = read_timeline(out.getvalue()).on(*VCPU_0)
    assert found == [(100 * i, 100 * i + 100, 0, "userspace: restart (EINTR)") for i in range(1, 39)]


def test_a_name_for_each_of_very_many_numbers_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that touches ever new MSRs does not fill the trace with names."""
    monkeypatch.setattr("hvtrace.export.interning.MOST", 2)
    rows: list[Row] = []
    for i in range(4):
        msr: Row = (
            1000 * i + 300,
            "kvm_msr",
            0,
            0,
            {"write": 0, "ecx": 0x5000 + i, "data": 0, "exception": 0},
        )
        rows += [entry(1000 * i + 100), leave(1000 * i + 200, MSR), msr]
    rows.append(entry(9000))
    names = [s.name for s in drawn(tmp_path, rows).slices if s.category == "detail"]
    assert names == ["read MSR 0x5000", "read MSR 0x5001", "other", "other"]
