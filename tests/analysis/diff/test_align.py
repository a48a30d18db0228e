"""Where two runs of one program first do something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.store import Row, tiny_store
from hypothesis import given
from hypothesis import strategies as st
from recordings import get

from hvtrace.abi import msr
from hvtrace.analysis.diff.align import COLUMNS, Alignment, align, prefix, walked
from hvtrace.analysis.diff.align_events import KINDS, sequence_name
from hvtrace.schema.registry import BY_NAME, event_fields
from hvtrace.store import Store


def index(name: str) -> int:
    found = msr.by_name(name)
    assert found is not None
    return found.index


def write(name: str, data: int, **more: Any) -> tuple[str, dict[str, Any]]:
    return "kvm_msr", {"write": 1, "ecx": index(name), "data": data, "exception": 0} | more


def read(name: str, data: int, **more: Any) -> tuple[str, dict[str, Any]]:
    return "kvm_msr", {"write": 0, "ecx": index(name), "data": data, "exception": 0} | more


def cpuid(leaf: int, rax: int = 0, subleaf: int = 0) -> tuple[str, dict[str, Any]]:
    return "kvm_cpuid", {
        "function": leaf,
        "index": subleaf,
        "rax": rax,
        "rbx": 0,
        "rcx": 0,
        "rdx": 0,
        "found": True,
    }


Event = tuple[str, dict[str, Any]]


def run(path: Path, *events: Event, lost: list[dict[str, Any]] | None = None, every: int = 10) -> Store:
    """A store of vCPU 0, each event in an exit of its own."""
    rows: list[Row] = [(0, "kvm_entry", 0, 0, {})]
    for name, fields in events:
        ts = rows[-1][0] + every
        rows += [(ts, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x7C}), (ts, name, 0, 0, fields)]
        rows.append((ts + 1, "kvm_entry", 0, 0, {}))
    return tiny_store(path, rows, lost=lost or ())


def differing(found: Alignment) -> list[dict[str, Any]]:
    return [row for row in found.rows if row["verdict"] not in ("same", "unknown")]


PROGRAM: list[Event] = [
    cpuid(0x40000000, 0x40000005),
    write("GUEST_OS_ID", 0x8100),
    write("HYPERCALL", 0x1000001),
    write("SINT2", 0x30),
    read("SINT2", 0x30),
]


def test_the_first_difference(tmp_path: Path) -> None:
    """How many events are common, the first that is not, and what stands around it."""
    other = [*PROGRAM[:3], write("SINT2", 0x5, exception=1), *PROGRAM[4:]]
    found = align(run(tmp_path / "a.hvt", *PROGRAM), run(tmp_path / "b.hvt", *other))
    (row,) = found.rows
    assert set(COLUMNS) <= set(row)
    assert (row["sequence"], row["verdict"], row["common"]) == ("program", "differs", 3)
    assert (row["hunks"], row["only_a"], row["only_b"], row["rejoined"]) == (1, 1, 1, True)
    texts = [event["text"] for event in row["b"]]
    assert texts == [
        "CPUID 0x40000000: ax 0x40000005 bx 0x0 cx 0x0 dx 0x0",
        "write HV_X64_MSR_GUEST_OS_ID = 0x8100",
        "write HV_X64_MSR_HYPERCALL = 0x1000001",
        "write HV_X64_MSR_SINT2 = 0x5 (#GP)",
        "read HV_X64_MSR_SINT2 = 0x30",
    ]
    assert [event["common"] for event in row["b"]] == [True, True, True, False, False]
    assert (row["seq_a"], row["ts_a"]) == (11, 43)
    assert row["a"][3]["text"] == "write HV_X64_MSR_SINT2 = 0x30"
    assert found.differs


def started(exp_time: int) -> Event:
    return "kvm_hv_stimer_start_periodic", {"timer_index": 1, "time_now": 0, "exp_time": exp_time}


def polled(old: int, new: int) -> Event:
    return "kvm_halt_poll_ns", {"grow": new > old, "old": old, "new": new}


#: A guest sets timer 1 to 1000 units.
PERIODIC: list[Event] = [
    ("kvm_hv_stimer_set_count", {"timer_index": 1, "count": 1000, "host": False}),
    ("kvm_hv_stimer_set_config", {"timer_index": 1, "config": 3, "host": False}),
]

#: What time decides, or the guest's allocator: each pair is the same.
SAME = [
    ([read("TIME_REF_COUNT", 5)], [read("TIME_REF_COUNT", 7), read("TIME_REF_COUNT", 9)]),
    ([write("STIMER0_COUNT", 100)], [write("STIMER0_COUNT", 200), write("STIMER0_COUNT", 300)]),
    ([write("HYPERCALL", 0x1000001)], [write("HYPERCALL", 0x2000001)]),
    ([write("SIMP", 0x5001)], [write("SIMP", 0x7001)]),
    ([read("TSC_FREQUENCY", 2_600_148_000)], [read("TSC_FREQUENCY", 2_599_645_000)]),
    ([cpuid(0x40000010, 2_600_148)], [cpuid(0x40000010, 2_599_645)]),
    ([cpuid(0x80000000, 1, subleaf=3)], [cpuid(0x80000000, 1, subleaf=9)]),
    # The guest waits until a timer is off.
    (
        [read("STIMER0_CONFIG", 0x20001), read("STIMER0_CONFIG", 0x20001), read("STIMER0_CONFIG", 0x20000)],
        [read("STIMER0_CONFIG", 0x20000)],
    ),
    # An interrupt comes sooner, or later, or once more.
    (
        [write("SINT2", 0x30), write("EOI", 0), write("SINT3", 0x31)],
        [write("EOI", 0), write("SINT2", 0x30), write("SINT3", 0x31), write("EOI", 0)],
    ),
    # It expires later, and misses some; set anew it begins a new count.
    (
        [*PERIODIC, started(1000), started(2000)],
        [*PERIODIC, started(1500), started(2500), started(7500), *PERIODIC, started(9999)],
    ),
    # How far polling grows time decides; and whether it does.
    ([polled(0, 10000)], [polled(0, 10000), polled(10000, 20000), polled(20000, 0)]),
    ([], [("kvm_pio", {"port": 0x3F8, "rw": 1}), ("kvm_hv_stimer_expiration", {"timer_index": 0})]),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_what_does_not_count(tmp_path: Path, a: list[Event], b: list[Event]) -> None:
    """Times, counts, polling, addresses, when an interrupt came."""
    found = align(run(tmp_path / "a.hvt", *PROGRAM, *a), run(tmp_path / "b.hvt", *PROGRAM, *b, every=77))
    assert differing(found) == []
    assert not found.differs


#: Sequence, and what differs in it.
OTHER = [
    ("program", [write("SINT2", 0x30)], [write("SINT2", 0x31)]),
    ("program", [read("SINT2", 0x30)], [read("SINT2", 0x30, exception=1)]),
    ("program", [write("HYPERCALL", 0x1000001)], [write("HYPERCALL", 0x1000000)]),
    ("program", [cpuid(0xD, 7, 0)], [cpuid(0xD, 7, 1)]),
    ("program", [cpuid(1), cpuid(2)], [cpuid(2), cpuid(1)]),
    (
        "HV_X64_MSR_TIME_REF_COUNT",
        [read("TIME_REF_COUNT", 5), read("TIME_REF_COUNT", 6)],
        [read("TIME_REF_COUNT", 5), read("TIME_REF_COUNT", 4)],
    ),
    ("STIMER1 period", [*PERIODIC, started(1000), started(2000)], [*PERIODIC, started(1000), started(2001)]),
    ("polling time grows from 10000", [polled(10000, 20000)], [polled(10000, 30000)]),
    # Set in between, the timer's configuration was read for another reason.
    (
        "program",
        [read("STIMER0_CONFIG", 3), write("STIMER0_COUNT", 0), read("STIMER0_CONFIG", 2)],
        [read("STIMER0_CONFIG", 3), write("STIMER0_COUNT", 0), read("STIMER0_CONFIG", 3)],
    ),
    ("KVM_HC_KICK_CPU", [], [("kvm_hypercall", {"nr": 5})]),
    (
        "SINT 2",
        [("kvm_hv_synic_set_irq", {"sint": 2, "vector": 0x30, "ret": 1})],
        [("kvm_hv_synic_set_irq", {"sint": 2, "vector": 0x31, "ret": 1})],
    ),
    (
        "userspace",
        [("kvm_hv_synic_set_msr", {"msr": index("SINT0"), "data": 0, "host": True})],
        [("kvm_hv_synic_set_msr", {"msr": index("SINT0"), "data": 0x10000, "host": True})],
    ),
]


@pytest.mark.parametrize(("sequence", "a", "b"), OTHER)
def test_what_does_count(tmp_path: Path, sequence: str, a: list[Event], b: list[Event]) -> None:
    """What the guest does, what it gets, and in which order."""
    # All tracepoints are in both recordings.
    common = [*PROGRAM, write("EOI", 0), *(event for _, *sides in OTHER for event in sides[0])]
    found = align(run(tmp_path / "a.hvt", *common, *a), run(tmp_path / "b.hvt", *common, *b))
    if not a:
        # It was made before; once more is the same.
        assert differing(found) in ([], [row for row in found.rows if row["sequence"] == sequence])
        return
    assert [row["sequence"] for row in differing(found)] == [sequence]


def in_one_exit(*events: Event) -> list[Row]:
    """Events of vCPU 0's thread between two entries; of those that name a vCPU, that one."""
    rows: list[Row] = [(0, "kvm_entry", 0, 0, {})]
    rows += [(10 + n, name, fields.pop("vcpu", 0), 0, fields) for n, (name, fields) in enumerate(events)]
    return [*rows, (100, "kvm_entry", 0, 0, {}), (110, "kvm_entry", 1, 0, {})]


