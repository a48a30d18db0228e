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
        (5_000, 5_000, 0, "running"),
    ]
    assert [s.arguments for s in timeline.slices if s.track == THREAD] == [
        {"host_cpu": 3},
        {"preempted_by": "make (5)", "prev_state": 0},
        {"host_cpu": 1},
        {"preempted_by": "swapper/3 (0)", "prev_state": 0x100},
        {"host_cpu": 1, "unfinished": True},
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
        (5_000, 5_000, 0, "preempted"),
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
    assert timeline.on(*THREAD) == [
        (1_000, 2_000, 0, "running"),
        (2_000, 3_000, 0, "preempted"),
        (3_000, 4_000, 0, "running"),
        (4_000, 4_000, 0, "sleeping"),
    ]
    assert timeline.on("VM 0", "vCPU 1", "Host thread") == [
        (2_000, 3_000, 0, "running"),
        (3_000, 4_000, 0, "preempted"),
    ]
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
    timeline = d.draw(tmp_path, rows, window=window, last_ns=7_000)
    assert timeline.on(*THREAD) == [
        (1_000 * i, 1_000 * i + 1_000, 0, "running" if i % 2 else "preempted") for i in range(1, 7)
    ]
    own = [s for s in timeline.slices if s.track == THREAD]
    assert [s.start for s in own if "unfinished" in s.arguments] == [6_000]


def test_a_loss_cuts(tmp_path: Path) -> None:
    """A thread may have run on any CPU meanwhile."""
    rows = [
        vcpu(),
        *(d.switch(1_000 * i, 3, *((IDLE, MINE) if i % 2 else (MINE, IDLE))) for i in range(1, 5)),
    ]
    lost = [{"cpu": 5, "from_ns": 2_500, "to_ns": 2_501, "count": None}]
    assert [s[0] for s in d.draw(tmp_path, rows, lost=lost).on(*THREAD)] == [1_000, 3_000, 4_000]


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
    assert [(s[0], s[3]) for s in timeline.on(*THREAD)] == [
        (1_000, "running"),
        (2_000, "preempted"),
        (3_000, "running"),
        (6_000, "sleeping"),
        (7_000, "runnable"),
        (8_000, "running"),
    ]
    assert timeline.slices[1].arguments["preempted_by"] == "? (5)"


#: The last event of the thread, and what it does from then on.
LAST = [
    ([d.switch(1_000, 3, IDLE, MINE)], (1_000, "running")),
    ([d.switch(1_000, 3, MINE, MAKE)], (1_000, "preempted")),
    ([d.switch(1_000, 3, MINE, IDLE, SLEEPS)], (1_000, "sleeping")),
    ([d.switch(1_000, 3, MINE, IDLE, SLEEPS), d.wake(1_500, 100)], (1_500, "runnable")),
]


@pytest.mark.parametrize(("events", "last"), LAST, ids=[last[1] for _, last in LAST])
@pytest.mark.parametrize("window", [1, 100])
def test_what_a_thread_does_last_is_drawn_to_the_end(
    tmp_path: Path, events: list[Row], last: tuple[int, str], window: int
) -> None:
    """To the recording's end, and marked; of a VM that ended before, and across a loss, it is not drawn."""
    rows = [vcpu(), *events, d.switch(2_000, 1, MAKE, IDLE), d.switch(2_500, 1, IDLE, MAKE)]
    timeline = d.draw(tmp_path, rows, window=window, last_ns=5_000)
    drawn = [s for s in timeline.slices if s.track == THREAD][-1]
    assert drawn.short == (last[0], 5_000, 0, last[1])
    assert drawn.arguments["unfinished"] is True
    lost = [{"cpu": 9, "from_ns": 3_000, "to_ns": 3_001, "count": None}]
    for store in ({"last_seq": len(rows) - 1}, {"lost": lost}):
        timeline = d.draw(tmp_path, rows, window=window, last_ns=5_000, **store)
        assert last not in [(s.start, s.name) for s in timeline.slices]


@pytest.mark.parametrize("state", [0x10, 0x20], ids=["dead", "zombie"])
@pytest.mark.parametrize("window", [1, 100])
def test_a_dead_thread_does_not_sleep(tmp_path: Path, state: int, window: int) -> None:
    """Nothing is drawn after its last event, not up to that of another thread of the vCPU either."""
    rows = [
        vcpu(),
        d.switch(1_000, 3, IDLE, MINE),
        d.switch(2_000, 3, MINE, IDLE, state),
        d.wake(2_500, 100),
    ]
    timeline = d.draw(tmp_path, rows, window=window, last_ns=5_000)
    assert timeline.on(*THREAD) == [(1_000, 2_000, 0, "running")]
    again = d.draw(tmp_path, [*rows, d.switch(3_000, 3, IDLE, MINE)], window=window, last_ns=5_000)
    assert again.on(*THREAD) == [(1_000, 2_000, 0, "running"), (3_000, 5_000, 0, "running")]


def test_a_part_is_unfinished_only_where_the_recording_is(tmp_path: Path) -> None:
    """What a thread does at the part's end lasts until it does something else."""
    rows = [vcpu(), d.switch(1_000, 3, IDLE, MINE), d.switch(2_000, 3, MINE, IDLE, SLEEPS)]
    for which, ends in (
        (Which(last_ns=1_500), [(2_000, False)]),
        (Which(last_ns=2_000), [(2_000, False), (5_000, True)]),
        (Which(first_ns=2_100), [(5_000, True)]),
    ):
        timeline = d.draw(tmp_path, rows, which, last_ns=5_000)
        own = [s for s in timeline.slices if s.track == THREAD]
        assert [(s.end, "unfinished" in s.arguments) for s in own] == ends
