"""A Perfetto trace taken apart with the perfetto package: slices, counters, instants, tracks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

__all__ = ["Drawn", "Timeline", "read_timeline"]

#: What an event says of what is drawn, in the order of Drawn's fields.
SHOWN = ("name", "category", "arguments", "flows", "at", "correlation")


@dataclass(frozen=True)
class Drawn:
    """One slice (or instant: `end` is `start`). `depth` is 0 for the outermost of its track.

    `flows`: ids of the flows it is on. `at`: its place among all that begins, in the order Perfetto sees.
    `correlation`: what has the same is drawn in the same colour.
    """

    track: tuple[str, ...]
    start: int
    end: int
    depth: int
    name: str
    category: str
    arguments: dict[str, Any] = field(default_factory=dict, compare=False)
    flows: tuple[int, ...] = field(default=(), compare=False)
    at: int = field(default=-1, compare=False)
    correlation: str = field(default="", compare=False)

    @property
    def short(self) -> tuple[int, int, int, str]:
        """Start, end, depth and name."""
        return (self.start, self.end, self.depth, self.name)


@dataclass
class Timeline:
    """What a trace holds. Tracks are named from the outermost group on.

    `processes`: pid → name; `threads`: tid → pid and name. `sources`: the slices that say what was recorded; they are
    not among `slices`.
    """

    slices: list[Drawn]
    instants: list[Drawn]
    counters: dict[tuple[str, ...], list[tuple[int, float]]]
    tracks: dict[tuple[str, ...], Any]
    facts: dict[str, str]
    processes: dict[int, str]
    threads: dict[int, tuple[int, str]]
    sources: list[Drawn] = field(default_factory=list)

    def on(self, *track: str) -> list[tuple[int, int, int, str]]:
        """Slices of a track, in order of time, the outer before the inner."""
        return [s.short for s in self.slices if s.track == track]

    def instants_on(self, *track: str) -> list[tuple[int, str]]:
        """Instants of a track, in order of time."""
        return [(s.start, s.name) for s in self.instants if s.track == track]

    def flows(self) -> dict[int, list[Drawn]]:
        """What is on each flow, in order of time."""
        found: dict[int, list[Drawn]] = defaultdict(list)
        for drawn in sorted([*self.slices, *self.instants], key=lambda s: s.at):
            for flow in drawn.flows:
                found[flow].append(drawn)
        return found

    def arrows(self) -> list[tuple[Drawn, Drawn]]:
        """From each slice or instant on a flow to the next one on it."""
        return [pair for on in self.flows().values() for pair in pairwise(on)]


def read_timeline(data: bytes) -> Timeline:
    """Decode a trace. Fails where slices do not nest, names are used before they are given, or tracks are unknown."""
    trace = Trace.FromString(data)
    kinds = ("event_names", "event_categories", "debug_annotation_names", "debug_annotation_string_values")
    names: dict[str, dict[int, str]] = {kind: {} for kind in kinds}
    tracks: dict[int, Any] = {}
    processes: dict[int, str] = {}
    threads: dict[int, tuple[int, str]] = {}
    events = []
    facts = {}
    assert trace.packet[0].sequence_flags == 1
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id in (1, 2)
        for kind in kinds:
            for entry in getattr(packet.interned_data, kind):
                names[kind][entry.iid] = entry.str.decode() if kind.endswith("values") else entry.name
        if packet.HasField("system_info"):
            info = packet.system_info
            facts = {"made by": info.tracing_service_version, "kernel": info.utsname.release}
        if packet.HasField("track_descriptor"):
            described = packet.track_descriptor
            if described.HasField("process"):
                processes[described.process.pid] = described.process.process_name
            elif described.HasField("thread"):
                threads[described.thread.tid] = (described.thread.pid, described.thread.thread_name)
            else:
                tracks[described.uuid] = described
        if packet.HasField("track_event"):
            assert packet.sequence_flags == 2
            assert packet.track_event.track_uuid in tracks
            events.append((packet.timestamp, _event(packet.track_event, names)))

    def path(uuid: int) -> tuple[str, ...]:
        track = tracks[uuid]
        return (*path(track.parent_uuid), track.name) if track.parent_uuid else (track.name,)

    paths = {uuid: path(uuid) for uuid in tracks}
    named = {paths[u]: t for u, t in tracks.items()}
    assert len(named) == len(paths), "two tracks with one name"
    found = Timeline([], [], defaultdict(list), named, facts, processes, threads)
    is_open: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    # As Perfetto does: by time, and in the order of the file where times are equal.
    for at, (ts, event) in enumerate(sorted(events, key=lambda e: e[0])):
        uuid, track = event["track"], paths[event["track"]]
        event["at"] = at
        shown = [event[key] for key in SHOWN]
        match event["type"]:
            case TrackEvent.TYPE_SLICE_BEGIN:
                is_open[uuid].append((ts, event))
            case TrackEvent.TYPE_SLICE_END:
                start, begun = is_open[uuid].pop()
                depth = len(is_open[uuid])
                shown = [begun[key] for key in SHOWN]
                drawn = Drawn(track, start, ts, depth, *shown)
                (found.sources if drawn.category == "source" else found.slices).append(drawn)
            case TrackEvent.TYPE_INSTANT:
                found.instants.append(Drawn(track, ts, ts, 0, *shown))
            case TrackEvent.TYPE_COUNTER:
                found.counters[track].append((ts, event["value"]))
    assert not any(is_open.values())
    found.slices.sort(key=lambda s: (s.track, s.start, -s.end, s.depth))
    return found


def _event(event: Any, names: dict[str, dict[int, str]]) -> dict[str, Any]:
    arguments = {}
    for a in event.debug_annotations:
        kind = a.WhichOneof("value")
        value: Any = getattr(a, kind) if kind else [one.string_value for one in a.array_values]
        if kind == "string_value_iid":
            value = names["debug_annotation_string_values"][value]
        arguments[names["debug_annotation_names"][a.name_iid]] = value
    return {
        "type": event.type,
        "track": event.track_uuid,
        "name": names["event_names"][event.name_iid] if event.name_iid else "",
        "category": names["event_categories"][event.category_iids[0]] if event.category_iids else "",
        "arguments": arguments,
        "flows": tuple(event.flow_ids),
        "correlation": event.correlation_id_str,
        "value": event.double_counter_value,
    }
