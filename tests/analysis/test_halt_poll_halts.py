"""Halts as read from a store: their changes, the polling time in force, what ended them; parameters inferred."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from builders.polling_host import Host
from builders.store import Row, tiny_store

from hvtrace.analysis.halt_poll.answer import Question, halt_poll
from hvtrace.analysis.halt_poll.arrivals import arrivals
from hvtrace.analysis.halt_poll.halts import Recorded, read
from hvtrace.analysis.halt_poll.own import find_own
from hvtrace.analysis.halt_poll.rules import HostSetting
from hvtrace.analysis.scope import Scope
from hvtrace.store import Manifest, Store

OWN = HostSetting(200_000)


def wakeup(ts: int, ns: int, vcpu: int = 0, *, slept: bool = True) -> Row:
    return ts, "kvm_vcpu_wakeup", vcpu, 0, {"ns": ns, "waited": slept, "valid": True}


def change(ts: int, old: int, new: int, vcpu: int = 0) -> Row:
    return ts, "kvm_halt_poll_ns", vcpu, 0, {"grow": new >= old, "vcpu_id": vcpu, "new": new, "old": old}


def control(ts: int, data: int) -> Row:
    return ts, "kvm_msr", 0, 0, {"write": 1, "ecx": 0x4B564D05, "data": data, "exception": 0}


def offset(ts: int, previous: int) -> Row:
    told = {"vcpu_id": 0, "previous_tsc_offset": previous, "next_tsc_offset": 9}
    return ts, "kvm_write_tsc_offset", 0, 0, told


def of(store: Store) -> Recorded:
    return read(Scope().tables(store), None)


def test_a_change_belongs_to_the_wakeup_that_follows_it(tmp_path: Path) -> None:
    """By vCPU; of another vCPU's events between them nothing is taken."""
    events = [
        change(10, 0, 10_000),
        wakeup(11, 70, vcpu=1),
        wakeup(12, 50_000),
        wakeup(20, 9_000, slept=False),
    ]
    halts = of(tiny_store(tmp_path / "t.hvt", events))
    assert halts.owner.tolist() == [0, 0, 1]
    assert halts.ns.tolist() == [50_000, 9_000, 70]
    assert halts.new.tolist() == [10_000, -1, -1]
    assert halts.first.tolist() == [True, False, True]


def test_the_polling_time_in_force(tmp_path: Path) -> None:
    """What the last change made of it, held under the cap; not known before the first."""
    events = [
        wakeup(10, 9_000),
        *(change(19, 160_000, 320_000), wakeup(20, 170_000)),
        wakeup(30, 100_000, slept=False),
        *(change(39, 200_000, 0), wakeup(40, 300_000)),
        wakeup(50, 900_000),
    ]
    halts = of(tiny_store(tmp_path / "t.hvt", events))
    assert halts.in_force(OWN).tolist() == [-1, 160_000, 200_000, 200_000, 0]
    assert halts.in_force(HostSetting(200_000, clamps=True)).tolist() == [-1, 160_000, 320_000, 200_000, 0]
    assert halts.in_force(HostSetting(0)).tolist() == [0, 160_000, 0, 200_000, 0]


def test_a_halt_as_long_as_the_cap_tells_nothing(tmp_path: Path) -> None:
    """It shrinks no polling time; one that is a ns longer would have, had there been any."""
    events = [wakeup(10, 200_000), wakeup(20, 200_001), wakeup(30, 5)]
    halts = of(tiny_store(tmp_path / "t.hvt", events))
    assert halts.in_force(OWN).tolist() == [-1, -1, 0]


def test_a_change_of_another_thread_is_not_the_halts(tmp_path: Path) -> None:
    """Where a vCPU moves from thread to thread, what the one began the other does not end."""
    ts, table, vcpu, cpu, told = change(10, 0, 10_000)
    halts = of(
        tiny_store(tmp_path / "t.hvt", [(ts, table, vcpu, cpu, told | {"tid": 7}), wakeup(11, 50_000)])
    )
    assert halts.new.tolist() == [-1]
    assert halts.orphans["new"].to_list() == [10_000]


@pytest.mark.parametrize(
    ("before", "allowed"),
    [
        ([], -1),
        ([offset(1, 0)], 1),
        ([offset(1, 0), control(2, 0)], 0),
        ([control(2, 0), control(3, 1)], 1),
        ([offset(1, 0), offset(2, 7)], -1),
        ([offset(2, 7), change(3, 0, 10_000), wakeup(4, 50_000)], 1),
        ([control(2, 0), change(3, 0, 10_000), wakeup(4, 50_000)], 0),
    ],
)
def test_whether_the_guest_lets_the_host_poll(tmp_path: Path, before: list[Row], allowed: int) -> None:
    """A new vCPU does; the guest's own writes say so; what userspace restores is not known until something changes."""
    halts = of(tiny_store(tmp_path / "t.hvt", [*before, wakeup(10, 9_000)]))
    assert halts.allowed[-1] == allowed


