"""What a vCPU's thread waits for, and what hypercalls take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from builders.store import Row, tiny_store

from hvtrace.analysis.latency import Question, latency, spans

RUNNABLE, PREEMPTED, SLEEPING = 0, 0x100, 1
FLUSH, FLUSH_EX, SEND_IPI = 2, 0x13, 0xB


def at(ts: int, name: str = "kvm_entry", *, vcpu: int | None = 0, cpu: int = 0, **fields: Any) -> Row:
    own = {} if vcpu is None else {"tid": 100 + vcpu}
    return ts, name, vcpu, cpu, own | fields


def woken(ts: int, *, waited: bool = True, **place: Any) -> Row:
    return at(ts, "kvm_vcpu_wakeup", ns=0, waited=waited, valid=True, **place)


def returned(ts: int, reason: int = 2, errno: int | None = 0, **place: Any) -> Row:
    return at(ts, "kvm_userspace_exit", reason=reason, errno=errno, **place)


def switched(ts: int, prev: int, state: int | None, to: int, comm: str = "kworker") -> Row:
    fields = {"prev_pid": prev, "prev_state": state, "next_pid": to, "next_comm": comm}
    return ts, "sched_switch", None, 0, {"tid": prev, **fields}


def scheduled(ts: int, pid: int) -> Row:
    return ts, "sched_wakeup", None, 0, {"tid": 7, "pid": pid}


def call(ts: int, code: int, **place: Any) -> Row:
    return at(ts, "kvm_hv_hypercall", code=code, **place)


def done(ts: int, **place: Any) -> Row:
    return at(ts, "kvm_hv_hypercall_done", result=0, **place)


def found(path: Path, rows: Iterable[Row], measure: str, **store: Any) -> list[tuple[Any, ...]]:
    """Spans as (subject, seq, end_seq, ns)."""
    frame = spans(tiny_store(path / "t.hvt", rows, **store), Question(), measure)
    return frame.select("subject", "seq", "end_seq", "ns").rows()


def test_a_wake_up_lasts_until_the_entry(tmp_path: Path) -> None:
    """Of the same thread and vCPU; whether it slept or polled is told apart."""
    rows = [woken(10), woken(12, vcpu=1, waited=False), at(15, vcpu=1), at(30)]
    assert found(tmp_path, rows, "wakeup-entry") == [
        ("after it slept", 0, 3, 20),
        ("after it polled", 1, 2, 3),
    ]


def test_a_wake_up_followed_by_another_has_no_entry(tmp_path: Path) -> None:
    """The vCPU went back to sleep."""
    rows = [woken(10), woken(20), at(24)]
    answer = latency(tiny_store(tmp_path / "t.hvt", rows), Question(measures=("wakeup-entry",)))
    assert [row["time_ns"] for row in answer.rows] == [4]
    assert answer.counted[0]["excluded"]["unpaired"] == 1


def test_time_in_userspace_is_told_by_reason(tmp_path: Path) -> None:
    """Until the next entry; a return that failed has no reason, but an error. Some texts tell no errors."""
    rows = [returned(10), at(30), returned(40, errno=-4), at(45), returned(50, 999), at(51)]
    rows += [returned(60, 10, errno=None), at(64)]
    assert [span[:1] + span[3:] for span in found(tmp_path, rows, "userspace")] == [
        ("KVM_EXIT_IO", 20),
        ("KVM_RUN: EINTR", 5),
        ("reason 999", 1),
        ("KVM_EXIT_INTR", 4),
    ]


def test_both_ends_are_of_one_vcpu(tmp_path: Path) -> None:
    """A thread that goes on as another vCPU ends nothing of the first one's."""
    rows = [returned(10), at(30, vcpu=1, tid=100), at(40)]
    assert found(tmp_path, rows, "userspace") == []


