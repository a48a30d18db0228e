"""Waits of vCPUs: notifications, pauses, preemption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from advice_cases.costs import HYPERCALL, PAUSE, SECOND, exits
from builders.store import Row, tiny_store

from hvtrace.analysis.advise import Question, advise
from hvtrace.store import Store


def notify(rate: int) -> list[Row]:
    return exits(rate, HYPERCALL, ("kvm_hv_hypercall", {"code": 8, "fast": True}), seconds=1, ns=50_000)


@pytest.mark.parametrize(
    ("code", "rows", "told"),
    [
        ("AD451", notify(100), True),
        ("AD451", notify(99), False),
        ("AD452", exits(1_000, PAUSE, seconds=1), True),
        ("AD452", exits(999, PAUSE, seconds=1), False),
        ("AD452", exits(1_000, (1, 40), seconds=1), True),
    ],
)
def test_how_often_in_a_second(code: str, rows: list[Row], *, told: bool, tmp_path: Path) -> None:
    """Now and then it happens; from some rate on it means something."""
    rows[0] = (SECOND, *rows[0][1:])
    answer = advise(tiny_store(tmp_path / "a.hvt", rows), Question(codes=(code,)))
    assert bool(answer.findings) == told
    if told:
        assert (
            answer.findings[0]
            .evidence[-1]
            .sentence.startswith("whether vCPUs were preempted was not recorded")
        )


def switch(at: int, gone: int, state: int, come: int) -> Row:
    return at, "sched_switch", None, 0, {"prev_pid": gone, "prev_state": state, "next_pid": come}


def test_preempted_time(tmp_path: Path) -> None:
    """From a switch away from a thread that could go on (R, with or without +) to the next one to it."""
    rows = sorted(
        [
            *exits(10, PAUSE, seconds=1, ns=1_000),
            switch(SECOND + 100, 100, 0, 7),
            switch(SECOND + 100 + 80_000_000, 7, 0, 100),
            switch(SECOND + 300_000_000, 100, 1, 7),  # It sleeps.
            switch(SECOND + 500_000_000, 7, 1, 100),
            switch(SECOND + 600_000_000, 100, 256, 7),
            switch(SECOND + 640_000_000, 7, 0, 100),
        ],
        key=lambda row: row[0],
    )
    (found,) = advise(tiny_store(tmp_path / "a.hvt", rows), Question(codes=("AD453",))).findings
    assert found.title == "vCPU threads that could run waited for a CPU for 120 ms, 13 % of their time"
    assert found.evidence[0].sentence == "preempted 2 times, 2.2 a second; the longest for 80.0 ms"


def test_preempted_time_against_a_walk(recorded: Callable[..., Store]) -> None:
    """The real one, switch by switch."""
    store = recorded("linux-spin-overcommit")
    (found,) = advise(store, Question(codes=("AD453",))).findings
    threads = {tid for vm in store.manifest.vms for vcpu in vm["vcpus"] for tid in vcpu["tids"]}
    away: dict[int, int] = {}
    times = []
    for row in store.scan("sched_switch").sort("seq").collect().to_dicts():
        if row["next_pid"] in threads and row["next_pid"] in away:
            times.append(row["ts_ns"] - away.pop(row["next_pid"]))
        if row["prev_pid"] in threads and row["prev_state"] & 0xFF == 0:
            away[row["prev_pid"]] = row["ts_ns"]
        else:
            away.pop(row["prev_pid"], None)
    assert (found.evidence[0].count, found.evidence[0].time_ns) == (len(times), sum(times))


def test_a_thread_that_ran_another_vm_before_is_preempted_in_its_own_time(tmp_path: Path) -> None:
    """Of two VMs of one thread, each has the preemptions of its own events."""
    from hvtrace.analysis.advice.facts import Facts
    from hvtrace.analysis.advice.spin import _preempted
    from hvtrace.analysis.scope import Scope

    rows = [
        (1_000, "kvm_entry", 0, 0, {"vcpu_id": 0}),
        switch(2_000, 100, 0, 7),
        switch(2_500, 7, 0, 100),
        switch(3_000, 100, 0, 7),
        switch(3_700, 7, 0, 100),
    ]
    store = tiny_store(tmp_path / "a.hvt", rows)
    (first,) = store.manifest.vms
    store.manifest.vms = [first | {"last_seq": 2}, first | {"vm": 1, "first_seq": 3}]
    told = {vm: (count, ns) for vm, (count, ns, *_) in _preempted(Facts(store, Scope())).items()}
    assert told == {0: (1, 500), 1: (1, 700)}