def ipi(*accepted: int, status: int = 0) -> list[Row]:
    """A hypercall that asks for vector 0x6a on VP 1, and the vCPUs that accept it."""
    return in_one_exit(
        ("kvm_hv_hypercall", {"code": 0xB, "fast": True}),
        ("kvm_hv_send_ipi", {"vector": 0x6A, "processor_mask": 2}),
        *(("kvm_apic_accept_irq", {"vec": 0x6A, "vcpu": vcpu, "apicid": vcpu}) for vcpu in accepted),
        ("kvm_apic_accept_irq", {"vec": 0xEC, "vcpu": 0, "apicid": 0}),
        ("kvm_hv_hypercall_done", {"result": status}),
        ("kvm_apic_accept_irq", {"vec": 0x6A, "vcpu": 0, "apicid": 0}),
    )


def test_an_ipi_to_another_vcpu(tmp_path: Path) -> None:
    """What counts is whether just those asked for accepted it, of its vector, before the call ended."""
    right, wrong, both, none = (
        tiny_store(tmp_path / f"{n}.hvt", ipi(*accepted))
        for n, accepted in enumerate([(1,), (0,), (0, 1), ()])
    )
    assert not align(right, right).differs
    for other in (wrong, both, none):
        (row,) = differing(align(right, other))
        assert row["sequence"] == "HvCallSendSyntheticClusterIpi"
        assert row["a"][0]["text"] == "HvCallSendSyntheticClusterIpi (fast) → HV_STATUS_SUCCESS"
        assert row["b"][0]["text"].endswith(", not accepted by just those asked for")
    failed = [tiny_store(tmp_path / f"failed{n}.hvt", ipi(*to, status=3)) for n, to in enumerate([(1,), ()])]
    assert not align(*failed).differs
    (row,) = differing(align(right, failed[0]))
    assert row["b"][0]["text"].endswith("→ HV_STATUS_INVALID_HYPERCALL_INPUT")


