"""The timeline and `hvtrace exits` agree, exit by exit, where both say something."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from builders.timeline import Timeline, read_timeline

from hvtrace.analysis.pairs import WHOLE, pairs
from hvtrace.analysis.subjects import exit_reason
from hvtrace.export.perfetto import write_trace
from hvtrace.store import Store

RECORDINGS = [
    "baseline-hvmut-stimer",
    "kut-hyperv_synic",
    "two-vms",
    "selftest-hyperv_features",
    "linux-plain",
    "lossy",
]

#: VM, vCPU and time stamp of a kvm_exit.
Exit = tuple[str, str, int]


@pytest.fixture(scope="module")
def drawn(recorded: Callable[..., Store]) -> Callable[[str], dict[Exit, tuple[str, int]]]:
    """Name of a recording → its exits as they are drawn."""
    made: dict[str, dict[Exit, tuple[str, int]]] = {}

    def exits(name: str) -> dict[Exit, tuple[str, int]]:
        if name not in made:
            out = io.BytesIO()
            write_trace(recorded(name), out)
            made[name] = put_together(read_timeline(out.getvalue()))
        return made[name]

    return exits


def put_together(timeline: Timeline) -> dict[Exit, tuple[str, int]]:
    """Name and length of each exit as it is drawn: its slice and the userspace slices that follow without a gap."""
    found: dict[Exit, tuple[str, int]] = {}
    last: Exit | None = None
    end = 0
    for s in timeline.slices:
        # Many VMs are in one group.
        track = s.track[1:] if s.track[0] == "VMs" else s.track
        if len(track) != 2 or s.depth or "unfinished" in s.arguments:
            continue
        if s.category == "exit":
            last = (track[0], track[1], s.start)
            assert last not in found
            found[last] = (s.name, s.end - s.start)
        elif s.category == "userspace" and last is not None and (*last[:2], s.start) == (*track, end):
            name, length = found[last]
            found[last] = (name, length + s.end - s.start)
        else:
            last = None
        end = s.end
    return found


def counted(store: Store) -> tuple[dict[Exit, tuple[str, int]], set[Exit]]:
    """Reason and time of each exit that counts; and those that do not."""
    tables = {name: store.scan(name) for name in store.tracepoints}
    whole = pairs(tables, lost=store.scan("lost").collect()).filter(pl.col("state") == WHOLE).collect()

    def named(row: dict[str, Any]) -> Exit:
        return f"VM {row['vm']}", f"vCPU {row['vcpu']}", row["ts_ns"]

    found = {named(row): (exit_reason(row["key"]), row["ns"]) for row in whole.iter_rows(named=True)}
    every = {named(row) for row in store.scan("kvm_exit").collect().iter_rows(named=True)}
    assert len(every) == store.manifest.events["kvm_exit"]
    return found, every - found.keys()


@pytest.mark.parametrize("name", RECORDINGS)
def test_time_by_reason_is_that_of_the_timeline(
    drawn: Callable[[str], dict[Exit, tuple[str, int]]], recorded: Callable[..., Store], name: str
) -> None:
    """For each vCPU and reason: time drawn = time counted + what is drawn of exits that are not counted.

    Not counted is what has no pair (a thread's exit before its first entry, an exit that no entry follows), and pairs
    in which events were lost: of those the timeline draws the part without losses.
    """
    shown, (exact, uncounted) = drawn(name), counted(recorded(name))
    assert {one: shown.get(one) for one in exact} == exact
    assert shown.keys() - exact.keys() <= uncounted

    def by_reason(exits: dict[Exit, tuple[str, int]]) -> Counter[tuple[str, str, str]]:
        sums: Counter[tuple[str, str, str]] = Counter()
        for (vm, vcpu, _), (reason, ns) in exits.items():
            sums[vm, vcpu, reason] += ns
        return sums

    beyond = by_reason({one: shown[one] for one in shown.keys() & uncounted})
    assert by_reason(shown) == by_reason(exact) + beyond


@pytest.mark.parametrize("name", [name for name in RECORDINGS if name != "lossy"])
def test_without_losses_only_the_first_and_the_last_exit_of_a_vcpu_may_not_count(
    drawn: Callable[[str], dict[Exit, tuple[str, int]]], recorded: Callable[..., Store], name: str
) -> None:
    """What is drawn and not counted lies before a vCPU's first entry or after its last; nor does perf count it."""
    store = recorded(name)
    shown, (exact, _) = drawn(name), counted(store)
    assert store.manifest.lost == []
    entries = store.scan("kvm_entry").group_by("vm", "vcpu")
    spans = entries.agg(pl.col("ts_ns").min().alias("first"), pl.col("ts_ns").max().alias("last")).collect()
    begins = {(f"VM {vm}", f"vCPU {vcpu}"): (first, last) for vm, vcpu, first, last in spans.iter_rows()}
    extra = shown.keys() - exact.keys()
    places = [(vm, vcpu, ts < begins[vm, vcpu][0], ts > begins[vm, vcpu][1]) for vm, vcpu, ts in extra]
    assert all(before or after for *_, before, after in places)
    assert len(set(places)) == len(places)
