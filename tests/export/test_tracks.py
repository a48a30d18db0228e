"""Groups of VMs: in the order of their numbers, however many there are."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from builders import drawing as d
from builders.store import tiny_store
from builders.timeline import Timeline, read_timeline
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackDescriptor

from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which

#: Descriptors say the order of a group's children.
EXPLICIT = TrackDescriptor.ChildTracksOrdering.EXPLICIT


def timeline_of(tmp_path: Path, vms: int, which: Which | None = None) -> Timeline:
    """Of a store of so many VMs."""
    store = tiny_store(tmp_path / "t.hvt", [d.entry(1_000), d.leave(2_000), d.entry(3_000)], vms=vms)
    out = io.BytesIO()
    write_trace(store, out, which)
    return read_timeline(out.getvalue())


def groups(timeline: Timeline, *under: str) -> list[str]:
    """The groups within a group, in the order of their ranks."""
    own = [track for track in timeline.tracks if track[:-1] == under and track[-1] != "Recording"]
    return [track[-1] for track in sorted(own, key=lambda track: timeline.tracks[track].sibling_order_rank)]


@pytest.mark.parametrize("vms", [1, 2, 10])
def test_up_to_ten_vms_are_outermost(tmp_path: Path, vms: int) -> None:
    """Sorted as text, as Perfetto sorts outermost groups, 0 to 9 are in order."""
    timeline = timeline_of(tmp_path, vms)
    assert groups(timeline) == [f"VM {n}" for n in range(vms)] == sorted(groups(timeline))
    assert all(groups(timeline, f"VM {n}")[-1] == "vCPU 0" for n in range(vms))


@pytest.mark.parametrize("vms", [11, 12, 101])
def test_more_vms_are_in_one_group_in_order(tmp_path: Path, vms: int) -> None:
    """As text VM 10 would come before VM 2: beneath a group that says the order they do not."""
    timeline = timeline_of(tmp_path, vms)
    assert groups(timeline) == ["VMs"]
    assert timeline.tracks["VMs",].child_ordering == EXPLICIT
    assert groups(timeline, "VMs") == [f"VM {n}" for n in range(vms)]
    ranks = [timeline.tracks["VMs", f"VM {n}"].sibling_order_rank for n in range(vms)]
    assert ranks == sorted(set(ranks))
    assert timeline.on("VMs", "VM 0", "vCPU 0") == [(1_000, 2_000, 0, "guest"), (2_000, 3_000, 0, "msr")]


def test_one_vm_of_many_is_where_it_is_among_the_others(tmp_path: Path) -> None:
    """With --vm alone it has the same place."""
    timeline = timeline_of(tmp_path, 12, Which(vm=11))
    assert groups(timeline, "VMs") == ["VM 11"]