def test_what_was_done_about_an_access(tmp_path: Path) -> None:
    """An EOI that ends nothing, a message's end that acknowledges nothing."""
    acks = [("kvm_hv_notify_acked_sint", {"sint": n}) for n in range(16)]
    eoi, eom = ("kvm_eoi", {"vector": 0x30}), write("EOM", 0)
    answered = tiny_store(tmp_path / "a.hvt", in_one_exit(eoi, write("EOI", 0), *acks, eom))
    ignored = tiny_store(tmp_path / "b.hvt", in_one_exit(write("EOI", 0), eom, eoi, *acks))
    rows = {row["sequence"]: row for row in differing(align(answered, ignored))}
    assert rows["HV_X64_MSR_EOI"]["a"][0]["text"] == "write HV_X64_MSR_EOI = 0x0, followed by 1 EOI"
    assert rows["HV_X64_MSR_EOI"]["b"][0]["text"] == "write HV_X64_MSR_EOI = 0x0, followed by 0 EOIs"
    assert rows["HV_X64_MSR_EOM"]["a"][0]["text"].endswith("followed by 16 acknowledgements")
    unseen = tiny_store(tmp_path / "c.hvt", in_one_exit(write("EOI", 0), eom))
    found = align(answered, unseen)
    assert not found.differs
    assert {"kvm_eoi", "kvm_hv_notify_acked_sint"} <= set(found.not_compared)


def test_a_sequence_that_ends(tmp_path: Path) -> None:
    """It may have hung: that is a difference. Where events were lost, nobody knows."""
    whole = run(tmp_path / "a.hvt", *PROGRAM)
    short = run(tmp_path / "b.hvt", *PROGRAM[:4])
    (row,) = align(whole, short).rows
    assert (row["verdict"], row["common"], row["seq_b"], row["only_a"]) == ("a-goes-on", 4, None, 1)
    assert align(short, whole).rows[0]["verdict"] == "b-goes-on"
    cut = run(tmp_path / "c.hvt", *PROGRAM, lost=[{"cpu": 0, "from_ns": 40, "to_ns": 60, "count": None}])
    found = align(whole, cut)
    (row,) = found.rows
    assert (row["verdict"], found.until_b, found.differs) == ("unknown", 40, False)