def test_what_ended_a_halt(tmp_path: Path) -> None:
    """The first interrupt or timer within it; a wake-up of the thread only where there is neither."""
    accepted = {"apicid": 0, "vec": 32}
    woken = {"pid": 100, "prio": 120, "target_cpu": 0}
    events: list[Row] = [
        (5, "kvm_apic_accept_irq", 0, 0, accepted),
        (960, "kvm_hv_stimer_callback", 0, 0, {"vcpu_id": 0, "timer_index": 0}),
        (970, "kvm_apic_accept_irq", 0, 0, accepted),
        (980, "sched_wakeup", None, 0, woken),
        wakeup(1_000, 500),
        (1_300, "sched_waking", None, 0, woken),
        (1_310, "sched_wakeup", None, 0, woken),
        (1_350, "sched_wakeup", None, 0, woken | {"pid": 7}),
        wakeup(1_400, 300),
        wakeup(2_000, 100),
    ]
    store = tiny_store(tmp_path / "t.hvt", events)
    tables, halts = Scope().tables(store), of(store)
    found = arrivals(tables, halts)
    assert found.latency.tolist() == [40, 100, -1]
    assert found.counts() == {"kvm_hv_stimer_callback": 1, "sched_waking": 1}
    assert arrivals(tables, halts, in_ns=False).latency.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("name", ["linux-plain", "linux-vmbus-msg", "lossy", "two-vms"])
def test_halts_and_their_causes_one_by_one(recorded: Callable[..., Store], name: str) -> None:
    """A real recording, walked event by event: polling times, what became of each halt, and when its cause came."""
    store = recorded(name)
    total, polls = dict.fromkeys(("successes", "failures", "unpolled", "at_once"), 0), dict[Any, int | None]()
    rows = pl.concat(
        [
            store.scan(table).with_columns(table=pl.lit(table))
            for table in (
                "kvm_vcpu_wakeup",
                "kvm_halt_poll_ns",
                "kvm_apic_accept_irq",
                "kvm_hv_stimer_callback",
            )
            if store.has(table)
        ],
        how="diagonal_relaxed",
    )
    came: dict[Any, list[int]] = {}
    latencies, latest = [], dict[Any, tuple[bool, int]]()
    for row in rows.sort("seq").collect().iter_rows(named=True):
        owner = row["vm"], row["vcpu"]
        if row["table"] == "kvm_halt_poll_ns":
            latest[owner] = row["old"], row["new"]
            continue
        if row["table"] != "kvm_vcpu_wakeup":
            came.setdefault(owner, []).append(row["ts_ns"])
            continue
        old, new = latest.pop(owner, (None, None))
        poll = old if old is not None else polls.get(owner, 0)
        polls[owner] = poll if new is None else new
        if poll:
            total["failures" if row["waited"] else "successes"] += 1
        else:
            total["unpolled" if row["waited"] else "at_once"] += 1
        inside = [ts for ts in came.get(owner, []) if ts >= row["ts_ns"] - row["ns"]]
        if row["waited"] and inside:
            latencies.append(row["ts_ns"] - inside[0])
    answer = halt_poll(store).total
    if not store.manifest.lost:
        assert {kind: answer[kind] for kind in total} == total
    assert answer["blocked_latency_count"] == len(latencies)
    assert answer["blocked_latency_mean_ns"] == round(float(np.mean(latencies)))


def without_metadata(path: Path, host: Host, arrivals: list[int]) -> Store:
    return tiny_store(path, host.rows(arrivals))


#: Halts that make a polling time grow up to the cap, and shrink.
UP_AND_DOWN = [*[150_000] * 7, 30_000, 5_000, 900_000, 900_000, 5_000, 12_000, 25_000, 170_000, 800_000] * 3


@pytest.mark.parametrize(
    "host",
    [
        Host(),
        Host(shrink=2),
        Host(grow=3),
        Host(start=20_000),
        Host(cap=170_000),
        Host(cap=400_000, shrink=4),
        Host(clamps=True, cap=170_000),
    ],
)
def test_parameters_are_inferred_from_what_they_did(tmp_path: Path, host: Host) -> None:
    """Where nobody noted them: each that left its mark in the recording."""
    store = without_metadata(tmp_path / "t.hvt", host, UP_AND_DOWN)
    manifest = store.manifest
    manifest.kernel = "5.15.85" if host.clamps else "6.1.0"
    own = find_own(of(store), manifest, {})
    assert own.reproduced is not None
    assert (own.reproduced.mismatched, own.reproduced.unknown) == (0, 0)
    setting = own.setting
    assert (setting.grow, setting.start, setting.shrink) == (host.grow, host.start, host.shrink)
    assert own.sources["grow"] == own.sources["start"] == own.sources["shrink"] == "inferred"


