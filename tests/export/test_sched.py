"""The host's threads of vCPUs: running, preempted, sleeping, woken and waiting for a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import drawing as d
from builders.store import Row

from hvtrace.export.streams import Which

THREAD = ("VM 0", "vCPU 0", "Host thread")
#: tiny_store's thread of vCPU 0, and threads of no vCPU.
MINE, MAKE, IDLE = ("CPU 0/KVM", 100), ("make", 5), ("swapper/3", 0)
SLEEPS = 1


def vcpu(ts: int = 0) -> Row:
    """Something that makes vCPU 0 known."""
    return d.entry(ts)


def test_a_thread_runs_is_preempted_and_runs_again(tmp_path: Path) -> None:
    """By whom, and on which CPU it ran, are arguments."""
    rows = [
        vcpu(),
        d.switch(1_000, 3, IDLE, MINE),
        d.switch(2_000, 3, MINE, MAKE),
        d.switch(3_000, 1, MAKE, MINE),
        d.switch(4_000, 1, MINE, IDLE, state=0x100),
        d.switch(5_000, 1, IDLE, MINE),
    ]
    timeline = d.draw(tmp_path, rows)
    assert timeline.on(*THREAD) == [
        (1_000, 2_000, 0, "running"),
        (2_000, 3_000, 0, "preempted"),
        (3_000, 4_000, 0, "running"),
        (4_000, 5_000, 0, "preempted"),
    ]
    assert [s.arguments for s in timeline.slices if s.track == THREAD] == [
        {"host_cpu": 3},
        {"preempted_by": "make (5)", "prev_state": 0},
        {"host_cpu": 1},
        {"preempted_by": "swapper/3 (0)", "prev_state": 0x100},
    ]


def test_a_thread_sleeps_and_is_woken(tmp_path: Path) -> None:
    """From the wake-up until it runs it is runnable; who woke it is an argument."""
    rows = [
        vcpu(),
        d.switch(1_000, 3, IDLE, MINE),
        d.switch(2_000, 3, MINE, IDLE, state=SLEEPS),
        d.wake(3_000, 100, waker=("qemu", 7)),
        d.wake(3_100, 100),
        d.switch(4_000, 3, IDLE, MINE),
        d.wake(4_500, 100),
        d.switch(5_000, 3, MINE, MAKE),
    ]
    timeline = d.draw(tmp_path, rows)
    assert timeline.on(*THREAD) == [
        (1_000, 2_000, 0, "running"),
        (2_000, 3_000, 0, "sleeping"),
        (3_000, 4_000, 0, "runnable"),
        (4_000, 5_000, 0, "running"),
    ]
    sleeping, runnable = (s.arguments for s in timeline.slices[1:3])
    assert sleeping == {"prev_state": SLEEPS}
    assert runnable == {"waker": "qemu (7)"}


def test_one_vcpu_may_preempt_another(tmp_path: Path) -> None:
    """One event is then the end of one vCPU's running and the beginning of the other's."""
    other = ("CPU 1/KVM", 101)
    rows = [
        vcpu(),
        d.entry(0, vcpu=1),
        d.switch(1_000, 3, IDLE, MINE),
        d.switch(2_000, 3, MINE, other),
        d.switch(3_000, 3, other, MINE),
        d.switch(4_000, 3, MINE, IDLE, SLEEPS),
    ]
    timeline = d.draw(tmp_path, rows)
    assert [s[3] for s in timeline.on(*THREAD)] == ["running", "preempted", "running"]
    assert timeline.on("VM 0", "vCPU 1", "Host thread") == [(2_000, 3_000, 0, "running")]
    assert timeline.slices[1].arguments["preempted_by"] == "CPU 1/KVM (101)"


def test_other_threads_are_not_drawn(tmp_path: Path) -> None:
    """Nor those of vCPUs that are not wanted."""
    rows = [vcpu(), d.switch(1_000, 3, MAKE, IDLE), d.wake(1_500, 5), d.switch(2_000, 3, IDLE, MAKE)]
    assert not d.draw(tmp_path, rows).slices
    mine = [d.switch(3_000, 3, IDLE, MINE), d.switch(4_000, 3, MINE, IDLE), d.entry(5_000, vcpu=1)]
    assert not d.draw(tmp_path, [vcpu(), *mine], Which(vcpu=1)).slices


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_windows_do_not_matter(tmp_path: Path, window: int) -> None:
    """The state a thread is in is known over the end of a window."""
    rows = [
        vcpu(),
        *(d.switch(1_000 * i, 3, *((IDLE, MINE) if i % 2 else (MINE, IDLE))) for i in range(1, 7)),
    ]
    timeline = d.draw(tmp_path, rows, window=window)
    assert [(s[0], s[3]) for s in timeline.on(*THREAD)] == [
        (1_000 * i, "running" if i % 2 else "preempted") for i in range(1, 6)
    ]


def test_a_loss_cuts(tmp_path: Path) -> None:
    """A thread may have run on any CPU meanwhile."""
    rows = [
        vcpu(),
        *(d.switch(1_000 * i, 3, *((IDLE, MINE) if i % 2 else (MINE, IDLE))) for i in range(1, 5)),
    ]
    lost = [{"cpu": 5, "from_ns": 2_500, "to_ns": 2_501, "count": None}]
    assert [s[0] for s in d.draw(tmp_path, rows, lost=lost).on(*THREAD)] == [1_000, 3_000]


def test_fields_that_a_recording_lacks(tmp_path: Path) -> None:
    """Names and states may be missing."""
    rows: list[Row] = [
        vcpu(),
        (1_000, "sched_switch", None, 0, {"prev_pid": 0, "next_pid": 100}),
        (2_000, "sched_switch", None, 0, {"prev_pid": 100, "next_pid": 5, "prev_state": 0}),
        (3_000, "sched_switch", None, 0, {"prev_pid": 0, "next_pid": 100}),
        (4_000, "sched_switch", None, 0, {}),
        (5_000, "sched_wakeup", None, 0, {}),
        (6_000, "sched_switch", None, 0, {"prev_pid": 100, "next_pid": 0}),
        (7_000, "sched_wakeup", None, 0, {"pid": 100}),
        (8_000, "sched_switch", None, 0, {"prev_pid": 0, "next_pid": 100}),
    ]
    timeline = d.draw(tmp_path, rows)
    assert [s[3] for s in timeline.on(*THREAD)] == ["running", "preempted", "running", "sleeping", "runnable"]
    assert timeline.slices[1].arguments["preempted_by"] == "? (5)"