def test_no_vm_in_both(tmp_path: Path) -> None:
    """Then there is nothing to align."""
    nothing = tiny_store(tmp_path / "b.hvt", [(0, "kvm_pio", None, 0, {})])
    found = align(run(tmp_path / "a.hvt", *PROGRAM), nothing)
    assert (found.vms, found.rows, found.differs) == ([], [], False)


def test_every_kind_names_its_events(tmp_path: Path) -> None:
    """The columns are the tracepoint's, and every sequence has a name."""
    own = {"code", "fast", "misdirected", "eois", "acks", "sequence", "period", "astray"}
    for kind in KINDS:
        columns = {field.name for field in event_fields(BY_NAME[kind.tracepoint])} | {"vm", "vcpu"} | own
        used = {name for expression in kind.identity.values() for name in expression.meta.root_names()}
        assert used <= columns, kind.tracepoint
    assert sequence_name(0) == "program"


SYMBOLS = st.lists(st.integers(0, 3), max_size=40)


@given(SYMBOLS, SYMBOLS)
def test_walking_over_differences(a: list[int], b: list[int]) -> None:
    """The prefix is the longest common one, and what is left of both without what is only in one is the same length."""
    left, right = np.array(a, np.uint64), np.array(b, np.uint64)
    common = prefix(left, right)
    assert a[:common] == b[:common]
    assert common in (len(a), len(b)) or a[common] != b[common]
    rest = walked(left[common:], right[common:])
    if rest["rejoined"]:
        assert len(a) - rest["only_a"] == len(b) - rest["only_b"]
    assert (rest["hunks"] == 0) == (a == b)


@given(SYMBOLS, SYMBOLS, st.lists(st.integers(10, 99), min_size=1, max_size=5))
def test_what_was_put_in_is_found_again(before: list[int], after: list[int], more: list[int]) -> None:
    """An insertion before a stretch that is like no other."""
    end = [*range(1000, 1020)]
    a = np.array([*before, *end, *after], np.uint64)
    b = np.array([*before, *more, *end, *after], np.uint64)
    common = prefix(a, b)
    assert common == len(before)
    assert walked(a[common:], b[common:]) == {"hunks": 1, "only_a": 0, "only_b": len(more), "rejoined": True}


#: Broken recordings, and in which sequence it first shows.
BROKEN = {
    "001-sint-low-vector-accepted": "program",
    "006-eom-ignored": "HV_X64_MSR_EOM",
    "013-periodic-drift": "STIMER0 period",
    "013-periodic-drift--kut-hyperv_stimer": "STIMER0 period",
    "015-count0-not-disabling": "program",
    "029-timeref-backwards": "HV_X64_MSR_TIME_REF_COUNT",
    "029-timeref-backwards--kut-hyperv_clock": "HV_X64_MSR_TIME_REF_COUNT",
    "035-os-id-zero": "program",
    "040-unexposed-msr-allowed": "program",
    "043-unknown-hypercall-ok": "hypercall 0x7777",
    "049-ipi-wrong-vcpu": "HvCallSendSyntheticClusterIpi",
    "055-grow-rule": "polling time grows from 20000",
    "061-eoi-msr-ignored": "HV_X64_MSR_EOI",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_hypervisor_first_differs_where_it_is_broken(
    recorded: Callable[..., Store], name: str
) -> None:
    """At the event that the recording's description names as the first sign, to the exit."""
    broken = json.loads((get(name) / "mutant.json").read_text())
    found = align(recorded(broken["baseline"]), recorded(name))
    first = differing(found)[0]
    assert first["sequence"] == BROKEN[name]
    # Both vCPUs may show it at the same moment.
    sign = float(broken["visible_as"]["example"]["timestamp"]) * 1e9
    # The access is traced after its effects, and a hypercall's end after them: in the same exit.
    assert -1000 <= first["ts_b"] - sign < 2_000_000


@pytest.mark.parametrize("carrier", ["perf.data", "trace.v6.dat", "ftrace.txt", "perf-script.txt"])
def test_one_run_in_two_carriers(recorded: Callable[..., Store], carrier: str) -> None:
    """All sequences are the same."""
    found = align(recorded("kut-hyperv_synic"), recorded("kut-hyperv_synic", carrier))
    assert differing(found) == []
    assert len(found.rows) > 40


AGAIN = [
    ("kut-hyperv_synic", "clock-x86-tsc"),
    ("kut-hyperv_synic", "clock-mono"),
    ("clock-mono", "file-instance"),
]


@pytest.mark.parametrize(("name", "other"), AGAIN)
def test_the_same_boot_again(recorded: Callable[..., Store], name: str, other: str) -> None:
    """Two runs of one test are the same, however long they took."""
    assert differing(align(recorded(name), recorded(other))) == []