@pytest.mark.parametrize(
    ("loss", "state"),
    [
        ({"cpu": 0, "from_ns": 12, "to_ns": 13}, "lost"),
        ({"cpu": 1, "from_ns": 12, "to_ns": 13}, "lost"),
        ({"cpu": None, "from_ns": None, "to_ns": None}, "lost"),
        ({"cpu": 2, "from_ns": 12, "to_ns": 13}, "whole"),
        ({"cpu": 0, "from_ns": 1, "to_ns": 10}, "whole"),
    ],
)
def test_a_loss_on_the_thread_s_cpus_breaks_a_span(tmp_path: Path, loss: dict[str, Any], state: str) -> None:
    """On that of its begin or its end, in between; or on a CPU that is not known."""
    store = tiny_store(tmp_path / "t.hvt", [returned(10), at(30, cpu=1)], lost=[loss | {"count": 1}])
    assert spans(store, Question(), "userspace")["state"].to_list() == [state]


def test_a_thread_woken_runs_and_then_enters(tmp_path: Path) -> None:
    """Two measures of one wake-up. Woken while it runs, or waits to run: nothing changes."""
    rows = [
        switched(0, 100, SLEEPING, 0),
        scheduled(10, 100),
        scheduled(11, 100),
        switched(14, 0, RUNNABLE, 100),
        scheduled(15, 100),
        at(30),
    ]
    assert found(tmp_path, rows, "sched-wakeup-run") == [("vCPU threads", 1, 3, 4)]
    assert found(tmp_path / "2", rows, "sched-wakeup-entry") == [("vCPU threads", 1, 5, 20)]


def test_a_thread_that_sleeps_again_did_not_enter(tmp_path: Path) -> None:
    """It was woken for something else."""
    rows = [switched(0, 100, SLEEPING, 0), scheduled(10, 100), switched(14, 0, RUNNABLE, 100)]
    rows += [switched(16, 100, SLEEPING, 0), scheduled(20, 100), switched(21, 0, RUNNABLE, 100), at(30)]
    assert found(tmp_path, rows, "sched-wakeup-entry") == [("vCPU threads", 4, 6, 10)]


def test_preemption_names_who_ran_instead_and_where_it_happened(tmp_path: Path) -> None:
    """By the last of the thread's events: an entry, an exit, a return to userspace. Other threads do not count."""
    rows = [
        at(0),
        switched(1, 100, PREEMPTED, 50),
        switched(5, 50, RUNNABLE, 100, "CPU 0/KVM"),
        at(6, "kvm_exit"),
        switched(10, 100, RUNNABLE, 51, "perf"),
        switched(17, 51, SLEEPING, 100),
        returned(18),
        switched(20, 100, RUNNABLE, 51, "perf"),
        switched(21, 51, SLEEPING, 99),
        switched(28, 99, SLEEPING, 100),
    ]
    assert found(tmp_path, rows, "preempted") == [
        ("by kworker (50), in guest", 1, 2, 4),
        ("by perf (51), in kernel", 4, 5, 7),
        ("by perf (51), in userspace", 7, 9, 8),
    ]


def test_a_state_of_which_text_tells_only_that_it_is_runnable_will_do(tmp_path: Path) -> None:
    """`R` of trace-cmd's plugin stands for two states: null."""
    rows = [at(0), switched(1, 100, None, 50), switched(5, 50, PREEMPTED, 100)]
    assert found(tmp_path, rows, "preempted") == [("by kworker (50), in guest", 1, 2, 4)]


def test_a_thread_counts_as_long_as_its_vm_is_there(tmp_path: Path) -> None:
    """Its number may be another's later."""
    rows = [at(0), switched(1, 100, RUNNABLE, 50), switched(5, 50, RUNNABLE, 100)]
    rows += [switched(8, 100, RUNNABLE, 50), switched(9, 50, RUNNABLE, 100)]
    assert [span[1:3] for span in found(tmp_path, rows, "preempted", last_seq=2)] == [(1, 2)]


