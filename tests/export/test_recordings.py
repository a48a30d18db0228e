"""Timelines of real recordings: the states add up, and nothing is drawn twice or left out."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from builders.expected_timeline import compare
from builders.timeline import read_timeline
from recordings import carriers, get

from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which
from hvtrace.pipeline.ingest import ingest
from hvtrace.store import Store

RECORDINGS = ["baseline-hvmut-stimer", "kut-hyperv_synic", "two-vms", "selftest-hyperv_features", "lossy"]

#: kvm_entry, kvm_exit, kvm_userspace_exit by letter, and what may follow what.
LETTERS = {"kvm_entry": "E", "kvm_exit": "X", "kvm_userspace_exit": "U"}
WHOLE = {"EX": "guest", "XE": "exit", "XU": "exit", "UE": "userspace", "UU": "userspace"}


def expected_states(store: Store) -> dict[tuple[str, ...], dict[str, list[tuple[int, int]]]]:
    """States of each vCPU by category, found event by event; "gap" where one cannot know."""
    tables = [
        store.scan(t).select("seq", "ts_ns", "cpu", "vm", "vcpu", letter=pl.lit(letter))
        for t, letter in LETTERS.items()
    ]
    lost = store.manifest.lost
    found: dict[tuple[str, ...], dict[str, list[tuple[int, int]]]] = {}
    for (vm, vcpu), rows in pl.concat(tables).collect().sort("seq").group_by("vm", "vcpu"):
        states: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for (_, start, c0, _, _, a), (_, end, c1, _, _, b) in pairwise(rows.sort("seq").iter_rows()):
            hit = any(
                loss["cpu"] in (c0, c1) and loss["from_ns"] < end and loss["to_ns"] > start for loss in lost
            )
            kind = "gap" if hit or end < start else WHOLE.get(a + b, "gap")
            states[kind].append((start, end))
        group = ["VMs"] if len(store.manifest.vms) > 10 else []
        found[*group, f"VM {vm}", f"vCPU {vcpu}"] = states
    return found


@pytest.mark.parametrize("name", RECORDINGS)
def test_states_are_disjoint_and_add_up(recorded: Callable[[str], Store], name: str) -> None:
    """Guest, exits, userspace and gaps fill the time from a vCPU's first event to its last, each drawn once."""
    store = recorded(name)
    out = io.BytesIO()
    count = write_trace(store, out)
    timeline = read_timeline(out.getvalue())
    assert count + len(store.manifest.lost) == len(timeline.slices)
    for track, states in expected_states(store).items():
        own = [s for s in timeline.slices if s.track == track]
        outer = [s for s in own if s.depth == 0 and "unfinished" not in s.arguments]
        for category in ("guest", "exit", "userspace"):
            assert states[category] == [(s.start, s.end) for s in outer if s.category == category]
        assert all(a.end <= b.start for a, b in pairwise(outer))
        covered = sum(s.end - s.start for s in outer) + sum(b - a for a, b in states["gap"])
        points = [p for spans in states.values() for span in spans for p in span]
        assert covered == max(points) - min(points)


@pytest.mark.parametrize(
    "name", [*RECORDINGS, "baseline-hvmut-ipi", "baseline-hvmut-hcall", "006-eom-ignored", "linux-vmbus-msg"]
)
def test_what_lies_between_events_is_drawn(recorded: Callable[[str], Store], name: str) -> None:
    """Timers, SINTs, interrupts, threads and all flows are those that a walk over the rows, one by one, finds."""
    store = recorded(name)
    out = io.BytesIO()
    write_trace(store, out)
    compare(store, read_timeline(out.getvalue()))


@pytest.mark.parametrize("carrier", ["perf.data", "ftrace.txt", "report.txt", "perf-script.txt"])
def test_other_formats_of_a_recording(tmp_path: Path, carrier: str) -> None:
    """Texts lack some fields, and some events: what is drawn is what is there."""
    ingest([carriers(get("kut-hyperv_synic"))[carrier]], tmp_path / "t.hvt")
    out = io.BytesIO()
    write_trace(Store(tmp_path / "t.hvt"), out)
    timeline = read_timeline(out.getvalue())
    compare(Store(tmp_path / "t.hvt"), timeline)
    assert sum(s.category == "synic" for s in (*timeline.slices, *timeline.instants)) == 32


@pytest.mark.parametrize("name", RECORDINGS[:4])
def test_the_size_of_windows_does_not_matter(recorded: Callable[[str], Store], name: str) -> None:
    """Read in windows of 3,000 events or all at once, the same is drawn."""
    found = []
    for window in (3000, 1 << 20):
        out = io.BytesIO()
        write_trace(recorded(name), out, window=window)
        timeline = read_timeline(out.getvalue())
        both = sorted([*timeline.slices, *timeline.instants], key=lambda s: (s.track, s.short))
        found.append(
            (
                [(s.track, s.short, sorted(s.arguments.items(), key=str), sorted(s.flows)) for s in both],
                timeline.counters,
            )
        )
    assert found[0] == found[1]


def test_one_vm_of_two(recorded: Callable[[str], Store]) -> None:
    """--vm draws that VM alone, and just as it is among the others."""
    drawn = []
    for which in (Which(), Which(vm=1)):
        out = io.BytesIO()
        write_trace(recorded("two-vms"), out, which)
        drawn.append(read_timeline(out.getvalue()))
    everything, one = drawn
    assert {track[0] for track in one.tracks} == {"Recording", "VM 1"}
    assert [s for s in everything.slices if s.track[0] == "VM 1"] == one.slices
    assert [s for s in everything.instants if s.track[0] == "VM 1"] == one.instants
    between = [(a, b) for a, b in everything.arrows() if a.track[0] == "VM 1"]
    assert between == one.arrows()
    assert len(between) > 10_000


@pytest.mark.parametrize("share", [(0.3, 0.35), (0.9, 1.0)])
def test_a_part_is_drawn_as_in_the_whole(
    recorded: Callable[[str], Store], share: tuple[float, float]
) -> None:
    """--from and --to: what touches the span, with the same arguments and flows, and nothing else."""
    store = recorded("two-vms")
    first, last = store.manifest.time["first_ns"], store.manifest.time["last_ns"]
    span = [int(first + (last - first) * part) for part in share]
    found = []
    for which in (Which(), Which(first_ns=span[0], last_ns=span[1])):
        out = io.BytesIO()
        write_trace(store, out, which)
        timeline = read_timeline(out.getvalue())
        both = [s for s in (*timeline.slices, *timeline.instants) if s.end >= span[0] and s.start <= span[1]]
        found.append({(s.track, s.short): (s.arguments, sorted(s.flows)) for s in both})
    assert found[0] == found[1]
    assert len(found[0]) > 4_000