@pytest.mark.parametrize(
    "name",
    [
        "linux-plain",
        "linux-vmbus-msg",
        "lossy",
        "baseline-hvmut-haltbig",
        "linux-hv",
        "linux-hv-nopoll",
        "linux-6.12-hv",
    ],
)
def test_real_recordings_tell_their_parameters(recorded: Callable[..., Store], name: str) -> None:
    """With the metadata taken away: the same parameters."""
    store = recorded(name)
    noted = find_own(of(store), store.manifest, {})
    bare = Manifest(kernel=store.manifest.kernel)
    halts = of(store)
    assert find_own(halts, bare, {}).setting == noted.setting
    assert "metadata" in noted.sources.values()


def test_what_a_person_says_counts_more_than_the_metadata(recorded: Callable[..., Store]) -> None:
    """And the metadata more than what changes show; each says where it is from."""
    answer = halt_poll(recorded("linux-plain"), Question(own="shrink=2"))
    assert answer.own.as_dict()["sources"] == {
        "halt_poll_ns": "metadata",
        "halt_poll_ns_grow": "metadata",
        "halt_poll_ns_grow_start": "metadata",
        "halt_poll_ns_shrink": "given",
    }
    assert answer.own.setting.shrink == 2


def test_changes_that_were_not_recorded(tmp_path: Path) -> None:
    """Polling times are then those that the parameters lead to; nothing can be reproduced."""
    host = Host()
    rows = [row for row in host.rows(UP_AND_DOWN) if row[1] != "kvm_halt_poll_ns"]
    answer = halt_poll(tiny_store(tmp_path / "t.hvt", rows, polling_cap=200_000))
    assert answer.own.reproduced is None
    assert answer.total["failures"] == sum(halt.slept and halt.poll > 0 for halt in host.halts)
    assert answer.total["vain_ns"] == sum(halt.poll for halt in host.halts if halt.slept)


def test_a_part_of_the_recording_knows_what_came_before(tmp_path: Path) -> None:
    """The polling time with which it begins; run again, its halts are the recorded ones."""
    host = Host()
    store = tiny_store(tmp_path / "t.hvt", host.rows(UP_AND_DOWN), polling_cap=200_000)
    whole = store.scan("kvm_vcpu_wakeup").collect()
    answer = halt_poll(store, Question(first_ns=whole["ts_ns"][8], last_ns=whole["ts_ns"][20]))
    own = host.halts[8:21]
    assert own[0].poll > 0
    assert answer.total["halts"] == len(own)
    assert answer.total["vain_ns"] == sum(halt.poll for halt in own if halt.slept)
    assert answer.outcomes[0].vain_ns == answer.total["vain_ns"]
    assert answer.outcomes[0].successes == sum(not halt.slept for halt in own) == answer.total["successes"]


@pytest.mark.parametrize(
    "name", ["linux-plain", "linux-vmbus-msg", "lossy", "linux-hv-bigpoll-5s", "two-vms"]
)
def test_its_own_parameters_bring_about_the_recorded_halts(recorded: Callable[..., Store], name: str) -> None:
    """Run again under the recording's own parameters: as many successes and failures, the same times."""
    answer = halt_poll(recorded(name), Question(sweep="auto"))
    own = answer.outcomes[0]
    names = ("successes", "failures", "polled_ns", "vain_ns", "burnt_ns")
    assert {n: getattr(own, n) for n in names} == {n: answer.total[n] for n in names}
    assert answer.outcomes[1].burnt_ns == 0


def test_a_guest_that_forbade_polling_before_the_recording_began(tmp_path: Path) -> None:
    """Nothing says so; but a vCPU whose polling time is 0, and whose short halts do not make it grow, may not poll."""
    quiet = [wakeup(10, 300_000), wakeup(20, 50_000), wakeup(30, 70_000)]
    other = [change(40, 0, 10_000, vcpu=1), wakeup(41, 50_000, vcpu=1)]
    asked = Question(what_if=("halt_poll_ns=400000",))
    answer = halt_poll(tiny_store(tmp_path / "t.hvt", [*quiet, *other], polling_cap=200_000), asked)
    assert [row["barred"] for row in answer.rows] == [3, 0]
    assert answer.outcomes[-1].failures == 0
    late = [*quiet, change(50, 0, 10_000), wakeup(51, 50_000)]
    answer = halt_poll(tiny_store(tmp_path / "u.hvt", late, polling_cap=200_000), asked)
    assert answer.total["barred"] == 0