def test_a_hypercall_and_its_exit(tmp_path: Path) -> None:
    """The call alone, and the exit around it; KVM's own calls have no end of their own."""
    rows = [at(0), at(10, "kvm_exit"), call(12, SEND_IPI), done(19), at(25), at(30, "kvm_exit")]
    rows += [at(31, "kvm_hypercall", nr=5), at(36)]
    assert found(tmp_path, rows, "hypercall") == [("HvCallSendSyntheticClusterIpi", 2, 3, 7)]
    assert found(tmp_path / "2", rows, "hypercall-exit") == [
        ("HvCallSendSyntheticClusterIpi", 1, 4, 15),
        ("KVM_HC_KICK_CPU", 5, 7, 6),
    ]


def test_an_exit_that_is_traced_late_is_the_call_s_all_the_same(tmp_path: Path) -> None:
    """KVM on SVM before 6.6: it stands behind the call, in the same unit."""
    rows = [at(0), call(12, SEND_IPI), at(13, "kvm_exit"), done(19), at(25)]
    assert [span[1:] for span in found(tmp_path, rows, "hypercall-exit")] == [(2, 4, 12)]


def test_an_exit_before_the_first_entry_is_not_known(tmp_path: Path) -> None:
    """Nor is one whose event is missing: that of the unit before is another."""
    rows = [at(5, "kvm_exit"), call(6, SEND_IPI), at(7), at(8, "kvm_exit"), at(9), call(12, SEND_IPI), at(25)]
    answer = latency(tiny_store(tmp_path / "t.hvt", rows), Question(measures=("hypercall-exit",)))
    assert (answer.rows, answer.counted[0]["excluded"]["unpaired"]) == ([], 2)


def test_flushes_by_how_many_vcpus_they_concern(tmp_path: Path) -> None:
    """Those named that are there; all, where a flag or an empty mask says so; not known of a sparse set."""
    names = ("processor_mask", "flags", "address_space")
    rows: list[Row] = [at(0), at(0, vcpu=1), at(0, vcpu=2)]
    for ts, mask, flags in ((10, 0b10, 0), (20, 0xFF, 0), (30, 0b1, 1), (40, 0, 0)):
        fields = dict(zip(names, (mask, flags, 0), strict=True))
        rows += [call(ts, FLUSH), at(ts + 1, "kvm_hv_flush_tlb", **fields), done(ts + 4)]
    for ts, form in ((50, 0), (60, 1)):
        rows += [
            call(ts, FLUSH_EX),
            at(ts + 1, "kvm_hv_flush_tlb_ex", valid_bank_mask=1, format=form),
            done(ts + 5),
        ]
    name, name_ex = "HvCallFlushVirtualAddressSpace", "HvCallFlushVirtualAddressSpaceEx"
    assert [(span[0], span[3]) for span in found(tmp_path, rows, "tlb-flush")] == [
        (f"{name}, 1 vCPU", 4),
        (f"{name}, 3 vCPUs", 4),
        (f"{name}, 3 vCPUs", 4),
        (f"{name}, 3 vCPUs", 4),
        (f"{name_ex}, a sparse set", 5),
        (f"{name_ex}, 3 vCPUs", 5),
    ]


def test_events_of_unknown_vcpus_are_counted(tmp_path: Path) -> None:
    """They are in no span."""
    rows = [returned(10, vcpu=None), at(20), returned(30), at(34)]
    answer = latency(tiny_store(tmp_path / "t.hvt", rows), Question(measures=("userspace",)))
    assert [row["time_ns"] for row in answer.rows] == [4]
    assert answer.counted[0]["excluded"] == {"lost": 0, "backwards": 0, "unpaired": 0, "unattributed": 1}


def test_a_span_that_ends_before_it_begins_makes_no_figure(tmp_path: Path) -> None:
    """Clocks of two CPUs may differ."""
    rows = [returned(10), at(8, cpu=1), returned(30), at(34)]
    answer = latency(tiny_store(tmp_path / "t.hvt", rows), Question(measures=("userspace",)))
    assert [row["time_ns"] for row in answer.rows] == [4]
    assert answer.counted[0]["excluded"]["backwards"] == 1
